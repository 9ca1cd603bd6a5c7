"""Run a model on prepared systems; energies, forces and virial come back as plain tensors.

Gradients are taken with respect to everything that the model can see: pair vectors, positions and
cell are separate leaves of the graph. By the chain rule,

    F_i  =  -dE/dx_i + sum_k (dE/dr_ik - dE/dr_ki)
    dE/d(strain)  =  sum_k r_k (x) dE/dr_k + sum_i x_i (x) dE/dx_i + sum_a h_a (x) dE/dh_a

is exact for models that use pair vectors only, and for those that read positions or cell directly,
and no strain has to be carried through the model. Only a model that itself differentiates with
respect to positions needs pair vectors that hang on them (``route="strain"``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import metatensor.torch as mts
import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelEvaluationOptions, ModelOutput, System

from alchemi_bridge.errors import EvaluationError, UnsupportedOutputError
from alchemi_bridge.model.load import LoadedModel
from alchemi_bridge.model.outputs import OutputPlan, current_name
from alchemi_bridge.neighbors import (
    RequestedPairs,
    neighbor_block,
    pair_offsets,
    pair_vectors,
    sum_over_pairs,
    virial_of_pairs,
)

Route = Literal["leaves", "strain"]


class NoGradientError(EvaluationError):
    """The model's energy can not be differentiated."""


@dataclass(frozen=True, eq=False)
class SystemInput:
    """One system, in the model's units, dtype and device.

    Attributes
    ----------
    types
        (n_atoms,) int32.
    positions
        (n_atoms, 3).
    cell
        (3, 3), zero rows where not periodic.
    pbc
        (3,) bool tensor.
    volume
        Volume, or ``None`` where the cell is not periodic in three directions.
    pairs
        Neighbours for each of the model's requests, in their order.
    inputs
        Extra inputs by name.
    """

    types: torch.Tensor
    positions: torch.Tensor
    cell: torch.Tensor
    pbc: torch.Tensor
    volume: float | None
    pairs: Sequence[RequestedPairs]
    inputs: dict[str, TensorMap] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What to compute."""

    energy: bool = True
    forces: bool = True
    virial: bool = False
    energies: bool = False


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
    """

    energy: torch.Tensor | None
    forces: torch.Tensor | None
    virial: torch.Tensor | None
    energies: torch.Tensor | None
    uncertainty: torch.Tensor | None
    extra: dict[str, TensorMap]


@dataclass(frozen=True, eq=False)
class _Graph:
    """Inputs of one system as the model gets them, and the leaves to differentiate by."""

    system: System
    positions: torch.Tensor
    cell: torch.Tensor
    vectors: list[torch.Tensor]
    strain: torch.Tensor | None


def evaluate(
    loaded: LoadedModel,
    plan: OutputPlan,
    systems: Sequence[SystemInput],
    wanted: Wanted,
    *,
    selected: Labels | None = None,
    route: Route = "leaves",
    check_consistency: bool = False,
) -> Evaluation:
    """Evaluate the model once on all systems.

    Parameters
    ----------
    loaded, plan
        The model, and which of its outputs to use.
    systems
        At least one.
    wanted
        Quantities to compute.
    selected
        Labels ``["system", "atom"]`` of the atoms whose energy counts; ``None`` for all.
    route
        How gradients are taken, see the module's docstring.
    check_consistency
        Let metatomic check inputs and outputs (slow).

    Raises
    ------
    UnsupportedOutputError
        If the model lacks an output that is wanted.
    EvaluationError
        If the model fails.
    """
    _check_outputs(plan, wanted)
    differentiate = (wanted.forces and plan.force is None) or (
        wanted.virial and plan.stress is None
    )
    attach = route == "strain"
    requests = _requests(loaded, plan, wanted, differentiate)
    # An output that is wanted for itself and as an extra one (in another unit, say) is asked for
    # twice, since a model can be asked for a name only once.
    extra_requests = {current_name(name): request for name, request in plan.extra.items()}
    twice = {name: request for name, request in extra_requests.items() if name in requests}
    once = {name: request for name, request in extra_requests.items() if name not in requests}
    with torch.set_grad_enabled(differentiate or attach):
        graphs = [_build(loaded, s, differentiate, attach) for s in systems]
        outputs = _run(loaded, {**requests, **once}, graphs, selected, check_consistency)
        found = _extra(outputs, once)
        if twice:
            again = _run(loaded, twice, graphs, selected, check_consistency)
            found.update(_extra(again, twice))
    extra = {name: found[current_name(name)] for name in plan.extra}
    try:
        return _read(loaded, plan, systems, wanted, graphs, outputs, extra, selected is None)
    except (RuntimeError, IndexError, ValueError, KeyError) as error:
        # what the model returns was not checked by metatomic: any of its numbers may be off
        raise EvaluationError(
            "results of the model",
            expected="blocks as metatomic describes them",
            got=_last_line(error),
            fix="check the model with check_consistency=True",
        ) from error


