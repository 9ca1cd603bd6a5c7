"""Pairs of atoms in any cell, by listing periodic images, and sums over such pairs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from alchemi_bridge.errors import CellError, SpeciesError

Array = NDArray[np.float64]
# relative volume (against the product of the edge lengths) below which a cell counts as singular
_FLAT = 1e-10
# images are collected slightly beyond the cutoff; the strict comparison comes afterwards
_MARGIN = 1e-6


@dataclass(frozen=True)
class OracleResult:
    """What an oracle found.

    Attributes
    ----------
    energy
        Potential energy, eV.
    energies
        (N,) energies of the atoms, eV; they sum to ``energy``.
    forces
        (N, 3) eV/Å.
    virial
        (3, 3) dE/d(strain), eV, symmetric, tensile positive.
    """

    energy: float
    energies: Array
    forces: Array
    virial: Array


@dataclass(frozen=True)
class Pairs:
    """All ordered pairs within a cutoff.

    Attributes
    ----------
    first, second
        (P,) indices, sorted by ``first``.
    vectors
        (P, 3) from the first atom to the image of the second, Å.
    lengths
        (P,) Å.
    n_atoms
        Number of atoms.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    vectors: Array
    lengths: Array
    n_atoms: int

    def sum_first(self, values: Array) -> Array:
        """Sum ``values`` (P, ...) over the pairs of each first atom, giving (N, ...)."""
        return self._sum(self.first, values)

    def sum_second(self, values: Array) -> Array:
        """Sum ``values`` (P, ...) over the pairs of each second atom, giving (N, ...)."""
        return self._sum(self.second, values)

    def _sum(self, index: NDArray[np.int64], values: Array) -> Array:
        n_pairs = len(index)
        matrix = csr_matrix(
            (np.ones(n_pairs), (index, np.arange(n_pairs))), shape=(self.n_atoms, n_pairs)
        )
        flat = values.reshape(n_pairs, int(np.prod(values.shape[1:])))
        return np.asarray(matrix @ flat).reshape(self.n_atoms, *values.shape[1:])

    def result(self, energies: Array, gradients: Array) -> OracleResult:
        """Assemble forces and virial.

        Parameters
        ----------
        energies
            (N,) eV.
        gradients
            (P, 3) derivative of the total energy with respect to each pair's vector, eV/Å.
        """
        forces = self.sum_first(gradients) - self.sum_second(gradients)
        virial = self.vectors.T @ gradients
        return OracleResult(
            energy=float(energies.sum()),
            energies=energies,
            forces=forces,
            virial=0.5 * (virial + virial.T),
        )


def check_species(atoms: Atoms, types: Collection[int]) -> None:
    """Raise SpeciesError if an atom's number is not among ``types``."""
    unknown = sorted(set(atoms.numbers.tolist()) - set(types))
    if unknown:
        raise SpeciesError(
            "atomic numbers",
            expected=f"only {sorted(types)}",
            got=f"also {unknown}",
            fix="list these species in the oracle's parameters",
        )


def _complete_cell(cell: Array, pbc: NDArray[np.bool_]) -> Array:
    """Replace the rows of non-periodic directions by unit vectors normal to the periodic ones."""
    rows = cell[pbc]
    full = np.array(cell, dtype=np.float64)
    if len(rows) < 3:
        # the last rows of V^T span what is orthogonal to the periodic rows
        full[~pbc] = np.linalg.svd(np.vstack([rows, np.zeros((1, 3))]))[2][len(rows) :]
    lengths = np.linalg.norm(full, axis=1)
    if not np.isfinite(full).all() or abs(np.linalg.det(full)) <= _FLAT * np.prod(lengths):
        raise CellError(
            "cell",
            expected="linearly independent vectors in the periodic directions",
            got=f"{cell.tolist()} with pbc {pbc.tolist()}",
            fix="give every periodic direction its own vector, or switch it off in pbc",
        )
    return full


def _images(
    fractional: Array, reach: Array, pbc: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.intp]]:
    """Shifts and atoms of all images whose fractional coordinates lie within ``reach`` of [0, 1).

    Returns (M, 3) integer shifts and (M,) atom indices.
    """
    ranges = [
        np.arange(-np.ceil(reach[k]), np.ceil(reach[k]) + 1.0) if pbc[k] else np.zeros(1)
        for k in range(3)
    ]
    shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    where = fractional[None, :, :] + shifts[:, None, :]
    near = ((where >= -reach) & (where <= 1.0 + reach)) | ~pbc
    chosen, atom = np.nonzero(near.all(axis=2))
    return shifts[chosen], atom


def find_pairs(atoms: Atoms, cutoff: float) -> Pairs:
    """List every ordered pair of atoms closer than ``cutoff``, own images included.

    Parameters
    ----------
    atoms
        Any mixture of periodic and free directions; the cell may be slanted, left-handed, or
        smaller than the cutoff. Atoms may lie outside the cell. Vectors of directions without
        periodicity are ignored.
    cutoff
        Å; a pair counts if its distance is strictly below.

    Raises
    ------
    CellError
        If the periodic cell vectors are not linearly independent.
    """
    pbc = np.asarray(atoms.pbc, dtype=bool)
    cell = _complete_cell(np.asarray(atoms.cell, dtype=np.float64), pbc)
    positions = np.asarray(atoms.positions, dtype=np.float64)
    n_atoms = len(positions)
    inverse = np.linalg.inv(cell)
    fractional = positions @ inverse
    home_shift = np.where(pbc, np.floor(fractional), 0.0)
    fractional = fractional - home_shift
    home = positions - home_shift @ cell
    # the columns of the inverse are the reciprocal vectors; their lengths are 1/height
    reach = cutoff * (1.0 + _MARGIN) * np.linalg.norm(inverse, axis=0)
    shifts, atom = _images(fractional, reach, pbc)
    images = home[atom] + shifts @ cell
    if n_atoms == 0:
        none = np.zeros(0, dtype=np.int64)
        return Pairs(none, none, np.zeros((0, 3)), np.zeros(0), 0)

    found = cKDTree(home).sparse_distance_matrix(
        cKDTree(images), cutoff * (1.0 + _MARGIN), output_type="ndarray"
    )
    first, image = found["i"].astype(np.int64), found["j"].astype(np.int64)
    vectors = images[image] - home[first]
    lengths = np.linalg.norm(vectors, axis=1)
    itself = (atom[image] == first) & (shifts[image] == 0).all(axis=1)
    keep = np.flatnonzero((lengths < cutoff) & ~itself)
    keep = keep[np.argsort(first[keep], kind="stable")]
    second = atom[image[keep]].astype(np.int64)
    return Pairs(first[keep], second, vectors[keep], lengths[keep], n_atoms)
