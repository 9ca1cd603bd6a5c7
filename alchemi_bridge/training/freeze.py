"""Checkpoints become metatomic models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alchemi_bridge.errors import ConfigurationError, ModelLoadError
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
        If the folder of ``output`` does not exist, ``output`` is a checkpoint or would be taken for
        one (``NAME-STEP.pt`` beside others), or a type is no element.
    ModelLoadError
        If the checkpoint is not usable.
    """
    output = Path(output)
    found = load(checkpoint)
    if not output.parent.is_dir() or output.is_dir() or _is_checkpoint(output):
        raise ConfigurationError(
            "path of the model file",
            expected="a file in a folder that exists, and none that is a checkpoint, or like the "
            "name of one",
            got=str(output),
            fix="name another file, usually *.pt",
        )
    to_metatomic(found.build(), found.definition, dict(numbers or {})).save(output)
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
