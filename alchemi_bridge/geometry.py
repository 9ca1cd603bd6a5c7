"""From an engine's positions and pair list to the neighbours of one step.

Keeps what lives from one pair search to the next: candidates, the geometry of the search, and the
count of searches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from metatensor.torch import TensorMap

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import CellError, StalePairsError
from alchemi_bridge.model import LoadedModel, SystemInput
from alchemi_bridge.neighbors import (
    Reference,
    RequestedPairs,
    cut,
    inspect_step,
    pair_offsets,
    pair_vectors,
    squared_lengths,
)
from alchemi_bridge.neighbors.guard import (
    MIN_DISTANCE_ANGSTROM,
    require_apart,
    require_finite,
)
from alchemi_bridge.pairs import Candidates, Pairs, Search, decode, find_pairs
from alchemi_bridge.pairs.candidates import require_reach
from alchemi_bridge.units import conversion_factor


@dataclass(frozen=True, eq=False)
class StepGeometry:
    """One step in the model's length unit.

    Attributes
    ----------
    positions
        (n_atoms, 3) of the atoms that the model sees, in the working precision.
    cell
        In the model's length unit.
    pairs
        Neighbours for each of the model's requests.
    """

    positions: torch.Tensor
    cell: Cell
    pairs: list[RequestedPairs]


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
    """

    def __init__(
        self, loaded: LoadedModel, *, n_atoms: int, subset: torch.Tensor | None, length: float
    ) -> None:
        self.loaded, self.n_atoms, self.subset, self.length = loaded, n_atoms, subset, length
        self.searches = 0
        self._minimum = MIN_DISTANCE_ANGSTROM * conversion_factor("angstrom", loaded.length_unit)
        self._skin: float | None = None
        self._cell: Cell | None = None
        self._candidates: Candidates | None = None
        self._reference: Reference | None = None
        self._offsets: tuple[Candidates, Cell, torch.Tensor] | None = None

    def set_pairs(self, pairs: Pairs, cell: Cell) -> None:
        """Take a list, or the order to search when the next positions arrive."""
        cutoff, unit = self.loaded.cutoff, self.loaded.length_unit
        if isinstance(pairs, Search):
            candidates, skin = None, pairs.skin * self.length
        else:
            reach, skin = pairs.reach * self.length, None
            require_reach(reach, cutoff, unit)
            candidates = decode(
                pairs,
                n_atoms=self.n_atoms,
                device=self.loaded.device,
                reach=reach,
                subset=self.subset,
            )
            self.searches += 1
        self._candidates, self._skin, self._reference = candidates, skin, None
        self._cell = cell.scaled(self.length)

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
        # Differences are taken in the wider of both precisions: what an engine knows in float64 is
        # not thrown away before the vectors are short.
        wide = torch.promote_types(positions.dtype, self.loaded.dtype)
        mine = positions if self.subset is None else positions[self.subset]
        mine = mine.to(wide) * self.length  # new memory: kept as reference, the engine's moves on
        return self._search(mine, now) if self._skin is not None else self._handed(mine, now)

    def _handed(self, positions: torch.Tensor, cell: Cell) -> StepGeometry:
        """A list that the engine owns: check that it still holds."""
        assert self._candidates is not None
        assert self._cell is not None
        # the list belongs to the cell that came with it, and to the positions of the first step
        reference = self._reference or Reference.of(positions, self._cell)
        geometry, displacement = self._cut(positions, cell, reference)
        reach, cutoff = self._candidates.reach, self.loaded.cutoff
        allowed = reference.allowance(cell, reach, cutoff)
        rounding = reference.rounding(positions.dtype)
        smallest = max(allowed, 0.0) if cell.same_as(reference.cell) else allowed
        if not displacement <= smallest + rounding:  # also where an overflow gave NaN
            unit = self.loaded.length_unit
            raise StalePairsError(
                "pair list",
                expected=f"displacements since the search of at most {max(allowed, 0.0):.4g} "
                f"{unit} (half of what reach {reach:g} leaves beyond cutoff {cutoff:g})",
                got=f"{displacement:.4g} {unit}"
                if allowed >= 0.0
                else f"{displacement:.4g} {unit} in a cell compressed by more than that",
                fix="call set_pairs with a new list, also after wrapping positions",
            )
        self._reference = reference  # only now: a step that was refused is not the first one
        return geometry

    def _search(self, positions: torch.Tensor, cell: Cell) -> StepGeometry:
        """Own search: make a new one when the old may miss a pair."""
        if self._candidates is not None and self._reference is not None:
            geometry, displacement = self._cut(positions, cell, self._reference)
            allowed = self._reference.allowance(cell, self._candidates.reach, self.loaded.cutoff)
            if displacement < allowed:
                return geometry
        assert self._skin is not None
        require_finite(positions, inspect_step(positions, cell, None, None), self.subset)
        self._candidates = find_pairs(positions, cell, self.loaded.cutoff + self._skin)
        self._reference = Reference.of(positions, cell)
        self.searches += 1
        return self._cut(positions, cell, self._reference)[0]

    def _cut(
        self, positions: torch.Tensor, cell: Cell, reference: Reference
    ) -> tuple[StepGeometry, float]:
        """Neighbours at these positions, and the displacement since the reference."""
        candidates = self._candidates
        assert candidates is not None
        offsets = self._offsets_for(candidates, cell, positions.dtype)
        vectors = pair_vectors(positions, candidates.first, candidates.second, offsets)
        vectors = vectors.to(self.loaded.dtype)
        squared = squared_lengths(vectors)
        facts = inspect_step(positions, cell, reference, squared)
        require_finite(positions, facts, self.subset)
        unit = self.loaded.length_unit
        require_apart(candidates, squared, facts, self._minimum, unit, self.subset)
        pairs = [
            cut(
                candidates,
                vectors,
                squared,
                cutoff=float(request.cutoff),
                full_list=bool(request.full_list),
            )
            for request in self.loaded.requests
        ]
        return StepGeometry(positions, cell, pairs), facts.displacement

    def _offsets_for(self, candidates: Candidates, cell: Cell, dtype: torch.dtype) -> torch.Tensor:
        """Offsets of the images; kept as long as list, cell and precision stay the same."""
        if self._offsets is not None:
            kept_candidates, kept_cell, offsets = self._offsets
            if kept_candidates is candidates and offsets.dtype == dtype and cell.same_as(kept_cell):
                return offsets
        offsets = pair_offsets(candidates.shifts, cell.tensor(dtype, self.loaded.device))
        self._offsets = (candidates, cell, offsets)
        return offsets


def system_input(
    loaded: LoadedModel,
    types: torch.Tensor,
    geometry: StepGeometry,
    inputs: dict[str, TensorMap],
) -> SystemInput:
    """A step as the evaluation wants it: in the model's dtype, on its device."""
    return SystemInput(
        types=types,
        positions=geometry.positions.to(loaded.dtype),
        cell=geometry.cell.tensor(loaded.dtype, loaded.device),
        pbc=torch.tensor(geometry.cell.pbc, device=loaded.device),
        volume=geometry.cell.volume if all(geometry.cell.pbc) else None,
        pairs=geometry.pairs,
        inputs=inputs,
    )
