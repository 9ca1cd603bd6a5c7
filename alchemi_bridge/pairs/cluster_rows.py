"""Which pairs of a cluster list are kept, and their entries in the rows of candidates.

Kernels of ``clusters.cuh`` with their torch reference. What is kept is written as one word for each
lane, in the order of the masks, so that distances are computed once for counting and filling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.native import elements, launcher_for
from alchemi_bridge.pairs.cluster_arrays import CENTRAL_SHIFT, SHIFTS, ClusterArrays
from alchemi_bridge.pairs.rows import count_pairs, fill_pairs

#: How many groups, or words, the torch reference expands at once: some 100 MB.
GROUPS_AT_ONCE = 1024
WORDS_AT_ONCE = 1 << 17


@dataclass(frozen=True, eq=False)
class KeptPairs:
    """The pairs of a list that are kept.

    Attributes
    ----------
    arrays
        The list.
    owner
        (n_groups,) int32 entry that each group belongs to, -1 for none.
    place
        (n_slots,) int32 atom of each slot, as the candidates number them; -1 for none.
    words
        (n_groups * lanes,) words of the pairs that are kept.
    """

    arrays: ClusterArrays
    owner: torch.Tensor
    place: torch.Tensor
    words: torch.Tensor


def shift_vectors(cell: Cell) -> torch.Tensor:
    """(45, 3) float64 on the host: what is added to the i atoms for each shift number."""
    shifts = torch.tensor(SHIFTS, dtype=torch.float64)
    a, b, c = cell.tensor(torch.float64, shifts.device)
    return shifts[:, 0:1] * a + shifts[:, 1:2] * b + shifts[:, 2:3] * c


def keep(
    arrays: ClusterArrays,
    owner: torch.Tensor,
    place: torch.Tensor,
    vectors: torch.Tensor,
    limit: float,
) -> KeptPairs:
    """Find the pairs whose squared distance is below ``limit``.

    Parameters
    ----------
    arrays, owner, place
        See :class:`KeptPairs`; checked.
    vectors
        (45, 3) float64 from :func:`shift_vectors`, on the device.
    limit
        In the engine's unit.
    """
    layout = arrays.layout
    n_lanes = len(arrays.cj) * layout.lanes
    words = torch.empty(n_lanes, dtype=torch.int32, device=owner.device)
    kept = KeptPairs(arrays, owner, place, words)
    run = launcher_for(owner.device)
    if run is None:
        for begin in range(0, len(arrays.cj), GROUPS_AT_ONCE):
            _keep_torch(kept, begin, begin + GROUPS_AT_ONCE, vectors, limit)
        return kept
    x = arrays.x
    packed = torch.empty(3 * len(place), dtype=torch.float64, device=owner.device)
    run.launch(
        "pack_slots_f" if x.dtype == torch.float32 else "pack_slots_d",
        len(place),
        place,
        elements(x),
        *x.stride(),
        layout.cluster_bits,
        packed,
    )
    run.launch(
        f"keep_clusters_{layout.cluster_size}",
        len(arrays.cj) * layout.cluster_size,
        arrays.sci,
        owner,
        arrays.cj,
        arrays.imask,
        arrays.excl_ind,
        arrays.excl,
        packed,
        vectors,
        layout.super_bits,
        layout.half_bits,
        int(arrays.intra_grid),
        limit,
        words,
    )
    return kept


def _keep_torch(kept: KeptPairs, begin: int, end: int, vectors: torch.Tensor, limit: float) -> None:
    arrays, layout, device = kept.arrays, kept.arrays.layout, kept.owner.device
    lane = torch.arange(layout.lanes, device=device)
    jj, ii = lane >> layout.cluster_bits, lane & (layout.cluster_size - 1)
    half = jj >> layout.half_bits
    wanted = arrays.imask[begin:end, half]
    if arrays.excl is not None and arrays.excl_ind is not None:
        within = ((jj & ((1 << layout.half_bits) - 1)) << layout.cluster_bits) + ii
        wanted = wanted & arrays.excl[arrays.excl_ind[begin:end, half].long(), within]
    wanted = torch.where(kept.owner[begin:end, None] >= 0, wanted, 0)
    group, lane, bit = torch.nonzero(_bits(wanted), as_tuple=True)
    i, j, shift = _slots(kept, begin + group, lane, bit)
    inside = (kept.place[i] >= 0) & (kept.place[j] >= 0)
    if arrays.intra_grid:
        inside &= (shift != CENTRAL_SHIFT) | (j > i)
    d = (arrays.x[i].double() + vectors[shift]) - arrays.x[j].double()
    inside &= d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1] + d[:, 2] * d[:, 2] < limit
    place = (group * layout.lanes + lane)[inside]
    found = torch.zeros(wanted.numel(), dtype=torch.int64, device=device)
    found.index_add_(0, place, torch.ones_like(place) << bit[inside])
    first = begin * layout.lanes
    # as int32: the highest bit is the sign
    kept.words[first : first + len(found)] = found - ((found >> 31) << 32)


def _bits(words: torch.Tensor) -> torch.Tensor:
    """(..., 32) bool."""
    return ((words[..., None] >> torch.arange(32, device=words.device)) & 1).bool()


def _slots(
    kept: KeptPairs, group: torch.Tensor, lane: torch.Tensor, bit: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """I slots, j slots and shift numbers."""
    arrays, layout = kept.arrays, kept.arrays.layout
    jj, ii = lane >> layout.cluster_bits, lane & (layout.cluster_size - 1)
    jm, ci = bit >> layout.super_bits, bit & (layout.n_clusters - 1)
    row = arrays.sci[kept.owner[group].long()].long()
    i = (((row[:, 0] << layout.super_bits) + ci) << layout.cluster_bits) + ii
    j = (arrays.cj[group, jm].long() << layout.cluster_bits) + jj
    return i, j, row[:, 1]


def listed(kept: KeptPairs) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The kept pairs in parts: int32 atoms, and shift numbers (torch reference)."""
    lanes = kept.arrays.layout.lanes
    for begin in range(0, len(kept.words), WORDS_AT_ONCE):
        word, bit = torch.nonzero(_bits(kept.words[begin : begin + WORDS_AT_ONCE]), as_tuple=True)
        word = word + begin
        i, j, shift = _slots(kept, word // lanes, word % lanes, bit)
        yield kept.place[i], kept.place[j], shift


def count_kept(kept: KeptPairs, counts: torch.Tensor) -> None:
    """Add to ``counts``, (n_atoms,) int32, how many entries each row gets."""
    run, arrays = launcher_for(counts.device), kept.arrays
    if run is None:
        for first, second, _ in listed(kept):
            count_pairs(first, second, True, counts)
        return
    run.launch(
        "count_clusters",
        len(kept.words),
        kept.words,
        arrays.sci,
        kept.owner,
        arrays.cj,
        kept.place,
        arrays.layout.cluster_bits,
        arrays.layout.super_bits,
        counts,
        serial=True,
    )


def fill_kept(
    kept: KeptPairs,
    codes: torch.Tensor,
    cursor: torch.Tensor,
    row_second: torch.Tensor,
    row_code: torch.Tensor,
) -> None:
    """Write both entries of every pair to where ``cursor`` points, and move it on.

    ``codes`` are the (45,) int32 numbers that the candidates have for the shift numbers.
    """
    run, arrays = launcher_for(cursor.device), kept.arrays
    if run is None:
        rows = (cursor, row_second, row_code)
        for first, second, shift in listed(kept):
            fill_pairs(first, second, codes[shift], True, len(codes), *rows)
        return
    run.launch(
        "fill_clusters",
        len(kept.words),
        kept.words,
        arrays.sci,
        kept.owner,
        arrays.cj,
        kept.place,
        codes,
        len(codes),
        arrays.layout.cluster_bits,
        arrays.layout.super_bits,
        cursor,
        row_second,
        row_code,
        serial=True,
    )
