"""Checkpoints: what a training needs to go on, in one file that is whole or not there."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge.errors import ConfigurationError, ModelLoadError, first_line
from alchemi_bridge.model.files import write_atomically
from alchemi_bridge.potentials.deepmd import Definition, SeE2A, read_definition

FORMAT = "alchemi_bridge training checkpoint 2"


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
        See :func:`alchemi_bridge.training.plan.plan`.
    curve
        Rows of the learning curve up to this step.
    """

    definition: Definition
    step: int
    model: Mapping[str, torch.Tensor]
    optimiser: Mapping[str, Any]
    plan: Mapping[str, Any]
    curve: Sequence[Mapping[str, float]] = ()

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
            "curve": [dict(row) for row in checkpoint.curve],
        },
        buffer,
    )
    write_atomically(path, buffer.getvalue())


def find(path: str | Path) -> Path:
    """The file, or the last of the files ``NAME-STEP.pt`` if ``NAME`` is given."""
    path = Path(path)
    if not path.exists() and (others := numbered(path)):
        return others[-1]
    return path


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Parameters
    ----------
    path
        The file, or the beginning ``NAME`` of files ``NAME-STEP.pt``: the last one then.

    Raises
    ------
    ModelLoadError
        If the file is missing, damaged, no checkpoint of a training, or has weights that are not
        finite.
    """
    path = find(path)
    if not path.exists():
        raise damaged(path, f"no such checkpoint, and no files '{path}-STEP.pt'")
    try:
        result = _checkpoint(_content(path))
        try:
            result.build()
        except RuntimeError as error:  # of load_state_dict, over many lines
            raise ValueError("weights that do not fit its model") from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, AttributeError,
            ConfigurationError, zlib.error) as error:  # fmt: skip
        raise damaged(path, first_line(error)) from error
    return result


def damaged(path: Path, got: str) -> ModelLoadError:
    """An error about the content of a checkpoint, to be raised."""
    return ModelLoadError(
        f"checkpoint '{path}'",
        expected="a file NAME-STEP.pt that 'alchemi-bridge train' wrote",
        got=got,
        fix="name another one",
    )


def _content(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
                raise ValueError("a frozen model (TorchScript), which has no state of a training")
            # torch does not look at the checksums
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"a damaged file: the checksum of {bad!r} is another one")
    except zipfile.BadZipFile as error:
        raise ValueError("a damaged file, or one of another kind") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("a pickle of something else, which is not opened") from error


def _checkpoint(content: Any) -> Checkpoint:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("a file of another kind or version")
    for key, kind in (("step", int), ("model", dict), ("optimiser", dict), ("plan", dict),
                      ("curve", list)):  # fmt: skip
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{key!r} of another kind, {type(content.get(key)).__name__}")
    if content["step"] < 0:
        raise ValueError(f"step {content['step']}")
    for name, tensor in content["model"].items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"NaN or infinite numbers in {name!r}")
    return Checkpoint(
        definition=read_definition(json.loads(content["definition"])),
        step=content["step"],
        model=content["model"],
        optimiser=content["optimiser"],
        plan=content["plan"],
        curve=content["curve"],
    )


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


def step_of(path: Path) -> int:
    """STEP of a file ``NAME-STEP.pt``."""
    return int(path.stem.rpartition("-")[2])


def remove_old(name: Path, kept: int, step: int) -> None:
    """Remove all but the last ``kept`` of the files up to ``step``."""
    files = [path for path in numbered(name) if step_of(path) <= step]
    for path in files[:-kept]:
        path.unlink(missing_ok=True)
