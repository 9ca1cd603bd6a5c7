"""What a model gets, as leaves of a graph, and the derivatives of its energy by them.

Gradients are taken with respect to everything that the model can see: pair vectors, positions and
cell are separate leaves of the graph. By the chain rule,

    F_i  =  -dE/dx_i + sum_k (dE/dr_ik - dE/dr_ki)
    dE/d(strain)  =  sum_k r_k (x) dE/dr_k + sum_i x_i (x) dE/dx_i + sum_a h_a (x) dE/dh_a

is exact for models that use pair vectors only, and for those that read positions or cell directly,
and no strain has to be carried through the model. Only a model that itself differentiates with
respect to positions needs pair vectors that hang on them (``route="strain"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from metatensor.torch import TensorMap
from metatomic.torch import System

from alchemi_bridge.errors import EvaluationError, UnsupportedOutputError, last_line
from alchemi_bridge.model.load import LoadedModel
from alchemi_bridge.neighbors import (
    RequestedPairs,
    attached_vectors,
    gather_forces,
    neighbor_block,
    outer_sum,
    rows_times,
    shared_virials,
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
    lasting
        Given if positions and pair vectors are in the same memory in every step of this object.
    """

    types: torch.Tensor
    positions: torch.Tensor
    cell: torch.Tensor
    pbc: torch.Tensor
    volume: float | None
    pairs: Sequence[RequestedPairs]
    inputs: dict[str, TensorMap] = field(default_factory=dict)
    lasting: Lasting | None = None


