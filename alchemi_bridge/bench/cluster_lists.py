"""Cluster pair lists as GROMACS' nbnxm builds them, in NumPy, for benchmarks and tests.

The way is that of ``src/gromacs/nbnxm/grid.cpp`` and ``pairlist.cpp`` (GROMACS 2026,
https://gitlab.com/gromacs/gromacs): atoms go into columns in x and y, are sorted by z and cut into
super-clusters, these are divided along z, y and x into clusters, and pairs of a super-cluster with
clusters are listed if their bounding boxes are closer than the radius. Details that do not change
what a list means (sizes of columns, the order of groups) are not those of GROMACS. What the arrays
mean is said in :mod:`alchemi_bridge.pairs.clusters`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from alchemi_bridge.errors import CellError
from alchemi_bridge.pairs.clusters import ClusterPairs

CENTRAL_SHIFT = 22
FILLER = -1.0e6

#: Bounding boxes are compared in float64, coordinates may be handed over in float32.
MARGIN = 1.0 + 1e-5

#: The engine leaves the clusters of unused places of a group undefined.
UNDEFINED = -(2**30)

ALL_BITS = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, eq=False)
class ClusterList:
    """A list of one rank, on the host.

    Attributes
    ----------
    sci, cj, imask, excl_ind, excl, atom_index
        As in :class:`~alchemi_bridge.pairs.clusters.ClusterPairs`; words are uint32.
    x
        (n_slots, 3) float64, in the order of the slots.
    positions
        (n_atoms, 3) float64: the atoms in the box, as the engine wraps them.
    box
        (3, 3) rows.
    rlist
        Radius of the list.
    layout
        ``cluster_size``, ``clusters_per_super`` and ``split``.
    """

    sci: np.ndarray
    cj: np.ndarray
    imask: np.ndarray
    excl_ind: np.ndarray
    excl: np.ndarray
    atom_index: np.ndarray
    x: np.ndarray
    positions: np.ndarray
    box: np.ndarray
    rlist: float
    layout: dict[str, int]

    def pairs(self, dtype: Any = np.float64, **options: Any) -> ClusterPairs:
        """The list for the provider, with coordinates in ``dtype``; options are attributes."""
        arrays: dict[str, Any] = {
            "excl_ind": self.excl_ind,
            "excl": self.excl,
            "atom_index": self.atom_index,
            "x": self.x.astype(dtype),
            "reach": self.rlist,
            "rlist": self.rlist,
            **self.layout,
            **options,
        }
        return ClusterPairs(self.sci, self.cj, self.imask, **arrays)


@dataclass(frozen=True)
class _Sizes:
    cluster: int
    n_clusters: int
    split: int

    @property
    def super(self) -> int:
        return self.cluster * self.n_clusters

    @property
    def group(self) -> int:
        return 32 // self.n_clusters


def build(
    positions: np.ndarray,
    box: np.ndarray,
    rlist: float,
    *,
    excluded: np.ndarray | None = None,
    cluster_size: int = 8,
    clusters_per_super: int = 8,
    split: int = 2,
    longest_entry: int = 16,
) -> ClusterList:
    """Build a list for all atoms in a periodic box.

    Parameters
    ----------
    positions
        (n_atoms, 3), anywhere.
    box
        (3, 3) rows as in GROMACS: lower triangular, with at most half of a diagonal element below
        it.
    rlist
        Radius, in the same unit.
    excluded
        (n, 2) pairs of atoms that the force field excludes, in one direction or both.
    cluster_size, clusters_per_super, split
        See :class:`~alchemi_bridge.pairs.clusters.ClusterPairs`.
    longest_entry
        Groups after which an entry is split.

    Raises
    ------
    CellError
        If the box is none of GROMACS', or the radius needs shifts that have no number.
    """
    box = np.asarray(box, dtype=np.float64)
    _check_box(box, rlist)
    sizes = _Sizes(cluster_size, clusters_per_super, split)
    wrapped = wrap(np.asarray(positions, dtype=np.float64).reshape(-1, 3), box)
    atom_index = _slots(wrapped, box, sizes)
    real = atom_index >= 0
    x = np.full((len(atom_index), 3), FILLER)
    x[real] = wrapped[atom_index[real]]
    found = _search(x, real, box, rlist, sizes)
    sci, cj, imask, rows = _groups(*found, sizes, longest_entry)
    pairs = np.empty((0, 2), dtype=np.int64) if excluded is None else np.asarray(excluded)
    excl_ind, excl = _exclusions(rows, len(cj), _slots_of(atom_index, pairs), sizes)
    return ClusterList(
        sci=sci,
        cj=cj,
        imask=np.repeat(imask[:, None], split, axis=1),
        excl_ind=excl_ind,
        excl=excl,
        atom_index=atom_index,
        x=x,
        positions=wrapped,
        box=box,
        rlist=rlist,
        layout={
            "cluster_size": cluster_size,
            "clusters_per_super": clusters_per_super,
            "split": split,
        },
    )


def wrap(positions: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Into the brick that the diagonal of the box spans, as GROMACS does."""
    wrapped = np.array(positions)
    for axis in (2, 1, 0):
        wrapped -= np.floor(wrapped[:, axis : axis + 1] / box[axis, axis]) * box[axis]
        # a tiny negative number plus the box is the box itself
        wrapped[wrapped[:, axis] >= box[axis, axis], axis] = 0.0
    return wrapped


