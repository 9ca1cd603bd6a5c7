"""One model evaluated by all ranks together: the part that the domain providers share.

Every rank evaluates the energies of its own atoms, with a full halo of the model's interaction
range around them. Gradients with respect to halo atoms go to their owners. A step has four
exchanges: flags, coordinates, forces, sums (and a fifth, of one flag, when the results have been
compared with the engine's buffers); what goes wrong on one rank is known to all after the next
exchange of flags or sums, and raised by all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import Atoms, ForceBuffers, Quantity, Step
from alchemi_bridge.domain.abort import agree, collective, failed_flag, raise_agreed, waiting
from alchemi_bridge.domain.exchange import Exchange
from alchemi_bridge.domain.fingerprint import halves, of_values
from alchemi_bridge.domain.halo import find_halo
from alchemi_bridge.errors import (
    ConfigurationError,
    OverlapError,
    ProtocolError,
    StalePairsError,
)
from alchemi_bridge.model import Evaluation, LoadedModel, Wanted
from alchemi_bridge.neighbors import Moved, Reference, advance, read_facts
from alchemi_bridge.neighbors.guard import require_finite
from alchemi_bridge.pairs import find_pairs
from alchemi_bridge.provider import MetatomicForceProvider
from alchemi_bridge.stages import stage

LOGGER = logging.getLogger(__name__)

#: What must be the same on all ranks in each step, and what to do if it is not.
_SHARED = (
    ("cell", "hand over the cell of the whole system on every rank"),
    ("what is wanted, skin or halo", "ask for the same on all ranks"),
    ("precision of positions, or kind of inputs", "hand over arrays of the same kind on all ranks"),
    ("positions, types, selections or inputs",
     "give random numbers the same seed on all ranks, and read the same files"),
)  # fmt: skip

#: Numbers that are summed at the end of a step: two flags, energy, virial.
_SUMS = 12

#: How close an atom can come to another, as a share of the range: a list whose cutoff is the range
#: needs the rows of atoms that count, and no others.
NO_PLACE = 1e-6

#: Attempts of a step: the list may be too old, a new one is not.
ATTEMPTS = 2


@dataclass(frozen=True, eq=False)
class HomeAtoms:
    """The atoms of this rank.

    Attributes
    ----------
    types
        (n_home,) int32 on the device.
    counting
        (n_counting,) int64 rows of those whose energy counts.
    names
        (n_home,) int64 numbers by which the engine knows them; ``None`` if these are their rows on
        this rank.
    """

    types: torch.Tensor
    counting: torch.Tensor
    names: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class HomeStep:
    """A step as this rank's engine hands it over.

    Attributes
    ----------
    atoms
        Of this rank.
    source
        (n, 3) positions of the engine, in its unit, with any strides.
    rows
        (n_home,) int64 rows of ``source`` that belong to ``atoms``; ``None`` for all in order.
    cell
        In the model's length unit.
    inputs
        Extra inputs that the model requests: values of the home atoms, or of the system.
    """

    atoms: HomeAtoms
    source: torch.Tensor
    rows: torch.Tensor | None
    cell: Cell
    inputs: Mapping[str, Quantity] = field(default_factory=dict)


@dataclass(frozen=True)
class DomainFacts:
    """What a rank has to do in a step.

    Attributes
    ----------
    home, halo
        Numbers of atoms.
    rows
        Of all the model's neighbour lists, in the last step.
    bytes_sent
        To other ranks in a step: coordinates that they need, and forces on their atoms.
    """

    home: int
    halo: int
    rows: int
    bytes_sent: int


@dataclass(eq=False)
class _Domain:
    """What lives from one pair search to the next."""

    home: HomeAtoms
    reference: Reference
    exchange: Exchange
    labels: torch.Tensor  # (n_local, 2) rank and number of every atom


class DomainEvaluator:
    """Evaluates steps; every method is collective.

    Parameters
    ----------
    inner
        Provider of this rank, in the model's own units.
    comm
        Communicator of all ranks.
    length
        Factor from the engine's length unit to the model's.
    halo
        How wide the halo is, in the engine's length unit; by default the model's interaction range.
    direct
        Whether MPI takes device memory as it is.

    Raises
    ------
    ConfigurationError
        If the model's range is infinite, or the halo narrower than it.
    """

    def __init__(
        self,
        inner: MetatomicForceProvider,
        comm: Any,
        *,
        length: float,
        halo: float | None = None,
        direct: bool = False,
    ) -> None:
        self.inner, self.comm, self.length, self._direct = inner, comm, length, direct
        self.loaded: LoadedModel = inner.loaded
        self.n_ranks = int(comm.Get_size())
        self.rank = int(comm.Get_rank())
        self.range = self._checked_range(halo)
        self.skin: float | None = None
        self._domain: _Domain | None = None
        self.searches = 0

    def _checked_range(self, halo: float | None) -> float:
        loaded, unit = self.loaded, self.loaded.length_unit
        wanted = loaded.interaction_range
        if self.n_ranks == 1:
            return max(loaded.cutoff, wanted if np.isfinite(wanted) else 0.0)
        if not np.isfinite(wanted):
            raise ConfigurationError(
                f"model on {self.n_ranks} ranks",
                expected="a finite interaction range",
                got="an infinite one: every atom's energy may depend on every other",
                fix="run it on one rank",
            )
        if halo is None:
            return max(wanted, loaded.cutoff)
        width = halo * self.length
        if not width >= wanted:
            raise ConfigurationError(
                "width of the halo",
                expected=f"at least the model's interaction range, {wanted:g} {unit}",
                got=f"{width:g} {unit}",
                fix="leave it out, or make it wider",
            )
        return width

    def start(self, skin: float) -> None:
        """Order a pair search at the next step; ``skin`` in the model's length unit."""
        self.skin = skin
        self._forget()

    def close(self) -> None:
        """Give the communicators of the exchange back; the next step searches anew."""
        self._forget()

    def _forget(self) -> None:
        if self._domain is not None:
            self._domain.exchange.free()
        self._domain = None

    @property
    def exchange(self) -> Exchange | None:
        """The pattern in use, ``None`` before the first step."""
        return None if self._domain is None else self._domain.exchange

    def evaluate(
        self,
        prepare: Callable[[], HomeStep],
        wanted: Wanted,
        *,
        regroup: Callable[[], HomeStep] | None = None,
        fingerprint: Callable[[], int] | None = None,
    ) -> tuple[Evaluation, HomeAtoms]:
        """Results of this rank's atoms; energy and virial are those of all.

        Parameters
        ----------
        prepare
            Hands over the step; what it raises, all ranks raise.
        wanted
            Quantities to compute, the same on all ranks.
        regroup
            Divides the atoms anew before a pair search, the same way on all ranks, and hands over
            the step of those that are this rank's now.
        fingerprint
            64 bits that must be the same on all ranks: of what the atoms of all are.

        Returns
        -------
        Evaluation
            In the model's units, rows are home atoms. Its energy is (1,), its virial (1, 3, 3).
        HomeAtoms
            The atoms that the rows belong to.
        """
        step, moved, must_search = self._begin(prepare, wanted, fingerprint)
        for _ in range(ATTEMPTS):
            if must_search:
                with collective(self.comm):
                    if regroup is not None:
                        step = regroup()
                    moved = self._advance(step, None)
                    require_finite(moved.positions, read_facts(moved, None), step.atoms.names)
                self._search(step, moved)
            found = self._attempt(step, moved, wanted)
            if found is not None:
                return found, step.atoms
            must_search = True
        raise StalePairsError(
            "pair list",
            expected="a new list to hold",
            got="one that a rank calls outdated at once",
            fix="report this, with the positions of this step",
        )

    def facts(self) -> DomainFacts:
        """Of the last step."""
        domain = self._domain
        if domain is None:
            return DomainFacts(0, 0, 0, 0)
        pattern, width = domain.exchange.pattern, 3 * torch.finfo(self.loaded.dtype).bits // 8
        out = 3 * torch.finfo(domain.reference.positions.dtype).bits // 8
        n_counting = len(domain.home.counting)
        return DomainFacts(
            home=len(domain.home.types),
            halo=pattern.n_halo,
            rows=self.inner.rows if n_counting else 0,
            bytes_sent=pattern.n_sent * out + pattern.n_halo * width,
        )

    # --- a step --------------------------------------------------------------------------------

    def _begin(
        self,
        prepare: Callable[[], HomeStep],
        wanted: Wanted,
        fingerprint: Callable[[], int] | None,
    ) -> tuple[HomeStep, Moved, bool]:
        """What this rank has to say before anything travels, and what all have."""
        error: BaseException | None = None
        step = moved = None
        must_search, numbers = True, [0] * len(_SHARED)
        try:
            step = prepare()
            numbers = self._fingerprints(step, wanted, fingerprint)
            domain = self._domain
            known = domain is not None and domain.home is step.atoms
            moved = self._advance(step, domain if known else None)
            facts = read_facts(moved, None)
            require_finite(moved.positions, facts, step.atoms.names)
            must_search = self._is_old(step, facts.displacement)
        except BaseException as problem:
            error = problem
        mine = np.concatenate([halves(number) for number in numbers])
        flags = np.concatenate([[failed_flag(error), float(must_search)], mine, -mine])
        self._reduce(flags, "MAX")
        if flags[0]:
            raise_agreed(self.comm, error)
        largest, smallest = flags[2:].reshape(2, -1, 2) * np.array([1.0, -1.0])[:, None, None]
        different = (largest != smallest).any(axis=1)
        for (what, fix), differs in zip(_SHARED, different, strict=True):
            if differs:
                raise ProtocolError(
                    what, expected="the same on all ranks", got="different ones", fix=fix
                )
        assert step is not None
        assert moved is not None
        return step, moved, bool(flags[1])

    def _fingerprints(
        self, step: HomeStep, wanted: Wanted, fingerprint: Callable[[], int] | None
    ) -> list[int]:
        """Of the things in ``_SHARED``."""
        flags = (wanted.energy, wanted.forces, wanted.virial, wanted.energies)
        inputs = [
            (name, str(q.values.dtype), tuple(q.values.shape[1:]))
            for name, q in sorted(step.inputs.items())
        ]
        return [
            # no matter which of the two zeros
            of_values((step.cell.vectors + 0.0).tobytes(), [bool(p) for p in step.cell.pbc]),
            of_values([bool(flag) for flag in flags], self.skin, self.range),
            of_values(str(step.source.dtype), inputs),
            0 if fingerprint is None else fingerprint(),
        ]

    def _reduce(self, numbers: np.ndarray, operation: str) -> None:
        from mpi4py import MPI

        with stage("exchange"), waiting(self.comm):
            self.comm.Allreduce(MPI.IN_PLACE, numbers, op=getattr(MPI, operation))

    def _advance(self, step: HomeStep, domain: _Domain | None) -> Moved:
        reference = domain.reference if domain is not None else None
        return advance(step.source, step.rows, self.length, step.cell, reference, self.loaded.dtype)

    def _is_old(self, step: HomeStep, displacement: float) -> bool:
        domain = self._domain
        if domain is None or domain.home is not step.atoms:
            return True
        assert self.skin is not None
        width, range_ = self.range + self.skin, self.range
        return not displacement <= domain.reference.allowance(step.cell, width, range_)

    def _attempt(self, step: HomeStep, moved: Moved, wanted: Wanted) -> Evaluation | None:
        """One evaluation with the present lists; ``None`` if they are too old on some rank."""
        domain = self._domain
        assert domain is not None
        n_home, exchange = len(step.atoms.types), domain.exchange
        halo = exchange.outward(moved.positions)
        inputs = self._spread(step.inputs, n_home)
        positions = torch.cat([moved.positions, halo]) if len(halo) else moved.positions
        error: BaseException | None = None
        stale = False
        buffers = self._buffers(len(positions))
        kept = None
        try:
            kept = self._compute(step, positions, inputs, wanted, buffers)
        except StalePairsError:
            stale = True
        except OverlapError as problem:
            error = self._renamed(problem)
        except BaseException as problem:
            error = problem
        if wanted.forces:
            exchange.homeward(buffers["forces"][n_home:], buffers["forces"][:n_home])
        sums = np.concatenate([
            [failed_flag(error), float(stale)],
            torch.cat([buffers["energy"], buffers["virial"].reshape(9)]).cpu().numpy(),
            self._net_force(step.atoms, buffers["forces"][:n_home], wanted),
        ])  # fmt: skip
        self._reduce(sums, "SUM")
        if sums[0]:
            raise_agreed(self.comm, error)
        if sums[1]:
            return None
        device = self.loaded.device
        if len(sums) > _SUMS and sums[-1] == 0.0:
            # as the serial provider does, if all atoms count
            mean = torch.tensor(sums[_SUMS : _SUMS + 3] / max(sums[-2], 1.0), device=device)
            buffers["forces"][:n_home] -= mean.to(self.loaded.dtype)
        return Evaluation(
            energy=torch.tensor(sums[2:3], device=device) if wanted.energy else None,
            forces=buffers["forces"][:n_home] if wanted.forces else None,
            virial=torch.tensor(sums[3:_SUMS].reshape(1, 3, 3), device=device)
            if wanted.virial
            else None,
            energies=buffers["energies"][:n_home] if wanted.energies else None,
            uncertainty=self._home_uncertainty(kept, n_home, wanted),
            extra={},
        )

    def _net_force(self, atoms: HomeAtoms, forces: torch.Tensor, wanted: Wanted) -> np.ndarray:
        """Sum of forces that are no gradients; how many atoms there are, and how many do not count.

        Empty if they are gradients.
        """
        if self.n_ranks == 1 or self.inner.plan.force is None or not wanted.forces:
            return np.empty(0)
        n_home = len(atoms.types)
        total = forces.sum(dim=0, dtype=torch.float64).cpu().numpy()
        return np.concatenate([total, [n_home, n_home - len(atoms.counting)]])

    def _compute(
        self,
        step: HomeStep,
        positions: torch.Tensor,
        inputs: Mapping[str, Quantity],
        wanted: Wanted,
        buffers: dict[str, torch.Tensor],
    ) -> torch.Tensor | None:
        """The model on this rank's atoms; the uncertainty of each, if it tells."""
        if len(step.atoms.counting) == 0:
            return None
        request = Step(
            positions, step.cell, wanted.energy, wanted.forces, wanted.virial, wanted.energies,
            inputs=inputs,
        )  # fmt: skip
        self.inner.compute(request, ForceBuffers(**buffers)).synchronize()
        return self.inner.results.uncertainty

    def _home_uncertainty(
        self, kept: torch.Tensor | None, n_home: int, wanted: Wanted
    ) -> torch.Tensor | None:
        """Of home atoms: zeros on a rank that had nothing to evaluate, where others have some."""
        plan = self.inner.plan
        if plan.uncertainty is None or not wanted.needs_energy(plan):
            return None
        if kept is None:
            return torch.zeros(n_home, dtype=self.loaded.dtype, device=self.loaded.device)
        return kept[:n_home]

    def _buffers(self, n_local: int) -> dict[str, torch.Tensor]:
        device, wide = self.loaded.device, torch.float64
        return {
            "forces": torch.zeros((n_local, 3), dtype=self.loaded.dtype, device=device),
            "energy": torch.zeros(1, dtype=wide, device=device),
            "virial": torch.zeros((3, 3), dtype=wide, device=device),
            "energies": torch.zeros(n_local, dtype=wide, device=device),
        }

    def _spread(self, inputs: Mapping[str, Quantity], n_home: int) -> dict[str, Quantity]:
        """Extra inputs of all local atoms."""
        assert self._domain is not None
        found = {}
        for name, request in self.loaded.requested_inputs.items():
            given = inputs[name]
            if request.sample_kind == "atom":
                values = given.values
                given = Quantity(
                    torch.cat([values, self._domain.exchange.outward(values)]), given.unit
                )
            found[name] = given
        return found

    def _renamed(self, error: OverlapError) -> OverlapError:
        """The same with the names that the engine has for the atoms."""
        if self._domain is None or error.atoms is None:
            return error
        names = []
        for row in error.atoms:
            rank, name = self._domain.labels[row].tolist()
            known = self._domain.home.names is not None or rank == self.rank
            names.append(str(name) if known else f"{name} of rank {rank}")
        return OverlapError(
            f"atoms {' and '.join(names)}", expected=error.expected, got=error.got, fix=error.fix
        )

    # --- a pair search --------------------------------------------------------------------------

    def _search(self, step: HomeStep, moved: Moved) -> None:
        """Find the halo, the pairs, and the pattern of exchange."""
        assert self.skin is not None
        self._forget()
        with stage("search"):
            width = self.range + self.skin
            with collective(self.comm):
                positions = moved.positions.detach().cpu().numpy().astype(np.float64)
                counting = step.atoms.counting.cpu().numpy()
            halo = find_halo(self.comm, positions, counting, step.cell, width)
            exchange = Exchange(self.comm, halo.pattern, self.loaded.device, self._direct)
            around = exchange.outward(moved.positions)
            types = torch.cat([step.atoms.types, exchange.outward(step.atoms.types)])
            labels = self._labels(step.atoms)
            labels = torch.cat([labels, exchange.outward(labels)])
            error: BaseException | None = None
            try:
                distances = np.concatenate([halo.home_distances, halo.distances])
                margin = torch.from_numpy(self._margins(distances)).to(self.loaded.device)
                local = torch.cat([moved.positions, around])
                self._hand_over(step, local, types, margin)
                reference = Reference(moved.positions.clone(), step.cell)
                self._domain = _Domain(step.atoms, reference, exchange, labels)
            except BaseException as problem:
                error = problem
            self._agree_or_free(exchange, error)
            self.searches += 1

    def _margins(self, distances: np.ndarray) -> np.ndarray:
        """What the range leaves beyond each atom until the next search, see ``Candidates.margin``.

        An atom comes closer by the skin at most; but one whose energy does not count never takes
        the place of one whose energy does.
        """
        assert self.skin is not None
        nearest = np.maximum(distances - self.skin, NO_PLACE * self.range)
        return self.range - np.where(distances > 0.0, nearest, -self.skin)

    def _agree_or_free(self, exchange: Exchange, error: BaseException | None) -> None:
        try:
            agree(self.comm, error)
        except BaseException:
            self._domain = None
            exchange.free()
            raise

    def _labels(self, home: HomeAtoms) -> torch.Tensor:
        names = home.names
        if names is None:
            names = torch.arange(len(home.types), device=home.types.device)
        return torch.stack([torch.full_like(names, self.rank), names], dim=1)

    def _hand_over(
        self, step: HomeStep, local: torch.Tensor, types: torch.Tensor, margin: torch.Tensor
    ) -> None:
        """The local atoms and their pairs, for this rank's provider."""
        loaded, counting = self.loaded, step.atoms.counting
        assert self.skin is not None
        if len(counting) == 0:
            return  # nothing to evaluate
        alone = self.n_ranks == 1 and len(counting) == len(step.atoms.types)
        least = min((float(request.cutoff) for request in loaded.requests), default=0.0)
        reach = loaded.cutoff + self.skin
        candidates = find_pairs(local, step.cell, reach, None if alone else margin, least)
        self.inner.set_atoms(Atoms(types, selected=None if alone else counting))
        self.inner.set_pairs(candidates, step.cell)