class Lasting:
    """What the model is given, made once and kept from one pair search to the next.

    Positions and pair vectors of later steps are written into the same memory, so that nothing is
    built, and nothing is asked of the device.
    """

    def __init__(self) -> None:
        self.graphs: dict[bool, Graph] = {}


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs of one system as the model gets them, and the leaves to differentiate by.

    Attributes
    ----------
    system
        What the model is given.
    positions, cell, vectors
        Leaves: (n_atoms, 3), (3, 3), and (n_rows, 3, 1) for each of the model's requests.
    strain
        (3, 3) leaf of the other route, which replaces ``cell`` and ``vectors``; else ``None``.
    """

    system: System
    positions: torch.Tensor
    cell: torch.Tensor
    vectors: list[torch.Tensor]
    strain: torch.Tensor | None


def build_graph(
    loaded: LoadedModel, source: SystemInput, with_gradient: bool, attach: bool
) -> Graph:
    """The inputs of one system, with leaves if gradients are wanted.

    ``attach`` hangs the pair vectors on the positions, see the module's docstring.
    """
    if source.lasting is not None and not attach:
        return _lasting_graph(loaded, source, with_gradient, source.lasting)
    return _new_graph(loaded, source, with_gradient, attach)


def _lasting_graph(
    loaded: LoadedModel, source: SystemInput, with_gradient: bool, lasting: Lasting
) -> Graph:
    graph = lasting.graphs.get(with_gradient)
    if graph is None:
        graph = lasting.graphs[with_gradient] = _new_graph(loaded, source, with_gradient, False)
    with torch.no_grad():
        graph.cell.copy_(source.cell)
    return graph


def _new_graph(
    loaded: LoadedModel, source: SystemInput, with_gradient: bool, attach: bool
) -> Graph:
    positions = source.positions.detach()
    cell = source.cell.detach()
    vectors = [pairs.vectors.detach().unsqueeze(-1) for pairs in source.pairs]
    strain = None
    seen_positions, seen_cell, seen_vectors = positions, cell, vectors
    if attach:
        strain = torch.eye(3, dtype=loaded.dtype, device=loaded.device).requires_grad_(True)
        positions = positions.clone().requires_grad_(True)
        seen_positions, seen_cell = rows_times(positions, strain), rows_times(cell, strain)
        seen_vectors = [
            attached_vectors(pairs, seen_positions, seen_cell).unsqueeze(-1)
            for pairs in source.pairs
        ]
    else:
        cell = seen_cell = cell.clone()
    if with_gradient and not attach:
        # new tensors on the memory of this step: the caller's must not become leaves of this graph
        for leaf in (positions, cell, *vectors):
            leaf.requires_grad_(True)
    system = System(source.types, seen_positions, seen_cell, source.pbc)
    for request, pairs, values in zip(loaded.requests, source.pairs, seen_vectors, strict=True):
        system.add_neighbor_list(request, neighbor_block(pairs.samples, values))
    for name, tensor_map in source.inputs.items():
        system.add_data(name, tensor_map)
    return Graph(system, positions, cell, vectors, strain)


class Gradient:
    """Derivatives of the energy with respect to the leaves of one system."""

    def __init__(self, graph: Graph, found: Sequence[torch.Tensor | None]) -> None:
        self.graph = graph
        self.positions, second = found[0], found[1]
        self.cell = second if graph.strain is None else None
        self.strain = second if graph.strain is not None else None
        self.vectors = found[2:]

    def collect(
        self, source: SystemInput, forces: torch.Tensor, with_virial: bool
    ) -> torch.Tensor | None:
        """Add to ``forces``, (n_atoms, 3) in the model's units, in place.

        Returns (3, 3) dE/d(strain), not symmetrised, if it is wanted.
        """
        if self.positions is not None:
            forces -= self.positions
        rows = None
        if with_virial and self.strain is None:
            rows = torch.zeros((len(forces), 9), dtype=torch.float64, device=forces.device)
        for pairs, gradient in zip(source.pairs, self.vectors, strict=False):
            if gradient is not None:
                gather_forces(pairs, gradient, forces, rows)
        if rows is None:
            return self.strain if with_virial else None
        total = rows.sum(dim=0).reshape(3, 3).to(source.cell.dtype)
        if self.positions is not None:
            total = total + outer_sum(source.positions, self.positions)
        if self.cell is not None:
            total = total + outer_sum(source.cell, self.cell)
        return total

    def virials(self, source: SystemInput) -> torch.Tensor:
        """(n_atoms, 3, 3) share of each atom in dE/d(strain), summed in float64, not symmetrised.

        Raises
        ------
        UnsupportedOutputError
            If the energy depends on positions or cell other than through the pair vectors: what
            they add to the virial belongs to no pair, and so to no atom.
        """
        seen = {"positions": self.positions, "cell": self.cell, "strain": self.strain}
        used = [name for name, gradient in seen.items() if gradient is not None]
        if used:
            raise no_virials(f"one whose energy depends on {' and '.join(used)} directly")
        rows = torch.zeros(
            (len(source.types), 3, 3), dtype=torch.float64, device=source.positions.device
        )
        for pairs, gradient in zip(source.pairs, self.vectors, strict=False):
            if gradient is not None:
                shared_virials(pairs, gradient, rows)
        return rows.to(source.positions.dtype)


def no_virials(got: str) -> UnsupportedOutputError:
    """The error for a model whose virial can not be divided among the atoms."""
    return UnsupportedOutputError(
        "virial of each atom",
        expected="a model whose energy depends on the pair vectors alone, since the part of each "
        "pair is what its two atoms share",
        got=got,
        fix="ask for the total virial, Step(virial=True), and not for virials",
    )


def _backward(
    energy: torch.Tensor, leaves: Sequence[torch.Tensor], create_graph: bool
) -> Sequence[torch.Tensor | None]:
    try:
        return torch.autograd.grad(
            energy, leaves, torch.ones_like(energy), allow_unused=True, create_graph=create_graph
        )
    except Exception as error:  # operators of the model's own may raise anything
        raise EvaluationError(
            "gradient of the model's energy",
            expected="derivatives with respect to positions and cell",
            got=last_line(error),
            fix="use the model's non-conservative forces, or correct the model",
        ) from error


class Graphs(Protocol):
    """What the model gets in one evaluation, and the way back from its energy."""

    @property
    def systems(self) -> list[System]:
        """Inputs of the model."""
        ...

    def differentiate(self, energy: torch.Tensor) -> Gradients:
        """Derivatives of the sum of ``energy``, (n, 1).

        Raises
        ------
        NoGradientError
            If there are neighbours, but the energy does not depend on anything.
        EvaluationError
            If the backward pass fails.
        """
        ...


class Gradients(Protocol):
    """Derivatives of the energy, as forces and virials of all systems."""

    def collect(self, with_virial: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(n_atoms, 3) forces, and (n_systems, 3, 3) dE/d(strain), not symmetrised."""
        ...

    def virials(self) -> torch.Tensor:
        """(n_atoms, 3, 3), see :meth:`Gradient.virials`."""
        ...


