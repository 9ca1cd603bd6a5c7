"""State of a fit, from which it goes on."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge.errors import ModelLoadError, first_line
from alchemi_bridge.model.files import write_atomically

FORMAT = "alchemi_bridge fit 2"


@dataclass(frozen=True)
class Checkpoint:
    """What a restart needs; trajectories are simulated anew.

    Attributes
    ----------
    sha256
        Of the model's file.
    identity
        :func:`~alchemi_bridge.ensembles.fit.identity.identity_of` its configuration.
    optimizer
        :meth:`Optimizer.state_dict`: parameters, memory of the update, number of steps.
    rows
        Of the table so far.
    """

    sha256: str
    identity: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]]

    @property
    def steps(self) -> int:
        """Steps that are done."""
        return int(self.optimizer["steps_done"])

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(
            {
                "format": FORMAT,
                "sha256": self.sha256,
                "identity": json.dumps(dict(self.identity), default=str),
                "optimizer": dict(self.optimizer),
                "rows": [dict(row) for row in self.rows],
            },
            buffer,
        )
        write_atomically(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read it; nothing in it is executed.

        Raises
        ------
        ModelLoadError
            If it is not there, damaged, or something else.
        """
        try:
            if not zipfile.is_zipfile(path):
                raise ValueError("no such file" if not path.exists() else "a file of another kind")
            content = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError("a file of another kind or version")
            identity = json.loads(content["identity"])
            found = cls(content["sha256"], identity, content["optimizer"], content["rows"])
            if found.steps < 1:
                raise ValueError("a fit without a step")
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError,
                pickle.UnpicklingError) as error:  # fmt: skip
            raise ModelLoadError(
                f"state of a fit '{path}'",
                expected="a file that 'alchemi-bridge fit' wrote",
                got=first_line(error),
                fix="leave --restart out to begin anew, or name the folder of a fit",
            ) from error
        return found
