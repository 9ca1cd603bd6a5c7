"""Cluster pair lists, as GROMACS' nbnxm module keeps them on a GPU, and their decoding.

Atoms are sorted into clusters of eight slots, eight clusters make a super-cluster. The list holds
pairs of clusters: for a super-cluster in the cell with a certain shift (an entry of ``sci``) groups
of four clusters, with a mask that says which of the eight i clusters each of them is paired with.

- Slots of super-cluster ``s`` are ``(8 s + ci) 8 + ii``, those of cluster ``c`` are ``8 c + jj``.
- Bit ``8 jm + ci`` of a mask stands for i cluster ``ci`` against j cluster ``cj[jm]``. There is a
  mask for j atoms 0 to 3 and one for 4 to 7; the engine prunes them one by one, so that neither can
  stand for the other. Where no bit of a ``jm`` is set, ``cj[jm]`` is undefined.
- Shift ``t`` means that the i atoms are moved by ``n @ box``, with
  ``n = (t % 5 - 2, (t % 15) / 5 - 1, t / 15 - 1)``; 22 is the cell itself.
- A list of a grid with itself (the local one) has only ``t <= 22``, and pairs of a cluster with
  itself stand in the mask in both directions: of those with ``t == 22`` only ``jSlot > iSlot``
  count. Then every pair is there once.
- The list is made from bounding boxes: most of what it names is farther than its radius. Slots
  without an atom are at -1e6 in all directions, so that their distance to each other is zero.
- Word ``(jj % 4) 8 + ii`` of an exclusion entry has the bits of the mask for this place in the
  clusters; a bit that is not set is a pair that the engine's force field leaves out.

Sources, in GROMACS 2026 (https://gitlab.com/gromacs/gromacs): ``src/gromacs/nbnxm/pairlist.h``
(``nbnxn_sci_t``, ``nbnxn_cj_packed_t``, ``nbnxn_excl_t``), ``src/gromacs/nbnxm/pairlist.cpp``,
``src/gromacs/nbnxm/pairlistset.cpp`` (``appendPlainPairlistGpu``),
``src/gromacs/nbnxm/cuda/nbnxm_cuda_kernel_pruneonly.cuh``, ``src/gromacs/pbcutil/ishift.h``. The
algorithm: S. Páll and B. Hess, Computer Physics Communications 184, 2641 (2013),
https://doi.org/10.1016/j.cpc.2013.06.003.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import ConfigurationError, PairListError
from alchemi_bridge.pairs import cluster_arrays, cluster_checks, cluster_rows
from alchemi_bridge.pairs.cluster_arrays import SHIFTS, ClusterLayout
from alchemi_bridge.pairs.lists import check_reach
from alchemi_bridge.pairs.rows import Candidates, Count, Fill, ShiftTable, assemble

#: Largest shift along each vector that the engine's numbers can express.
HALF_WIDTHS = (2, 1, 1)

#: The engine keeps its radius in float32.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class ClusterPairs:
    """An nbnxm cluster pair list.

    The arrays are those of the engine, wherever :class:`~alchemi_bridge.device.DeviceBuffer` can
    view them, on the provider's device; words may be uint32 or int32. With ``G`` groups, of four
    j clusters and two masks each:

    Attributes
    ----------
    sci
        (n_entries, 4) int32: super-cluster, shift number, first group, group after the last.
    cj
        (G, 4) int32 j clusters.
    imask
        (G, 2) words, ``imei[h].imask``.
    excl_ind, excl
        (G, 2) int32 and (n, 32) words: exclusion entry of each mask, and the entries. ``None`` for
        both where exclusions are not honoured.
    atom_index
        (n_slots,) int32 atom of each slot, -1 for a slot without one.
    x
        (n_slots, 3) or (n_slots, 4) float32 or float64 coordinates in the order of the slots, with
        any strides, in the engine's length unit: those that the list was made for. Displacements
        are counted from them, and atoms that were wrapped since then are found by them.
    reach
        Pairs closer than this are decoded, in the engine's length unit. At most ``rlist``.
    rlist
        The radius for which the list is complete (``rlistOuter``), if it is not ``reach``.
    imask_outer
        (G, 2) words: the masks pruned at the outer radius, where the engine prunes dynamically.
    fresh
        Whether no kernel has pruned the list yet (``haveFreshList``). If not, and there are outer
        masks, these are read instead of ``imask``, which is then complete up to the inner radius
        only.
    locality
        ``"local"`` for a list of home atoms with home atoms, or of one rank without others;
        ``"non-local"`` for one with halo atoms.
    honour_exclusions
        Leave out what the force field excludes. A model that replaces the force field wants these
        pairs too.
    cluster_size, clusters_per_super, split
        Layout that the engine was built for: 8, 8, 2 for CUDA; 4 instead of 8 and no split (1) are
        possible on other devices. Masks are (G, split), ``cj`` is (G, 32 / clusters_per_super),
        and ``excl`` (n, cluster_size^2 / split).

    Raises
    ------
    ConfigurationError
        For a layout, locality or reach that can not be, or without the arrays for exclusions.
    PairListError
        If ``reach`` is beyond ``rlist``.
    """

    sci: Any
    cj: Any
    imask: Any
    excl_ind: Any
    excl: Any
    atom_index: Any
    x: Any
    reach: float
    rlist: float | None = None
    imask_outer: Any = None
    fresh: bool = True
    locality: Literal["local", "non-local"] = "local"
    honour_exclusions: bool = False
    cluster_size: int = 8
    clusters_per_super: int = 8
    split: int = 2

    def __post_init__(self) -> None:
        check_reach(self.reach)
        if self.rlist is not None:
            check_reach(self.rlist)
            if self.reach > self.rlist * (1.0 + ROUNDING):
                raise PairListError(
                    "reach of a cluster pair list",
                    expected=f"at most its radius, {self.rlist:g}",
                    got=f"{self.reach:g}",
                    fix="let the engine build the list with a larger radius",
                )
        if self.locality not in ("local", "non-local"):
            raise ConfigurationError(
                "locality of a cluster pair list",
                expected="'local' or 'non-local'",
                got=repr(self.locality),
                fix="say which of the engine's two lists this is",
            )
        if self.honour_exclusions and (self.excl is None or self.excl_ind is None):
            raise ConfigurationError(
                "exclusions of a cluster pair list",
                expected="excl and excl_ind, since exclusions are to be honoured",
                got="None",
                fix="hand them over, or leave honour_exclusions out",
            )
        _ = self.layout

    @property
    def layout(self) -> ClusterLayout:
        """The three numbers of the layout, checked."""
        return ClusterLayout.of(self.cluster_size, self.clusters_per_super, self.split)

    @classmethod
    def packed(
        cls,
        sci: Any,
        cj_packed: Any,
        excl: Any,
        atom_index: Any,
        x: Any,
        reach: float,
        **options: Any,
    ) -> ClusterPairs:
        """A list whose groups are as in the engine's memory.

        Parameters
        ----------
        cj_packed
            (G, 8) words, ``nbnxn_cj_packed_t``: four j clusters, then mask and exclusion entry
            for each half. Nothing is copied.
        sci, excl, atom_index, x, reach, **options
            See the attributes.

        Raises
        ------
        ShapeError
            If the rows of ``cj_packed`` have another length than the layout says.
        """
        names = ("cluster_size", "clusters_per_super", "split")
        layout = ClusterLayout.of(*(options.get(n, getattr(cls, n)) for n in names))
        width = layout.group_size + 2 * layout.split
        source = DeviceBuffer.of(cluster_arrays.as_words(cj_packed), "cj_packed")
        groups = source.require(
            "cj_packed", shape=(None, width), dtypes=(torch.int32,), device=source.device
        )
        parts = [groups[:, : layout.group_size], groups[:, layout.group_size :: 2]]
        parts.append(groups[:, layout.group_size + 1 :: 2])
        cj, imask, excl_ind = (DeviceBuffer(part, owner=source) for part in parts)
        return cls(sci, cj, imask, excl_ind, excl, atom_index, x, reach, **options)


def decode_clusters(
    pairs: ClusterPairs | Sequence[ClusterPairs],
    *,
    n_atoms: int,
    device: torch.device,
    reach: float,
    cell: Cell,
    subset: torch.Tensor | None = None,
) -> Candidates:
    """Turn cluster pair lists into candidates.

    Distances are compared in float64, ``x_i + n @ box - x_j`` from the coordinates as they are, and
    a pair counts if it is closer than the list's ``reach``.

    Parameters
    ----------
    pairs
        One list, or those of one rank (local and non-local), which are merged.
    n_atoms
        Number of atoms of the engine, home and halo.
    device
        Device of the provider; the arrays must be there.
    reach
        Their reach in the model's length unit.
    cell
        The engine's box, in its unit, for which the list was made.
    subset
        (n_subset,) int64 indices of the atoms that the model sees. Pairs with any other atom are
        left out, and the candidates refer to positions in ``subset``.

    Raises
    ------
    ConfigurationError
        Without a list, or with lists of different reach.
    ShapeError, DtypeError, DeviceMismatchError, BufferAccessError
        If an array does not fit.
    PairListError
        If indices are out of range, ranges of groups overlap or leave some out, an atom has two
        slots or none, a shift can not be, a pair is listed twice, or there are too many.
    NonFiniteError
        If the coordinates of an atom are no numbers.
    """
    size, table, count, fill = expansion(
        pairs, n_atoms=n_atoms, device=device, cell=cell, subset=subset
    )
    name = "cluster pair list"
    return assemble(size, table, count, fill, reach=reach, name=name, mirrored=True)


def expansion(
    pairs: ClusterPairs | Sequence[ClusterPairs],
    *,
    n_atoms: int,
    device: torch.device,
    cell: Cell,
    subset: torch.Tensor | None = None,
) -> tuple[int, torch.Tensor, Count, Fill]:
    """Number of atoms, shifts, and how entries are counted and written.

    What :func:`~alchemi_bridge.pairs.rows.assemble` needs; parameters and errors as for
    :func:`decode_clusters`.
    """
    lists = _listed(pairs)
    read = [cluster_arrays.read(one, one.layout, device) for one in lists]
    place, size = cluster_arrays.numbering(subset, n_atoms, device)
    owners = cluster_checks.check(read, n_atoms, subset, cell)
    vectors = cluster_rows.shift_vectors(cell).to(device)
    table, codes = _numbered_shifts(device)
    limit = lists[0].reach * lists[0].reach
    kept = [
        cluster_rows.keep(one, owner, cluster_arrays.places(one, place), vectors, limit)
        for one, owner in zip(read, owners, strict=True)
    ]

    def count(counts: torch.Tensor) -> None:
        for one in kept:
            cluster_rows.count_kept(one, counts)

    def fill(cursor: torch.Tensor, second: torch.Tensor, code: torch.Tensor) -> None:
        for one in kept:
            cluster_rows.fill_kept(one, codes, cursor, second, code)

    return size, table, count, fill


def searched_at(
    pairs: ClusterPairs | Sequence[ClusterPairs],
    *,
    n_atoms: int,
    device: torch.device,
    subset: torch.Tensor | None = None,
) -> torch.Tensor:
    """Coordinates that the lists were made for, in the order of the atoms.

    Parameters
    ----------
    pairs, n_atoms, device, subset
        As for :func:`decode_clusters`, which has checked them: every atom has a slot.

    Returns
    -------
    torch.Tensor
        (n_seen, 3) of the atoms that the model sees, in the engine's length unit and in the
        precision of the lists, in memory of our own.
    """
    lists = _listed(pairs)
    place, size = cluster_arrays.numbering(subset, n_atoms, device)
    read = [cluster_arrays.read(one, one.layout, device) for one in lists]
    dtype = torch.float32 if any(one.x.dtype == torch.float32 for one in read) else torch.float64
    # one more row, for slots without an atom: to leave them out would need a read from the device
    found = torch.zeros((size + 1, 3), dtype=dtype, device=device)
    for one in read:
        rows = cluster_arrays.places(one, place)
        found[torch.where(rows >= 0, rows, size).long()] = one.x.to(dtype)
    return found[:size]


@cache
def _numbered_shifts(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The table of the candidates, and (45,) int32 the number there of each shift of the engine."""
    grid = ShiftTable.grid(HALF_WIDTHS, device)
    # the engine moves the first atom, the candidates the second
    return grid.table, grid.numbers(-torch.tensor(SHIFTS, device=device))


def _listed(pairs: ClusterPairs | Sequence[ClusterPairs]) -> list[ClusterPairs]:
    lists = [pairs] if isinstance(pairs, ClusterPairs) else list(pairs)
    if not lists or not all(isinstance(one, ClusterPairs) for one in lists):
        raise ConfigurationError(
            "cluster pair lists",
            expected="ClusterPairs, or a sequence of them",
            got=repr([type(one).__name__ for one in lists]),
            fix="hand over the local list, and the non-local one of the same rank",
        )
    if len({one.reach for one in lists}) > 1:
        raise ConfigurationError(
            "reach of the cluster pair lists of one rank",
            expected="the same for all",
            got=", ".join(f"{one.reach:g}" for one in lists),
            fix="set the smallest for all of them",
        )
    return lists
