"""Checkpoints become metatomic models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.potentials.deepmd import to_metatomic
from alchemi_bridge.training.checkpoint import load


def freeze(
    checkpoint: str | Path, output: str | Path, *, numbers: Mapping[str, int] | None = None
) -> Path:
    """Write the model of a checkpoint as a metatomic file.

    Parameters
    ----------
    checkpoint
        See :func:`alchemi_bridge.training.checkpoint.load`.
    output
        Usually ``*.pt``.
    numbers
        Atomic numbers of types whose names are no chemical symbols.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigurationError
        If the folder of ``output`` does not exist, ``output`` is the checkpoint, or a type is no
        element.
    ModelLoadError
        If the checkpoint is not usable.
    """
    output = Path(output)
    found = load(checkpoint)
    same = output.exists() and Path(checkpoint).exists() and output.samefile(checkpoint)
    if same or not output.parent.is_dir():
        raise ConfigurationError(
            "path of the model file",
            expected="a new file in a folder that exists",
            got=str(output),
            fix="name another file, usually *.pt",
        )
    to_metatomic(found.build(), found.definition, dict(numbers or {})).save(output)
    return output
