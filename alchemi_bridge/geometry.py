"""From an engine's positions and pair list to the neighbours of one step.

Keeps what lives from one pair search to the next: candidates, the geometry of the search, and the
count of searches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from metatensor.torch import TensorMap
from metatomic.torch import NeighborListOptions

from alchemi_bridge.cell import Cell, upload
from alchemi_bridge.errors import CellError, StalePairsError
from alchemi_bridge.model import LoadedModel, SystemInput
from alchemi_bridge.model.graph import Lasting
from alchemi_bridge.neighbors import (
    Marked,
    Moved,
    Reference,
    RequestedPairs,
    advance,
    fill,
    mark,
    read_facts,
    refresh,
    require_same_pairs,
    shift_vectors,
)
from alchemi_bridge.neighbors.guard import (
    MIN_DISTANCE_ANGSTROM,
    StepFacts,
    require_apart,
    require_finite,
)
from alchemi_bridge.pairs import Candidates, Pairs, Search, decode, find_pairs, reach_of
from alchemi_bridge.pairs.candidates import reference_of, require_reach
from alchemi_bridge.stages import stage
from alchemi_bridge.units import conversion_factor


@dataclass(frozen=True, eq=False)
class StepGeometry:
    """One step in the model's length unit.

    Attributes
    ----------
    positions
        (n_atoms, 3) of the atoms that the model sees, in the model's precision.
    cell
        In the model's length unit.
    rows, pbc
        (3, 3) vectors of the cell in the model's precision, and (3,) bool, on its device.
    pairs
        Neighbours for each of the model's requests.
    wide
        (n_atoms, 3) positions in the working precision.
    lasting
        See :class:`~alchemi_bridge.model.graph.SystemInput`.
    """

    positions: torch.Tensor
    cell: Cell
    rows: torch.Tensor
    pbc: torch.Tensor
    pairs: list[RequestedPairs]
    wide: torch.Tensor
    lasting: Lasting | None = None


@dataclass(frozen=True, eq=False)
class _Listed:
    """All candidates as the model's neighbours, in memory that later steps use again."""

    candidates: Candidates
    moved: Moved
    pairs: list[RequestedPairs]
    lasting: Lasting


