"""A small engine around the provider, structures and model files, for the tests of features."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
import ase.build
import numpy as np
import torch
import zoo
import zoo_broken

from alchemi_bridge import (
    Atoms,
    Cell,
    ForceBuffers,
    HalfPairs,
    MetatomicForceProvider,
    Search,
    Step,
)
from alchemi_bridge.parity.oracles.images import find_pairs


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="alchemi-bridge-zoo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def zoo_file(name: str, *arguments: Any) -> str:
    """Path of a model of the zoo, written once per process."""
    stem = "-".join([name, *map(str, arguments)])
    make = getattr(zoo, name, None) or getattr(zoo_broken, name)
    return str(zoo.save(make(*arguments), _folder(), stem))


def crystal(repeat: int = 1) -> ase.Atoms:
    """Rattled argon in a triclinic, periodic cell; the smallest one is smaller than the cutoffs."""
    atoms = ase.build.bulk("Ar", "fcc", a=3.6, cubic=True).repeat(repeat)
    tilt = np.array([[0.0, 0.3, 0.0], [0.1, 0.0, 0.0], [0.0, 0.0, 0.2]])
    atoms.set_cell(atoms.cell.array + tilt, scale_atoms=True)
    atoms.rattle(0.1, seed=3)
    return atoms


def molecule() -> ase.Atoms:
    """Four atoms of three kinds in vacuum."""
    positions = [[0.0, 0.0, 0.0], [1.1, 0.1, 0.0], [-0.3, 1.2, 0.4], [2.2, 1.6, -0.2]]
    return ase.Atoms("OH2C", positions=positions)


def slab() -> ase.Atoms:
    """Periodic in two directions."""
    atoms = crystal(2)
    atoms.pbc = (True, True, False)
    return atoms


def cell_of(atoms: ase.Atoms, scale: float = 1.0) -> Cell:
    return Cell.of(atoms.cell.array * scale, atoms.pbc)


@dataclass
class Buffers:
    """Engine memory: all four buffers, filled with ``start`` before the step."""

    n_atoms: int
    dtype: torch.dtype = torch.float64
    start: float = 0.0
    tensors: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        shapes = {
            "energy": (1,),
            "forces": (self.n_atoms, 3),
            "virial": (3, 3),
            "energies": (self.n_atoms,),
        }
        self.tensors = {n: torch.full(s, self.start, dtype=self.dtype) for n, s in shapes.items()}

    @property
    def all(self) -> ForceBuffers:
        return ForceBuffers(**self.tensors)

    def untouched(self) -> bool:
        return all(bool((t == self.start).all()) for t in self.tensors.values())

    def numpy(self, name: str) -> np.ndarray:
        return self.tensors[name].double().numpy() - self.start

    def __getattr__(self, name: str) -> np.ndarray:
        if name in ("energy", "forces", "virial", "energies"):
            return self.numpy(name)
        raise AttributeError(name)


def prepare(
    provider: MetatomicForceProvider, atoms: ase.Atoms, pairs: Any = None, **options: Any
) -> None:
    """Set the atoms and the order to search (or ``pairs``)."""
    provider.set_atoms(Atoms(types=np.asarray(atoms.numbers), **options))
    provider.set_pairs(Search(0.5) if pairs is None else pairs, cell_of(atoms))


def step(
    provider: MetatomicForceProvider,
    atoms: ase.Atoms,
    buffers: Buffers | None = None,
    **wanted: Any,
) -> Buffers:
    """One step with all quantities, unless told otherwise."""
    buffers = buffers or Buffers(len(atoms))
    options = {"virial": True, "energies": True, "cell": cell_of(atoms), **wanted}
    provider.compute(Step(positions=atoms.positions, **options), buffers.all).synchronize()
    return buffers


def run(provider: MetatomicForceProvider, atoms: ase.Atoms, **options: Any) -> Buffers:
    """Atoms, search and one step with all quantities."""
    prepare(provider, atoms, **options)
    return step(provider, atoms)


@dataclass(frozen=True)
class Exact:
    """The zoo's pair potential in closed form: e_i = A/2 sum_j s(r_ij), by brute force."""

    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray

    @property
    def energy(self) -> float:
        return float(self.energies.sum())


def exact(atoms: ase.Atoms, cutoff: float = zoo.CUTOFF, prefactor: float = 1.0) -> Exact:
    pairs = find_pairs(atoms, cutoff)
    inside = 1.0 - (pairs.lengths / cutoff) ** 2
    energies = 0.5 * prefactor * pairs.sum_first(inside**3)
    # d/dr of 1/2 A (1 - r^2/rc^2)^3, over r
    slopes = -3.0 * prefactor * inside**2 / cutoff**2
    found = pairs.result(energies, slopes[:, None] * pairs.vectors)
    return Exact(found.energies, found.forces, found.virial)


def pair_list(atoms: ase.Atoms, reach: float, kind: type) -> Any:
    """A list as an engine would hand it over: HalfPairs or FullPairs with integer shifts."""
    pairs = find_pairs(atoms, reach)
    straight = atoms.positions[pairs.second] - atoms.positions[pairs.first]
    inverse = cell_of(atoms).inverse
    shifts = np.rint((pairs.vectors - straight) @ inverse).astype(np.int32)
    first, second = pairs.first, pairs.second
    if kind is HalfPairs:
        # of the two directions the one that goes up, in the list of atoms or in space
        up = np.array([tuple(v) > (0.0, 0.0, 0.0) for v in pairs.vectors], dtype=bool)
        keep = (first < second) | ((first == second) & up)
        first, second, shifts = first[keep], second[keep], shifts[keep]
    return kind(first, second, shifts, reach)


def pair_vector_sums(atoms: ase.Atoms, cutoff: float = zoo.CUTOFF) -> np.ndarray:
    """sum_j s(r_ij) r_ij for each atom, (N, 3)."""
    pairs = find_pairs(atoms, cutoff)
    return pairs.sum_first((1.0 - (pairs.lengths / cutoff) ** 2)[:, None] ** 3 * pairs.vectors)


def pair_tensor(atoms: ase.Atoms, cutoff: float = zoo.CUTOFF) -> np.ndarray:
    """sum_ij s(r_ij) r_ij r_ij^T, (3, 3)."""
    pairs = find_pairs(atoms, cutoff)
    weights = (1.0 - (pairs.lengths / cutoff) ** 2) ** 3
    return (weights[:, None] * pairs.vectors).T @ pairs.vectors
