"""The provider for engines that divide their atoms over MPI ranks themselves."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from alchemi_bridge.atoms import PreparedAtoms
from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import (
    Atoms,
    ForceBuffers,
    PairRequest,
    Quantity,
    Requirements,
    Step,
    require_cell,
    require_kind,
)
from alchemi_bridge.delivery import Delivery
from alchemi_bridge.device import Event, place, require_current
from alchemi_bridge.domain.abort import collective, waiting
from alchemi_bridge.domain.aware import check_against_host, cuda_aware
from alchemi_bridge.domain.evaluator import DomainEvaluator, DomainFacts, HomeAtoms, HomeStep
from alchemi_bridge.domain.ranks import share_cores, single, world
from alchemi_bridge.errors import (
    ConfigurationError,
    PairListError,
    ProtocolError,
    UnsupportedOutputError,
)
from alchemi_bridge.model import Evaluation, LoadedModel, Route, load_model
from alchemi_bridge.model.inputs import read_values, require_given
from alchemi_bridge.model.outputs import OutputPlan
from alchemi_bridge.model.tuning import Mode
from alchemi_bridge.pairs import Pairs, Search
from alchemi_bridge.provider import (
    MetatomicForceProvider,
    buffers_of,
    out_of_order,
    own_autograd_mode,
    require_options,
    wanted_of,
)
from alchemi_bridge.uncertainty import warn_if_uncertain
from alchemi_bridge.units import Units, conversion_factor

LOGGER = logging.getLogger(__name__)


class DomainForceProvider:
    """Forces, energy and virial of a metatomic model that all ranks evaluate together.

    Implements :class:`~alchemi_bridge.contract.ForceProvider`; every call is collective. Each rank
    hands over its own atoms. Any division of the atoms gives the same results; one into compact
    domains (:func:`~alchemi_bridge.domain.decompose`) has the smallest halos. Forces and energies
    of atoms are added on the rank that has the atom; energy and virial of all ranks together are
    added on every rank.

    Pairs are searched by the provider (:class:`~alchemi_bridge.pairs.Search`), since only it knows
    which halo the model needs. An engine that brings its own ghost atoms and lists has
    :class:`~alchemi_bridge.provider.MetatomicForceProvider` on each rank.

    What one rank raises in a call, all ranks raise, and nothing is added then. (On a GPU, results
    that are finite, but not in the engine's buffers of float32, are found later, by the rank whose
    buffers they are.) A rank that ends without the others ends them, too
    (:mod:`alchemi_bridge.domain.abort`).

    Parameters
    ----------
    model
        Path of a metatomic model, or a model in memory; the same on all ranks.
    comm
        Communicator, of which a duplicate is used; ``"auto"`` for all ranks that were started.
    device
        Device of this rank; ``"cuda"`` without a number for the GPU with the number of the rank on
        its node.
    units
        Units of the engine.
    halo
        How far from its own atoms a rank knows those of others, in the engine's length unit; at
        least, and by default, the model's interaction range.
    sharing
        If ranks outnumber GPUs: ``"warn"``, ``"error"`` or ``"allow"``.
    uncertainty_threshold
        As for :class:`~alchemi_bridge.provider.MetatomicForceProvider`, as are all others.

    Raises
    ------
    ConfigurationError
        If the model's interaction range is infinite or the halo narrower than it, with more than
        one rank; if extra outputs or a non-conservative stress are asked for there.
    """

    def __init__(
        self,
        model: Any,
        comm: Any = "auto",
        *,
        device: str | torch.device | None = None,
        units: Units | None = None,
        halo: float | None = None,
        sharing: str = "warn",
        uncertainty_threshold: float | None = 0.1,
        **options: Any,
    ) -> None:
        self.comm = world(comm) or single()
        self.n_ranks, self.rank = int(self.comm.Get_size()), int(self.comm.Get_rank())
        if self.n_ranks > 1:
            share_cores(self.comm)
        with collective(self.comm):
            self._check_options(options)
            self.units = units or Units()
            inner = self._inner(model, device, sharing, uncertainty_threshold, options)
            self._length = conversion_factor(self.units.length, inner.loaded.length_unit)
            energy = conversion_factor(inner.loaded.energy_unit, self.units.energy)
        direct = False
        if inner.loaded.device.type == "cuda" and self.n_ranks > 1:
            awareness = cuda_aware(self.comm)
            direct = awareness.supported and check_against_host(self.comm, inner.loaded.device)
        with collective(self.comm):
            self._evaluator = DomainEvaluator(
                inner, self.comm, length=self._length, halo=halo, direct=direct
            )
        self._inner_provider = inner
        self.check_consistency = inner.check_consistency
        self._delivery = Delivery(energy, self._length)
        self._threshold = uncertainty_threshold
        self._prepared: PreparedAtoms | None = None
        self._home: HomeAtoms | None = None
        self._cell: Cell | None = None
        self._results: Evaluation | None = None
        self._report()

    def _inner(
        self,
        model: Any,
        device: str | torch.device | None,
        sharing: str,
        threshold: float | None,
        options: Mapping[str, Any],
    ) -> MetatomicForceProvider:
        """The provider of this rank: in the model's units, and silent about the uncertainty."""
        require_options(threshold, self.units)
        rest = dict(options)
        if str(device) == "cuda":
            device = place(sharing=sharing).device
        directory = rest.pop("extensions_directory", None)
        loaded = load_model(
            model,
            extensions_directory=None if directory is None else os.fspath(directory),
            sha256=rest.pop("sha256", None),
            device=device,
        )
        return MetatomicForceProvider(
            loaded,
            units=Units(loaded.length_unit, loaded.energy_unit),
            # the atoms have other numbers here, so that it is not this provider's to warn
            uncertainty_threshold=None if threshold is None else math.inf,
            **rest,
        )

    def _check_options(self, options: Mapping[str, Any]) -> None:
        if self.n_ranks == 1:
            return
        wrong = "extra_outputs" if options.get("extra_outputs") else ""
        if options.get("non_conservative") in (True, "stress"):
            wrong = "non_conservative stress"
        if wrong:
            raise ConfigurationError(
                f"{wrong} on {self.n_ranks} ranks",
                expected="energy, forces, virial and energies of atoms",
                got="an output of which nobody knows how the ranks' parts add up",
                fix="ask for it on one rank",
            )

    def _report(self) -> None:
        with waiting(self.comm):
            devices = self.comm.gather(str(self.loaded.device), root=0)
        if self.rank == 0 and self.n_ranks > 1:
            for rank, device in enumerate(devices):
                LOGGER.info("rank %d of %d computes on %s", rank, self.n_ranks, device)

    # --- as the serial provider ----------------------------------------------------------------

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        return self._evaluator.loaded

    @property
    def plan(self) -> OutputPlan:
        """Which of the model's outputs are used."""
        return self._inner_provider.plan

    @property
    def route(self) -> Route:
        """How gradients are taken."""
        return self._inner_provider.route

    @property
    def tuned(self) -> bool:
        """Whether the way of running the model on this rank is settled."""
        return self._inner_provider.tuned

    @property
    def mode(self) -> Mode:
        """How the model is run on this rank."""
        return self._inner_provider.mode

    @property
    def searches(self) -> int:
        """How many pair searches there were."""
        return self._evaluator.searches

    def facts(self) -> DomainFacts:
        """What this rank has to do in a step; zeros before the first."""
        return self._evaluator.facts()

    def close(self) -> None:
        """Give communicators back; collective.

        For programs that make hundreds of providers: MPI has only so many communicators, and can
        not free them where Python would. A closed provider may be used again.
        """
        self._evaluator.close()

    @property
    def requirements(self) -> Requirements:
        """What the engine must hand over, in its units."""
        found, per_length = self._inner_provider.requirements, 1.0 / self._length
        return replace(
            found,
            pair_range=found.pair_range * per_length,
            halo_range=found.halo_range * per_length,
            requests=tuple(
                PairRequest(r.cutoff * per_length, r.full_list, r.strict) for r in found.requests
            ),
            units=self.units,
        )

    @property
    def results(self) -> Evaluation:
        """Results of the last step in the model's units; energy and virial are those of all ranks.

        Raises
        ------
        ProtocolError
            Before a step.
        """
        if self._results is None:
            raise ProtocolError(
                "results", expected="a finished step", got="none yet", fix="call compute first"
            )
        return self._results

    @own_autograd_mode
    def set_atoms(self, atoms: Atoms) -> None:
        """Take the atoms of this rank; none is fine.

        Raises
        ------
        ShapeError, DtypeError, SpeciesError
            As the serial provider.
        """
        with collective(self.comm):
            require_kind("atoms", atoms, Atoms, "pass Atoms(types)")
            self._prepared = PreparedAtoms(atoms, self.loaded)
            self._home = HomeAtoms(
                self._prepared.types, self._counting(self._prepared), self._prepared.subset
            )
            self._results = None

    @staticmethod
    def _counting(prepared: PreparedAtoms) -> torch.Tensor:
        if prepared.selected is None:
            return torch.arange(len(prepared.types), device=prepared.types.device)
        return prepared.selected.values[:, 1].long()

    def set_pairs(self, pairs: Pairs, cell: Cell, ready: Event | None = None) -> None:
        """Order a pair search.

        Raises
        ------
        PairListError
            For anything but :class:`~alchemi_bridge.pairs.Search`.
        """
        with collective(self.comm):
            if self._prepared is None:
                raise out_of_order("set_pairs", "set_atoms")
            require_cell(cell)
            if not isinstance(pairs, Search):
                raise PairListError(
                    "pairs",
                    expected="Search(skin): under domain decomposition the provider finds the "
                    "pairs, since it knows which halo the model needs",
                    got=type(pairs).__name__,
                    fix="pass Search(1.0), or use MetatomicForceProvider with GhostPairs if the "
                    "engine has ghost atoms of its own",
                )
            if ready is not None:
                ready.wait(self.loaded.device)
        self._cell = cell
        self._evaluator.start(pairs.skin * self._length)

    @own_autograd_mode
    def compute(self, step: Step, out: ForceBuffers) -> Event:
        """Evaluate one step and add the results to the engine's buffers; nothing if it fails."""
        self._results = None
        views: dict[str, torch.Tensor] = {}

        def prepare() -> HomeStep:
            found, source, cell = self._checked(step, out)
            views.update(found)
            assert self._prepared is not None
            assert self._home is not None
            inputs = self._inputs(step, self._prepared)
            return HomeStep(self._home, source, self._prepared.subset, cell, inputs)

        found, _ = self._evaluator.evaluate(prepare, wanted_of(step))
        assert self._prepared is not None
        self._warn(found, self._prepared.subset)
        check = self._delivery.add(found, views, self._prepared.subset, self._together)
        self._results = found
        return Event.record(self.loaded.device, check=check)

    # --- shared with the provider of replicated atoms -------------------------------------------

    def _checked(
        self, step: Step, out: ForceBuffers
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, Cell]:
        """Views of the buffers, the positions, and the cell in the model's unit."""
        self._delivery.settle()
        if self._prepared is None:
            raise out_of_order("compute", "set_atoms")
        if self._cell is None:
            raise out_of_order("compute", "set_pairs")
        device = self.loaded.device
        if getattr(step, "virials", False):
            raise UnsupportedOutputError(
                "virial of each atom",
                expected="MetatomicForceProvider: between ranks only forces go home from a halo",
                got=type(self).__name__,
                fix="ask for the total virial, Step(virial=True), or evaluate on one rank",
            )
        positions, views = buffers_of(step, out, self._prepared.n_atoms, device)
        if device.type == "cuda":
            require_current(device)
        if step.ready is not None:
            require_kind("ready", step.ready, Event, "pass an Event, or None")
            step.ready.wait(device)
        cell = self._cell if step.cell is None else step.cell
        return views, positions, cell.scaled(self._length)

    def _inputs(self, step: Step, prepared: PreparedAtoms) -> dict[str, Quantity]:
        """Extra inputs of the atoms that the model sees, on the device."""
        given, found = {**prepared.inputs, **step.inputs}, {}
        for name, request in self.loaded.requested_inputs.items():
            quantity = require_given(name, request, given)
            values = read_values(name, request.sample_kind, quantity.values, prepared.n_atoms)
            values = values.to(self.loaded.device)
            if prepared.subset is not None and request.sample_kind == "atom":
                values = values[prepared.subset]
            found[name] = Quantity(values, quantity.unit)
        return found

    @property
    def _speaks(self) -> bool:
        """Whether this rank warns of what its results say."""
        return True

    def _together(self) -> AbstractContextManager[None]:
        """Context of what ends for all ranks in the same way."""
        return collective(self.comm)

    def _warn(self, found: Evaluation, names: torch.Tensor | None) -> None:
        """Of uncertain atoms; by the first rank for all, if all have all atoms."""
        if found.uncertainty is None or self._threshold is None:
            return
        with self._together():  # a warning may be an error
            if self._speaks:
                factor = conversion_factor(self.loaded.energy_unit, "eV")
                warn_if_uncertain(found.uncertainty * factor, self._threshold, names, stacklevel=5)
