"""Checkpoints: what a training needs to go on, in one file that is whole or not there."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge.errors import ModelLoadError, first_line
from alchemi_bridge.model.files import write_atomically
from alchemi_bridge.potentials.deepmd import Definition, SeE2A, read_definition

FORMAT = "alchemi_bridge training checkpoint 1"


@dataclass(frozen=True)
class Checkpoint:
    """State of a training.

    Attributes
    ----------
    definition
        Settings of the model.
    step
        Steps that are done.
    model, optimiser
        Their ``state_dict()``; that of the optimiser also has its ``"name"``.
    plan
        What the order of the data follows from: seed, ranks, batches of an epoch.
    """

    definition: Definition
    step: int
    model: Mapping[str, torch.Tensor]
    optimiser: Mapping[str, Any]
    plan: Mapping[str, int]

    def build(self) -> SeE2A:
        """The model, on the CPU."""
        model = SeE2A(self.definition)
        model.load_state_dict(self.model)
        return model


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint."""
    buffer = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "definition": json.dumps(checkpoint.definition.to_deepmd()),
            "step": checkpoint.step,
            "model": dict(checkpoint.model),
            "optimiser": dict(checkpoint.optimiser),
            "plan": dict(checkpoint.plan),
        },
        buffer,
    )
    write_atomically(path, buffer.getvalue())


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Parameters
    ----------
    path
        The file, or the beginning ``NAME`` of files ``NAME-STEP.pt``: the last one then.

    Raises
    ------
    ModelLoadError
        If the file is missing, damaged, or no checkpoint of a training.
    """
    path = Path(path)
    if not path.exists() and (others := numbered(path)):
        path = others[-1]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError("a file of another kind or version")
        result = Checkpoint(
            definition=read_definition(json.loads(content["definition"])),
            step=int(content["step"]),
            model=content["model"],
            optimiser=content["optimiser"],
            plan=content["plan"],
        )
        result.build()
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, AttributeError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise ModelLoadError(
            f"checkpoint '{path}'",
            expected="a file NAME-STEP.pt that 'alchemi-bridge train' wrote",
            got=first_line(error),
            fix="name another one",
        ) from error
    return result


def numbered(name: Path) -> list[Path]:
    """The files ``NAME-STEP.pt``, by step."""
    form = re.compile(re.escape(name.name) + r"-(\d+)\.pt")
    found = []
    if name.parent.is_dir():
        for path in name.parent.iterdir():
            match = form.fullmatch(path.name)
            if match:
                found.append((int(match.group(1)), path))
    return [path for _, path in sorted(found)]


def remove_old(name: Path, kept: int, step: int) -> None:
    """Remove all but the last ``kept`` of the files up to ``step``."""
    files = [path for path in numbered(name) if int(path.stem.rpartition("-")[2]) <= step]
    for path in files[:-kept]:
        path.unlink(missing_ok=True)