def _check_box(box: np.ndarray, rlist: float) -> None:
    diagonal = np.diag(box)
    fits = box.shape == (3, 3) and not np.triu(box, 1).any() and (diagonal > 0.0).all()
    if not fits or (2.0 * np.abs(np.tril(box, -1)) > diagonal * (1.0 + 1e-9)).any():
        raise CellError(
            "box of a cluster pair list",
            expected="a lower triangle, with at most half of a diagonal element below it",
            got=str(box.tolist()),
            fix="reduce and rotate the cell",
        )
    # largest shift: |x_i - x_j| is below the diagonal, other shifts add their skew
    needed = [0.0, 0.0, 0.0]
    for axis in (2, 1, 0):
        skew = sum(needed[k] * abs(box[k, axis]) for k in range(axis + 1, 3))
        needed[axis] = np.ceil((rlist * MARGIN + skew) / diagonal[axis] + 1.0) - 1.0
    if needed[0] > 2 or needed[1] > 1 or needed[2] > 1:
        raise CellError(
            "box of a cluster pair list",
            expected=f"one for which a radius of {rlist:g} needs shifts of at most 2, 1, 1",
            got=f"shifts of up to {[int(n) for n in needed]}",
            fix="choose a larger box, or a smaller radius",
        )


# --- slots --------------------------------------------------------------------------------------


