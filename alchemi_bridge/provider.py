"""The provider for metatomic models: the one module that sees every stage of the data's way.

engine buffers -> pairs -> neighbours -> model -> forces -> engine buffers
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from numbers import Real
from typing import Any, Literal

import torch
from metatomic.torch import ModelOutput

from alchemi_bridge.atoms import PreparedAtoms
from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import (
    Atoms,
    ForceBuffers,
    PairRequest,
    Requirements,
    Step,
    require_cell,
    require_kind,
)
from alchemi_bridge.delivery import Delivery
from alchemi_bridge.device import DeviceBuffer, Event, debug_enabled, require_current
from alchemi_bridge.device.host_memory import keep_freed_memory
from alchemi_bridge.errors import (
    ConfigurationError,
    EvaluationError,
    PairListError,
    ProtocolError,
)
from alchemi_bridge.geometry import Geometry, StepGeometry, system_input
from alchemi_bridge.model import (
    Evaluation,
    LoadedModel,
    Route,
    Wanted,
    evaluate,
    load_model,
    plan_outputs,
)
from alchemi_bridge.model.inputs import build_inputs
from alchemi_bridge.model.outputs import NonConservative
from alchemi_bridge.model.replay import Replay
from alchemi_bridge.model.tuning import Mode, Tuner, possible_modes
from alchemi_bridge.neighbors.checksum import CoordinateGuard
from alchemi_bridge.pairs import Pairs, is_pairs
from alchemi_bridge.stages import stage
from alchemi_bridge.uncertainty import warn_if_uncertain
from alchemi_bridge.units import Units, conversion_factor

LOGGER = logging.getLogger(__name__)

FLOATS = (torch.float32, torch.float64)

#: What a step may ask for, by the names of its flags and of the buffers.
QUANTITIES = ("forces", "energy", "virial", "energies", "virials")

#: What runs without measuring: TorchScript as it comes, lists cut in every step.
UNTUNED = Mode(optimize=True, uncut=False)

#: Gradients are taken here, also for a caller who works without: engines run whole simulations
#: under ``torch.inference_mode``, whose tensors can not take part in a graph.
own_autograd_mode = torch.inference_mode(mode=False)


class MetatomicForceProvider:
    """Forces, energy and virial of a metatomic model for an engine.

    Implements :class:`~alchemi_bridge.contract.ForceProvider`.

    Parameters
    ----------
    model
        Path of a metatomic model, a model in memory, or a
        :class:`~alchemi_bridge.model.LoadedModel`.
    device
        Device to run on; the model's first choice by default. Buffers must be there.
    units
        Units of the engine.
    variants, non_conservative
        See :func:`~alchemi_bridge.model.plan_outputs`.
    uncertainty_threshold
        Largest uncertainty of an atom's energy, in eV, that passes without a warning; ``None``
        leaves the uncertainty out.
    extra_outputs
        Further outputs to evaluate in every step, see :attr:`results`.
    extensions_directory, sha256
        Trust policy, see :func:`~alchemi_bridge.model.load_model`.
    scale
        Factor on everything that is added to an engine's buffers.
    check_consistency
        Let metatomic check inputs and outputs in every step (slow).
    gradient
        ``"leaves"``, ``"strain"``, or ``"auto"``: the first unless the model differentiates with
        respect to positions by itself. See :mod:`alchemi_bridge.model.graph`.
    tuning
        Try the ways of running the model in the first steps, and keep the fastest; see
        :mod:`alchemi_bridge.model.tuning`. They differ in the last digits: without it, every run
        of a program gives the same bits.
    cuda_graph
        On a GPU, record the evaluation of whole lists as a CUDA graph and replay it, where the
        model allows that; see :mod:`alchemi_bridge.model.replay`. Off by default, because it has
        not run on a GPU yet.

    Notes
    -----
    Calls are ordered on the device's current stream (:func:`~alchemi_bridge.device.run_on` makes
    an engine's own stream current). The provider allocates what it needs, and keeps no reference to
    the engine's positions or buffers beyond a call.

    With ``ALCHEMI_BRIDGE_DEBUG=1`` every step also compares the pairs with those of a new search,
    and a checksum of the coordinates before and after: slow, for finding out what is wrong.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: str | torch.device | None = None,
        units: Units | None = None,
        variants: Mapping[str, str | None] | None = None,
        non_conservative: NonConservative = False,
        uncertainty_threshold: float | None = 0.1,
        extra_outputs: Iterable[str] | Mapping[str, ModelOutput] = (),
        extensions_directory: str | os.PathLike[str] | None = None,
        sha256: str | None = None,
        scale: float = 1.0,
        check_consistency: bool = False,
        gradient: Literal["auto", "leaves", "strain"] = "auto",
        tuning: bool = True,
        cuda_graph: bool = False,
    ) -> None:
        self.loaded: LoadedModel = load_model(
            model,
            extensions_directory=_text(extensions_directory),
            sha256=sha256,
            device=device,
        )
        if self.loaded.device.type == "cpu":
            keep_freed_memory()
        require_options(uncertainty_threshold, units, scale)
        self.plan = plan_outputs(
            self.loaded.capabilities,
            variants=variants,
            non_conservative=non_conservative,
            uncertainty=uncertainty_threshold is not None,
            extra=extra_outputs,
        )
        self.units = units or Units()
        self.route: Route = choose_route(self.loaded, gradient)
        self._threshold = uncertainty_threshold
        self._debug = debug_enabled()
        on_gpu = self.loaded.device.type == "cuda"
        self._replay = Replay() if cuda_graph and on_gpu else None
        self.check_consistency = check_consistency
        self._length = conversion_factor(self.units.length, self.loaded.length_unit)
        energy = conversion_factor(self.loaded.energy_unit, self.units.energy)
        self._delivery = Delivery(energy * scale, self._length)
        self._tuner = Tuner(self._modes() if tuning else [UNTUNED], self.loaded.device)
        self._atoms: PreparedAtoms | None = None
        self._geometry: Geometry | None = None
        self._results: Evaluation | None = None
        self._rows = 0
        self._stream: torch.cuda.Stream | None = None
        self._on_many_streams = False

    @property
    def requirements(self) -> Requirements:
        """What the engine must hand over, in its units."""
        loaded, per_length = self.loaded, 1.0 / self._length
        return Requirements(
            pair_range=loaded.cutoff * per_length,
            halo_range=loaded.interaction_range * per_length,
            requests=tuple(
                PairRequest(float(r.cutoff) * per_length, bool(r.full_list), bool(r.strict))
                for r in loaded.requests
            ),
            dtype=loaded.dtype,
            device=loaded.device,
            units=self.units,
            atomic_types=loaded.atomic_types,
            outputs=tuple(sorted(loaded.capabilities.outputs)),
            inputs={name: request.unit for name, request in loaded.requested_inputs.items()},
            energies=self.plan.energy_per_atom,
        )

    def _modes(self) -> list[Mode]:
        loaded = self.loaded
        may_be_uncut = (
            self.route == "leaves"
            and not self.check_consistency
            and not any(bool(request.strict) for request in loaded.requests)
            and len(loaded.requests) > 0
            # what a model is given, or gives besides, must not change when the step is over
            and not loaded.requested_inputs
            and not self.plan.extra
        )
        return possible_modes(may_be_uncut=may_be_uncut)

    @property
    def tuned(self) -> bool:
        """Whether the way of running the model is settled."""
        return self._tuner.done

    @property
    def mode(self) -> Mode:
        """How the model is run at present."""
        return self._tuner.mode

    @property
    def results(self) -> Evaluation:
        """All results of the last step, in the model's units, on the model's device.

        Here are the extra outputs and the uncertainty; rows are the atoms that the model sees.
        """
        if self._results is None:
            raise ProtocolError(
                "results", expected="a finished step", got="none yet", fix="call compute first"
            )
        return self._results

    @property
    def rows(self) -> int:
        """Rows of all neighbour lists that the model got in the last step."""
        return self._rows

    @property
    def searches(self) -> int:
        """How many pair searches (or decoded lists) this provider has seen for its atoms."""
        return 0 if self._geometry is None else self._geometry.searches

    @own_autograd_mode
    def set_atoms(self, atoms: Atoms) -> None:
        """Take the atoms of this rank.

        Raises
        ------
        ShapeError, DtypeError
            If types, subset or selection do not fit.
        SpeciesError
            If the model does not know a type.
        """
        require_kind("atoms", atoms, Atoms, "pass Atoms(types)")
        self._keep_order(replacing=True)
        self._atoms = PreparedAtoms(atoms, self.loaded)
        self._geometry = self._results = None

    @own_autograd_mode
    def set_pairs(self, pairs: Pairs, cell: Cell, ready: Event | None = None) -> None:
        """Take a new pair list, or the order to search.

        Raises
        ------
        ProtocolError
            Before :meth:`set_atoms`.
        PairListError
            If the list is shorter than the model's cutoff, or inconsistent.
        """
        atoms = self._require_atoms("set_pairs")
        require_cell(cell)
        if not is_pairs(pairs):
            raise PairListError(
                "pairs",
                expected="HalfPairs, FullPairs, GhostPairs, NeighborMatrix, ClusterPairs or Search",
                got=type(pairs).__name__,
                fix="wrap the list, or pass Search(skin) to let the provider search",
            )
        self._keep_order(replacing=True)
        if ready is not None:
            require_kind("ready", ready, Event, "pass an Event, or None")
            ready.wait(self.loaded.device)
        geometry = self._geometry or Geometry(
            self.loaded,
            n_atoms=atoms.n_atoms,
            subset=atoms.subset,
            length=self._length,
            names=atoms.seen_names,
        )
        geometry.set_pairs(pairs, cell)
        self._geometry = geometry  # only now: a list that was refused leaves things as they were

    @own_autograd_mode
    def compute(self, step: Step, out: ForceBuffers) -> Event:
        """Evaluate one step and add the results to the engine's buffers.

        Nothing is added if the step fails.

        Raises
        ------
        ProtocolError
            Before :meth:`set_atoms` and :meth:`set_pairs`, or if a wanted buffer is missing.
        ShapeError, DtypeError, DeviceMismatchError, BufferAccessError
            If a buffer does not fit.
        NonFiniteError, OverlapError, CellError
            If the geometry is none.
        StalePairsError
            If atoms moved farther than a list that was handed over allows.
        UnsupportedOutputError, EvaluationError, NonFiniteResultError
            If the model can not, fails, or returns what is no number.
        """
        self._results = None  # those of an earlier step must not pass for those of a failed one
        atoms, device = self._require_atoms("compute"), self.loaded.device
        if self._geometry is None:
            raise out_of_order("compute", "set_pairs")
        positions, views = buffers_of(step, out, atoms.n_atoms, device)
        self._keep_order()  # before anything is launched
        if step.ready is not None:
            require_kind("ready", step.ready, Event, "pass an Event, or None")
            step.ready.wait(device)
        if atoms.nothing_to_do:
            return Event.record(device)  # an empty rank: nothing to add
        searches = self._geometry.searches
        self._tuner.start()
        guard = CoordinateGuard(positions, atoms.subset) if self._debug else nullcontext()
        with guard:
            system = self._prepare(step, self._geometry, positions)
            try:
                evaluation = self._evaluate(atoms, step, system)
            except EvaluationError as error:
                if not self._tuner.mode.uncut:
                    raise
                # some models write into what they are given, which must be new every time then
                LOGGER.info("the model fails with whole lists, which are given up: %s", error)
                self._tuner.give_up_whole_lists()
                system = self._prepare(step, self._geometry, positions)
                evaluation = self._evaluate(atoms, step, system)
        check = self._finish(evaluation, views, atoms)
        self._tuner.stop(counts=self._geometry.searches == searches)
        # on a GPU nobody has looked at the results yet: who waits for the event does
        return Event.record(device, check=check)

    def finish(self) -> None:
        """Wait for the results of all steps so far.

        For callers who do not wait for the events of their steps: on a GPU the last step of a run
        has no next one that would say what was wrong with it.

        Raises
        ------
        NonFiniteResultError
            If a result of the last step is not finite and nobody was told. Nothing was added then.
        """
        if self._stream is not None:
            self._stream.synchronize()
        self._delivery.settle()

    def _prepare(self, step: Step, geometry: Geometry, positions: torch.Tensor) -> StepGeometry:
        """Neighbours of this step."""
        geometry.uncut = self._tuner.mode.uncut
        system = geometry.step(positions, step.cell)
        self._rows = sum(len(pairs.samples) for pairs in system.pairs)
        self._delivery.settle()  # the device was read just now: the last step is done
        if self._debug:
            geometry.require_right_pairs(system)
        return system

    def _evaluate(self, atoms: PreparedAtoms, step: Step, system: StepGeometry) -> Evaluation:
        """The model on them."""
        mode = self._tuner.mode
        inputs = build_inputs(
            self.loaded.requested_inputs,
            {**atoms.inputs, **step.inputs},
            n_atoms=atoms.n_atoms,
            subset=atoms.subset,
            dtype=self.loaded.dtype,
            device=self.loaded.device,
        )
        wanted = wanted_of(step)

        def run() -> Evaluation:
            return evaluate(
                self.loaded,
                self.plan,
                [system_input(self.loaded, atoms.types, system, inputs)],
                wanted,
                selected=atoms.selected,
                route=self.route,
                check_consistency=self.check_consistency,
                optimize=mode.optimize,
            )

        if self._replay is None or system.lasting is None or not self._tuner.done:
            return run()
        flags = (*(getattr(wanted, name) for name in QUANTITIES), mode.optimize)
        return self._replay.run((system.lasting, system.rows, atoms, *flags), run)

    def _finish(
        self, evaluation: Evaluation, views: Mapping[str, torch.Tensor], atoms: PreparedAtoms
    ) -> Callable[[], None] | None:
        """Add the results to the engine's buffers, and keep them; what looks at them later."""
        with stage("accumulate"):
            check = self._delivery.add(evaluation, views, atoms.subset)
        self._results = evaluation
        if evaluation.uncertainty is not None and self._threshold is not None:
            factor = conversion_factor(self.loaded.energy_unit, "eV")
            warn_if_uncertain(
                evaluation.uncertainty * factor,
                self._threshold,
                atoms.seen_names,
                stacklevel=5,  # past compute and its decorator
            )
        return check

    def _keep_order(self, replacing: bool = False) -> None:
        """On a GPU: the right device, and after what was queued on another stream before.

        What lives from call to call belongs to the stream that it was made on. If calls come on
        several, what is ``replacing`` it waits until nobody uses the old any more.
        """
        device = self.loaded.device
        if device.type != "cuda":
            return
        require_current(device)
        stream = torch.cuda.current_stream(device)
        if self._stream is not None and stream != self._stream:
            stream.wait_stream(self._stream)
            self._on_many_streams = True
        if replacing and self._on_many_streams:
            stream.synchronize()
        self._stream = stream

    def _require_atoms(self, call: str) -> PreparedAtoms:
        if self._atoms is None:
            raise out_of_order(call, "set_atoms")
        return self._atoms


