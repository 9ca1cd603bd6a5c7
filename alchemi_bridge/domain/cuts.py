"""Cuts that leave equal numbers of atoms on either side, found from counts alone.

An atom has an integer key for its place along a direction. The search for the key of a certain rank
in the order of all keys takes a fixed number of rounds; in each, every rank of the program counts
its keys below some edges, and the counts are summed. Everything is an integer, so the cuts are the
same on all ranks, and for every division of the atoms among them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: A cut may leave a rank without this share of its atoms, or give it as many too many, if it comes
#: to lie in a clear gap. A sub-domain has two cuts in each direction: at most 1.04**3 = 1.12.
GAP_SHARE = 0.02

#: Keys are below this number.
N_KEYS = 2**50

_ROUND_BITS = 5  # what a round of the search settles; ten rounds for all bits of a key
_GAP_BINS = 64

#: Sums an integer array over all ranks, element by element; the identity if every rank has all
#: atoms.
Total = Callable[[np.ndarray], np.ndarray]


def cut(groups: list[np.ndarray], parts: int, whole: int, total: Total) -> np.ndarray:
    """Where to cut groups of atoms into equal parts; collective through ``total``.

    Parameters
    ----------
    groups
        int64 keys of this rank's atoms in each group, ascending.
    parts
        Number of parts.
    whole
        Groups without atoms are cut into equal parts of the keys below this one.
    total
        Sums counts over all ranks.

    Returns
    -------
    numpy.ndarray
        (groups, parts - 1) int64, ascending: the part of a key is the number of cuts that it has
        reached. Parts differ by one atom, but for :data:`GAP_SHARE` and for equal keys, which stay
        together.
    """
    if parts == 1:
        return np.empty((len(groups), 0), dtype=np.int64)
    counts = total(np.array([len(keys) for keys in groups]))[:, None]
    number = np.arange(1, parts)
    below = counts * number // parts  # atoms in front of each cut
    spare = np.floor(GAP_SHARE * counts / parts).astype(np.int64)
    # a cut with `below` atoms in front is behind the key of that rank, and not behind the next
    ranks = np.stack([below - spare, below, below + 1, below + spare + 1], axis=-1)
    keys = select(groups, ranks, total)
    first, last = keys[..., 0], keys[..., 3]
    inner = _gap_edges(first, last)
    ties = keys[..., 1:2] + [0, 1]
    reduced = total(_count_below(groups, np.concatenate([inner, ties], axis=-1)))
    middle = keys[..., 1] + (keys[..., 2] - keys[..., 1] + 1) // 2
    later = below - reduced[..., -2] > reduced[..., -1] - below
    middle = np.where(keys[..., 1] == keys[..., 2], keys[..., 1] + later, middle)
    cuts = np.where(first == last, middle, _in_gap(inner, reduced[..., :-2], middle))
    even = whole * number // parts
    return np.where(counts == 0, even, cuts)


def _gap_edges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(..., bins + 1) edges of the bins between two keys; the first bin begins behind ``first``."""
    steps = np.arange(_GAP_BINS + 1)
    width, rest = np.divmod(last - first - 1, _GAP_BINS)
    inner = width[..., None] * steps + rest[..., None] * steps // _GAP_BINS
    return first[..., None] + 1 + np.maximum(inner, 0)


def _in_gap(edges: np.ndarray, below: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Each cut, moved to the middle of the gap that is wider than half of its bins, if any."""
    found = cuts.copy()
    for place in np.ndindex(cuts.shape):
        full = np.flatnonzero(np.diff(below[place]))
        ends = np.concatenate([[-1], full, [_GAP_BINS]])
        begin = int(np.argmax(np.diff(ends)))
        first, last = int(ends[begin]) + 1, int(ends[begin + 1])
        if 2 * (last - first) > _GAP_BINS:
            low, high = int(edges[(*place, first)]), int(edges[(*place, last)])
            found[place] = (low + high + 1) // 2
    return found


def select(groups: list[np.ndarray], ranks: np.ndarray, total: Total) -> np.ndarray:
    """Keys by their place in the order of their group; collective through ``total``.

    Parameters
    ----------
    groups
        Keys of this rank's atoms for each group, ascending.
    ranks
        (groups, ...) int64, the smallest key has rank 1.

    Returns
    -------
    numpy.ndarray
        Of the same shape; 0 for ranks below 1, and the largest of all possible keys for ranks
        behind the last.
    """
    low, width = np.zeros(ranks.shape, dtype=np.int64), N_KEYS
    steps = np.arange(1, 2**_ROUND_BITS)
    while width > 1:
        width >>= _ROUND_BITS
        below = total(_count_below(groups, low[..., None] + width * steps))
        low += width * (below < ranks[..., None]).sum(axis=-1)
    return low


def _count_below(groups: list[np.ndarray], edges: np.ndarray) -> np.ndarray:
    """How many keys of each group are below each edge."""
    rows = [np.searchsorted(keys, rows) for keys, rows in zip(groups, edges, strict=True)]
    return np.array(rows, dtype=np.int64)
