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

    def set_pairs(self, pairs: Pairs, cell: Cell, *, check_unique: bool = False) -> None:
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
                check_unique=check_unique,
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
        mine = mine.to(wide) * self.length
        return self._search(mine, now) if self._skin is not None else self._handed(mine, now)

    def _handed(self, positions: torch.Tensor, cell: Cell) -> StepGeometry:
        """A list that the engine owns: check that it still holds."""
        assert self._candidates is not None
        first_step = self._reference is None
        if first_step:
            self._reference = Reference(positions.clone(), cell)
        geometry, displacement = self._cut(positions, cell)
        assert self._reference is not None
        reach, cutoff = self._candidates.reach, self.loaded.cutoff
        allowed = self._reference.allowance(cell, reach, cutoff)
        limit = max(allowed, 0.0) + _slack(reach, positions.dtype)
        if not first_step and not displacement <= limit:  # also where an overflow gave NaN
            unit = self.loaded.length_unit
            raise StalePairsError(
                "pair list",
                expected=f"displacements since the search of at most {max(allowed, 0.0):.4g} "
                f"{unit} (half of what reach {reach:g} leaves beyond cutoff {cutoff:g})",
                got=f"{displacement:.4g} {unit}",
                fix="call set_pairs with a new list, also after wrapping positions",
            )
        return geometry

    def _search(self, positions: torch.Tensor, cell: Cell) -> StepGeometry:
        """Own search: make a new one when the old may miss a pair."""
        if self._candidates is not None and self._reference is not None:
            geometry, displacement = self._cut(positions, cell)
            allowed = self._reference.allowance(cell, self._candidates.reach, self.loaded.cutoff)
            if displacement < allowed:
                return geometry
        assert self._skin is not None
        require_finite(positions, inspect_step(positions, cell, None, None), self.subset)
        self._candidates = find_pairs(positions, cell, self.loaded.cutoff + self._skin)
        self._reference = Reference(positions.clone(), cell)
        self.searches += 1
        return self._cut(positions, cell)[0]

    def _cut(self, positions: torch.Tensor, cell: Cell) -> tuple[StepGeometry, float]:
        candidates = self._candidates
        assert candidates is not None
        offsets = self._offsets_for(candidates, cell, positions.dtype)
        vectors = pair_vectors(positions, candidates.first, candidates.second, offsets)
        vectors = vectors.to(self.loaded.dtype)
        squared = squared_lengths(vectors)
        facts = inspect_step(positions, cell, self._reference, squared)
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


def _slack(reach: float, dtype: torch.dtype) -> float:
    """Rounding of a displacement: positions are read twice in their own precision."""
    return 8.0 * float(torch.finfo(dtype).eps) * max(reach, 1.0) * 16.0
