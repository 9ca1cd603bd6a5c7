"""Atoms of training data that sit on one another, and cells too small for any atom.

The search of :mod:`alchemi_bridge.pairs` makes a grid of cells as wide as its reach, which for so
short a one takes 15 ms a frame, 200 times as long as a tree.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

#: Å. No labels of a closer pair mean anything: the shortest bond, in H2, has 0.74 Å.
LEAST_DISTANCE = 0.1


def overlapping(
    coordinates: np.ndarray, cells: np.ndarray | None
) -> tuple[int, tuple[int, int], float] | None:
    """The first pair of atoms that are closer than :data:`LEAST_DISTANCE`.

    Parameters
    ----------
    coordinates
        (F, N, 3) float64 Å.
    cells
        (F, 3, 3) float64 Å, periodic; None without periodic boundaries. The faces of a cell must be
        more than twice :data:`LEAST_DISTANCE` apart; see :func:`least_height`.

    Returns
    -------
    tuple or None
        Frame, atoms, and their distance in Å.
    """
    for frame, x in enumerate(coordinates):
        if cells is None:
            pairs = cKDTree(x).query_pairs(LEAST_DISTANCE, output_type="ndarray")
            vectors = x[pairs[:, 1]] - x[pairs[:, 0]]
        else:
            inverse = np.linalg.inv(cells[frame])
            places = x @ inverse
            places -= np.floor(places)
            places[places >= 1.0] = 0.0  # -1e-17 less its floor is one
            # a ball is an ellipsoid there: more pairs than needed, of which the length decides
            reach = min(LEAST_DISTANCE * float(np.linalg.norm(inverse, 2)), 0.5)
            pairs = cKDTree(places, boxsize=1.0).query_pairs(reach, output_type="ndarray")
            apart = places[pairs[:, 1]] - places[pairs[:, 0]]
            vectors = (apart - np.round(apart)) @ cells[frame]
        lengths = np.linalg.norm(vectors, axis=1)
        if (lengths < LEAST_DISTANCE).any():
            k = int(lengths.argmin())
            return frame, (int(pairs[k, 0]), int(pairs[k, 1])), float(lengths[k])
    return None


def least_height(cells: np.ndarray) -> np.ndarray:
    """(F,) Å, the smallest distance of opposite faces of each (3, 3) cell with a volume."""
    return 1.0 / np.linalg.norm(np.linalg.inv(cells), axis=1).max(axis=1)