class SeparateGraphs:
    """A graph for each system."""

    def __init__(
        self,
        loaded: LoadedModel,
        sources: Sequence[SystemInput],
        with_gradient: bool,
        attach: bool,
    ) -> None:
        self.sources = sources
        self.graphs = [build_graph(loaded, s, with_gradient, attach) for s in sources]

    @property
    def systems(self) -> list[System]:
        """Inputs of the model."""
        return [graph.system for graph in self.graphs]

    def differentiate(self, energy: torch.Tensor) -> SeparateGradients:
        """See :class:`Graphs`."""
        leaves: list[torch.Tensor] = []
        counts = []
        for graph in self.graphs:
            own = [graph.positions, graph.cell if graph.strain is None else graph.strain]
            own += graph.vectors if graph.strain is None else []
            counts.append(len(own))
            leaves += own
        with_pairs = any(len(vectors) for graph in self.graphs for vectors in graph.vectors)
        found = differentiate(energy, leaves, with_pairs)
        gradients, start = [], 0
        for graph, count in zip(self.graphs, counts, strict=True):
            gradients.append(Gradient(graph, found[start : start + count]))
            start += count
        return SeparateGradients(self.sources, gradients)


class SeparateGradients:
    """Derivatives for each system."""

    def __init__(self, sources: Sequence[SystemInput], gradients: Sequence[Gradient]) -> None:
        self.sources, self.gradients = sources, gradients

    def collect(self, with_virial: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See :class:`Gradients`."""
        sizes = [len(source.types) for source in self.sources]
        forces = self.sources[0].positions.new_zeros((sum(sizes), 3))
        whole = [
            gradient.collect(source, own, with_virial)
            for source, gradient, own in zip(
                self.sources, self.gradients, forces.split(sizes), strict=True
            )
        ]
        found = [virial for virial in whole if virial is not None]
        return forces, torch.stack(found) if with_virial else None

    def virials(self) -> torch.Tensor:
        """See :class:`Gradients`."""
        both = zip(self.sources, self.gradients, strict=True)
        return torch.cat([gradient.virials(source) for source, gradient in both])


def differentiate(
    energy: torch.Tensor,
    leaves: Sequence[torch.Tensor],
    with_pairs: bool,
    create_graph: bool = False,
) -> Sequence[torch.Tensor | None]:
    """Derivatives of the sum of ``energy`` by each leaf, ``None`` where it does not depend on it.

    ``with_pairs`` says whether there are neighbours, without which an energy may be constant; for
    errors see :class:`Graphs`. With ``create_graph`` they can be differentiated themselves.
    """
    if energy.requires_grad:
        return _backward(energy, leaves, create_graph)
    if with_pairs:
        raise NoGradientError(
            "energy of the model",
            expected="a value that depends on the positions, since forces or virial are wanted",
            got="a value without a gradient",
            fix="use the model's non-conservative forces, or export it without detaching",
        )
    return [None] * len(leaves)  # no neighbours: nothing that could push an atom
