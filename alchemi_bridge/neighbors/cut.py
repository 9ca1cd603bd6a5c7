"""Candidates cut at a requested cutoff: marked and counted first, then written."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from alchemi_bridge.native import launcher_for
from alchemi_bridge.neighbors.blocks import RequestedPairs
from alchemi_bridge.pairs import Candidates

#: The model computes lengths in its own arithmetic: three squares, two sums, a root and the rounded
#: cutoff are off by less than 2 eps in all, which is 4 eps of the square; the square of a float64
#: model is off by 2 more. Pairs that close to the cutoff are left out (2e-6 Å of 5 Å in float32):
#: to the model they could be beyond it.
EDGE_EPS = 6.0

NO_PAIR = -1.0e300

_LETTER = {torch.float32: "f", torch.float64: "d"}


@dataclass(frozen=True, eq=False)
class Marked:
    """Which candidates go into a list.

    Attributes
    ----------
    keep
        (n_candidates,) uint8.
    base
        (n_atoms + 1,) int32 place of the first entry of each row in the list; the last is the
        number of rows.
    shortest
        (n_atoms,) float64, minus the squared length of the shortest candidate of each row.
    """

    keep: torch.Tensor
    base: torch.Tensor
    shortest: torch.Tensor


def shift_vectors(table: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """(n_codes, 3) ``shifts @ cell``: what the images add to the pair vectors.

    They change only when the list or the cell does. ``cell`` is one for all, or (n_codes, 3, 3).
    """
    return rows_times(table.to(cell.dtype), cell)


def rows_times(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(..., 3) rows times a (3, 3) matrix, or each its own of (..., 3, 3), in full precision.

    Written out, because a GPU may be told to round the factors of matrix products to ten bits
    (``torch.set_float32_matmul_precision``): good for the layers of a net, not for coordinates.
    """
    x, y, z = (rows[..., k : k + 1] * matrix[..., k, :] for k in range(3))
    return x + y + z


def squared_limit(cutoff: float, dtype: torch.dtype) -> float:
    """Squared length below which a pair is handed over, see :data:`EDGE_EPS`."""
    return cutoff * cutoff * (1.0 - EDGE_EPS * float(torch.finfo(dtype).eps))


def mark(
    candidates: Candidates,
    positions: torch.Tensor,
    offsets: torch.Tensor,
    *,
    cutoff: float,
    full_list: bool,
    dtype: torch.dtype,
    with_cut: bool = True,
) -> Marked:
    """Find the pairs with ``|r| < cutoff``, in both directions or one.

    Lists for ``strict=False`` requests may be cut, too: the model then gets fewer pairs than it
    could stand, never one too many.

    Parameters
    ----------
    candidates
        All pairs of the search.
    positions
        (n_atoms, 3) in the working precision.
    offsets
        (n_codes, 3) from :func:`shift_vectors`, in the same.
    cutoff
        In the model's length unit. Compared with the length of the rounded vector, so that no pair
        is handed over whose length in the model's arithmetic is at or beyond it.
    full_list
        Both directions, or each pair once.
    dtype
        The model's precision.
    with_cut
        Without, all candidates are taken, whatever their length.
    """
    device, n_atoms = positions.device, candidates.n_atoms
    limit = squared_limit(cutoff, dtype) if with_cut else math.inf
    base = torch.empty(n_atoms + 1, dtype=torch.int32, device=device)
    base[0] = 0
    run = launcher_for(device)
    if run is None:
        vectors = _vectors_torch(candidates, positions, offsets).to(dtype)
        squared = _squared(vectors)
        kept = squared < limit
        if not full_list:
            kept &= candidates.canonical
        counted = candidates.of_interest(cutoff, full_list)
        if counted is not None:
            kept &= counted
        first = candidates.first.long()
        counts = torch.bincount(first[kept], minlength=n_atoms)
        torch.cumsum(counts, 0, out=base[1:], dtype=torch.int32)
        return Marked(kept.to(torch.uint8), base, _shortest(candidates, squared))
    keep = torch.empty(len(candidates), dtype=torch.uint8, device=device)
    counts = torch.empty(n_atoms, dtype=torch.int32, device=device)
    shortest = torch.empty(n_atoms, dtype=torch.float64, device=device)
    run.launch(
        f"mark_rows_{_LETTER[positions.dtype]}{_LETTER[dtype]}",
        n_atoms,
        candidates.starts,
        candidates.second,
        candidates.code,
        positions,
        offsets,
        len(candidates.table),
        not full_list,
        limit,
        candidates.margin,
        cutoff,
        keep,
        counts,
        shortest,
    )
    torch.cumsum(counts, 0, out=base[1:], dtype=torch.int32)
    return Marked(keep, base, shortest)


