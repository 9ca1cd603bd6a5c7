"""Which periodic image an index means: ghosts of an owner, or the nearest image of an atom."""

from __future__ import annotations

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import PairListError
from alchemi_bridge.native import launcher_for
from alchemi_bridge.pairs.engine_checks import Check, require
from alchemi_bridge.pairs.engine_rows import EngineRows
from alchemi_bridge.pairs.search import MAX_SHIFT

#: An image is its owner plus whole cell vectors up to this many roundings of the largest number
#: that takes part. Engines get there by a few sums, LAMMPS in triclinic boxes through fractional
#: coordinates and back (some ten operations on each of both, amplified by the tilt). Positions of
#: another search, or a cell in another unit, are off by orders of magnitude more.
IMAGE_ROUNDING = 256.0


def image_rounding(dtype: torch.dtype) -> float:
    """How much an image may be off, relative to the largest number that takes part."""
    return IMAGE_ROUNDING * torch.finfo(dtype).eps


def image_shifts(owner: torch.Tensor, positions: torch.Tensor, cell: Cell) -> torch.Tensor:
    """Cell shift of each atom from its owner.

    Parameters
    ----------
    owner
        (n_all,) int32, checked.
    positions
        (n_all, 3) float32 or float64, with any strides.
    cell
        In the same length unit.

    Returns
    -------
    torch.Tensor
        (n_all, 3) int32 with ``positions = positions[owner] + shift @ cell``.

    Raises
    ------
    PairListError
        If an atom is no image of its owner, or in the same place.
    """
    wide = positions.to(torch.float64).contiguous()
    rounding = image_rounding(positions.dtype)
    shifts, misfit = ghost_images(wide, owner, cell_frame(cell, wide.device), rounding)

    def error(k: int) -> PairListError:
        o = int(owner[k])
        apart = (wide[k] - wide[o]).tolist()
        return PairListError(
            f"ghost atom {k}",
            expected=f"an image of its owner, atom {o}: whole cell vectors from it",
            got=f"the vector {apart} from the owner in the cell {cell.vectors.tolist()}",
            fix="hand over positions, owners and cell of the same pair search, in one length unit",
        )

    require([Check(~(misfit <= 1.0), error)])
    return shifts


def cell_frame(cell: Cell, device: torch.device) -> torch.Tensor:
    """(18,) inverse of the cell, zero columns where it is not periodic, and the cell."""
    inverse = cell.inverse * cell.pbc
    both = [*inverse.reshape(-1).tolist(), *cell.vectors.reshape(-1).tolist()]
    return torch.tensor(both, dtype=torch.float64, device=device)


def ghost_images(
    positions: torch.Tensor, owner: torch.Tensor, frame: torch.Tensor, rounding: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n_all, 3) int32 shifts, and (n_all,) what is left over in units of what is allowed."""
    n_all, device = len(owner), owner.device
    shifts = torch.zeros((n_all, 3), dtype=torch.int32, device=device)
    misfit = torch.zeros(n_all, dtype=torch.float64, device=device)
    run = launcher_for(device)
    if run is not None:
        run.launch("ghost_images", n_all, positions, owner, frame, rounding, shifts, misfit)
        return shifts, misfit
    from_owner = positions[owner.long()]
    apart = positions - from_owner
    cells, c = cells_of(apart, frame), frame[9:].reshape(3, 3)
    whole = (cells.abs() < MAX_SHIFT).all(dim=1)
    cells = torch.where(whole[:, None], cells, 0.0)
    parts = [cells[:, k : k + 1] * c[k] for k in range(3)]
    left = (apart - ((parts[0] + parts[1]) + parts[2])).abs().amax(dim=1)
    size = ((parts[0].abs() + parts[1].abs()) + parts[2].abs()).amax(dim=1)
    extent = torch.maximum(positions.abs(), from_owner.abs()).amax(dim=1)
    ghost = owner != torch.arange(n_all, dtype=torch.int32, device=device)
    answered = whole & (cells != 0.0).any(dim=1)
    allowed = torch.maximum(extent, size) * rounding
    misfit = torch.where(ghost, torch.where(answered, left / allowed, 1.0e300), misfit)
    return (cells * (ghost & answered)[:, None]).to(torch.int32), misfit


def cells_of(vectors: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """(n, 3) whole cells in (n, 3) vectors, summed in the order of the kernels."""
    inverse = frame[:9].reshape(3, 3)
    x, y, z = (vectors[:, k : k + 1] * inverse[k] for k in range(3))
    return torch.round((x + y) + z)


def nearest_images(
    rows: EngineRows, positions: torch.Tensor, frame: torch.Tensor, width: int
) -> torch.Tensor:
    """(n_rows, width, 3) int32 shifts that bring each entry closest to its row's atom.

    ``positions`` are (n_atoms, 3) float64, contiguous.
    """
    device = positions.device
    shifts = torch.zeros((len(rows), width, 3), dtype=torch.int32, device=device)
    run = launcher_for(device)
    if run is not None:
        arguments = (*rows.arguments, positions, frame, width, shifts)
        run.launch("nearest_images", len(rows), *arguments)
        return shifts
    row, place, index = rows.expanded()
    apart = positions[index] - positions[rows.atoms.long()[row]]
    shifts[row, place] = -cells_of(apart, frame).to(torch.int32)
    return shifts