def _read(
    loaded: LoadedModel,
    plan: OutputPlan,
    systems: Sequence[SystemInput],
    wanted: Wanted,
    graphs: Sequence[_Graph],
    outputs: dict[str, TensorMap],
    extra: dict[str, TensorMap],
    all_atoms: bool,
) -> Evaluation:
    """Outputs of the model as plain tensors, and the gradients of its energy."""
    differentiate = (wanted.forces and plan.force is None) or (
        wanted.virial and plan.stress is None
    )
    offsets = _offsets(systems)
    results = _Results(loaded, plan, list(systems), offsets, outputs, all_atoms)
    forces, virial = results.direct(wanted)
    if differentiate:
        gradients = _gradients(results.energy_values(), graphs)
        total = offsets[-1]
        if wanted.forces and plan.force is None:
            forces = torch.zeros((total, 3), dtype=loaded.dtype, device=loaded.device)
            for k, (system, gradient) in enumerate(zip(systems, gradients, strict=True)):
                gradient.add_forces(system, forces[offsets[k] : offsets[k + 1]])
        if wanted.virial and plan.stress is None:
            both = zip(systems, gradients, strict=True)
            virial = torch.stack([gradient.virial(system) for system, gradient in both])
    return Evaluation(
        energy=results.energy() if wanted.energy else None,
        forces=forces,
        virial=None if virial is None else (virial + virial.transpose(1, 2)) / 2.0,
        energies=results.per_atom(plan.energy) if wanted.energies else None,
        uncertainty=results.per_atom(plan.uncertainty) if plan.uncertainty in outputs else None,
        extra=extra,
    )


def _check_outputs(plan: OutputPlan, wanted: Wanted) -> None:
    by_gradient = (wanted.forces and plan.force is None) or (wanted.virial and plan.stress is None)
    if plan.energy is None and (wanted.energy or wanted.energies or by_gradient):
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


def _build(loaded: LoadedModel, source: SystemInput, differentiate: bool, attach: bool) -> _Graph:
    positions = source.positions.detach()
    cell = source.cell.detach()
    vectors = [pairs.vectors.detach() for pairs in source.pairs]
    strain = None
    seen_positions, seen_cell, seen_vectors = positions, cell, vectors
    if attach:
        strain = torch.eye(3, dtype=loaded.dtype, device=loaded.device).requires_grad_(True)
        positions = positions.clone().requires_grad_(True)
        seen_positions, seen_cell = positions @ strain, cell @ strain
        seen_vectors = []
        for pairs in source.pairs:
            offsets = pair_offsets(pairs.shifts, seen_cell)
            attached = pair_vectors(seen_positions, pairs.first, pairs.second, offsets)
            # the value stays the accurate one; the graph is that of the attached vectors
            seen_vectors.append(pairs.vectors + (attached - attached.detach()))
    elif differentiate:
        # clones: the caller's tensors must not become leaves of this graph
        positions = seen_positions = positions.clone().requires_grad_(True)
        cell = seen_cell = cell.clone().requires_grad_(True)
        vectors = seen_vectors = [v.requires_grad_(True) for v in vectors]
    system = System(source.types, seen_positions, seen_cell, source.pbc)
    for request, pairs, values in zip(loaded.requests, source.pairs, seen_vectors, strict=True):
        system.add_neighbor_list(request, neighbor_block(pairs, values))
    for name, tensor_map in source.inputs.items():
        system.add_data(name, tensor_map)
    return _Graph(system, positions, cell, vectors, strain)


