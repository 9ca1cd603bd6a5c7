"""The one reader of structure files.

Every command, and every setup file, reads through :func:`read_structures`: any file that ASE reads,
one frame at a time, with each way to fail as a
:class:`~alchemi_bridge.errors.StructureFileError`.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ase import Atoms
from ase.io import iread
from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat, string2index

from alchemi_bridge.errors import ConfigurationError, StructureFileError

#: ASE formats that are pickles in disguise: reading one runs whatever it contains.
_PICKLED_FORMATS = frozenset({"trj", "bundletrajectory"})


def read_structures(
    path: str | Path, index: str | int = ":", *, kind: str | None = None
) -> Iterator[Atoms]:
    """Frames of a structure file, one at a time.

    Parameters
    ----------
    path
        Any file that ASE reads. Nothing is split off at ``@`` and no wildcard is expanded.
    index
        Which frames: ``":"`` (all), ``"0"``, ``"-1"``, ``"10:20"``, ``"::5"``; as in ASE.
    kind
        The format that :func:`format_of` found before; it takes longer than to read 1000 atoms.

    Returns
    -------
    Iterator[ase.Atoms]
        The frames in the order of the file. The path and the format are checked before the first
        frame is asked for; a frame that can not be read raises when its turn comes.

    Raises
    ------
    StructureFileError
        If the file is missing, no regular file, of unknown format, unreadable, holds no frame (or
        none at ``index``), or a frame without atoms.
    ConfigurationError
        If ``index`` is not an index or slice.
    """
    path = Path(path)
    selection = parse_index(index)
    if kind is None:
        kind = format_of(path)
    else:
        _check_file(path)
    return _frames(path, kind, selection, str(index))


def read_structure(path: str | Path, index: str | int = -1) -> Atoms:
    """One frame of a structure file (the last one, unless told otherwise).

    Raises
    ------
    StructureFileError
        As :func:`read_structures`, and if ``index`` picks more than one frame.
    """
    frames = list(itertools.islice(read_structures(path, index), 2))
    if len(frames) > 1:
        raise StructureFileError(
            f"structure file '{path}'",
            expected="an index that picks one frame",
            got=f"index '{index}', which picks several",
            fix="give a single index such as 0 or -1",
        )
    return frames[0]


def parse_index(index: str | int) -> int | slice:
    """ASE's frame index from the command line, checked.

    Raises
    ------
    ConfigurationError
        If it is neither an integer nor a slice.
    """
    if isinstance(index, int):
        return index
    try:
        parsed = string2index(index)
    except (TypeError, ValueError):
        parsed = index
    # ASE hands back strings that it takes for database queries; those have no meaning here
    if isinstance(parsed, str) or (isinstance(parsed, slice) and parsed.step == 0):
        raise ConfigurationError(
            "frame index",
            expected="an integer or a slice such as '0', '-1', ':', '10:20' or '::5'",
            got=f"'{index}'",
            fix="correct the index",
        )
    return parsed


def frame_label(number: int, index: str | int = ":") -> str:
    """How messages call the frame that came as number ``number`` (from 0) of those picked."""
    return f"frame {number}" if index == ":" else f"frame {number} of those at index '{index}'"


def distinct_names(files: Sequence[str]) -> list[str]:
    """The files' names, with those of their folders that differ where the names are not enough."""
    names = [Path(file).name for file in files]
    if len(set(names)) < len(names):
        paths = [os.path.abspath(file) for file in files]
        common = os.path.commonpath([os.path.dirname(path) for path in paths])
        names = [os.path.relpath(path, common) for path in paths]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({position})"
        for position, name in enumerate(names, start=1)
    ]


def _check_file(path: Path) -> None:
    try:
        found = path.exists()
    except (OSError, ValueError) as error:  # name too long, null byte
        raise _unreadable(path, str(error)) from error
    if not found:
        raise StructureFileError(
            f"structure file '{path}'",
            expected="a file that ASE can read",
            got="no such file",
            fix="check the path",
        )
    if not path.is_file():
        raise StructureFileError(
            f"structure file '{path}'",
            expected="a regular file",
            got="a directory" if path.is_dir() else "something that is not a regular file",
            fix="name a structure file",
        )


def format_of(path: Path) -> str:
    """ASE's name of a file's format.

    Raises
    ------
    StructureFileError
        If it is missing or not of a format that can be read without running what is in it.
    """
    _check_file(path)
    try:
        kind = filetype(str(path), read=True)
        readable = get_ioformat(kind).can_read
    except UnknownFileTypeError as error:
        raise StructureFileError(
            f"structure file '{path}'",
            expected="a format that ASE knows",
            got=f"an unknown format ({str(error) or 'empty file'})",
            fix="convert the file, for example to extended XYZ",
        ) from error
    except Exception as error:  # format sniffing runs third-party code over foreign bytes
        raise _unreadable(path, _reason(error)) from error
    if kind in _PICKLED_FORMATS or not readable:
        raise StructureFileError(
            f"structure file '{path}'",
            expected="a format that ASE reads without running code from the file",
            got=f"format '{kind}'",
            fix="convert the file, for example to extended XYZ",
        )
    return kind


def _frames(path: Path, kind: str, selection: int | slice, index: str) -> Iterator[Atoms]:
    frames = iread(str(path), index=selection, format=kind, do_not_split_by_at_sign=True)
    count = 0
    while True:
        try:
            atoms = next(frames)
        except StopIteration:
            break
        except Exception as error:  # ASE's parsers raise whatever their code happens to run into
            raise _unreadable(path, _reason(error), frame_label(count, index)) from error
        if len(atoms) == 0:
            raise StructureFileError(
                f"structure file '{path}', {frame_label(count, index)}",
                expected="at least one atom",
                got="none",
                fix="remove the empty frame",
            )
        yield atoms
        count += 1
    if count == 0:
        raise StructureFileError(
            f"structure file '{path}'",
            expected=f"at least one frame at index '{index}'",
            got="none",
            fix="check the file and --index",
        )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _unreadable(path: Path, reason: str, frame: str = "") -> StructureFileError:
    where = f", {frame}" if frame else ""
    return StructureFileError(
        f"structure file '{path}'{where}",
        expected="a file that ASE can read",
        got=reason,
        fix="check that the file is complete and its name tells the format",
    )
