"""Run a model on prepared systems; energies, forces and virial come back as plain tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import metatensor.torch as mts
import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import ModelOutput

from alchemi_bridge.errors import EvaluationError, UnsupportedOutputError, last_line
from alchemi_bridge.model.execution import optimized
from alchemi_bridge.model.graph import (
    Graphs,
    Route,
    SeparateGraphs,
    SystemInput,
    no_virials,
)
from alchemi_bridge.model.joined import JoinedGraphs, JoinedInput
from alchemi_bridge.model.load import LoadedModel
from alchemi_bridge.model.outputs import OutputPlan, Wanted, current_name
from alchemi_bridge.model.results import Layout, Results
from alchemi_bridge.stages import stage


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results in the model's units; atoms of all systems one after the other.

    Attributes
    ----------
    energy
        (n_systems,) float64, ``None`` if not wanted.
    forces
        (n_atoms, 3), ``None`` if not wanted.
    virial
        (n_systems, 3, 3) dE/d(strain), symmetric, ``None`` if not wanted.
    energies, uncertainty
        (n_atoms,) energy of each atom and its uncertainty; zero for atoms that were not selected.
    extra
        Further outputs, detached, by the name under which they were requested.
    virials
        (n_atoms, 3, 3) share of each atom in dE/d(strain), not symmetrised, ``None`` if not wanted.
    """

    energy: torch.Tensor | None
    forces: torch.Tensor | None
    virial: torch.Tensor | None
    energies: torch.Tensor | None
    uncertainty: torch.Tensor | None
    extra: dict[str, TensorMap]
    virials: torch.Tensor | None = None


def evaluate(
    loaded: LoadedModel,
    plan: OutputPlan,
    systems: Sequence[SystemInput] | JoinedInput,
    wanted: Wanted,
    *,
    selected: Labels | None = None,
    route: Route = "leaves",
    check_consistency: bool = False,
    optimize: bool = True,
) -> Evaluation:
    """Evaluate the model once on all systems.

    Parameters
    ----------
    loaded, plan
        The model, and which of its outputs to use.
    systems
        At least one, each by itself or all in common arrays.
    wanted
        Quantities to compute.
    selected
        Labels ``["system", "atom"]`` of the atoms whose energy counts; ``None`` for all.
    route
        How gradients are taken, see :mod:`alchemi_bridge.model.graph`.
    check_consistency
        Let metatomic check inputs and outputs (slow).
    optimize
        Let TorchScript optimise the model; which is faster depends on the model.

    Raises
    ------
    UnsupportedOutputError
        If the model lacks an output that is wanted, or its virial can not be divided among atoms.
    EvaluationError
        If the model fails.
    """
    attach = route == "strain"
    _check_outputs(plan, wanted, attach)
    by_gradient = wanted.by_gradient(plan)
    requests = loaded.execution.kept_requests(
        (plan, wanted), lambda: requests_for(loaded, plan, wanted)
    )
    # An output that is wanted for itself and as an extra one (in another unit, say) is asked for
    # twice, since a model can be asked for a name only once.
    extra_requests = {current_name(name): request for name, request in plan.extra.items()}
    twice = {name: request for name, request in extra_requests.items() if name in requests}
    once = {name: request for name, request in extra_requests.items() if name not in requests}
    with optimized(optimize), torch.set_grad_enabled(by_gradient or attach):
        graphs = build_graphs(loaded, systems, by_gradient, attach)
        outputs = _run(loaded, {**requests, **once}, graphs, selected, check_consistency)
        found = _extra(outputs, once)
        if twice:
            # new inputs: a model may write into those that it was given
            new = build_graphs(loaded, systems, False, attach)
            again = _run(loaded, twice, new, selected, check_consistency)
            found.update(_extra(again, twice))
    extra = {name: found[current_name(name)] for name in plan.extra}
    with _results_that_fit(), optimized(optimize):  # the way back is TorchScript's, too
        results = Results(loaded, plan, Layout.of(systems), outputs, selected is None)
        return _read(results, wanted, graphs, extra)


@contextmanager
def _results_that_fit() -> Iterator[None]:
    """What the model returns was not checked by metatomic: any of its numbers may be off."""
    try:
        yield
    except (RuntimeError, IndexError, ValueError, KeyError) as error:
        raise EvaluationError(
            "results of the model",
            expected="blocks as metatomic describes them",
            got=last_line(error),
            fix="check the model with check_consistency=True",
        ) from error


def energies_with_graph(
    loaded: LoadedModel,
    plan: OutputPlan,
    systems: JoinedInput,
    *,
    route: Route | None = None,
) -> tuple[torch.Tensor, JoinedGraphs]:
    """Energies that can be differentiated by whatever of the model requires a gradient.

    Parameters
    ----------
    loaded, plan
        The model, and which of its outputs is the energy.
    systems
        At least one.
    route
        How gradients by positions are going to be taken, ``None`` if they are not.

    Returns
    -------
    energies
        (n_systems,) float64 in the model's unit; with a graph unless gradients are switched off.
    graphs
        What the model was given.

    Raises
    ------
    UnsupportedOutputError
        If the model has no energy.
    EvaluationError
        If the model fails.
    """
    wanted = Wanted(energy=True, forces=route is not None)
    _check_outputs(plan, wanted, attach=False)
    requests = requests_for(loaded, plan, Wanted(energy=True, forces=False))
    graphs = JoinedGraphs(loaded, systems, route == "leaves", route == "strain")
    outputs = _run(loaded, requests, graphs, None, False)
    with _results_that_fit():
        results = Results(loaded, plan, Layout.of(systems), outputs, True)
        return results.energy_with_graph(), graphs


