"""What must hold in every step before the model is asked, in one read from the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import NonFiniteError, OverlapError
from alchemi_bridge.neighbors.vectors import rows_times
from alchemi_bridge.pairs import Candidates

#: Atoms closer than this (in angstrom) sit on the same point: no potential is defined there, and
#: directions between them are rounding noise.
MIN_DISTANCE_ANGSTROM = 1e-3


#: Roundings of a coordinate on the way to a displacement: three products, two sums, two differences
#: and as many for the deformation itself.
ROUNDING_EPS = 16.0


@dataclass(frozen=True, eq=False)
class Reference:
    """Geometry for which a pair list was complete up to its reach.

    Attributes
    ----------
    positions
        (n_atoms, 3) in the model's length unit, memory of our own.
    cell
        Cell of the same moment.
    extent
        Largest absolute coordinate; zero without atoms.
    """

    positions: torch.Tensor
    cell: Cell
    extent: float

    @classmethod
    def of(cls, positions: torch.Tensor, cell: Cell) -> Reference:
        """The reference at these positions, which the caller must not change afterwards."""
        extent = float(positions.abs().amax()) if len(positions) else 0.0
        return cls(positions, cell, extent)

    def rounding(self, dtype: torch.dtype) -> float:
        """How far rounding alone may seem to displace an atom.

        Coordinates are taken through a 3x3 product and two differences, each of which rounds to
        an eps of the coordinate.
        """
        return ROUNDING_EPS * float(torch.finfo(dtype).eps) * self.extent

    def allowance(self, cell: Cell, reach: float, cutoff: float) -> float:
        """How far atoms may be from where the cell's deformation alone would have put them.

        With ``F`` the deformation of the cell since the search, a pair that is not in the list was
        farther than ``reach`` and is now farther than ``s * reach - 2 u``, where ``s`` is the
        smallest singular value of ``F`` and ``u`` the largest displacement that is left once ``F``
        is taken out. Nothing is missed as long as that is not below the cutoff.
        """
        if cell.same_as(self.cell):
            smallest = 1.0
        else:
            deformation = cell.deformation_from(self.cell)
            smallest = float(np.linalg.svd(deformation, compute_uv=False)[-1])
        return (smallest * reach - cutoff) / 2.0

    def displacement(self, positions: torch.Tensor, cell: Cell) -> torch.Tensor:
        """Scalar tensor: largest displacement beyond deformation and common drift."""
        start = self.positions
        if not cell.same_as(self.cell):
            deformation = torch.as_tensor(
                cell.deformation_from(self.cell), dtype=positions.dtype, device=positions.device
            )
            start = rows_times(start, deformation)
        moved = positions - start
        # a common drift changes no pair vector; the middle of the range removes it
        centre = (moved.amax(dim=0) + moved.amin(dim=0)) / 2.0
        return torch.linalg.vector_norm(moved - centre, dim=1).amax()


@dataclass(frozen=True)
class StepFacts:
    """What one read from the device says about a step."""

    displacement: float
    finite: bool
    shortest: float


def inspect_step(
    positions: torch.Tensor,
    cell: Cell,
    reference: Reference | None,
    squared: torch.Tensor | None,
) -> StepFacts:
    """Largest displacement since the search, finiteness, and the shortest pair.

    Parameters
    ----------
    positions
        (n_atoms, 3) of this step.
    cell
        Of this step.
    reference
        Geometry of the search, or ``None`` if there was none yet.
    squared
        (n_pairs,) squared lengths of the candidates, or ``None``.
    """
    if len(positions) == 0:
        return StepFacts(0.0, True, math.inf)
    zero = positions.new_zeros((), dtype=torch.float64)
    moved = zero if reference is None else reference.displacement(positions, cell).double()
    shortest = zero + math.inf
    if squared is not None and len(squared):
        shortest = squared.amin().double()
    # a sum is finite only if every term is (an overflow of finite terms is refused with reason:
    # such coordinates are no geometry)
    total = positions.sum().double()
    displacement, sum_of_all, squared_min = torch.stack([moved, total, shortest]).tolist()
    return StepFacts(displacement, math.isfinite(sum_of_all), math.sqrt(max(squared_min, 0.0)))


def require_finite(
    positions: torch.Tensor, facts: StepFacts, names: torch.Tensor | None = None
) -> None:
    """Raise :class:`NonFiniteError` naming the first atoms with NaN or infinite coordinates.

    ``names`` maps rows of ``positions`` to the engine's indices.
    """
    if facts.finite:
        return
    rows = torch.nonzero(~torch.isfinite(positions).all(dim=1)).squeeze(1)
    bad = (rows if names is None else names[rows]).tolist()
    named = ", ".join(str(i) for i in bad[:5]) + (", ..." if len(bad) > 5 else "")
    raise NonFiniteError(
        "positions",
        expected="finite coordinates",
        got=f"NaN or infinite values for {len(bad)} atoms ({named})"
        if bad
        else "coordinates whose sum overflows",
        fix="look for a blown-up step before this one",
    )


def require_apart(
    candidates: Candidates,
    squared: torch.Tensor,
    facts: StepFacts,
    minimum: float,
    unit: str,
    names: torch.Tensor | None = None,
) -> None:
    """Raise :class:`OverlapError` naming the atoms if a pair is closer than ``minimum``.

    ``names`` maps the candidates' indices to the engine's.
    """
    if facts.shortest >= minimum:
        return
    k = int(torch.argmin(squared))
    pair = torch.stack([candidates.first[k], candidates.second[k]])
    if names is not None:
        pair = names[pair]
    i, j = pair.tolist()
    raise OverlapError(
        f"atoms {i} and {j}",
        expected=f"a distance of at least {minimum:g} {unit}",
        got=f"{facts.shortest:.3g} {unit} (cell shift {tuple(candidates.shifts[k].tolist())})",
        fix="remove one of the atoms or move them apart",
    )
