"""Checkpoints become metatomic models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alchemi_bridge.model.files import check_target, save_model
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
        Usually ``*.pt``; a file that is there is replaced.
    numbers
        Atomic numbers of types whose names are no chemical symbols.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigurationError
        If ``output`` can not be written there, is the checkpoint, or a type is no element.
    ModelLoadError
        If the checkpoint is not usable.
    OSError
        If the disk is full; a file that was there before is as it was.
    """
    output = Path(output)
    check_target(output, Path(checkpoint))
    found = load(checkpoint)
    save_model(to_metatomic(found.build(), found.definition, dict(numbers or {})), output)
    return output