def fill(
    candidates: Candidates,
    positions: torch.Tensor,
    offsets: torch.Tensor,
    marked: Marked,
    n_rows: int,
    dtype: torch.dtype,
) -> RequestedPairs:
    """Write the marked pairs; parameters as for :func:`mark`, ``n_rows`` is how many they are."""
    device = positions.device
    run = launcher_for(device)
    if run is None:
        index = torch.nonzero(marked.keep).squeeze(1)
        place = torch.full((len(candidates),), -1, dtype=torch.int32, device=device)
        place[index] = torch.arange(len(index), dtype=torch.int32, device=device)
        vectors = _vectors_torch(candidates, positions, offsets).to(dtype)[index]
        samples = candidates.samples[index]
        if candidates.begin is not None:
            samples[:, :2] -= candidates.begin[samples[:, 0].long()][:, None]
        return RequestedPairs(samples, vectors, candidates, place)
    samples = torch.empty((n_rows, 5), dtype=torch.int32, device=device)
    vectors = torch.empty((n_rows, 3), dtype=dtype, device=device)
    place = torch.empty(len(candidates), dtype=torch.int32, device=device)
    run.launch(
        f"fill_rows_{_LETTER[positions.dtype]}{_LETTER[dtype]}",
        candidates.n_atoms,
        candidates.starts,
        candidates.second,
        candidates.code,
        positions,
        offsets,
        marked.keep,
        marked.base,
        candidates.table,
        candidates.begin,
        samples,
        vectors,
        place,
    )
    return RequestedPairs(samples, vectors, candidates, place)


def refresh(
    candidates: Candidates,
    positions: torch.Tensor,
    offsets: torch.Tensor,
    place: torch.Tensor,
    vectors: torch.Tensor,
) -> torch.Tensor:
    """New vectors of a list that stays the same, in place.

    Parameters
    ----------
    candidates, positions, offsets
        As for :func:`mark`.
    place
        Of :class:`RequestedPairs`.
    vectors
        (n_rows, 3) contiguous in the model's precision.

    Returns
    -------
    torch.Tensor
        (n_atoms,) float64, minus the squared length of the shortest candidate of each row.
    """
    run = launcher_for(positions.device)
    if run is None:
        found = _vectors_torch(candidates, positions, offsets).to(vectors.dtype)
        listed = place >= 0
        vectors[place[listed].long()] = found[listed]
        return _shortest(candidates, _squared(found))
    shortest = torch.empty(candidates.n_atoms, dtype=torch.float64, device=positions.device)
    run.launch(
        f"refresh_rows_{_LETTER[positions.dtype]}{_LETTER[vectors.dtype]}",
        candidates.n_atoms,
        candidates.starts,
        candidates.second,
        candidates.code,
        positions,
        offsets,
        place,
        vectors,
        shortest,
    )
    return shortest


def _vectors_torch(
    candidates: Candidates, positions: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    # the difference comes first: rounding of positions far from the origin enters only once
    difference = positions[candidates.second.long()] - positions[candidates.first.long()]
    return difference + offsets[candidates.code.long()]


def _squared(vectors: torch.Tensor) -> torch.Tensor:
    x, y, z = vectors.double().unbind(dim=1)
    return x * x + y * y + z * z


def _shortest(candidates: Candidates, squared: torch.Tensor) -> torch.Tensor:
    shortest = squared.new_full((candidates.n_atoms,), NO_PAIR)
    return shortest.scatter_reduce(0, candidates.first.long(), -squared, "amax")
