"""From the positions of several systems to their neighbours, in common arrays.

What :class:`alchemi_bridge.geometry.Geometry` is for one system. Nothing in a step goes through
the systems one by one; a pair search does, for those whose lists are too old.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from metatomic.torch import NeighborListOptions

from alchemi_bridge.atoms import require_known_types
from alchemi_bridge.batch.cells import Cells
from alchemi_bridge.batch.naming import of_system
from alchemi_bridge.batch.reference import BatchReference
from alchemi_bridge.batch.systems import Layout, Systems
from alchemi_bridge.cell import upload
from alchemi_bridge.errors import ConfigurationError, OverlapError
from alchemi_bridge.model import LoadedModel
from alchemi_bridge.model.joined import JoinedInput, JoinedPairs
from alchemi_bridge.neighbors import Marked, fill, mark, shift_vectors
from alchemi_bridge.neighbors.guard import (
    MIN_DISTANCE_ANGSTROM,
    StepFacts,
    require_apart,
    require_finite,
)
from alchemi_bridge.pairs import Candidates, FullPairs, HalfPairs
from alchemi_bridge.pairs.candidates import decode_indices, require_reach
from alchemi_bridge.pairs.joined import join_systems
from alchemi_bridge.pairs.rows import candidates_from_pairs
from alchemi_bridge.pairs.search import list_pairs
from alchemi_bridge.stages import stage
from alchemi_bridge.units import conversion_factor

Listed = tuple[np.ndarray, np.ndarray, np.ndarray]

NO_PAIRS: Listed = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 3), np.int32))


class BatchGeometry:
    """Pair lists of a batch, kept from step to step.

    A batch may be another one in every step: systems whose atoms are not where a list says are
    searched anew. If their number or sizes change, each takes over the list of the one of its size
    whose atoms were nearest, if there is one, and is searched if its atoms are elsewhere.

    Parameters
    ----------
    loaded
        The model, for its requests, dtype, device and unit.
    length
        Factor from the engine's length unit to the model's.
    skin
        How far searches reach beyond the model's cutoff, in the engine's length unit.
    """

    def __init__(self, loaded: LoadedModel, *, length: float, skin: float) -> None:
        self.loaded, self.length = loaded, length
        self._reach = loaded.cutoff + skin * length
        self._minimum = MIN_DISTANCE_ANGSTROM * conversion_factor("angstrom", loaded.length_unit)
        #: How many systems were searched, or lists decoded.
        self.searches = 0
        self._layout: Layout | None = None
        self._types: torch.Tensor | None = None
        self._listed: list[Listed] = []
        self._handed: tuple[torch.Tensor | None, ...] | None = None
        self._reference: BatchReference | None = None
        self._candidates: Candidates | None = None
        self._box: tuple[Candidates, Cells, torch.dtype, torch.Tensor] | None = None
        self._cells: tuple[Cells, torch.Tensor, torch.Tensor] | None = None
        self._unscaled: tuple[Cells, Cells] | None = None

    def step(self, systems: Systems, pairs: HalfPairs | FullPairs | None = None) -> JoinedInput:
        """Neighbours at these positions.

        Parameters
        ----------
        systems
            All of them.
        pairs
            A list of the engine for these very positions, the atoms numbered through all systems;
            ``None`` to search. Whether it is complete is the engine's business.

        Raises
        ------
        ConfigurationError
            For a system without atoms.
        NonFiniteError, OverlapError, CellError, SpeciesError, PairListError
            With the number of the system.
        """
        layout = self._layout_of(systems)
        cells = self._scaled(systems.cells)
        positions = self._converted(systems.positions)
        if pairs is not None:
            self._take(pairs, layout)
        elif (
            self._reference is None
            or self._candidates is None
            or self._reference.sizes != systems.sizes
            or self._reference.positions.dtype != positions.dtype
        ):
            self._search_new(systems, layout, positions, cells)
        geometry = self._cut(systems, layout, positions, cells)
        types = self._types
        assert types is not None
        rows, pbc = self._cells_on_device(cells)
        return JoinedInput(
            types=types,
            positions=geometry.positions.to(self.loaded.dtype),
            cells=rows,
            pbc=pbc,
            sizes=systems.sizes,
            system=layout.system,
            volumes=cells.volumes,
            pairs=geometry.pairs,
            inputs=systems.inputs,
        )

    # --- what lasts ----------------------------------------------------------------------------

    def _layout_of(self, systems: Systems) -> Layout:
        """Sizes and offsets; forgets common arrays if they are not those of the last step."""
        if self._layout is None or self._layout.sizes != systems.sizes:
            if 0 in systems.sizes:
                raise ConfigurationError(
                    f"system {systems.number(systems.sizes.index(0))}",
                    expected="at least one atom",
                    got="an empty system",
                    fix="leave empty systems out of a batch",
                )
            self._layout = Layout.of(systems.sizes, self.loaded.device)
            self._types = self._handed = self._candidates = None
        if self._types is None:
            self._take_types(systems, self._layout)
        return self._layout

    def _take_types(self, systems: Systems, layout: Layout) -> None:
        for k, types in enumerate(systems.types.split(layout.sizes)):
            if k and torch.equal(types, systems.types[: len(types)]):
                continue  # most batches hold copies of one composition
            with of_system(systems.number(k)):
                require_known_types(types, self.loaded)
        self._types = systems.types.to(torch.int32, copy=True)

    def _converted(self, positions: torch.Tensor) -> torch.Tensor:
        """In the model's unit and the wider of both precisions."""
        wide = torch.promote_types(positions.dtype, self.loaded.dtype)
        positions = positions.detach()
        if self.length != 1.0:
            return (positions.double() * self.length).to(wide)
        return positions.to(wide).contiguous()

    def _scaled(self, cells: Cells) -> Cells:
        """In the model's unit; the same object as long as the engine's is."""
        if self._unscaled is None or self._unscaled[0] is not cells:
            self._unscaled = (cells, cells.scaled(self.length))
        return self._unscaled[1]

    def _cells_on_device(self, cells: Cells) -> tuple[torch.Tensor, torch.Tensor]:
        if self._cells is None or self._cells[0] is not cells:
            device = self.loaded.device
            rows = torch.from_numpy(cells.vectors).to(self.loaded.dtype)
            self._cells = (cells, upload(rows, device), upload(torch.from_numpy(cells.pbc), device))
        return self._cells[1], self._cells[2]

    def _offsets(self, candidates: Candidates, cells: Cells, dtype: torch.dtype) -> torch.Tensor:
        box = self._box
        if box is None or box[0] is not candidates or box[1] is not cells or box[2] != dtype:
            rows = upload(torch.from_numpy(cells.vectors).to(dtype), self.loaded.device)
            owner = candidates.table_system
            offsets = shift_vectors(candidates.table, rows[0] if owner is None else rows[owner])
            self._box = box = (candidates, cells, dtype, offsets)
        return box[3]

    # --- lists ---------------------------------------------------------------------------------

    def _take(self, pairs: HalfPairs | FullPairs, layout: Layout) -> None:
        """Decode a list of the engine, unless it is the one of the last step."""
        arrays = (pairs.first, pairs.second, pairs.shifts)
        known = self._handed
        if known is not None and _same_tensors(known, arrays):
            return
        require_reach(pairs.reach * self.length, self.loaded.cutoff, self.loaded.length_unit)
        with stage("decode"):
            found = decode_indices(
                pairs,
                n_atoms=len(layout.system),
                device=self.loaded.device,
                reach=pairs.reach * self.length,
            )
            self._candidates = join_systems(found, layout.system, len(layout.sizes))
        # copies: an engine may write its next list into the same memory
        self._handed = tuple(None if a is None else a.clone() for a in arrays)
        self._reference, self._listed = None, []
        self.searches += 1

    def _search_new(
        self, systems: Systems, layout: Layout, positions: torch.Tensor, cells: Cells
    ) -> None:
        """Lists for a batch of other systems than in the last step; those that stay keep theirs."""
        if not bool(torch.isfinite(positions).all()):
            self._raise_not_finite(systems, layout, positions)
        before, n_systems = self._reference, len(layout.sizes)
        if before is None or before.positions.dtype != positions.dtype:
            places = [-1] * n_systems
        else:
            places = before.nearest(positions, layout.sizes)
        known = [NO_PAIRS if m < 0 else self._listed[m] for m in places]
        new = [k for k, m in enumerate(places) if m < 0]
        listed = self._search(systems, layout, positions, cells, known, new)
        reference = BatchReference(positions.clone(), cells, layout.system, layout.sizes)
        for k, m in enumerate(places):
            if before is not None and m >= 0:
                reference.take(k, before, m)
        self._listed, self._reference, self._handed = listed, reference, None

    def _search_again(
        self,
        systems: Systems,
        layout: Layout,
        positions: torch.Tensor,
        cells: Cells,
        which: Sequence[int],
    ) -> None:
        assert self._reference is not None
        self._listed = self._search(systems, layout, positions, cells, self._listed, which)
        for k in which:
            self._reference.replace(k, positions, cells)

    def _search(
        self,
        systems: Systems,
        layout: Layout,
        positions: torch.Tensor,
        cells: Cells,
        known: list[Listed],
        which: Sequence[int],
    ) -> list[Listed]:
        """The lists of all systems, new ones for some; if it fails, nothing has changed."""
        with stage("search"):
            host = np.ascontiguousarray(positions.cpu().numpy(), dtype=np.float64)
            listed = list(known)
            for k in which:
                begin, end = layout.offsets[k], layout.offsets[k + 1]
                with of_system(systems.number(k)):
                    first, second, shifts = list_pairs(host[begin:end], cells[k], self._reach)
                listed[k] = (first, second, shifts)
            rows = [
                (one[0] + np.int32(begin), one[1] + np.int32(begin), one[2])
                for one, begin in zip(listed, layout.offsets[:-1], strict=True)
            ]
            joined = [
                torch.from_numpy(np.concatenate(parts)).to(self.loaded.device)
                for parts in zip(*rows, strict=True)
            ]
            found = candidates_from_pairs(*joined, n_atoms=len(host), reach=self._reach, both=True)
            self._candidates = join_systems(found, layout.system, len(layout.sizes))
        self.searches += len(which)
        return listed

    # --- a step --------------------------------------------------------------------------------

    def _cut(
        self, systems: Systems, layout: Layout, positions: torch.Tensor, cells: Cells
    ) -> _Neighbors:
        for _ in range(2):
            found = self._tried(systems, layout, positions, cells)
            if isinstance(found, _Neighbors):
                return found
            self._search_again(systems, layout, positions, cells, found)
        raise AssertionError("a list is too old for the positions that it was made for")

    def _tried(
        self, systems: Systems, layout: Layout, positions: torch.Tensor, cells: Cells
    ) -> _Neighbors | list[int]:
        """Neighbours at these positions, or the systems whose lists are too old for them."""
        candidates, known = self._candidates, self._types
        assert candidates is not None
        assert known is not None
        with stage("cut"):
            displaced = None
            if self._reference is not None:
                cutoff = self.loaded.cutoff
                displaced = self._reference.displaced(positions, cells, self._reach, cutoff)
            # else they were the engine's memory, and a model may write into what it is given
            framed = positions.clone() if displaced is None else displaced.positions
            offsets = self._offsets(candidates, cells, framed.dtype)
            marked = [self._mark(candidates, framed, offsets, r) for r in self.loaded.requests]
            # one read from the device
            columns = [
                torch.isfinite(framed).all().double().reshape(1),
                (systems.types != known).any().double().reshape(1),
            ]
            columns += [] if displaced is None else [displaced.squares]
            columns += [m.shortest.amax().reshape(1) for m in marked[:1]]
            columns += [m.base[layout.starts].double() for m in marked]
            numbers = iter(torch.cat(columns).tolist())
            finite, changed = next(numbers) == 1.0, next(numbers) == 1.0
            if not finite:
                self._raise_not_finite(systems, layout, positions)
            if changed:
                self._take_types(systems, layout)
            if displaced is not None:
                squares = np.array([next(numbers) for _ in layout.sizes])
                old = ~(np.sqrt(squares) <= displaced.allowed)
                if old.any():
                    return np.flatnonzero(old).tolist()
            shortest = math.sqrt(max(-next(numbers), 0.0)) if marked else math.inf
            facts = StepFacts(0.0, True, shortest, ())
            self._require_apart(systems, layout, candidates, framed, offsets, facts)
            pairs = []
            for m in marked:
                base = [int(next(numbers)) for _ in range(len(layout.sizes) + 1)]
                pairs.append(self._filled(layout, candidates, framed, offsets, m, base))
        return _Neighbors(framed, pairs)

    def _mark(
        self,
        candidates: Candidates,
        positions: torch.Tensor,
        offsets: torch.Tensor,
        request: NeighborListOptions,
    ) -> Marked:
        return mark(
            candidates,
            positions,
            offsets,
            cutoff=float(request.cutoff),
            full_list=bool(request.full_list),
            dtype=self.loaded.dtype,
        )

    def _filled(
        self,
        layout: Layout,
        candidates: Candidates,
        positions: torch.Tensor,
        offsets: torch.Tensor,
        marked: Marked,
        base: list[int],
    ) -> JoinedPairs:
        pairs = fill(candidates, positions, offsets, marked, base[-1], self.loaded.dtype)
        counts = [after - before for before, after in pairwise(base)]
        return JoinedPairs(pairs, counts)

    # --- what is wrong -------------------------------------------------------------------------

    def _raise_not_finite(self, systems: Systems, layout: Layout, positions: torch.Tensor) -> None:
        for k, rows in enumerate(positions.split(layout.sizes)):
            finite = bool(torch.isfinite(rows).all())
            with of_system(systems.number(k)):
                require_finite(rows, StepFacts(0.0, finite, math.inf, ()))

    def _require_apart(
        self,
        systems: Systems,
        layout: Layout,
        candidates: Candidates,
        positions: torch.Tensor,
        offsets: torch.Tensor,
        facts: StepFacts,
    ) -> None:
        try:
            unit = self.loaded.length_unit
            require_apart(candidates, positions, offsets, facts, self._minimum, unit)
        except OverlapError as error:
            if error.atoms is None:
                raise
            k = int(layout.system[error.atoms[0]])
            i, j = (a - layout.offsets[k] for a in error.atoms)
            with of_system(systems.number(k)):
                named = OverlapError(
                    f"atoms {i} and {j}", expected=error.expected, got=error.got, fix=error.fix
                )
                named.atoms = (i, j)
                raise named from None


@dataclass(frozen=True, eq=False)
class _Neighbors:
    positions: torch.Tensor
    pairs: list[JoinedPairs]


def _same_tensors(known: Sequence[torch.Tensor | None], now: Sequence[torch.Tensor | None]) -> bool:
    """Whether all of ``now`` are those of ``known``, element by element and in dtype."""
    return all(map(_same, known, now))


def _same(known: torch.Tensor | None, now: torch.Tensor | None) -> bool:
    if known is None or now is None:
        return known is now
    return known.dtype == now.dtype and torch.equal(known, now)
