"""Which atoms of other ranks a rank needs: a full shell of the model's interaction range.

Found at the pair search, in two rounds. Every rank tells where its atoms are, as a box in
fractional coordinates; the others offer it their atoms that may be in reach of the box; it keeps
those that are in reach of one of its atoms, and says which. The pattern that comes out is good
until the next search.

An atom is in the halo of a rank once, however many of its images are in reach: the pair list finds
these by cell shifts, as it does in a serial run. So the halo never holds more atoms than there are,
and one rank alone has none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alchemi_bridge.cell import Cell
from alchemi_bridge.domain.abort import collective, waiting
from alchemi_bridge.domain.exchange import Pattern

#: Distances are compared with a width that is larger by this share: rounding must not lose an atom.
ROUNDING = 1e-9

_TAG_OFFER, _TAG_REPLY = 11, 12


@dataclass(frozen=True, eq=False)
class Halo:
    """Atoms of other ranks around those of this rank.

    Attributes
    ----------
    pattern
        Whose they are, in order, and what other ranks need of this one.
    distances
        (n_halo,) float64 from the nearest atom of this rank whose energy counts.
    home_distances
        (n_home,) the same for this rank's own atoms, zero for those that count.
    """

    pattern: Pattern
    distances: np.ndarray
    home_distances: np.ndarray


def find_halo(
    comm: Any, positions: np.ndarray, counting: np.ndarray, cell: Cell, width: float
) -> Halo:
    """Find the halo of every rank; collective.

    Parameters
    ----------
    comm
        Communicator of all ranks.
    positions
        (n_home, 3) float64 of this rank's atoms, anywhere inside or outside the cell.
    counting
        (n_counting,) rows of those whose energy counts.
    cell
        In the same length unit.
    width
        How far the halo reaches from atoms that count.
    """
    width = width * (1.0 + ROUNDING)
    with collective(comm):
        centers = positions[counting]
        box = _box(centers, cell)
    with waiting(comm):
        boxes = np.array(comm.allgather(box))
    with collective(comm):
        me = comm.Get_rank()
        offers = {
            rank: rows
            for rank in range(comm.Get_size())
            if rank != me and len(rows := _near_box(positions, cell, boxes[rank], width))
        }
    sources = _announce(comm, sorted(offers))
    arrived = _swap(comm, _TAG_OFFER, {r: positions[rows] for r, rows in offers.items()}, sources)
    with collective(comm):
        found = {rank: _distances(arrived[rank], centers, box, cell, width) for rank in sources}
        kept = {rank: distances <= width for rank, distances in found.items()}
        home = np.zeros(len(positions))
        others = np.setdiff1d(np.arange(len(positions)), counting)
        home[others] = _distances(positions[others], centers, box, cell, width)
    replies = _swap(comm, _TAG_REPLY, {r: mask.astype(np.uint8) for r, mask in kept.items()},
                    sorted(offers))  # fmt: skip
    sent = {rank: rows[replies[rank].astype(bool)] for rank, rows in offers.items()}
    to = [rank for rank in sorted(sent) if len(sent[rank])]
    of = [rank for rank in sources if kept[rank].any()]
    pattern = Pattern(
        send_ranks=tuple(to),
        send_rows=tuple(sent[rank] for rank in to),
        receive_ranks=tuple(of),
        receive_counts=tuple(int(kept[rank].sum()) for rank in of),
    )
    distances = [found[rank][kept[rank]] for rank in of]
    return Halo(pattern, np.concatenate(distances) if distances else np.empty(0), home)


def _box(positions: np.ndarray, cell: Cell) -> np.ndarray:
    """(2, 3) smallest and largest fractional coordinates; NaN without atoms.

    A periodic direction is a circle: the box leaves out its widest gap, and may reach beyond 1.
    """
    if len(positions) == 0:
        return np.full((2, 3), np.nan)
    fractional = np.sort(_wrapped(positions, cell), axis=0)
    box = np.array([fractional[0], fractional[-1]])
    gaps = np.diff(fractional, axis=0, append=fractional[:1] + 1.0)
    for k in np.flatnonzero(cell.pbc):
        widest = int(np.argmax(gaps[:, k]))
        box[1, k] = fractional[widest, k]
        if widest + 1 < len(fractional):
            box[0, k] = fractional[widest + 1, k]
            box[1, k] += 1.0
    return box


def _wrapped(positions: np.ndarray, cell: Cell) -> np.ndarray:
    fractional = positions @ cell.inverse
    return np.where(cell.pbc, fractional - np.floor(fractional), fractional)


def _near_box(positions: np.ndarray, cell: Cell, box: np.ndarray, width: float) -> np.ndarray:
    """Rows of atoms that may be within ``width`` of a box, by the distance between planes."""
    if np.isnan(box).any() or len(positions) == 0:
        return np.empty(0, dtype=np.int64)
    fractional, (low, high) = _wrapped(positions, cell), box
    gap = np.maximum(np.maximum(low - fractional, fractional - high), 0.0)
    for image in (-1.0, 1.0):
        moved = fractional + image
        other = np.maximum(np.maximum(low - moved, moved - high), 0.0)
        gap = np.where(cell.pbc, np.minimum(gap, other), gap)
    return np.flatnonzero((gap * _heights(cell) <= width).all(axis=1))


def _heights(cell: Cell) -> np.ndarray:
    """Length of a unit of each fractional coordinate; that of open directions is a length."""
    return np.where(cell.pbc, cell.heights, 1.0)


def _distances(
    positions: np.ndarray, centers: np.ndarray, box: np.ndarray, cell: Cell, width: float
) -> np.ndarray:
    """(n,) distance of each position, with all its images, from the nearest center.

    Infinite where none is within ``width``. The box is that of the centers.
    """
    from scipy.spatial import cKDTree

    found = np.full(len(positions), np.inf)
    if len(positions) == 0 or len(centers) == 0:
        return found
    (low, high), heights = box, _heights(cell)
    inside = _wrapped(centers, cell)
    inside += np.where(cell.pbc & (inside < low - ROUNDING), 1.0, 0.0)  # into the box
    tree, fractional = cKDTree(inside @ cell.completed), _wrapped(positions, cell)
    # the box begins in the cell, and ends in it or in the next
    images = [
        range(-int(np.ceil(width / height)), int(np.ceil(width / height)) + 2) if periodic else (0,)
        for periodic, height in zip(cell.pbc, heights, strict=True)
    ]
    for image in itertools.product(*images):
        moved = fractional + np.array(image)
        gap = np.maximum(np.maximum(low - moved, moved - high), 0.0) * heights
        near = np.flatnonzero((gap <= np.minimum(found, width)[:, None]).all(axis=1))
        if len(near):
            distance, _ = tree.query(moved[near] @ cell.completed, distance_upper_bound=width)
            found[near] = np.minimum(found[near], distance)
    return found


def _announce(comm: Any, targets: Sequence[int]) -> list[int]:
    """Ranks that will send something to this one."""
    flags = np.zeros(comm.Get_size(), dtype=np.uint8)
    flags[list(targets)] = 1
    others = np.empty_like(flags)
    with waiting(comm):
        comm.Alltoall(flags, others)
    return [int(rank) for rank in np.flatnonzero(others)]


def _swap(
    comm: Any, tag: int, sent: dict[int, np.ndarray], sources: Sequence[int]
) -> dict[int, np.ndarray]:
    """Arrays to some ranks, and those of others."""
    from mpi4py import MPI

    with waiting(comm):
        requests = [comm.isend(array, dest=rank, tag=tag) for rank, array in sent.items()]
        found = {rank: comm.recv(source=rank, tag=tag) for rank in sources}
        MPI.Request.waitall(requests)
    return found
