# ruff: noqa: UP006, UP035  (TorchScript compares against typing's classes)
"""Environment matrix of se_e2_a and the order of its rows, in TorchScript.

H. Wang, L. Zhang, J. Han, W. E, Computer Physics Communications 228, 178 (2018),
doi:10.1016/j.cpc.2018.03.016; switching function and statistics as in DeePMD-kit 3.2.0.
"""

from typing import Tuple

import torch


def switch(r: torch.Tensor, r_min: float, r_max: float) -> torch.Tensor:
    """1 up to ``r_min``, 0 from ``r_max`` on, twice continuously differentiable in between."""
    u = (r.clamp(r_min, r_max) - r_min) / (r_max - r_min)
    return u * u * u * (u * (15.0 - 6.0 * u) - 10.0) + 1.0


def environment_rows(
    vectors: torch.Tensor, r_min: float, r_max: float, protection: float
) -> torch.Tensor:
    """(P, 4) rows s (1, x/r, y/r, z/r) of the pairs, with s = switch(r)/r.

    Parameters
    ----------
    vectors
        (P, 3) from an atom to its neighbour, Å.
    r_min, r_max
        Where the switching function begins to fall, and the cutoff, Å.
    protection
        Added to r, Å.
    """
    # by columns: a sum over rows of three takes ten times as long on a CPU
    x, y, z = vectors.unbind(1)
    r = (x * x + y * y + z * z).sqrt()
    inverse = (r + protection).reciprocal()
    s = switch(r, r_min, r_max) * inverse
    t = s * inverse
    return torch.stack([s, t * x, t * y, t * z], dim=1)


def nothing(vectors: torch.Tensor) -> torch.Tensor:
    """Zero, with a graph: engines differentiate the energy of lone atoms, too."""
    return 0.0 * vectors.sum().to(torch.float64)


def both_directions(
    vectors: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(2 P, 3) vectors, first and second atoms of pairs that are there once."""
    return (
        torch.cat([vectors, -vectors]),
        torch.cat([first, second]),
        torch.cat([second, first]),
    )


def ranks(group: torch.Tensor, n_groups: int) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sort by group, stably, and count within the groups.

    Parameters
    ----------
    group
        (P,) int64, from 0 to ``n_groups`` - 1.

    Returns
    -------
    order, rank, counts
        (P,) the sorting permutation, (P,) place of each sorted entry within its group, and
        (n_groups,) sizes; int64.
    """
    ones = torch.ones_like(group)
    counts = torch.zeros(n_groups, dtype=torch.int64, device=group.device)
    counts = counts.index_add(0, group, ones)
    order = torch.argsort(group, stable=True)
    starts = counts.cumsum(0) - counts
    places = torch.arange(group.shape[0], dtype=torch.int64, device=group.device)
    rank = places - starts.index_select(0, group.index_select(0, order))
    return order, rank, counts


def restrict(
    vectors: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    n_atoms: int,
    centers: torch.Tensor,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs of some atoms only.

    Parameters
    ----------
    vectors, first, second
        (P, 3), (P,) and (P,), pairs of ``n_atoms`` atoms.
    n_atoms
        N.
    centers
        (C,) int64, different atoms.

    Returns
    -------
    vectors, row, second
        Of the pairs whose first atom is among ``centers``; ``row`` is its place there.
    """
    place = torch.full((n_atoms,), -1, dtype=torch.int64, device=first.device)
    here = torch.arange(centers.shape[0], dtype=torch.int64, device=first.device)
    row = place.index_copy(0, centers, here).index_select(0, first)
    kept = (row >= 0).nonzero().squeeze(1)
    row = row.index_select(0, kept)
    return vectors.index_select(0, kept), row, second.index_select(0, kept)


def nearest(
    vectors: torch.Tensor,
    center: torch.Tensor,
    neighbor_type: torch.Tensor,
    n_centers: int,
    sel: torch.Tensor,
) -> torch.Tensor:
    """Pairs that remain if every atom keeps its nearest neighbours only.

    First the ``sum(sel)`` nearest of all types, then ``sel[t]`` of each type t: what DeePMD-kit
    does, so that a neighbour may be dropped although its own type has room.

    Parameters
    ----------
    vectors, center, neighbor_type
        (P, 3) Å, (P,) int64 and (P,) int64.
    n_centers
        Number of central atoms.
    sel
        (T,) int64, how many neighbours of each type.

    Returns
    -------
    torch.Tensor
        (kept,) int64 indices of pairs, ascending.
    """
    n_types = sel.shape[0]
    distance = vectors.detach().square().sum(dim=1)
    by_distance = torch.argsort(distance, stable=True)
    center_sorted = center.index_select(0, by_distance)
    order, rank, _ = ranks(center_sorted, n_centers)
    near = order.masked_select(rank < sel.sum())
    # back to the order by distance, so that the next ranks are by distance, too
    kept = by_distance.index_select(0, torch.sort(near)[0])
    types = neighbor_type.index_select(0, kept)
    group = center.index_select(0, kept) * n_types + types
    order, rank, _ = ranks(group, n_centers * n_types)
    kept = kept.index_select(0, order)
    limit = sel.index_select(0, types.index_select(0, order))
    return torch.sort(kept.masked_select(rank < limit))[0]