def _requests(
    loaded: LoadedModel, plan: OutputPlan, wanted: Wanted, differentiate: bool
) -> dict[str, ModelOutput]:
    """Outputs that the wanted quantities are made from, in the model's own units."""
    length, energy = loaded.length_unit, loaded.energy_unit
    requests: dict[str, ModelOutput] = {}
    if plan.energy is not None and (wanted.energy or wanted.energies or differentiate):
        kind = "atom" if wanted.energies else "system"
        requests[plan.energy] = ModelOutput(unit=energy, sample_kind=kind)
    if wanted.energy and plan.uncertainty is not None:
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
    graphs: Sequence[_Graph],
    selected: Labels | None,
    check_consistency: bool,
) -> dict[str, TensorMap]:
    try:
        options = ModelEvaluationOptions(
            length_unit=loaded.length_unit, outputs=requests, selected_atoms=selected
        )
        return dict(
            loaded.module([g.system for g in graphs], options, check_consistency=check_consistency)
        )
    except Exception as error:  # the model is foreign code and may raise anything
        raise EvaluationError(
            "evaluation of the model",
            expected="results",
            got=_last_line(error),
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


class _Gradient:
    """Derivatives of the energy with respect to the leaves of one system."""

    def __init__(self, graph: _Graph, found: Sequence[torch.Tensor | None]) -> None:
        self.graph = graph
        self.positions, second = found[0], found[1]
        self.cell = second if graph.strain is None else None
        self.strain = second if graph.strain is not None else None
        self.vectors = found[2:]

    def add_forces(self, source: SystemInput, forces: torch.Tensor) -> None:
        if self.positions is not None:
            forces -= self.positions
        for pairs, gradient in zip(source.pairs, self.vectors, strict=False):
            if gradient is not None:
                sum_over_pairs(pairs, gradient, forces)

    def virial(self, source: SystemInput) -> torch.Tensor:
        if self.strain is not None:
            return self.strain
        total = torch.zeros_like(source.cell)
        if self.positions is not None:
            total = total + source.positions.T @ self.positions
        if self.cell is not None:
            total = total + source.cell.T @ self.cell
        for pairs, gradient in zip(source.pairs, self.vectors, strict=False):
            if gradient is not None:
                total = total + virial_of_pairs(pairs, gradient)
        return total


def _gradients(energy: torch.Tensor, graphs: Sequence[_Graph]) -> list[_Gradient]:
    leaves: list[torch.Tensor] = []
    counts = []
    for graph in graphs:
        own = [graph.positions, graph.cell if graph.strain is None else graph.strain]
        own += graph.vectors if graph.strain is None else []
        counts.append(len(own))
        leaves += own
    if energy.requires_grad:
        found: Sequence[torch.Tensor | None] = torch.autograd.grad(
            energy, leaves, torch.ones_like(energy), allow_unused=True
        )
    elif any(len(vectors) for graph in graphs for vectors in graph.vectors):
        raise NoGradientError(
            "energy of the model",
            expected="a value that depends on the positions, since forces or virial are wanted",
            got="a value without a gradient",
            fix="use the model's non-conservative forces, or export it without detaching",
        )
    else:
        found = [None] * len(leaves)  # no neighbours: nothing that could push an atom
    gradients, start = [], 0
    for graph, count in zip(graphs, counts, strict=True):
        gradients.append(_Gradient(graph, found[start : start + count]))
        start += count
    return gradients


class _Results:
    """Reads the model's blocks into tensors that are ordered like the atoms."""

    def __init__(
        self,
        loaded: LoadedModel,
        plan: OutputPlan,
        systems: list[SystemInput],
        offsets: list[int],
        outputs: dict[str, TensorMap],
        all_atoms: bool,
    ) -> None:
        self.loaded, self.plan, self.systems = loaded, plan, systems
        self.offsets, self.outputs, self.all_atoms = offsets, outputs, all_atoms

    def energy_values(self) -> torch.Tensor:
        """(n, 1) energies of systems or atoms, with their graph."""
        return self._block(self.plan.energy, (1,)).values

    def energy(self) -> torch.Tensor:
        block = self._block(self.plan.energy, (1,))
        values = block.values.detach().squeeze(1).double()
        total = torch.zeros(len(self.systems), dtype=torch.float64, device=values.device)
        return total.index_add_(0, block.samples.column("system").to(torch.int64), values)

    def per_atom(self, name: str | None, shape: tuple[int, ...] = (1,)) -> torch.Tensor:
        block = self._block(name, shape)
        values = block.values.detach().squeeze(-1)
        n_atoms = self.offsets[-1]
        if self.all_atoms and len(values) != n_atoms:
            raise EvaluationError(
                f"output '{name}'",
                expected=f"one row for each of {n_atoms} atoms",
                got=f"{len(values)} rows",
                fix="check the model with check_consistency=True",
            )
        result = values.new_zeros((n_atoms, *values.shape[1:]))
        return result.index_add_(0, self._rows(block), values)

    def direct(self, wanted: Wanted) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Forces and virial that the model gives without a gradient."""
        forces = virial = None
        if wanted.forces and self.plan.force is not None:
            forces = self.per_atom(self.plan.force, (3, 1))
            if self.all_atoms:
                # a direct prediction need not sum to zero; what is left over would push the
                # whole system, so it is taken out, as other engines for such models do
                for k in range(len(self.systems)):
                    rows = forces[self.offsets[k] : self.offsets[k + 1]]
                    rows -= rows.mean(dim=0)
        if wanted.virial and self.plan.stress is not None:
            block = self._block(self.plan.stress, (3, 3, 1))
            stress = block.values.detach().squeeze(-1)
            order = torch.argsort(block.samples.column("system"))
            volumes = [self._volume(s) for s in self.systems]
            virial = stress[order] * stress.new_tensor(volumes)[:, None, None]
        return forces, virial

    def _volume(self, system: SystemInput) -> float:
        if system.volume is None:
            raise UnsupportedOutputError(
                "non-conservative stress",
                expected="a cell that is periodic in all three directions",
                got=f"pbc {tuple(system.pbc.tolist())}",
                fix="take the virial from the energy (non_conservative='forces')",
            )
        return system.volume

    def _block(self, name: str | None, shape: tuple[int, ...]) -> TensorBlock:
        if name not in self.outputs or len(self.outputs[str(name)]) != 1:
            raise EvaluationError(
                f"output '{name}'",
                expected="one block of values",
                got="nothing" if name not in self.outputs else "several blocks",
                fix="check the model with check_consistency=True",
            )
        block = self.outputs[str(name)].block()
        if tuple(block.values.shape[1:]) != shape:
            raise EvaluationError(
                f"output '{name}'",
                expected=f"values of shape {('any', *shape)}",
                got=f"shape {tuple(block.values.shape)}",
                fix="check the model with check_consistency=True",
            )
        return block

    def _rows(self, block: TensorBlock) -> torch.Tensor:
        atoms = block.samples.column("atom").to(torch.int64)
        if len(self.systems) == 1:
            return atoms
        starts = torch.tensor(self.offsets[:-1], device=atoms.device)
        return starts[block.samples.column("system").to(torch.int64)] + atoms


def _offsets(systems: Sequence[SystemInput]) -> list[int]:
    offsets = [0]
    for system in systems:
        offsets.append(offsets[-1] + len(system.types))
    return offsets


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
