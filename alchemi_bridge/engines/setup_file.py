"""Setup files: model, atoms and elements for engines whose own input has no place for them.

The format is described at ``ab_setup`` in ``plugins/include/alchemi_bridge.h``.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alchemi_bridge.engines.elements import number_of, of_structure, of_topology
from alchemi_bridge.engines.interface.options import known
from alchemi_bridge.engines.text_files import content_of
from alchemi_bridge.errors import ConfigurationError, InputError, UnitError
from alchemi_bridge.units import conversion_factor

DEFAULT_SKIN = "1 angstrom"

DEFAULT_ENERGIES = "bridge.energies"

#: Keywords of which only one may stand in a file.
WHICH = ("atoms", "group")
ELEMENTS = ("species", "structure", "topology")

#: All that are not options of the provider.
OWN = ("model", *WHICH, *ELEMENTS, "energies", "every", "periodic", "skin")


@dataclass(frozen=True, eq=False)
class Setup:
    """What a setup file says.

    Attributes
    ----------
    model
        Path of the model.
    keywords
        Keywords of ``ab_options`` by name.
    atoms
        ``(n,)`` int64, ascending indices into the engine's atoms.
    types
        ``(n,)`` int32 atomic numbers of these.
    energies
        Where energies are to be written, ``None``: nowhere.
    every
        Evaluations from one of them to the next.
    skin
        Of the search, in nm.
    periodic
        Which directions are, ``None``: the engine knows.
    unchecked
        Whether directions that are not periodic need no room in the engine's box, because it never
        moves atoms across it there.
    """

    model: Path
    keywords: Mapping[str, str]
    atoms: np.ndarray
    types: np.ndarray
    energies: Path | None
    every: int
    skin: float
    periodic: tuple[bool, bool, bool] | None
    unchecked: bool


@dataclass
class _Lines:
    """Keywords of a file that were not asked for yet."""

    path: Path
    words: dict[str, list[str]] = field(default_factory=dict)

    def take(self, name: str, default: str = "") -> list[str]:
        return self.words.pop(name, default.split())

    def one(self, name: str, default: str = "") -> str:
        values = self.take(name, default)
        if len(values) != 1:
            raise self.wrong(name, "one value (a path with spaces in quotes)", " ".join(values))
        return values[0]

    def file(self, name: str, default: str = "") -> Path:
        return self.path.parent / Path(self.one(name, default)).expanduser()

    def wrong(self, name: str, expected: str, got: str) -> ConfigurationError:
        return ConfigurationError(
            f"'{name}' in {self.path}",
            expected=expected,
            got=f"'{got}'" if got else "nothing",
            fix="correct the line",
        )


def read_setup(path: Path, n_atoms: int, text: str | None = None) -> Setup:
    """Read a setup file.

    Parameters
    ----------
    path
        The file; paths in it are relative to its folder.
    n_atoms
        How many atoms the engine has.
    text
        Its contents, if they do not come from there.

    Raises
    ------
    ConfigurationError
        For a line that can not be understood, a keyword that is missing or contradicts another, or
        a group that does not exist.
    InputError
        If a file can not be read, has another number of atoms, or does not say what is asked of it.
    """
    lines = _split(path, content_of(path, "setup file") if text is None else text)
    for names in (WHICH, ELEMENTS):
        given = [name for name in names if name in lines.words]
        if len(given) > 1:
            raise lines.wrong(given[1], f"one of {', '.join(names)}", f"{given[0]} and {given[1]}")
    if "model" not in lines.words:
        raise lines.wrong("model", "the path of a metatomic model", "")
    model = lines.file("model")
    written = _atoms(lines, n_atoms)
    atoms = np.sort(written)
    types = _types(lines, written, n_atoms)[np.argsort(written)]
    periodic, unchecked = _periodic(lines)
    energies = lines.take("energies", DEFAULT_ENERGIES)
    return Setup(
        model=model,
        atoms=atoms,
        types=types,
        energies=None if energies == ["none"] else _file_of(lines, "energies", energies),
        every=_count(lines, "every", "1"),
        skin=_length(lines, "skin", DEFAULT_SKIN),
        periodic=periodic,
        unchecked=unchecked,
        # what is left are options of the provider
        keywords={name: _keyword(lines, name) for name in list(lines.words)},
    )


def _split(path: Path, text: str) -> _Lines:
    lines = _Lines(path)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(_without_comment(line))
        except ValueError as error:
            raise lines.wrong(f"line {number}", "quotes that are closed", line) from error
        if not words:
            continue
        name, *values = words
        if name not in OWN and name not in known():
            raise ConfigurationError(
                f"line {number} of {path}",
                expected=f"one of {', '.join([*OWN, *known()])}",
                got=f"'{name}'",
                fix="correct the name",
            )
        if name in lines.words:
            raise lines.wrong(name, "each keyword once", f"it again in line {number}")
        if not values:
            raise lines.wrong(name, "a value", "")
        lines.words[name] = values
    return lines


def _without_comment(line: str) -> str:
    """The line up to a ``#`` at the beginning of a word, outside of quotes."""
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place]
    return line


def _file_of(lines: _Lines, name: str, values: Sequence[str]) -> Path:
    lines.words[name] = list(values)
    return lines.file(name)


def _keyword(lines: _Lines, name: str) -> str:
    value = lines.one(name)
    # the only keyword that is a path
    return str(_file_of(lines, name, [value])) if name == "extensions" else value


