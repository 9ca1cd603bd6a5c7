"""Lists and atoms of a rank with a full-shell halo, which GROMACS 2026 does not have."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cluster_parts import Golden

from alchemi_bridge.bench import cluster_lists

#: Coordinates are multiples of this, nm, so that images of an atom are exact in float32, too.
GRID = 2.0**-16


@dataclass(frozen=True, eq=False)
class Rank:
    """One rank: home atoms, then the images of all atoms that are within range of one of them.

    Attributes
    ----------
    owners, shifts
        (n_atoms,) atom of the system that each is, and (n_atoms, 3) by how many cells it is moved.
    n_home
        How many are home atoms.
    lists
        Local, non-local, and within the halo.
    """

    owners: np.ndarray
    shifts: np.ndarray
    n_home: int
    lists: tuple[Golden, Golden, Golden]

    def positions(self, of_system: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(n_atoms, 3) from those of the system."""
        return of_system[self.owners] + self.shifts @ box

    def without_halo_pairs(self) -> Rank:
        """The same, with an empty list within the halo."""
        names = ("sci", "cj", "imask", "excl_ind")
        empty = {name: self.lists[2].arrays[name][:0] for name in names}
        last = Golden({**self.lists[2].arrays, **empty})
        return replace(self, lists=(*self.lists[:2], last))


def divide(
    positions: np.ndarray, box: np.ndarray, home: np.ndarray, reach: float, rlist: float
) -> Rank:
    """The rank with these home atoms (a mask), and a halo of this reach, in nm."""
    mine, theirs = np.flatnonzero(home), np.arange(len(positions))
    owners, shifts = [mine], [np.zeros((len(mine), 3), dtype=int)]
    for shift in itertools.product((-1, 0, 1), repeat=3):
        image = positions + np.array(shift) @ box
        near = np.linalg.norm(image[:, None] - positions[None, mine], axis=2).min(axis=1) < reach
        if not any(shift):
            near &= ~home
        owners.append(theirs[near])
        shifts.append(np.tile(shift, (near.sum(), 1)))
    rank = Rank(np.concatenate(owners), np.concatenate(shifts), len(mine), lists=())
    return replace(rank, lists=_lists(rank.positions(positions, box), len(mine), box, rlist))


def _lists(x: np.ndarray, n_home: int, box: np.ndarray, rlist: float) -> Any:
    """All pairs are between atoms as they are: a box without images, whose shift is the central."""
    corner = x.min(axis=0) - GRID
    space = np.diag(np.ptp(x, axis=0) + 2.0 * rlist + 1.0)
    home, halo = (
        cluster_lists.build(part - corner, space, rlist) for part in (x[:n_home], x[n_home:])
    )
    index = np.concatenate(
        [home.atom_index, np.where(halo.atom_index < 0, -1, halo.atom_index + n_home)]
    ).astype(np.int32)
    slots = np.full((len(index), 3), cluster_lists.FILLER, dtype=np.float32)
    slots[index >= 0] = x[index[index >= 0]]
    common = {
        "atom_index": index,
        "x": slots,
        "excl": np.full((1, 32), cluster_lists.ALL_BITS),
        "box": box.astype(np.float32),
        "rlist": np.full(2, rlist, dtype=np.float32),
    }
    supers, clusters = len(home.atom_index) // 64, len(home.atom_index) // 8
    sci, cj = halo.sci.copy(), halo.cj.copy()
    sci[:, 0] += supers
    cj[cj >= 0] += clusters
    parts = (
        (home.sci, home.cj, home.imask),
        _between(supers, np.arange(clusters, len(index) // 8)),
        (sci, cj, halo.imask),
    )
    return tuple(
        Golden(
            common
            | {"sci": s, "cj": c, "imask": m, "excl_ind": np.zeros(m.shape, dtype=np.int32)}
            | {"locality": np.array([int(k == 1)])}
        )
        for k, (s, c, m) in enumerate(parts)
    )


def _between(supers: int, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every cluster of these super-clusters with every one of those clusters, near or far."""
    n_groups = -(-len(clusters) // 4)
    cj = np.full(4 * n_groups, -1, dtype=np.int32)
    cj[: len(clusters)] = clusters
    used = np.repeat(cj >= 0, 8).reshape(n_groups, 32)
    mask = (used << np.arange(32, dtype=np.uint64)).sum(axis=1).astype(np.uint32)
    ends = n_groups * np.arange(supers + 1)
    central = np.full(supers, cluster_lists.CENTRAL_SHIFT)
    sci = np.column_stack([np.arange(supers), central, ends[:-1], ends[1:]]).astype(np.int32)
    groups = np.tile(cj.reshape(-1, 4), (supers, 1))
    return sci, groups, np.tile(mask[:, None], (supers, 2))
