"""Potentials with a known answer, and trained ones, as ordinary metatomic models.

:func:`build` makes a model, :func:`export` writes a file that any metatomic engine loads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from metatomic.torch import AtomisticModel

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.model.files import check_target, save_model, write_atomically
from alchemi_bridge.potentials.lennard_jones import lennard_jones
from alchemi_bridge.potentials.message_passing import message_passing
from alchemi_bridge.potentials.stillinger_weber import stillinger_weber
from alchemi_bridge.potentials.trained import check_dtype, content, copper

__all__ = [
    "NAMES",
    "build",
    "copper",
    "export",
    "lennard_jones",
    "message_passing",
    "stillinger_weber",
]

_BUILDERS: dict[str, Callable[..., AtomisticModel]] = {
    "lennard-jones": lennard_jones,
    "stillinger-weber": stillinger_weber,
    "message-passing": message_passing,
    "copper": copper,
}
_TRAINED = ("copper",)
NAMES = tuple(_BUILDERS)


def build(name: str, **options: Any) -> AtomisticModel:
    """Build the potential called ``name``.

    Parameters
    ----------
    name
        One of :data:`NAMES`; underscores count as hyphens.
    **options
        Keyword arguments of the function of that name in this package.

    Returns
    -------
    AtomisticModel
        On the CPU, in evaluation mode.

    Raises
    ------
    ConfigurationError
        If the name or an option is unknown, or an option is out of its range.
    """
    return _known(name, options)(**options)


def _known(name: str, options: Mapping[str, Any]) -> Callable[..., AtomisticModel]:
    builder = _BUILDERS.get(name.replace("_", "-"))
    if builder is None:
        raise ConfigurationError(
            "potential",
            expected=f"one of {', '.join(NAMES)}",
            got=repr(name),
            fix="choose one of them",
        )
    known = inspect.signature(builder).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigurationError(
            f"options of '{name}'",
            expected=f"some of {', '.join(known)}",
            got=", ".join(unknown),
            fix="remove or rename the unknown options",
        )
    return builder


def export(name: str, path: str | Path, **options: Any) -> Path:
    """Build the potential called ``name`` and write it to ``path`` as a metatomic file.

    The file of a trained potential is a copy of the stored one, so that its hash is known.

    Parameters
    ----------
    name, **options
        As for :func:`build`.
    path
        File to write, usually ``*.pt``; its folder must exist.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ConfigurationError
        As :func:`build`, and if the file can not be written there.
    OSError
        If the disk is full; a file that was there before is as it was.
    """
    path = Path(path)
    check_target(path)
    builder = _known(name, options)
    if name in _TRAINED:
        check_dtype(**options)
        write_atomically(path, content(name))
    else:
        save_model(builder(**options), path)
    return path
