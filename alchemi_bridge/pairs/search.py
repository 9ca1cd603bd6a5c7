"""Pair search by vesin (https://luthaf.fr/vesin), for engines that hand over no list."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import vesin

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import CellError, InputError
from alchemi_bridge.pairs.rows import Candidates, candidates_from_pairs
from alchemi_bridge.pairs.tree import find_pairs_by_tree

#: More pairs than this are refused before the search: a cell this small (or a cutoff this large) is
#: a mistake, and the arrays would not fit into memory.
MAX_PAIRS = 2**28

#: The same for one atom: a cutoff of 60 angstrom in water. Without it a single atom in a tiny cell
#: could ask for tens of gigabytes.
MAX_NEIGHBORS = 100_000

#: Farther from the origin than this (in the model's length unit), float64 coordinates are coarser
#: than 1e-9, and integer shifts may overflow: positions that large are a mistake.
MAX_COORDINATE = 1e7

#: Shifts are int32 in metatomic's neighbour lists: atoms must not be more cells than this away.
MAX_SHIFT = 2**29

#: vesin merges cells when there are more than 1e5 of them, in proportion; directions with a few
#: cells then get none, and it divides by zero (a sheet of 2000 x 2000 x 5 angstrom, for example).
VESIN_CELLS = 5e4
VESIN_LEAST_CELLS = 4.0

#: vesin refuses cutoffs below 1e-6, and counts cells in int32: coordinate / reach has to fit.
VESIN_LEAST_REACH = 2.0 * MAX_COORDINATE / 2**31


def find_pairs(
    positions: torch.Tensor,
    cell: Cell,
    reach: float,
    margin: torch.Tensor | None = None,
    least: float = 0.0,
) -> Candidates:
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
    margin
        (n_atoms,) float64, see :class:`Candidates`; ``None`` if all rows are of interest.
    least
        The smallest cutoff: pairs of two atoms with smaller margins are left out.

    Returns
    -------
    Candidates
        On the device of ``positions``.

    Raises
    ------
    InputError
        If coordinates, or the reach, are too large to be searched.
    CellError
        If the cell is so small that the list would have more than ``MAX_PAIRS`` pairs, or more than
        ``MAX_NEIGHBORS`` for one atom.
    """
    device = positions.device
    host = np.ascontiguousarray(positions.detach().cpu().numpy(), dtype=np.float64)
    first, second, shifts = list_pairs(host, cell, reach)
    if margin is not None:
        of_interest = margin.cpu().numpy() >= least
        kept = of_interest[first] | of_interest[second]
        first, second, shifts = first[kept], second[kept], shifts[kept]
    found = candidates_from_pairs(
        torch.from_numpy(first).to(device),
        torch.from_numpy(second).to(device),
        torch.from_numpy(shifts).to(device),
        n_atoms=len(host),
        reach=reach,
        both=True,
    )
    return found if margin is None else replace(found, margin=margin)


def list_pairs(
    positions: np.ndarray, cell: Cell, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair closer than ``reach`` once, before it is made into candidates.

    Parameters
    ----------
    positions
        (n_atoms, 3) float64, contiguous.
    cell, reach
        See :func:`find_pairs`, also for errors.

    Returns
    -------
    first, second, shifts
        (n_pairs,), (n_pairs,) and (n_pairs, 3) int32.
    """
    if len(positions) == 0 or reach <= 0.0:
        none = np.zeros(0, dtype=np.int32)
        return none, none, np.zeros((0, 3), dtype=np.int32)
    _check_extent(positions, cell, reach)
    box = _box(positions, cell, reach)
    if _suits_vesin(box, reach):
        search = vesin.NeighborList(cutoff=reach, full_list=False)
        first, second, shifts = search.compute(positions, box, True, quantities="ijS")
    else:
        first, second, shifts = find_pairs_by_tree(positions, cell, reach)
    return first.astype(np.int32), second.astype(np.int32), shifts.astype(np.int32)


def _box(positions: np.ndarray, cell: Cell, reach: float) -> np.ndarray:
    """Cell that is periodic in all directions, so wide in the others that no image is in reach.

    vesin's own treatment of open directions takes a time that grows with the square of the number
    of its cells (seconds for a wire in 600 x 600 angstrom of vacuum), or with that of the reach
    over the extent of a molecule.
    """
    box = np.array(cell.completed)
    extent = np.ptp(positions @ cell.inverse, axis=0)  # a length where rows are unit normals
    for k in np.flatnonzero(~np.array(cell.pbc)):
        box[k] *= extent[k] + 1.1 * reach
    return box


def _suits_vesin(box: np.ndarray, reach: float) -> bool:
    """Whether vesin's grid of cells works out; see the constants above."""
    if reach < VESIN_LEAST_REACH:
        return False
    widths = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)
    cells = np.maximum(np.trunc(widths / reach), 1.0)
    total = math.prod(cells)
    merged = cells * min(1.0, (VESIN_CELLS / total) ** (1.0 / 3.0))
    return bool(total <= VESIN_CELLS or merged.min() >= VESIN_LEAST_CELLS)


def _check_extent(positions: np.ndarray, cell: Cell, reach: float) -> None:
    largest = float(np.abs(positions).max())
    if not largest <= MAX_COORDINATE:
        raise InputError(
            "positions",
            expected=f"coordinates within {MAX_COORDINATE:g} of the origin",
            got=f"a coordinate of {largest:g}",
            fix="check for lost atoms and for the length unit",
        )
    if not reach <= MAX_COORDINATE:
        raise InputError(
            "reach of the pair search",
            expected=f"a cutoff and a skin that add up to {MAX_COORDINATE:g} at most",
            got=f"{reach:g}",
            fix="choose a smaller skin",
        )
    # With a uniform density, the share of all atoms (and images) that one atom's box of neighbours
    # holds: 2 reach / width along each direction. Above 1 it counts periodic images.
    fractional = positions @ cell.inverse
    if np.abs(fractional[:, np.array(cell.pbc)]).max(initial=0.0) > MAX_SHIFT:
        raise InputError(
            "positions",
            expected=f"atoms within {MAX_SHIFT} cells of the origin",
            got=f"a coordinate of {largest:g} with faces {cell.heights.tolist()} apart",
            fix="wrap the atoms into the cell, or check the length unit",
        )
    extent = np.ptp(fractional, axis=0)
    widths = np.where(cell.pbc, cell.heights, np.maximum(extent, 2.0 * reach))
    # and at least an atom's own images, however thin the atoms are spread in other directions
    images = math.prod(np.maximum(2.0 * reach / widths, 1.0))
    neighbors = max(len(positions) * math.prod(2.0 * reach / widths), images)
    if not neighbors <= min(MAX_NEIGHBORS, MAX_PAIRS / len(positions)):
        raise CellError(
            "cell",
            expected=f"a cell for which the list has fewer than {MAX_PAIRS} pairs, and fewer than "
            f"{MAX_NEIGHBORS} for each atom",
            got=f"faces {np.round(cell.heights, 6).tolist()} apart with a reach of {reach:g}",
            fix="check the cell vectors and their length unit",
        )
