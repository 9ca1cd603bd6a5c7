"""Checkpoints become metatomic models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alchemi_bridge.errors import ConfigurationError, ModelLoadError
from alchemi_bridge.model.files import check_target, save_model
from alchemi_bridge.potentials.deepmd import to_metatomic
from alchemi_bridge.training.checkpoint import load, numbered


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
        If ``output`` can not be written there, is a checkpoint or would be taken for one
        (``NAME-STEP.pt`` beside others), or a type is no element.
    ModelLoadError
        If the checkpoint is not usable.
    OSError
        If the disk is full; a file that was there before is as it was.
    """
    output = Path(output)
    check_target(output, Path(checkpoint))
    found = load(checkpoint)
    if _is_checkpoint(output):
        raise ConfigurationError(
            "path of the model file",
            expected="a file that is no checkpoint, and has no name of one",
            got=str(output),
            fix="name another file, usually *.pt",
        )
    save_model(to_metatomic(found.build(), found.definition, dict(numbers or {})), output)
    return output


def _is_checkpoint(path: Path) -> bool:
    name, _, step = path.stem.rpartition("-")
    if path.suffix == ".pt" and name and step.isdecimal() and numbered(path.with_name(name)):
        return True
    try:
        load(path)
    except ModelLoadError:
        return False
    return True
