"""Model and structure files as a user names them: files, folders, patterns."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from alchemi_bridge.errors import ConfigurationError

LOGGER = logging.getLogger(__name__)

#: Ends of the names of models, in a folder.
MODEL_SUFFIXES = frozenset({".pt"})

#: Ends of the names of structure files, in a folder; a file that is named itself may be called
#: anything.
STRUCTURE_SUFFIXES = frozenset(
    {".cif", ".extxyz", ".gen", ".gro", ".pdb", ".traj", ".vasp", ".xsf", ".xyz"}
)

#: VASP's structures have no suffix.
_VASP = ("POSCAR", "CONTCAR")


def model_files(named: Sequence[str]) -> list[Path]:
    """Models that are named, or lie in the folders that are named.

    Parameters
    ----------
    named
        Files, folders (searched with all that is in them, but for hidden ones), and patterns
        such as ``models/*.pt``.

    Returns
    -------
    list of Path
        Each once, sorted within what was named.

    Raises
    ------
    ConfigurationError
        If something is not there, or holds no model.
    """
    return _files("MODELS", named, lambda path: path.suffix in MODEL_SUFFIXES, "models (*.pt)")


def structure_files(named: Sequence[str]) -> list[Path]:
    """Structure files, as :func:`model_files`."""
    kinds = ", ".join(sorted(STRUCTURE_SUFFIXES))
    return _files("STRUCTURES", named, _is_structure, f"structure files ({kinds}, POSCAR, CONTCAR)")


def _is_structure(path: Path) -> bool:
    return path.suffix.lower() in STRUCTURE_SUFFIXES or path.name.startswith(_VASP)


def _files(
    argument: str, named: Sequence[str], fits: Callable[[Path], bool], kind: str
) -> list[Path]:
    found: dict[Path, None] = {}
    seen: set[Path] = set()
    for name in named:
        for path in _of_one(argument, name, fits, kind):
            real = path.resolve()
            if real not in seen:
                seen.add(real)
                found[path] = None
    if not found:
        raise _nothing(argument, " ".join(named) or "nothing", kind)
    return list(found)


def _of_one(argument: str, name: str, fits: Callable[[Path], bool], kind: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return _in_folder(argument, path, fits, kind)
    if path.is_file():
        return [path]
    found = sorted(map(Path, glob.glob(name, recursive=True))) if glob.has_magic(name) else []
    if not found:
        raise ConfigurationError(
            f"{argument} '{name}'",
            expected="a file, a folder, or a pattern that something fits",
            got="nothing of that name",
            fix="check the path",
        )
    files = [one for one in found if one.is_file()]
    for folder in found:
        if folder.is_dir():
            files += _in_folder(argument, folder, fits, kind)
    return files


def _in_folder(argument: str, folder: Path, fits: Callable[[Path], bool], kind: str) -> list[Path]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    chosen = [path for path in files if fits(path)]
    others = [path.name for path in files if not fits(path)]
    if others:
        LOGGER.info("%s: other files are left out: %s", folder, ", ".join(others))
    if not chosen:
        raise _nothing(argument, f"'{folder}', in which there are none", kind)
    return chosen


def _nothing(argument: str, got: str, kind: str) -> ConfigurationError:
    return ConfigurationError(
        argument,
        expected=kind,
        got=got,
        fix="name files, or a folder that holds some",
    )
