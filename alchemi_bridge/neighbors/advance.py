"""Every step begins here: the engine's coordinates in our units, and how far they moved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from alchemi_bridge.cell import Cell, upload
from alchemi_bridge.native import elements, launcher_for

#: As in kernels/advance.cuh.
CHUNK = 64
FACTS = 8
MOST_CELLS = 1024.0
NOWHERE = -1.0e300

#: Cell shifts that are looked at one by one. There are more if atoms are a dozen cells apart, for
#: which any change of the cell is too much anyway.
MOST_SHIFTS = 20000

#: Roundings of a coordinate on the way to a displacement: three products, two sums, two differences
#: and as many for the deformation itself.
ROUNDING_EPS = 16.0

_LETTER = {torch.float32: "f", torch.float64: "d"}


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
    precision
        In which the engine knew the positions: that of ``positions`` or a narrower one.
    drift
        Common displacement that is left out; any three numbers are right, those close to the
        middle of all displacements make a list last longest.
    """

    #: Whether displacements are those that are left when the cell has taken the atoms along.
    _follows = True

    def __init__(
        self, positions: torch.Tensor, cell: Cell, precision: torch.dtype | None = None
    ) -> None:
        self.positions, self.cell = positions, cell
        self.precision = precision or positions.dtype
        self.extent = float(positions.abs().amax()) if len(positions) else 0.0
        self.drift = (0.0, 0.0, 0.0)
        self._frame: tuple[Cell, torch.Tensor, bool] | None = None

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
        if cell is self.cell or cell.same_as(self.cell):
            smallest = 1.0
        else:
            deformation = cell.deformation_from(self.cell)
            smallest = float(np.linalg.svd(deformation, compute_uv=False)[-1])
        return (smallest * reach - cutoff) / 2.0

    def frame(self, cell: Cell) -> tuple[torch.Tensor, bool]:
        """(27,) float64 on the device, see kernels/advance.cuh, and whether the cell deformed."""
        if self._frame is None or not (cell is self._frame[0] or cell.same_as(self._frame[0])):
            deformed = self._follows and not cell.same_as(self.cell)
            deformation = cell.deformation_from(self.cell) if deformed else np.eye(3)
            inverse = np.where(cell.pbc, cell.inverse, 0.0)  # columns belong to cell vectors
            numbers = np.concatenate([deformation, inverse, cell.vectors]).ravel()
            frame = upload(torch.from_numpy(numbers), self.positions.device)
            self._frame = (cell, frame, deformed)
        return self._frame[1], self._frame[2]

    def follow(self, low: list[float], high: list[float]) -> None:
        """Take the middle between the smallest and largest displacements as the next drift."""
        middle = [(a + b) / 2.0 for a, b in zip(low, high, strict=True)]
        if all(math.isfinite(m) for m in middle):
            self.drift = (middle[0], middle[1], middle[2])

    @cached_property
    def spans(self) -> np.ndarray:
        """(3,) how far atoms are apart along the vectors of ``cell.completed``, in these.

        Read from the device when it is asked for first.
        """
        if len(self.positions) == 0:
            return np.zeros(3)
        inverse = upload(torch.from_numpy(self.cell.inverse), self.positions.device)
        fractions = _rows_times(self.positions.double(), inverse)
        return np.array((fractions.amax(dim=0) - fractions.amin(dim=0)).tolist())

    @cached_property
    def at_rest(self) -> AtRest:
        """The same, for atoms that stay where they are while the cell changes."""
        return AtRest(self)


class AtRest(Reference):
    """The geometry of a search, for atoms that do not follow the cell.

    Displacements from it are plain ones, without the cell's deformation; a drift of its own is
    left out of them. An engine that rebuilds its list by plain displacements and by how far the
    corners of its box moved (LAMMPS) may use a list that :meth:`Reference.allowance` calls too
    old, since the singular value there takes from the reach what such atoms do not lose.
    """

    _follows = False

    def __init__(self, searched: Reference) -> None:
        self.positions, self.cell = searched.positions, searched.cell
        self.precision = searched.precision
        self.extent, self.spans = searched.extent, searched.spans
        self.drift = (0.0, 0.0, 0.0)
        self._frame = None

    def allowance(self, cell: Cell, reach: float, cutoff: float) -> float:
        """How far atoms may be from where they were at the search.

        The vector of a pair with the shift ``S`` changes by ``S @ (cell - cell_at_search)`` and by
        at most ``2 u``, ``u`` being the largest displacement. A pair that is not in the list was
        farther than ``reach``. It may have a shift that no pair of the list has; but one that is
        far beyond the extent of all atoms keeps them apart by itself. So for every ``S`` that is
        left one of two lower bounds of the distance, less ``2 u``, must not be below the cutoff:
        ``reach - |S @ (cell - cell_at_search)|``, or how far the shift goes beyond the atoms.
        Minus infinity if there are too many such shifts.
        """
        periodic = np.array(cell.pbc)
        # the same extents in fractions of the cell of now, or a little more
        heights = np.where(periodic, cell.heights, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):  # extents as of a system that blew up
            spans = self.spans @ np.abs(self.cell.completed @ cell.inverse)
            # farther shifts leave atoms at least ``reach`` apart: no less than without any shift
            most = np.where(periodic, np.floor(spans + reach / heights), 0.0)
            if not np.prod(2.0 * most + 1.0) <= MOST_SHIFTS:
                return -math.inf
        axes = [np.arange(-m, m + 1.0) for m in most]
        shifts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        beyond = np.where(periodic, (np.abs(shifts) - spans) * heights, -math.inf).max(axis=1)
        moved = np.linalg.norm(shifts @ (cell.vectors - self.cell.vectors), axis=1)
        smallest = float(np.maximum(beyond, reach - moved).min())
        return (smallest - cutoff) / 2.0


