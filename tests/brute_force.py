"""Pairs by brute force, in float64: every pair of atoms, every periodic image.

Nothing here is shared with the bridge. A pair is ``(i, j, S)`` with
``r = positions[j] - positions[i] + S @ cell`` and ``|r| < cutoff``; pairs of an atom with its own
images count, an atom with itself does not.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

Key = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class PairSet:
    """Pairs in both directions.

    Attributes
    ----------
    samples
        (n_pairs, 5) int64: first, second, and the three shifts.
    vectors
        (n_pairs, 3) float64.
    """

    samples: np.ndarray
    vectors: np.ndarray

    @property
    def distances(self) -> np.ndarray:
        """(n_pairs,) lengths of the vectors."""
        return np.sqrt((self.vectors**2).sum(axis=1))

    def keys(self) -> set[Key]:
        """The pairs as a set of tuples."""
        return keys(self.samples)

    def within(self, cutoff: float) -> PairSet:
        """Those closer than a shorter cutoff."""
        inside = self.distances < cutoff
        return PairSet(self.samples[inside], self.vectors[inside])

    def half(self) -> PairSet:
        """Each pair once: the direction whose tuple is the smaller one."""
        forward = [tuple(s) < backward(tuple(s)) for s in self.samples.tolist()]
        keep = np.array(forward, dtype=bool)
        return PairSet(self.samples[keep], self.vectors[keep])


def find(
    positions: np.ndarray, cell: np.ndarray, pbc: tuple[bool, bool, bool], cutoff: float
) -> PairSet:
    """All pairs closer than ``cutoff``, sorted."""
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    periodic = np.flatnonzero(pbc)
    rows = np.asarray(cell, dtype=np.float64).reshape(3, 3)[periodic]
    dual = np.linalg.pinv(rows)  # r @ dual: components of r along the periodic vectors
    n_atoms = len(positions)
    difference = positions[None, :, :] - positions[:, None, :]
    # Start from a near image of each pair. Component k of a vector no longer than the cutoff is at
    # most cutoff * |dual_k|, and that of the near image at most 1/2 (1 is taken).
    near = np.zeros((n_atoms, n_atoms, 3), dtype=np.int64)
    near[:, :, periodic] = -np.rint(difference @ dual).astype(np.int64)
    reach = [0, 0, 0]
    for k, column in zip(periodic, dual.T, strict=True):
        reach[k] = int(np.ceil(cutoff * np.linalg.norm(column) + 1.0))
    full = np.zeros((3, 3))
    full[periodic] = rows
    samples, vectors = [], []
    for image in itertools.product(*(range(-n, n + 1) for n in reach)):
        shift = near + np.array(image)
        vector = difference + shift @ full
        inside = (vector**2).sum(axis=2) < cutoff**2
        inside &= ~(np.eye(n_atoms, dtype=bool) & (shift == 0).all(axis=2))
        i, j = np.nonzero(inside)
        samples.append(np.column_stack([i, j, shift[i, j]]))
        vectors.append(vector[i, j])
    all_samples, all_vectors = np.concatenate(samples), np.concatenate(vectors)
    order = np.lexsort(all_samples.T[::-1])
    return PairSet(all_samples[order], all_vectors[order])


def keys(samples: np.ndarray) -> set[Key]:
    """Rows ``first, second, shifts`` as a set; a repeated row is an error."""
    found = {tuple(row) for row in np.asarray(samples).tolist()}
    if len(found) != len(samples):
        raise ValueError("a pair is listed more than once")
    return found


def backward(key: Key) -> Key:
    """The same pair seen from the other atom."""
    i, j, a, b, c = key
    return j, i, -a, -b, -c


def one_direction(samples: np.ndarray) -> set[Key]:
    """A half list as a set that does not depend on the direction in which a pair is listed.

    A pair that is listed in both directions is an error.
    """
    listed = keys(samples)
    if any(backward(key) in listed for key in listed):
        raise ValueError("a pair is listed in both directions")
    return {min(key, backward(key)) for key in listed}
