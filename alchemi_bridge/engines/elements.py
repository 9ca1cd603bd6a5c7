"""Which elements atoms are: from symbols, structure files, and topologies of GROMACS."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import atomic_masses, atomic_numbers

from alchemi_bridge.engines.structure_files import format_of, read_structure
from alchemi_bridge.engines.text_files import content_of
from alchemi_bridge.errors import ConfigurationError, StructureFileError

LOGGER = logging.getLogger(__name__)

#: Formats of ASE that hold names of atoms, from which it guesses elements: CA is calcium there.
WITHOUT_ELEMENTS = frozenset({"gromacs", "gromos"})

#: Atomic mass units; isotopes and rounding are less, a hydrogen is more.
MASS_TOLERANCE = 0.5

#: Columns of the element in a PDB file.
PDB_ELEMENT = slice(76, 78)


def number_of(symbol: str, where: str) -> int:
    """Atomic number of an element, given by symbol or number.

    Raises
    ------
    ConfigurationError
        For what is neither.
    """
    number = int(symbol) if symbol.isdecimal() else atomic_numbers.get(symbol, 0)
    if number < 1:
        raise ConfigurationError(
            where, expected="elements such as Ar", got=f"'{symbol}'", fix="correct the symbol"
        )
    return number


def of_structure(path: Path, n_atoms: int) -> np.ndarray:
    """Atomic numbers in a structure file.

    Parameters
    ----------
    path
        Any file that ASE reads and that says elements; of several frames the last one.
    n_atoms
        How many there must be.

    Returns
    -------
    ndarray
        ``(n_atoms,)`` int32.

    Raises
    ------
    StructureFileError
        If it can not be read, has no elements, or another number of atoms.
    """
    kind = format_of(path)
    if kind in WITHOUT_ELEMENTS or (kind == "proteindatabank" and not _pdb_has_elements(path)):
        raise StructureFileError(
            f"structure file '{path}'",
            expected="a file that says elements",
            got="one that has names of atoms only",
            fix="name a PDB file with elements (columns 77 and 78), an XYZ file, or a topology",
        )
    found = read_structure(path).numbers.astype(np.int32)
    _require_count(f"structure file '{path}'", len(found), n_atoms)
    if (found < 1).any():
        raise StructureFileError(
            f"structure file '{path}'",
            expected="an element for each atom",
            got=f"none for atom {int(np.argmax(found < 1)) + 1}",
            fix="correct the file",
        )
    return found


def _pdb_has_elements(path: Path) -> bool:
    records = [
        line
        for line in content_of(path, "structure file").splitlines()
        if line.startswith(("ATOM", "HETATM"))
    ]
    return all(line[PDB_ELEMENT].strip().capitalize() in atomic_numbers for line in records)


@dataclass
class _Topology:
    """What is asked of a topology: numbers of atom types, types of molecules, molecules."""

    numbers: dict[str, int | None] = field(default_factory=dict)
    masses: dict[str, float] = field(default_factory=dict)
    molecules: dict[str, list[str]] = field(default_factory=dict)
    system: list[tuple[str, int]] = field(default_factory=list)


def of_topology(path: Path, n_atoms: int, atoms: np.ndarray) -> np.ndarray:
    """Atomic numbers by atom type, in a topology as ``gmx grompp -pp`` writes it.

    Parameters
    ----------
    path
        The file.
    n_atoms
        How many atoms it must have.
    atoms
        ``(n,)`` indices of those that are asked for; types of others need no atomic number.

    Returns
    -------
    ndarray
        ``(n,)`` int32.

    Raises
    ------
    StructureFileError
        If the file can not be understood, has another number of atoms, or gives no atomic number
        for the type of one of them.
    """
    topology = _parsed(path)
    types: list[str] = []
    for name, count in topology.system:
        if name not in topology.molecules:
            raise _wrong(path, "molecules that it describes", f"'{name}'")
        types += topology.molecules[name] * count
    _require_count(f"topology '{path}'", len(types), n_atoms)
    found = []
    for index in atoms:
        number = topology.numbers.get(types[index])
        if number is None or number < 1:
            raise _wrong(
                path,
                "atomic numbers of atom types (at.num in [ atomtypes ])",
                f"none for type '{types[index]}' of atom {index + 1}",
            )
        found.append(number)
    _warn_of_united_atoms(path, topology, {types[index] for index in atoms})
    return np.asarray(found, dtype=np.int32)


def _parsed(path: Path) -> _Topology:
    topology, section = _Topology(), ""
    current: list[str] = []
    # a line may go on in the next one
    text = content_of(path, "topology").replace("\\\n", " ")
    for line in text.splitlines():
        words = line.split(";")[0].split()
        if not words or words[0].startswith("*"):
            continue
        if words[0].startswith("#"):
            raise _wrong(path, "a topology without directives of the preprocessor", words[0])
        joined = "".join(words)
        if joined.startswith("[") and joined.endswith("]"):
            section = joined[1:-1]
        elif section == "atomtypes":
            topology.numbers[words[0]], topology.masses[words[0]] = _kind_in(words)
        elif section == "moleculetype":
            current = topology.molecules.setdefault(words[0], [])
        elif section == "atoms" and len(words) > 1:
            current.append(words[1])
        elif section == "molecules":
            if len(words) != 2 or not words[1].isdecimal():
                raise _wrong(path, "a name and a number under [ molecules ]", " ".join(words))
            topology.system.append((words[0], int(words[1])))
    return topology


def _kind_in(words: list[str]) -> tuple[int | None, float]:
    """Atomic number and mass in a line of ``[ atomtypes ]``.

    Between the name and mass, charge and particle type (one letter) there may be a bonded type, the
    atomic number, both or neither.
    """
    letters = [k for k, word in enumerate(words) if k > 2 and len(word) == 1 and word.isalpha()]
    if not letters:
        return None, math.nan
    between = words[1 : letters[0] - 2]
    number = next((int(word) for word in reversed(between) if word.isdecimal()), None)
    try:
        return number, float(words[letters[0] - 2])
    except ValueError:
        return number, math.nan


def _warn_of_united_atoms(path: Path, topology: _Topology, types: set[str]) -> None:
    """A group with its hydrogens in it has the number of its carbon, and another mass."""
    odd = sorted(
        kind
        for kind in types
        if abs(topology.masses[kind] - atomic_masses[topology.numbers[kind] or 0]) > MASS_TOLERANCE
    )
    if odd:
        LOGGER.warning(
            "topology '%s': atom types %s have masses of other elements than their atomic numbers: "
            "united atoms, of which the model would lack hydrogens, or masses that were changed",
            path,
            ", ".join(odd),
        )


def _require_count(what: str, found: int, n_atoms: int) -> None:
    if found != n_atoms:
        raise StructureFileError(
            what,
            expected=f"{n_atoms} atoms, as many as the engine has",
            got=str(found),
            fix="name the file that the run was prepared with",
        )


def _wrong(path: Path, expected: str, got: str) -> StructureFileError:
    return StructureFileError(
        f"topology '{path}'",
        expected=expected,
        got=got,
        fix="write it with gmx grompp -pp, or name the elements with 'species' or 'structure'",
    )
