"""Pair search by vesin (https://luthaf.fr/vesin), for engines that hand over no list."""

from __future__ import annotations

import math

import numpy as np
import torch
import vesin

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import CellError, InputError
from alchemi_bridge.pairs.candidates import Candidates, both_directions

#: More pairs than this are refused before the search: a cell this small (or a cutoff this large) is
#: a mistake, and the arrays would not fit into memory.
MAX_PAIRS = 2**28

#: Farther from the origin than this (in the model's length unit), float64 coordinates are coarser
#: than 1e-9, and integer shifts may overflow: positions that large are a mistake.
MAX_COORDINATE = 1e7


def find_pairs(positions: torch.Tensor, cell: Cell, reach: float) -> Candidates:
    """Find all pairs closer than ``reach``.

    Parameters
    ----------
    positions
        (n_atoms, 3) float32 or float64, on any device, anywhere inside or outside the cell. On
        devices other than the CPU the search itself runs on the host, once per search.
    cell
        In the same length unit.
    reach
        Largest distance, exclusive.

    Returns
    -------
    Candidates
        On the device of ``positions``.

    Raises
    ------
    InputError
        If coordinates are too large to be searched.
    CellError
        If the cell is so small that the list would have more than ``MAX_PAIRS`` pairs.
    """
    device = positions.device
    host = np.ascontiguousarray(positions.detach().cpu().numpy(), dtype=np.float64)
    n_atoms = len(host)
    if n_atoms == 0 or reach <= 0.0:
        empty = torch.empty(0, dtype=torch.int64, device=device)
        no_shifts = torch.empty((0, 3), dtype=torch.int64, device=device)
        return both_directions(empty, empty, no_shifts, n_atoms=n_atoms, reach=reach)
    _check_extent(host, cell, reach)
    search = vesin.NeighborList(cutoff=reach, full_list=False)
    first, second, shifts = search.compute(host, cell.vectors, list(cell.pbc), quantities="ijS")
    first, second = first.astype(np.int64), second.astype(np.int64)
    # vesin lists either direction of a pair; turn all to the one that decode() calls canonical
    swap = first > second
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    shifts = np.where(swap[:, None], -shifts, shifts).astype(np.int64)
    return both_directions(
        torch.from_numpy(first).to(device),
        torch.from_numpy(second).to(device),
        torch.from_numpy(shifts).to(device),
        n_atoms=n_atoms,
        reach=reach,
    )


def _check_extent(positions: np.ndarray, cell: Cell, reach: float) -> None:
    largest = float(np.abs(positions).max())
    if not largest <= MAX_COORDINATE:
        raise InputError(
            "positions",
            expected=f"coordinates within {MAX_COORDINATE:g} of the origin",
            got=f"a coordinate of {largest:g}",
            fix="check for lost atoms and for the length unit",
        )
    # With a uniform density, the share of all atoms (and images) that one atom's box of neighbours
    # holds: 2 reach / width along each direction. Above 1 it counts periodic images.
    extent = np.ptp(positions @ cell.inverse, axis=0)
    widths = np.where(cell.pbc, cell.heights, np.maximum(extent, 2.0 * reach))
    if len(positions) ** 2 * math.prod(2.0 * reach / widths) > MAX_PAIRS:
        raise CellError(
            "cell",
            expected=f"a cell for which the list has fewer than {MAX_PAIRS} pairs",
            got=f"faces {np.round(cell.heights, 6).tolist()} apart with a reach of {reach:g}",
            fix="check the cell vectors and their length unit",
        )