@dataclass(frozen=True, eq=False)
class Moved:
    """Coordinates of one step.

    Attributes
    ----------
    positions
        (n_atoms, 3) in the working precision and the model's length unit. Atoms that the engine
        wrapped since the pair search are where they were before, in the frame of the list.
    narrow
        The same in the model's precision.
    facts
        (8,) float64 on the device: largest squared displacement beyond deformation and drift,
        whether a coordinate is not finite, and the largest displacements along x, y, z, -x, -y, -z
        of the atoms that are not more than ``MOST_CELLS`` cells away.
    """

    positions: torch.Tensor
    narrow: torch.Tensor
    facts: torch.Tensor


def advance(
    source: torch.Tensor,
    subset: torch.Tensor | None,
    length: float,
    cell: Cell,
    reference: Reference | None,
    dtype: torch.dtype,
    into: Moved | None = None,
) -> Moved:
    """Take over the coordinates of a step.

    Parameters
    ----------
    source
        (n, 3) float32 or float64 of the engine, with any strides; read only.
    subset
        (n_atoms,) int64 rows of it, or ``None`` for all.
    length
        Factor to the model's length unit.
    cell
        Of this step, in that unit.
    reference
        Geometry of the pair search, ``None`` before it.
    dtype
        The model's precision. Work is done in the wider of it and the engine's.
    into
        Coordinates of an earlier step of the same kind, whose memory is used again.
    """
    device, wide = source.device, torch.promote_types(source.dtype, dtype)
    n_atoms = len(source) if subset is None else len(subset)
    run = launcher_for(device)
    if run is None:
        found = _advance_torch(source, subset, length, cell, reference, wide, dtype)
        if into is None:
            return found
        into.positions.copy_(found.positions)
        into.narrow.copy_(found.narrow)
        return Moved(into.positions, into.narrow, found.facts)
    if into is None:
        positions = torch.empty((n_atoms, 3), dtype=wide, device=device)
        narrow = positions
        if wide != dtype:
            narrow = torch.empty((n_atoms, 3), dtype=dtype, device=device)
    else:
        positions, narrow = into.positions, into.narrow
    n_chunks = (n_atoms + CHUNK - 1) // CHUNK
    partial = torch.empty((n_chunks, FACTS), dtype=torch.float64, device=device)
    start, frame, deformed, drift = None, None, False, (0.0, 0.0, 0.0)
    if reference is not None:
        start, drift = reference.positions.to(wide), reference.drift
        frame, deformed = reference.frame(cell)
    run.launch(
        f"advance_{_LETTER[source.dtype]}{_LETTER[wide]}{_LETTER[dtype]}",
        n_chunks,
        elements(source),
        *source.stride(),
        subset,
        n_atoms,
        length,
        start,
        frame,
        deformed,
        *drift,
        positions,
        None if narrow is positions else narrow,
        partial,
    )
    return Moved(positions, narrow, _reduced(partial))


def _reduced(partial: torch.Tensor) -> torch.Tensor:
    if len(partial) == 0:
        return partial.new_tensor([0.0, 0.0] + [NOWHERE] * 6)
    return partial.amax(dim=0) if len(partial) > 1 else partial[0]


def _advance_torch(
    source: torch.Tensor,
    subset: torch.Tensor | None,
    length: float,
    cell: Cell,
    reference: Reference | None,
    wide: torch.dtype,
    dtype: torch.dtype,
) -> Moved:
    """Torch reference: same results, bit by bit."""
    mine = source if subset is None else source[subset]
    positions = (mine.double() * length).to(wide)
    facts = positions.new_full((FACTS,), NOWHERE, dtype=torch.float64)
    facts[:2] = 0.0
    if len(positions) and reference is not None:
        frame, deformed = reference.frame(cell)
        start = reference.positions.double()
        if deformed:
            start = _rows_times(start, frame[:9].reshape(3, 3))
        drift = frame.new_tensor(reference.drift)
        moved = (positions.double() - start) - drift
        cells = torch.round(_rows_times(moved, frame[9:18].reshape(3, 3)))
        # lost atoms, and those of which nothing is known (NaN), stay where they are
        kept = (cells.abs() <= MOST_CELLS).all(dim=1)
        wrapped = (cells != 0.0).any(dim=1) & kept
        cells = torch.where(wrapped[:, None], cells, 0.0)
        back = _rows_times(cells, frame[18:].reshape(3, 3))
        positions = torch.where(wrapped[:, None], (positions.double() - back).to(wide), positions)
        moved = torch.where(wrapped[:, None], moved - back, moved)
        squares = moved[:, 0] ** 2 + moved[:, 1] ** 2 + moved[:, 2] ** 2
        facts[0] = torch.where(torch.isnan(squares), 0.0, squares).amax()
        away = moved + drift
        unknown = torch.isnan(away) | ~kept[:, None]
        facts[2:5] = torch.where(unknown, NOWHERE, away).amax(dim=0)
        facts[5:] = torch.where(unknown, NOWHERE, -away).amax(dim=0)
    if len(positions):
        facts[1] = (~torch.isfinite(positions)).any().double()
    return Moved(positions, positions.to(dtype), facts)


def _rows_times(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return rows[:, 0:1] * matrix[0] + rows[:, 1:2] * matrix[1] + rows[:, 2:3] * matrix[2]
