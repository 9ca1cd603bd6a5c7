"""Pair search with a k-d tree, for the few shapes that a grid of cells can not serve."""

from __future__ import annotations

import itertools

import numpy as np

from alchemi_bridge.cell import Cell

#: Images are collected a little beyond the reach, which the caller cuts at: rounding of wrapped
#: coordinates must not lose a pair.
MARGIN = 1e-9


def find_pairs_by_tree(
    positions: np.ndarray, cell: Cell, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair closer than ``reach`` once.

    Parameters
    ----------
    positions
        (n_atoms, 3) float64, finite.
    cell
        In the same unit.
    reach
        Largest distance.

    Returns
    -------
    first, second
        (n_pairs,) int64, ``first <= second``.
    shifts
        (n_pairs, 3) int64.

    References
    ----------
    S. Maneewongvatana and D. M. Mount, "Analysis of approximate nearest neighbor searching with
    clustered point sets" (1999), arXiv:cs/9901013: the tree, from SciPy.
    """
    from scipy.spatial import cKDTree

    periodic = np.array(cell.pbc)
    fractional = positions @ cell.inverse
    home = np.where(periodic, np.floor(fractional), 0.0)
    fractional = fractional - home
    wrapped = positions - home @ cell.vectors
    reach = reach * (1.0 + MARGIN)
    share = np.where(periodic, reach / cell.heights, 0.0)  # of the cell that the reach spans

    counts = np.where(periodic, np.ceil(share).astype(np.int64), 0)
    images, atoms, steps = [], [], []
    for step in itertools.product(*(range(-n, n + 1) for n in counts)):
        place = fractional + step
        near = (((place >= -share) & (place <= 1.0 + share)) | ~periodic).all(axis=1)
        chosen = np.flatnonzero(near)
        images.append(wrapped[chosen] + np.array(step, dtype=np.float64) @ cell.vectors)
        atoms.append(chosen)
        steps.append(np.broadcast_to(np.array(step, dtype=np.int64), (len(chosen), 3)))
    atom, step_of = np.concatenate(atoms), np.concatenate(steps)
    found = cKDTree(wrapped).sparse_distance_matrix(
        cKDTree(np.concatenate(images)), reach, output_type="ndarray"
    )
    first, image = found["i"].astype(np.int64), found["j"].astype(np.int64)
    second = atom[image]
    whole = home.astype(np.int64)
    shifts = step_of[image] - whole[second] + whole[first]
    # each pair was found from both of its ends
    x, y, z = shifts.T
    positive = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    once = (first < second) | ((first == second) & positive)
    return first[once], second[once], shifts[once]
