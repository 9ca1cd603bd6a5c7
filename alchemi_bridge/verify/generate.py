"""Structures to verify a model on: made from its atomic types, or taken from the user's own.

What is made has neighbours within the cutoff and none so close that energies are absurd, is larger
than twice the cutoff where that is affordable, and has no symmetry: a sheared cell with rattled
atoms, in which no force and no stress component vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, chemical_symbols, covalent_radii, reference_states
from ase.geometry import find_mic
from ase.neighborlist import neighbor_list

#: Taken first where a model knows many types.
COMMON = tuple(atomic_numbers[symbol] for symbol in ("Si", "O", "C", "H", "N", "Al", "Cu", "Na"))

#: Most atomic types in a made structure.
MAX_TYPES = 3

#: Most atoms in a made structure; finite differences need some hundred evaluations of it.
MAX_ATOMS = 110

#: Displacements of atoms off their sites, relative to the nearest-neighbour distance.
RATTLE = 0.03

#: Shear and stretch of a made cell; no strain component of it is zero.
DEFORMATION = np.array([[1.0, 0.02, -0.01], [0.01, 0.99, 0.03], [0.0, -0.02, 1.01]])

#: Nearest neighbours in a crystal are farther apart than in a molecule.
BOND_STRETCH = 1.15

#: Largest force that counts as sane, eV/Å; the structure is expanded until it is.
SANE_FORCE = 10.0

#: Nearest neighbours are kept within this fraction of the cutoff.
WITHIN_CUTOFF = 0.8

#: Atoms in a cluster.
CLUSTER_ATOMS = 8

#: Diamond-like elements by atomic number.
_DIAMOND = (6, 14, 32, 50)


def neighbor_distance(first: int, second: int) -> float:
    """Distance at which two kinds of atoms are neighbours, Å.

    From the elements' crystals where they are simple (ASE's reference states), else from covalent
    radii (Cordero et al., 2008, https://doi.org/10.1039/b801115j).
    """
    return 0.5 * (_diameter(first) + _diameter(second))


def _diameter(number: int) -> float:
    if not 0 < number < len(reference_states):
        return 2.0 * BOND_STRETCH  # a type that is no element: some atom of radius 1 Å
    state: dict[str, Any] = reference_states[number] or {}
    per_constant = {
        "fcc": math.sqrt(0.5),
        "bcc": math.sqrt(0.75),
        "diamond": math.sqrt(3.0) / 4.0,
        "hcp": 1.0,
        "sc": 1.0,
    }
    factor = per_constant.get(str(state.get("symmetry")))
    if factor is not None and state.get("a"):
        return float(factor * state["a"])
    radius = covalent_radii[number] if number < len(covalent_radii) else 1.0
    return 2.0 * BOND_STRETCH * float(radius)


def choose_types(types: Sequence[int], random: np.random.Generator) -> list[int]:
    """At most ``MAX_TYPES`` of a model's types: all, or common elements, then random ones."""
    known = sorted(set(types))
    if len(known) <= MAX_TYPES:
        return known
    chosen = [number for number in COMMON if number in known][:MAX_TYPES]
    rest = [number for number in known if number not in chosen]
    if len(chosen) < MAX_TYPES:
        chosen += random.choice(rest, MAX_TYPES - len(chosen), replace=False).tolist()
    return [int(number) for number in chosen]


def crystal(types: Sequence[int], cutoff: float, random: np.random.Generator) -> Atoms:
    """A rattled, sheared crystal or random alloy of the given types, 3D-periodic.

    Parameters
    ----------
    types
        Atomic types; each is there at least once.
    cutoff
        Å; the box has more than twice this along each vector if ``MAX_ATOMS`` allows.
    """
    distances = [neighbor_distance(a, b) for a in types for b in types]
    nearest = float(np.mean(distances))
    if cutoff > 0.0:
        nearest = min(nearest, WITHIN_CUTOFF * cutoff)
    is_diamond = len(types) == 1 and types[0] in _DIAMOND
    if is_diamond:
        unit = bulk("Si", "diamond", a=4.0 * nearest / math.sqrt(3.0), cubic=True)
    else:
        unit = bulk("Cu", "fcc", a=nearest * math.sqrt(2.0), cubic=True)
    edge = float(unit.cell.lengths()[0])
    repeats = 2
    while repeats * edge <= 2.0 * cutoff and (repeats + 1) ** 3 * len(unit) <= MAX_ATOMS:
        repeats += 1
    atoms = unit.repeat(repeats)
    numbers = np.resize(np.asarray(types), len(atoms))
    atoms.numbers = random.permutation(numbers)
    atoms.set_cell(atoms.cell.array @ DEFORMATION, scale_atoms=True)
    atoms.positions += random.normal(scale=RATTLE * nearest, size=atoms.positions.shape)
    return atoms


def expanded_until_sane(
    atoms: Atoms, largest_force: Callable[[Atoms], float], cutoff: float
) -> Atoms:
    """Expand a made structure in steps until the model's forces on it are moderate.

    Parameters
    ----------
    atoms
        The structure.
    largest_force
        Largest force of a structure, eV/Å.
    cutoff
        Å; expansion stops before nearest neighbours leave it.
    """
    nearest = float(pair_distances(atoms, _nearest_bound(atoms))[1].min())
    for scale in 1.08 ** np.arange(20):
        if cutoff > 0.0 and scale > 1.0 and nearest * scale > WITHIN_CUTOFF * cutoff:
            break
        trial = scaled(atoms, float(scale))
        if largest_force(trial) <= SANE_FORCE:
            return trial
    return atoms


def _nearest_bound(atoms: Atoms) -> float:
    """A distance within which every atom of a dense structure has a neighbour."""
    return 3.0 * float(atoms.get_volume() / len(atoms)) ** (1.0 / 3.0)


def pair_distances(atoms: Atoms, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """First atom and distance (Å) of all pairs closer than ``reach``, in both directions."""
    first, distances = neighbor_list("id", atoms, reach)
    return first, distances


def scaled(atoms: Atoms, factor: float) -> Atoms:
    """The structure with all lengths multiplied."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array * factor)
    copy.positions = atoms.positions * factor
    return copy


def cluster_of(atoms: Atoms) -> Atoms:
    """The first atom with its nearest neighbours, as a molecule.

    Molecules are returned whole.
    """
    if not atoms.pbc.any():
        return atoms.copy()
    offsets, distances = find_mic(
        atoms.positions - atoms.positions[0], atoms.cell.complete(), atoms.pbc
    )
    nearest = np.argsort(distances, kind="stable")[:CLUSTER_ATOMS]
    return Atoms(numbers=atoms.numbers[nearest], positions=offsets[nearest])


def without_symmetry(atoms: Atoms, random: np.random.Generator) -> Atoms:
    """A copy with atoms moved off their sites; a single periodic atom is repeated first."""
    copy = atoms.copy()
    if len(copy) == 1 and copy.pbc.any():
        copy = copy.repeat(np.where(copy.pbc, 2, 1))
    copy.positions += random.normal(scale=0.05, size=copy.positions.shape)
    return copy


def describe(atoms: Atoms, how: str) -> str:
    """The structure in words, e.g. ``"64 atoms, Si, pbc TTT, made from the model's types"``."""
    kinds = ", ".join(_symbol(number) for number in sorted(set(atoms.numbers.tolist())))
    flags = "".join("T" if flag else "F" for flag in atoms.pbc)
    plural = "" if len(atoms) == 1 else "s"
    return f"{len(atoms)} atom{plural}, {kinds}, pbc {flags}, {how}"


def _symbol(number: int) -> str:
    return chemical_symbols[number] if 0 < number < len(chemical_symbols) else f"type {number}"
