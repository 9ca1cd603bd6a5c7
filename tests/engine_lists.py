"""One argon crystal in a skewed cell, and the pair list of each kind that an engine might have."""

from __future__ import annotations

from typing import Any

import ase
import ase.build
import numpy as np
from ase.neighborlist import neighbor_list

from alchemi_bridge import FullPairs, GhostPairs, HalfPairs, NeighborMatrix
from alchemi_bridge.bench import cluster_lists

CUTOFF, REACH = 6.0, 7.0


def argon() -> ase.Atoms:
    """108 atoms off their places, inside the cell."""
    atoms = ase.build.bulk("Ar", "fcc", a=5.3, cubic=True) * (3, 3, 3)
    tilt = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.7, -0.9, 0.0]])
    atoms.set_cell(atoms.cell.array + tilt, scale_atoms=True)
    atoms.rattle(0.15, seed=1)
    atoms.wrap()
    return atoms


def cluster_pairs(atoms: ase.Atoms) -> tuple[Any, np.ndarray]:
    listed = cluster_lists.build(atoms.positions, atoms.cell.array, REACH)
    return listed.pairs(), listed.positions


def index_lists(atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return neighbor_list("ijS", atoms, REACH)


def full_pairs(atoms: ase.Atoms) -> tuple[Any, np.ndarray]:
    return FullPairs(*index_lists(atoms), reach=REACH), atoms.positions


def half_pairs(atoms: ase.Atoms) -> tuple[Any, np.ndarray]:
    i, j, shift = index_lists(atoms)
    once = (i < j) | ((i == j) & (shift @ [10000, 100, 1] > 0))
    return HalfPairs(i[once], j[once], shift[once], reach=REACH), atoms.positions


def matrix(atoms: ase.Atoms) -> tuple[Any, np.ndarray]:
    i, j, shift = index_lists(atoms)
    counts = np.bincount(i, minlength=len(atoms)).astype(np.int32)
    place = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((len(atoms), counts.max() + 3), -1, dtype=np.int32)
    shifts = np.zeros((*table.shape, 3), dtype=np.int32)
    table[i, place], shifts[i, place] = j, shift
    by_columns = np.asfortranarray(table)
    return NeighborMatrix(by_columns, counts, True, REACH, shifts=shifts), atoms.positions


def ghosts(atoms: ase.Atoms) -> tuple[Any, np.ndarray]:
    i, j, shift = index_lists(atoms)
    images, place = np.unique(np.column_stack([j, shift]), axis=0, return_inverse=True)
    own = (images[:, 1:] == 0).all(axis=1)
    number = np.where(own, images[:, 0], len(atoms) + np.cumsum(~own) - 1)
    outside = images[~own]
    positions = np.concatenate(
        [atoms.positions, atoms.positions[outside[:, 0]] + outside[:, 1:] @ atoms.cell.array]
    )
    owners = np.concatenate([np.arange(len(atoms)), outside[:, 0]]).astype(np.int32)
    counts = np.bincount(i, minlength=len(atoms))
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    neighbors = number[place].astype(np.int32)
    listed = GhostPairs(starts, neighbors, owners, positions, len(atoms), full=True, reach=REACH)
    return listed, atoms.positions


KINDS = {
    "clusters": cluster_pairs,
    "full": full_pairs,
    "half": half_pairs,
    "matrix": matrix,
    "ghosts": ghosts,
}