class Geometry:
    """Candidates of one set of atoms, and the steps made from them.

    Parameters
    ----------
    loaded
        The model, for its requests, dtype, device and unit.
    n_atoms
        Number of atoms of the engine.
    subset
        (n_subset,) int64 indices of those that the model sees, or ``None``.
    length
        Factor from the engine's length unit to the model's.
    names
        (n_seen,) int64 what errors call the atoms that the model sees; those of ``subset`` if not
        given.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        n_atoms: int,
        subset: torch.Tensor | None,
        length: float,
        names: torch.Tensor | None = None,
    ) -> None:
        self.loaded, self.n_atoms, self.subset, self.length = loaded, n_atoms, subset, length
        self.names = subset if names is None else names
        self.searches = 0
        self._minimum = MIN_DISTANCE_ANGSTROM * conversion_factor("angstrom", loaded.length_unit)
        self._skin: float | None = None
        self._cell: Cell | None = None
        self._candidates: Candidates | None = None
        self._reference: Reference | None = None
        self._box: _Box | None = None
        self._listed: _Listed | None = None
        #: Hand over all candidates, skin included, in memory that stays the same until the next
        #: search, instead of cutting them in every step. For requests with ``strict=False`` only.
        self.uncut = False

    def set_pairs(self, pairs: Pairs, cell: Cell) -> None:
        """Take a list, or the order to search when the next positions arrive."""
        cutoff, unit = self.loaded.cutoff, self.loaded.length_unit
        if isinstance(pairs, Search):
            candidates, skin, reference = None, pairs.skin * self.length, None
        else:
            reach, skin = reach_of(pairs) * self.length, None
            require_reach(reach, cutoff, unit)
            with stage("decode"):
                candidates = decode(
                    pairs,
                    n_atoms=self.n_atoms,
                    device=self.loaded.device,
                    reach=reach,
                    cell=cell,
                    subset=self.subset,
                )
                reference = self._reference_of(pairs, cell)
            self.searches += 1
        self._candidates, self._skin, self._reference = candidates, skin, reference
        self._cell = cell.scaled(self.length)

    def _reference_of(self, pairs: Pairs, cell: Cell) -> Reference | None:
        """The geometry that a list was made for, if it says which that was."""
        positions = reference_of(
            pairs, n_atoms=self.n_atoms, device=self.loaded.device, subset=self.subset
        )
        if positions is None:
            return None
        cell = cell.scaled(self.length)
        moved = advance(positions, None, self.length, cell, None, self.loaded.dtype)
        return Reference(moved.positions, cell, positions.dtype)

    def step(self, positions: torch.Tensor, cell: Cell | None) -> StepGeometry:
        """Neighbours at these positions.

        Parameters
        ----------
        positions
            (n_atoms, 3) of the engine, in its unit and precision.
        cell
            In the engine's unit; ``None`` for that of the pair list.
        """
        assert self._cell is not None  # set_pairs comes first, the provider sees to it
        now = self._cell if cell is None else cell.scaled(self.length)
        if now.pbc != self._cell.pbc:
            raise CellError(
                "periodic directions",
                expected=f"those of the pair list, {self._cell.pbc}",
                got=str(now.pbc),
                fix="call set_pairs when they change",
            )
        if self._skin is not None:
            return self._search(positions, now)
        return self._handed(positions, now)

    def _advance(
        self,
        positions: torch.Tensor,
        cell: Cell,
        reference: Reference | None,
        into: Moved | None = None,
    ) -> Moved:
        # Differences are taken in the wider of both precisions: what an engine knows in float64 is
        # not thrown away before the vectors are short.
        dtype = self.loaded.dtype
        return advance(positions, self.subset, self.length, cell, reference, dtype, into)

    def _handed(self, positions: torch.Tensor, cell: Cell) -> StepGeometry:
        """A list that the engine owns: check that it still holds."""
        assert self._candidates is not None
        assert self._cell is not None
        reference = self._reference
        if reference is None:
            # the list belongs to the cell that came with it, and to the positions of the first step
            # if it does not say where the atoms were
            first = self._advance(positions, self._cell, None)
            require_finite(first.positions, read_facts(first, None), self.names)
            reference = Reference(first.positions.clone(), self._cell)
        reach, cutoff = self._candidates.reach, self.loaded.cutoff
        # rows that were left out must stay so far away that their messages do not arrive
        farther = 0.0
        if self._candidates.margin is not None:
            farther = self.loaded.interaction_range - cutoff
        allowed = reference.allowance(cell, reach + farther, cutoff + farther)
        smallest = max(allowed, 0.0) if cell.same_as(reference.cell) else allowed
        # coordinates of the search and of now may be rounded differently
        narrow = torch.float32 in (reference.precision, positions.dtype)
        limit = smallest + reference.rounding(torch.float32 if narrow else torch.float64)
        geometry, displacement = self._within(positions, cell, reference, limit)
        at_rest = ""
        if geometry is None and self._may_be_at_rest(cell):
            plain = reference.at_rest.allowance(cell, reach, cutoff)
            if plain >= 0.0:
                geometry, away = self._within(positions, cell, reference.at_rest, plain)
                at_rest = f", or {plain:.4g} without following the cell, where they are {away:.4g}"
        if geometry is None:
            unit = self.loaded.length_unit
            raise StalePairsError(
                "pair list",
                expected=f"displacements since the search of at most {max(allowed, 0.0):.4g} "
                f"{unit} (half of what reach {reach:g} leaves beyond cutoff {cutoff:g}){at_rest}",
                got=f"{displacement:.4g} {unit}"
                if allowed >= 0.0
                else f"{displacement:.4g} {unit} in a cell compressed by more than that",
                fix="call set_pairs with a new list",
            )
        self._reference = reference  # only now: a step that was refused is not the first one
        return geometry

    def _may_be_at_rest(self, cell: Cell) -> bool:
        """Whether the list may hold for atoms that did not follow the cell.

        Not in a first step whose positions stand for those of the search: had the cell taken the
        atoms along since then, as a barostat does, they would be at rest by definition.
        """
        return self._reference is not None and not cell.same_as(self._reference.cell)

    def _within(
        self, positions: torch.Tensor, cell: Cell, reference: Reference, limit: float
    ) -> tuple[StepGeometry | None, float]:
        """See :meth:`_cut`; tried with other drifts if need be.

        The last drift may not be that of this step, and no drift at all may leave less: the one
        that is tried is the middle of the displacements along each axis.
        """
        drift, least = reference.drift, math.inf
        for attempt in range(3):
            if attempt == 2:
                reference.drift = (0.0, 0.0, 0.0)
            geometry, displacement = self._cut(positions, cell, reference, limit)
            if geometry is not None:
                return geometry, displacement
            least = min(least, displacement)
        # one atom gone astray must not make all others seem wrapped in the next steps
        reference.drift = drift
        return None, least

    def _search(self, positions: torch.Tensor, cell: Cell) -> StepGeometry:
        """Own search: make a new one when the old may miss a pair."""
        if self._candidates is not None and self._reference is not None:
            allowed = self._reference.allowance(cell, self._candidates.reach, self.loaded.cutoff)
            for _ in range(2):  # twice, as above
                geometry, _ = self._cut(positions, cell, self._reference, allowed)
                if geometry is not None:
                    return geometry
        assert self._skin is not None
        moved = self._advance(positions, cell, None)
        require_finite(moved.positions, read_facts(moved, None), self.names)
        with stage("search"):
            self._candidates = find_pairs(moved.positions, cell, self.loaded.cutoff + self._skin)
        self._reference = Reference(moved.positions.clone(), cell)
        self.searches += 1
        geometry, _ = self._cut(positions, cell, self._reference, math.inf)
        assert geometry is not None
        return geometry

    def _cut(
        self, positions: torch.Tensor, cell: Cell, reference: Reference, limit: float
    ) -> tuple[StepGeometry | None, float]:
        """Neighbours at these positions, and the displacement since the reference.

        Without neighbours if the displacement is beyond the limit: what the list says of such a
        step, overlaps included, means nothing.
        """
        candidates = self._candidates
        assert candidates is not None
        with stage("cut"):
            make = self._refreshed if self.uncut else self._newly_cut
            return make(candidates, positions, cell, reference, limit)

    def _newly_cut(
        self,
        candidates: Candidates,
        positions: torch.Tensor,
        cell: Cell,
        reference: Reference,
        limit: float,
    ) -> tuple[StepGeometry | None, float]:
        """Neighbours cut at the model's cutoffs."""
        moved = self._advance(positions, cell, reference)
        box = self._box_for(candidates, cell, moved.positions.dtype)
        marked = [self._mark(candidates, moved, box, request) for request in self.loaded.requests]
        shortest = marked[0].shortest if marked else None
        facts = read_facts(moved, reference, shortest, [m.base[-1] for m in marked])
        if not self._holds(facts, candidates, moved, box, limit):
            return None, facts.displacement
        pairs = [
            fill(candidates, moved.positions, box.offsets, m, n_rows, self.loaded.dtype)
            for m, n_rows in zip(marked, facts.n_rows, strict=True)
        ]
        return StepGeometry(
            moved.narrow, cell, box.rows, box.pbc, pairs, moved.positions
        ), facts.displacement

    def _refreshed(
        self,
        candidates: Candidates,
        positions: torch.Tensor,
        cell: Cell,
        reference: Reference,
        limit: float,
    ) -> tuple[StepGeometry | None, float]:
        """The same without a cut: new vectors in the lists of the search."""
        listed, wide = self._listed, torch.promote_types(positions.dtype, self.loaded.dtype)
        if (
            listed is None
            or listed.candidates is not candidates
            or listed.moved.positions.dtype != wide
        ):
            moved = self._advance(positions, cell, reference)
            box = self._box_for(candidates, cell, wide)
            marked = [self._mark(candidates, moved, box, r, False) for r in self.loaded.requests]
            sizes = torch.stack([m.base[-1] for m in marked]).tolist()
            pairs = [
                fill(candidates, moved.positions, box.offsets, m, n_rows, self.loaded.dtype)
                for m, n_rows in zip(marked, sizes, strict=True)
            ]
            listed = _Listed(candidates, moved, pairs, Lasting())
            shortest = marked[0].shortest
        else:
            moved = self._advance(positions, cell, reference, listed.moved)
            box = self._box_for(candidates, cell, wide)
            for mine in listed.pairs:
                shortest = refresh(
                    candidates, moved.positions, box.offsets, mine.place, mine.vectors
                )
        facts = read_facts(moved, reference, shortest)
        if not self._holds(facts, candidates, moved, box, limit):
            return None, facts.displacement
        self._listed = listed  # only now: a list of coordinates that are none lacks pairs
        geometry = StepGeometry(
            moved.narrow, cell, box.rows, box.pbc, listed.pairs, moved.positions, listed.lasting
        )
        return geometry, facts.displacement

    def require_right_pairs(self, geometry: StepGeometry) -> None:
        """Debug mode: compare the lists of a step with those of a new search (slow)."""
        for request, pairs in zip(self.loaded.requests, geometry.pairs, strict=True):
            require_same_pairs(
                pairs,
                geometry.wide,
                geometry.cell,
                cutoff=float(request.cutoff),
                full_list=bool(request.full_list),
                uncut=self.uncut,
            )

    def _mark(
        self,
        candidates: Candidates,
        moved: Moved,
        box: _Box,
        request: NeighborListOptions,
        with_cut: bool = True,
    ) -> Marked:
        return mark(
            candidates,
            moved.positions,
            box.offsets,
            cutoff=float(request.cutoff),
            full_list=bool(request.full_list),
            dtype=self.loaded.dtype,
            with_cut=with_cut,
        )

    def _holds(
        self,
        facts: StepFacts,
        candidates: Candidates,
        moved: Moved,
        box: _Box,
        limit: float,
    ) -> bool:
        """Whether the list is good for this step; raises if the step is good for nothing."""
        require_finite(moved.positions, facts, self.names)
        if not facts.displacement <= limit:  # also where an overflow gave NaN
            return False
        unit = self.loaded.length_unit
        require_apart(
            candidates, moved.positions, box.offsets, facts, self._minimum, unit, self.names
        )
        return True

    def _box_for(self, candidates: Candidates, cell: Cell, dtype: torch.dtype) -> _Box:
        """What the cell adds; kept as long as list, cell and precision stay the same."""
        box = self._box
        if (
            box is not None
            and box.candidates is candidates
            and box.offsets.dtype == dtype
            and (cell is box.cell or cell.same_as(box.cell))
        ):
            return box
        device = self.loaded.device
        self._box = _Box(
            candidates=candidates,
            cell=cell,
            offsets=shift_vectors(candidates.table, cell.tensor(dtype, device)),
            rows=cell.tensor(self.loaded.dtype, device),
            pbc=upload(torch.tensor(cell.pbc, device="cpu"), device),
        )
        return self._box


@dataclass(frozen=True, eq=False)
class _Box:
    """A cell on the device, and the vectors of a list's shifts in it."""

    candidates: Candidates
    cell: Cell
    offsets: torch.Tensor
    rows: torch.Tensor
    pbc: torch.Tensor


def system_input(
    loaded: LoadedModel,
    types: torch.Tensor,
    geometry: StepGeometry,
    inputs: dict[str, TensorMap],
) -> SystemInput:
    """A step as the evaluation wants it: in the model's dtype, on its device."""
    return SystemInput(
        types=types,
        positions=geometry.positions,
        cell=geometry.rows,
        pbc=geometry.pbc,
        volume=geometry.cell.volume if all(geometry.cell.pbc) else None,
        pairs=geometry.pairs,
        inputs=inputs,
        lasting=geometry.lasting,
    )