def buffers_of(
    step: Step, out: ForceBuffers, n_atoms: int, device: torch.device
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The positions of a step and the buffers that it wants, as checked views of their memory."""
    require_kind("step", step, Step, "pass Step(positions)")
    require_kind("out", out, ForceBuffers, "pass ForceBuffers(forces, energy)")
    positions = DeviceBuffer.of(step.positions, "positions").require(
        "positions", shape=(n_atoms, 3), dtypes=FLOATS, device=device
    )
    names = [name for name in QUANTITIES if getattr(step, name)]
    return positions, {name: out.view(name, n_atoms, device) for name in names}


def wanted_of(step: Step) -> Wanted:
    """The quantities that a step asks for; the wrong kind of step is refused elsewhere."""
    return Wanted(**{name: getattr(step, name, False) for name in QUANTITIES})


def _is_positive(value: Any) -> bool:
    try:
        return isinstance(value, Real) and float(value) > 0.0
    except OverflowError:  # an integer beyond the range of floats
        return False


def require_options(uncertainty_threshold: Any, units: Any, scale: Any = 1.0) -> None:
    """Raise :class:`ConfigurationError` unless all are what they should be."""
    if not isinstance(scale, Real) or not math.isfinite(scale):
        raise ConfigurationError(
            "scale", expected="a finite number", got=repr(scale), fix="pass 1.0 to change nothing"
        )
    if uncertainty_threshold is not None and not _is_positive(uncertainty_threshold):
        raise ConfigurationError(
            "uncertainty_threshold",
            expected="a positive energy in eV, or None",
            got=repr(uncertainty_threshold),
            fix="pass None to leave the uncertainty out",
        )
    if units is not None and not isinstance(units, Units):
        raise ConfigurationError(
            "units",
            expected="alchemi_bridge.Units, or None for angstrom and eV",
            got=repr(units),
            fix="pass Units('nm', 'kJ/mol'), for example",
        )


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def choose_route(loaded: LoadedModel, gradient: str) -> Route:
    """The way in which gradients are taken, see :mod:`alchemi_bridge.model.graph`."""
    if isinstance(gradient, str):
        if gradient == "leaves":
            return "leaves"
        if gradient == "strain":
            return "strain"
        if gradient == "auto":
            return "strain" if loaded.differentiates_internally else "leaves"
    raise ConfigurationError(
        "gradient",
        expected="'auto', 'leaves' or 'strain'",
        got=repr(gradient),
        fix="choose one of these",
    )


def out_of_order(call: str, before: str) -> ProtocolError:
    """The error for a call that came too early."""
    return ProtocolError(
        call,
        expected=f"{before} to be called before",
        got=f"{call} first",
        fix="call set_atoms, then set_pairs, then compute",
    )
