"""Atoms of several systems in the frame of their pair lists, and how far they are from it.

What :func:`~alchemi_bridge.neighbors.advance.advance` does for one system.
"""

from __future__ import annotations

import torch

from alchemi_bridge.native import launcher_for
from alchemi_bridge.neighbors.advance import MOST_CELLS
from alchemi_bridge.neighbors.cut import rows_times

_LETTER = {torch.float32: "f", torch.float64: "d"}


def reframe(
    positions: torch.Tensor,
    start: torch.Tensor,
    system: torch.Tensor,
    frames: torch.Tensor,
    deformed: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put back what was wrapped by whole cells since the search, and measure what moved.

    Parameters
    ----------
    positions, start
        (n_atoms, 3) of now and of the search, contiguous, in the working precision.
    system
        (n_atoms,) int64 system of each atom.
    frames
        (n_systems, 27) float64: the deformation of the cell since the search, the inverse of the
        cell (zero columns for directions that are not periodic), and the cell.
    deformed
        Whether a deformation is other than the identity.

    Returns
    -------
    framed
        (n_atoms, 3) like ``positions``. Lost atoms, and those of which nothing is known (NaN), stay
        where they are.
    squares
        (n_atoms,) float64 squared displacements beyond the deformation.
    """
    run = launcher_for(positions.device)
    if run is None:
        return _reframe_torch(positions, start, system, frames, deformed)
    framed = torch.empty_like(positions)
    squares = torch.empty(len(positions), dtype=torch.float64, device=positions.device)
    run.launch(
        f"reframe_{_LETTER[positions.dtype]}",
        len(positions),
        positions,
        start,
        system,
        frames,
        deformed,
        framed,
        squares,
    )
    return framed, squares


def _reframe_torch(
    positions: torch.Tensor,
    start: torch.Tensor,
    system: torch.Tensor,
    frames: torch.Tensor,
    deformed: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Torch reference: same results, bit by bit."""
    of_atom = frames.reshape(-1, 3, 3, 3)[system]
    origin = start.double()
    if deformed:
        origin = rows_times(origin, of_atom[:, 0])
    moved = positions.double() - origin
    whole = torch.round(rows_times(moved, of_atom[:, 1]))
    wrapped = ((whole != 0.0).any(dim=1) & (whole.abs() <= MOST_CELLS).all(dim=1))[:, None]
    back = rows_times(torch.where(wrapped, whole, 0.0), of_atom[:, 2])
    framed = torch.where(wrapped, (positions.double() - back).to(positions.dtype), positions)
    left = torch.where(wrapped, moved - back, moved)
    return framed, left[:, 0] ** 2 + left[:, 1] ** 2 + left[:, 2] ** 2