def _atoms(lines: _Lines, n_atoms: int) -> np.ndarray:
    """Indices of the atoms that the model sees, in the order in which they are written."""
    if "group" in lines.words:
        values = lines.take("group")
        if len(values) != 2:
            raise lines.wrong("group", "an index file and the name of a group", " ".join(values))
        path = lines.path.parent / Path(values[0]).expanduser()
        numbers = _group(path, values[1])
        where = f"group '{values[1]}' of {path}"
    else:
        values = lines.take("atoms", "all")
        if values == ["all"]:
            return np.arange(n_atoms)
        numbers = _numbers(lines, " ".join(values), n_atoms)
        where = f"'atoms' in {lines.path}"
    odd = next((n for n in numbers if not 1 <= n <= n_atoms), None)
    if odd is not None or not numbers:
        raise ConfigurationError(
            where,
            expected=f"atoms with numbers from 1 to {n_atoms}, as many as the engine has",
            got="none" if odd is None else str(odd),
            fix="correct the numbers, or use the files that the run was prepared with",
        )
    found = np.asarray(numbers, dtype=np.int64)
    once, counts = np.unique(found, return_counts=True)
    if len(once) < len(found):
        raise ConfigurationError(
            where,
            expected="each atom once",
            got=f"atom {once[counts > 1][0]} again",
            fix="correct the numbers",
        )
    return found - 1


def _numbers(lines: _Lines, text: str, n_atoms: int) -> list[int]:
    """``1-3,7`` as numbers."""
    numbers: list[int] = []
    for part in text.replace(",", " ").split():
        ends = part.split("-")
        if not (len(ends) <= 2 and all(end.isdecimal() for end in ends)):
            raise lines.wrong("atoms", "all, or numbers and ranges such as 1-10,15", text)
        first, last = int(ends[0]), int(ends[-1])
        if last < first:
            raise lines.wrong("atoms", "ranges from a smaller to a larger number", part)
        # one that is too large is refused as such, and not with all that lie before it
        numbers += range(first, last + 1) if last <= n_atoms else [first, last]
    return numbers


def _group(path: Path, name: str) -> list[int]:
    """A group of an index file of GROMACS."""
    groups: dict[str, list[int]] = {}
    current: list[int] | None = None
    twice: set[str] = set()
    for line in content_of(path, "index file").splitlines():
        words = line.split(";")[0].strip()
        if words.startswith("[") and words.endswith("]"):
            title = words[1:-1].strip()
            twice |= {title} & set(groups)
            current = groups[title] = []
        elif words:
            try:
                numbers = [int(word) for word in words.split()]
            except ValueError:
                numbers = []
            if current is None or not numbers:
                raise InputError(
                    f"index file {path}",
                    expected="groups of numbers, each under its name in brackets",
                    got=f"'{words}'",
                    fix="make it with gmx make_ndx or gmx select",
                )
            current += numbers
    if name not in groups:
        raise ConfigurationError(
            f"group '{name}'",
            expected=f"one of {path}: {', '.join(groups) or 'none'}",
            got="a group that does not exist",
            fix="correct the name",
        )
    if name in twice:
        raise ConfigurationError(
            f"group '{name}'",
            expected=f"one of that name in {path}",
            got="two",
            fix="rename one of them",
        )
    return groups[name]


def _types(lines: _Lines, atoms: np.ndarray, n_atoms: int) -> np.ndarray:
    """Atomic numbers of the atoms that the model sees."""
    if "structure" in lines.words:
        return of_structure(lines.file("structure"), n_atoms)[atoms]
    if "topology" in lines.words:
        return of_topology(lines.file("topology"), n_atoms, atoms)
    if "species" not in lines.words:
        raise lines.wrong("species", "the elements, by species, structure or topology", "")
    symbols = lines.take("species")
    if len(symbols) not in (1, len(atoms)):
        raise lines.wrong(
            "species",
            f"one element, or one for each of the {len(atoms)} atoms",
            f"{len(symbols)} elements",
        )
    numbers = [number_of(symbol, f"'species' in {lines.path}") for symbol in symbols]
    return np.broadcast_to(np.asarray(numbers, dtype=np.int32), len(atoms)).copy()


def _count(lines: _Lines, name: str, default: str) -> int:
    value = lines.one(name, default)
    if not value.isdecimal() or int(value) < 1:
        raise lines.wrong(name, "a whole number from 1", value)
    return int(value)


def _length(lines: _Lines, name: str, default: str) -> float:
    values = lines.take(name, default)
    try:
        number, unit = values
        found = float(number) * conversion_factor(unit, "nm")
    except (ValueError, UnitError):
        found = math.nan
    if not (math.isfinite(found) and found >= 0.0):
        raise lines.wrong(name, "a number and a unit, such as 1 angstrom", " ".join(values))
    return found


def _periodic(lines: _Lines) -> tuple[tuple[bool, bool, bool] | None, bool]:
    if "periodic" not in lines.words:
        return None, False
    value, *more = lines.take("periodic")
    known = {"on": "xyz", "yes": "xyz", "off": "", "no": ""}
    letters = known.get(value, value)
    wrong = set(letters) - set("xyz") or len(set(letters)) != len(letters)
    if wrong or more not in ([], ["unchecked"]):
        raise lines.wrong(
            "periodic",
            "on, off, or directions such as xy, and perhaps unchecked",
            " ".join([value, *more]),
        )
    return ("x" in letters, "y" in letters, "z" in letters), bool(more)
