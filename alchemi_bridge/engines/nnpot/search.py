# ruff: noqa: UP006, UP035  (TorchScript reads typing's classes)
"""Pair search in TorchScript: bins along the cell vectors, any box, any periodicity.

Bins divide the periodic cell itself, so that a pair of bins and its image differ by the same whole
numbers: half of the bins around an atom's own, chosen by the sign of that difference, hold each
pair once, also in boxes far smaller than the cutoff, whose bins see their own images.
"""

from typing import List, Tuple

import torch


def complete_cell(cell: torch.Tensor, pbc: torch.Tensor) -> torch.Tensor:
    """Cell with unit vectors normal to the periodic ones in place of the others.

    Parameters
    ----------
    cell
        (3, 3) float64, rows are the vectors; those that are not periodic are not read.
    pbc
        (3,) bool.

    Returns
    -------
    torch.Tensor
        (3, 3) float64.
    """
    periodic = torch.nonzero(pbc).flatten()
    other = torch.nonzero(~pbc).flatten()
    complete = torch.eye(3, dtype=cell.dtype, device=cell.device)
    if len(periodic) == 0:
        return complete
    complete[periodic] = cell[periodic]
    if len(other) > 0:
        basis = torch.linalg.qr(cell[periodic].t(), mode="complete")[0]
        complete[other] = basis[:, len(periodic) :].t()
    return complete


def bin_counts(lengths: torch.Tensor, cutoff: float, n_atoms: int) -> torch.Tensor:
    """(3,) float64: numbers of bins along directions of these lengths, at least one each."""
    # Half a cutoff thick: of the volume in which partners are looked for 27 % is within the cutoff,
    # against 16 % with whole ones. A hair more: rounding must not put two atoms within the cutoff
    # one bin too far apart.
    thickness = 0.5 * cutoff * (1.0 + 1e-9)
    counts = torch.floor(lengths / thickness).clamp(min=1.0)
    # a few atoms in a large box need no table of empty bins
    most = float(max(4096, 64 * n_atoms))
    while float(counts.prod()) > most:
        factor = (most / float(counts.prod())) ** (1.0 / 3.0)
        counts = torch.floor(counts * min(factor, 0.9)).clamp(min=1.0)
    return counts


def half_shell(reach: torch.Tensor) -> torch.Tensor:
    """(K, 3) int64: one of each two opposite differences up to ``reach`` (3,), the zero first."""
    axes: List[torch.Tensor] = []
    for k in range(3):
        n = int(reach[k])
        axes.append(torch.arange(-n, n + 1, device=reach.device))
    grid = torch.meshgrid(axes, indexing="ij")
    all_of_them = torch.stack([g.flatten() for g in grid], dim=1)
    # counted in the order of their signs, and symmetric: the middle one is zero
    return all_of_them[(len(all_of_them) - 1) // 2 :]


def find_pairs(
    positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor, cutoff: float
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All pairs of atoms and images closer than ``cutoff``, each in one direction.

    Parameters
    ----------
    positions
        (N, 3) float64, finite, anywhere in or out of the cell.
    cell
        (3, 3) float64, rows are the vectors, periodic ones linearly independent.
    pbc
        (3,) bool.
    cutoff
        In the unit of the positions, above zero.

    Returns
    -------
    first, second
        (P,) int64.
    shifts
        (P, 3) int64: the vector is ``positions[second] - positions[first] + shifts @ cell``. An
        atom is paired with its images, and not with itself.
    """
    n_atoms = positions.shape[0]
    device = positions.device
    frame = complete_cell(cell, pbc)
    inverse = torch.linalg.inv(frame)
    fractions = positions @ inverse
    # whole cells along periodic directions, the lowest atom along the others
    wraps = torch.where(pbc, torch.floor(fractions), torch.zeros_like(fractions))
    fractions = fractions - wraps
    low, extent = torch.zeros_like(frame[0]), torch.ones_like(frame[0])
    if n_atoms > 0:
        low = torch.where(pbc, low, fractions.amin(dim=0))
        extent = torch.where(pbc, extent, fractions.amax(dim=0) - low)
    lengths = extent / torch.linalg.vector_norm(inverse, dim=0)
    counts = bin_counts(lengths, cutoff, n_atoms)
    reach = torch.ceil(cutoff * counts / lengths.clamp(min=1e-300))
    reach = torch.where(pbc, reach, torch.minimum(reach, counts - 1.0)).to(torch.int64)
    n_bins = counts.to(torch.int64)
    inside = (fractions - low) / extent.clamp(min=1e-300) * counts
    place = torch.minimum(torch.floor(inside).to(torch.int64), n_bins - 1).clamp(min=0)

    strides = torch.stack([n_bins[1] * n_bins[2], n_bins[2], torch.ones_like(n_bins[2])])
    own = (place * strides).sum(dim=1)
    order = torch.argsort(own)
    filled = torch.bincount(own, minlength=int(n_bins.prod()))
    starts = torch.cumsum(filled, 0) - filled

    steps = half_shell(reach)
    n_steps = steps.shape[0]
    wrapped = fractions @ frame
    whole_wraps = wraps.to(torch.int64)
    at_once = 2048  # atoms, which bounds the memory
    firsts: List[torch.Tensor] = []
    seconds: List[torch.Tensor] = []
    shifts: List[torch.Tensor] = []
    for start in range(0, n_atoms, at_once):
        # neighbours in space, for the sake of the cache
        atoms = order[start : start + at_once]
        target = (place[atoms].unsqueeze(1) + steps.unsqueeze(0)).reshape(-1, 3)
        image = torch.div(target, n_bins, rounding_mode="floor")
        there = ((image == 0) | pbc).all(dim=1)
        target = ((target - image * n_bins) * strides).sum(dim=1)
        target = torch.where(there, target, torch.zeros_like(target))
        number = torch.where(there, filled[target], torch.zeros_like(target))
        row = torch.repeat_interleave(torch.arange(len(number), device=device), number)
        nth = torch.arange(len(row), device=device) - (torch.cumsum(number, 0) - number)[row]
        second = order[starts[target][row] + nth]
        first = atoms[torch.div(row, n_steps, rounding_mode="floor")]
        vector = wrapped[second] - wrapped[first] + image.to(positions.dtype)[row] @ frame
        # the first step is the bin itself, which holds each pair in both directions
        close = (vector * vector).sum(dim=1) < cutoff * cutoff
        close = close & ((row % n_steps != 0) | (second > first))
        first, second = first[close], second[close]
        firsts.append(first)
        seconds.append(second)
        shifts.append(image[row[close]] + whole_wraps[first] - whole_wraps[second])
    if len(firsts) == 0:
        none = torch.zeros(0, dtype=torch.int64, device=device)
        return none, none, none.reshape(0, 1).expand(0, 3)
    return torch.cat(firsts), torch.cat(seconds), torch.cat(shifts)
