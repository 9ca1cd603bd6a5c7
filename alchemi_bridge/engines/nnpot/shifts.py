# ruff: noqa: UP006, UP035  (TorchScript reads typing's classes)
"""Whole numbers of cells behind GROMACS' ``pair-shifts``, as far as they can be known.

GROMACS knows the numbers ``n`` of a pair, and means to hand over ``n @ box``, with the vectors in
the rows of ``box``. In 2026.0 to 2026.3, and in main of August 2026, its nnpot module multiplies
from the other side (``mvmul_ur0(box, n)`` is ``box @ n``): the same in a rectangular box, and a
wrong vector in every other. Both products can be solved for ``n``: GROMACS' boxes are lower
triangular, and have no zero on the diagonal where they are periodic.
"""

from typing import Tuple

import torch


def whole_shifts(
    shifts: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor
) -> Tuple[torch.Tensor, bool]:
    """Solve both products for whole numbers, and take the one that has them.

    Parameters
    ----------
    shifts
        (M, 3) float64, ``pair-shifts`` as they came.
    cell
        (3, 3) float64 in the same unit; the box may have changed a little since. Rows are the
        vectors, those that are not periodic are zero.
    pbc
        (3,) bool.

    Returns
    -------
    numbers
        (M, 3) int64, ``n``.
    known
        False if neither product has whole numbers for all pairs, or both have and they differ.
    """
    nothing = torch.zeros(shifts.shape, dtype=torch.int64, device=shifts.device)
    if not bool((shifts != 0).any()):
        return nothing, True
    # where it is not periodic the numbers must be zero, and the rest does not matter
    box = cell + torch.diag((~pbc).to(cell.dtype) * cell.abs().max().clamp(min=1.0))
    inverse = torch.linalg.inv(box)
    as_meant, as_is = shifts @ inverse, shifts @ inverse.t()
    meant, found = torch.round(as_meant), torch.round(as_is)
    off_meant, off_found = float((as_meant - meant).abs().max()), float((as_is - found).abs().max())
    # single precision leaves 1e-6, a box that is deformed slowly 1e-3; a wrong product is off by a
    # tilt, which is 0.1 to 0.5 of a box vector in the boxes that are in use
    tolerance = 0.01
    meant_fits, found_fits = off_meant < tolerance, off_found < tolerance
    if meant_fits and found_fits and not bool((meant == found).all()):
        # tilts that are nearly whole: the last digits tell, or nothing does
        meant_fits, found_fits = off_meant < 0.1 * off_found, off_found < 0.1 * off_meant
    chosen = meant if meant_fits else found
    known = (meant_fits or found_fits) and not bool((chosen[:, ~pbc] != 0).any())
    return chosen.to(torch.int64), known