def build_graphs(
    loaded: LoadedModel,
    systems: Sequence[SystemInput] | JoinedInput,
    with_gradient: bool,
    attach: bool,
) -> Graphs:
    """What the model gets, see :func:`~alchemi_bridge.model.graph.build_graph`."""
    if isinstance(systems, JoinedInput):
        return JoinedGraphs(loaded, systems, with_gradient, attach)
    return SeparateGraphs(loaded, systems, with_gradient, attach)


def _read(
    results: Results, wanted: Wanted, graphs: Graphs, extra: dict[str, TensorMap]
) -> Evaluation:
    """Outputs of the model as plain tensors, and the gradients of its energy."""
    plan, outputs = results.plan, results.outputs
    forces, virial = results.direct(wanted)
    virials = None
    if wanted.by_gradient(plan):
        with stage("backward"):
            gradients = graphs.differentiate(results.energy_values())
        by_force, by_virial = (
            wanted.forces and plan.force is None,
            wanted.virial and not plan.stress,
        )
        with stage("accumulate"):
            found, whole = gradients.collect(by_virial)
            if wanted.virials:
                virials = gradients.virials()
        forces = found if by_force else forces
        virial = whole if by_virial else virial
    return Evaluation(
        energy=results.energy() if wanted.energy else None,
        forces=forces,
        virial=None if virial is None else (virial + virial.transpose(1, 2)) / 2.0,
        energies=results.per_atom(plan.energy) if wanted.energies else None,
        uncertainty=results.per_atom(plan.uncertainty) if plan.uncertainty in outputs else None,
        extra=extra,
        virials=virials,
    )


def _check_outputs(plan: OutputPlan, wanted: Wanted, attach: bool) -> None:
    if plan.energy is None and wanted.needs_energy(plan):
        raise UnsupportedOutputError(
            "energy",
            expected="a model with an energy output",
            got="a model without one",
            fix="ask for its other outputs only (extra outputs, non-conservative forces)",
        )
    if wanted.energies and not plan.energy_per_atom:
        raise UnsupportedOutputError(
            "energy of each atom",
            expected=f"a model whose output '{plan.energy}' is per atom",
            got="one that gives the energy of the whole system only",
            fix="ask for the total energy",
        )
    if wanted.virials and plan.stress is not None:
        raise no_virials("the non-conservative stress, which the model gives as a whole")
    if wanted.virials and attach:
        raise no_virials(
            "a model that may differentiate by positions itself, or gradient='strain': then the "
            "gradient by pair vectors is not known"
        )


def requests_for(loaded: LoadedModel, plan: OutputPlan, wanted: Wanted) -> dict[str, ModelOutput]:
    """Outputs that the wanted quantities are made from, in the model's own units."""
    length, energy = loaded.length_unit, loaded.energy_unit
    requests: dict[str, ModelOutput] = {}
    needed = wanted.needs_energy(plan)
    if plan.energy is not None and needed:
        kind = "atom" if wanted.energies else "system"
        requests[plan.energy] = ModelOutput(unit=energy, sample_kind=kind)
    if needed and plan.uncertainty is not None:
        requests[plan.uncertainty] = ModelOutput(unit=energy, sample_kind="atom")
    if wanted.forces and plan.force is not None:
        requests[plan.force] = ModelOutput(unit=f"({energy})/({length})", sample_kind="atom")
    if wanted.virial and plan.stress is not None:
        unit = f"({energy})/({length})^3"
        requests[plan.stress] = ModelOutput(unit=unit, sample_kind="system")
    return requests


def _run(
    loaded: LoadedModel,
    requests: dict[str, ModelOutput],
    graphs: Graphs,
    selected: Labels | None,
    check_consistency: bool,
) -> dict[str, TensorMap]:
    try:
        systems = graphs.systems
        with stage("forward"):
            return loaded.execution.run(systems, requests, selected, check_consistency)
    except Exception as error:  # the model is foreign code and may raise anything
        raise EvaluationError(
            "evaluation of the model",
            expected="results",
            got=last_line(error),
            fix="check that the structure is one that the model was made for",
        ) from error


def _extra(outputs: Mapping[str, TensorMap], names: Iterable[str]) -> dict[str, TensorMap]:
    missing = [name for name in names if name not in outputs]
    if missing:
        raise EvaluationError(
            f"output '{missing[0]}'",
            expected="values, since the model declares this output",
            got="nothing",
            fix="check the model with check_consistency=True",
        )
    return {name: mts.detach(outputs[name]) for name in names}