def _slots(positions: np.ndarray, box: np.ndarray, sizes: _Sizes) -> np.ndarray:
    """(n_slots,) int32 atom of each slot."""
    n_atoms, brick = len(positions), np.diag(box)
    side = np.cbrt(brick.prod() * sizes.super / max(n_atoms, 1))
    columns = np.maximum(np.rint(brick[:2] / side), 1).astype(np.int64)
    place = np.minimum((positions[:, :2] / brick[:2] * columns).astype(np.int64), columns - 1)
    column = place[:, 0] * columns[1] + place[:, 1]
    order = np.lexsort((positions[:, 2], column))
    counts = np.bincount(column, minlength=int(columns.prod()))
    # every column is filled up to whole super-clusters
    filled = -(-counts // sizes.super) * sizes.super
    begin, first = np.cumsum(filled) - filled, np.cumsum(counts) - counts
    atoms = np.full(int(filled.sum()), -1, dtype=np.int32)
    rank = np.arange(n_atoms) - first[column[order]]
    atoms[begin[column[order]] + rank] = order
    # then super-clusters are halved along z, y, x until they are clusters
    halvings = (sizes.super // sizes.cluster).bit_length() - 1
    for axis, size in zip((2, 1, 0), (sizes.super >> k for k in range(halvings)), strict=False):
        blocks = atoms.reshape(-1, size)
        key = np.where(blocks >= 0, positions[blocks, axis] if n_atoms else 0.0, np.inf)
        atoms = np.take_along_axis(blocks, np.argsort(key, axis=1, kind="stable"), 1).reshape(-1)
    return atoms


def _boxes(x: np.ndarray, real: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corners around each ``size`` slots; infinite and reversed for fillers."""
    blocks, there = x.reshape(-1, size, 3), real.reshape(-1, size, 1)
    low = np.where(there, blocks, np.inf).min(axis=1)
    return low, np.where(there, blocks, -np.inf).max(axis=1)


# --- search -------------------------------------------------------------------------------------


def _search(
    x: np.ndarray, real: np.ndarray, box: np.ndarray, rlist: float, sizes: _Sizes
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Super-cluster, shift, j cluster and byte of i clusters of everything within the radius."""
    low, high = _boxes(x, real, sizes.cluster)
    super_low, super_high = _boxes(x, real, sizes.super)
    centres = 0.5 * (super_low + super_high)
    extent = np.linalg.norm(super_high - super_low, axis=1).max(initial=0.0)
    parts = []
    if len(centres):
        tree = cKDTree(centres)
        for shift in range(CENTRAL_SHIFT + 1):
            vector = _cell_vector(shift) @ box
            near = cKDTree(centres + vector).sparse_distance_matrix(
                tree, (rlist + extent) * MARGIN, output_type="ndarray"
            )
            i, j = near["i"], near["j"]
            if shift == CENTRAL_SHIFT:
                i, j = i[j >= i], j[j >= i]
            parts.append(_close(i, j, shift, vector, low, high, rlist, sizes))
    columns = zip(*parts, strict=True) if parts else ([np.empty(0, np.int64)] for _ in range(4))
    i, t, j, byte = (np.concatenate(column) for column in columns)
    order = np.lexsort((j, t, i))
    return i[order], t[order], j[order], byte[order]


def _cell_vector(shift: int) -> np.ndarray:
    return np.array([shift % 5 - 2, shift % 15 // 5 - 1, shift // 15 - 1])


def _close(
    i: np.ndarray,
    j: np.ndarray,
    shift: int,
    vector: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    rlist: float,
    sizes: _Sizes,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Clusters of pairs of super-clusters whose boxes are within the radius."""
    n = sizes.n_clusters
    ci = i[:, None, None] * n + np.arange(n)[None, None, :]
    cj = j[:, None, None] * n + np.arange(n)[None, :, None]
    with np.errstate(invalid="ignore"):  # of clusters without atoms
        gap = np.maximum(low[cj] - (high[ci] + vector), (low[ci] + vector) - high[cj])
    square = (np.maximum(gap, 0.0) ** 2).sum(axis=3)
    near = square < (rlist * MARGIN) ** 2
    if shift == CENTRAL_SHIFT:
        near &= ci <= cj
    byte = (near << np.arange(n)).sum(axis=2)
    at, jc = np.nonzero(byte)
    return i[at], np.full(len(at), shift), j[at] * n + jc, byte[at, jc]


# --- entries and groups -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """What each used place of a group holds."""

    super: np.ndarray
    shift: np.ndarray
    cluster: np.ndarray
    byte: np.ndarray
    group: np.ndarray
    place: np.ndarray


def _groups(
    i: np.ndarray, t: np.ndarray, j: np.ndarray, byte: np.ndarray, sizes: _Sizes, longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, _Rows]:
    """Entries, j clusters, masks, and the rows they were packed from."""
    _, begin, counts = np.unique(i * 64 + t, return_index=True, return_counts=True)
    n_groups = -(-counts // sizes.group)
    base = np.cumsum(n_groups) - n_groups
    entry = np.repeat(np.arange(len(begin)), counts)
    rank = np.arange(len(i)) - begin[entry]
    group, place = base[entry] + rank // sizes.group, rank % sizes.group
    total = int(n_groups.sum())
    cj = np.full((total, sizes.group), UNDEFINED, dtype=np.int32)
    cj[group, place] = j
    imask = np.zeros(total, dtype=np.int64)
    np.add.at(imask, group, byte << (place * sizes.n_clusters))
    # entries are split when they are long
    pieces = -(-n_groups // longest)
    of = np.repeat(np.arange(len(begin)), pieces)
    start = base[of] + longest * (np.arange(len(of)) - (np.cumsum(pieces) - pieces)[of])
    end = np.minimum(start + longest, (base + n_groups)[of])
    sci = np.stack([i[begin[of]], t[begin[of]], start, end], axis=1).astype(np.int32)
    return sci, cj, imask.astype(np.uint32), _Rows(i, t, j, byte, group, place)


# --- exclusions ---------------------------------------------------------------------------------


def _slots_of(atom_index: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(2 n, 2) slots of pairs of atoms, in both directions."""
    slot = np.zeros(atom_index.max(initial=-1) + 1, dtype=np.int64)
    real = np.flatnonzero(atom_index >= 0)
    slot[atom_index[real]] = real
    there = slot[pairs.astype(np.int64)].reshape(-1, 2)
    return np.concatenate([there, there[:, ::-1]])


def _exclusions(
    rows: _Rows, n_groups: int, excluded: np.ndarray, sizes: _Sizes
) -> tuple[np.ndarray, np.ndarray]:
    """Exclusion entries: half of each cluster with itself, and pairs that the caller excludes."""
    n, size = sizes.n_clusters, sizes.cluster
    # a cluster with itself, in the cell itself: only j atoms after the i atom
    diagonal = np.flatnonzero((rows.shift == CENTRAL_SHIFT) & (rows.cluster // n == rows.super))
    jj, ii = np.divmod(np.arange(size * size), size)
    jj, ii = jj[jj <= ii], ii[jj <= ii]
    row = np.repeat(diagonal, len(jj))
    clear = [(row, rows.cluster[row] % n, np.tile(jj, len(diagonal)), np.tile(ii, len(diagonal)))]
    # pairs that are excluded, wherever the list has their clusters
    clusters = int(rows.cluster.max(initial=0)) + 1
    keys = rows.super * clusters + rows.cluster
    order = np.argsort(keys, kind="stable")
    si, sj = excluded.T
    wanted = si // sizes.super * clusters + sj // size
    left = np.searchsorted(keys[order], wanted, "left")
    counts = np.searchsorted(keys[order], wanted, "right") - left
    of = np.repeat(np.arange(len(wanted)), counts)
    row = order[left[of] + np.arange(len(of)) - (np.cumsum(counts) - counts)[of]]
    clear.append((row, si[of] // size % n, sj[of] % size, si[of] % size))
    row, ci, jj, ii = (np.concatenate(column) for column in zip(*clear, strict=True))
    part_size = size // sizes.split
    excl_ind = np.zeros((n_groups, sizes.split), dtype=np.int32)
    touched, which = np.unique(rows.group[row] * sizes.split + jj // part_size, return_inverse=True)
    excl_ind.reshape(-1)[touched] = np.arange(1, len(touched) + 1)
    excl = np.full((len(touched) + 1, part_size * size), ALL_BITS, dtype=np.uint32)
    bit = (np.uint32(1) << (rows.place[row] * n + ci).astype(np.uint32)).astype(np.uint32)
    np.bitwise_and.at(excl, (which + 1, jj % part_size * size + ii), ~bit)
    return excl_ind, excl
