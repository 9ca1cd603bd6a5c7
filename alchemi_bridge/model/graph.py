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
from typing import Literal

import torch
from metatensor.torch import TensorMap
from metatomic.torch import System

from alchemi_bridge.errors import EvaluationError, last_line
from alchemi_bridge.model.load import LoadedModel
from alchemi_bridge.neighbors import (
    RequestedPairs,
    neighbor_block,
    outer_sum,
    pair_offsets,
    pair_vectors,
    rows_times,
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


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs of one system as the model gets them, and the leaves to differentiate by.

    Attributes
    ----------
    system
        What the model is given.
    positions, cell, vectors
        Leaves: (n_atoms, 3), (3, 3), and (n_rows, 3) for each of the model's requests.
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
    positions = source.positions.detach()
    cell = source.cell.detach()
    vectors = [pairs.vectors.detach() for pairs in source.pairs]
    strain = None
    seen_positions, seen_cell, seen_vectors = positions, cell, vectors
    if attach:
        strain = torch.eye(3, dtype=loaded.dtype, device=loaded.device).requires_grad_(True)
        positions = positions.clone().requires_grad_(True)
        seen_positions, seen_cell = rows_times(positions, strain), rows_times(cell, strain)
        seen_vectors = []
        for pairs in source.pairs:
            offsets = pair_offsets(pairs.shifts, seen_cell)
            attached = pair_vectors(seen_positions, pairs.first, pairs.second, offsets)
            # the value stays the accurate one; the graph is that of the attached vectors
            seen_vectors.append(pairs.vectors + (attached - attached.detach()))
    elif with_gradient:
        # clones: the caller's tensors must not become leaves of this graph
        positions = seen_positions = positions.clone().requires_grad_(True)
        cell = seen_cell = cell.clone().requires_grad_(True)
        vectors = seen_vectors = [v.requires_grad_(True) for v in vectors]
    system = System(source.types, seen_positions, seen_cell, source.pbc)
    for request, pairs, values in zip(loaded.requests, source.pairs, seen_vectors, strict=True):
        system.add_neighbor_list(request, neighbor_block(pairs, values))
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

    def add_forces(self, source: SystemInput, forces: torch.Tensor) -> None:
        """Add to ``forces``, (n_atoms, 3) in the model's units, in place."""
        if self.positions is not None:
            forces -= self.positions
        for pairs, gradient in zip(source.pairs, self.vectors, strict=False):
            if gradient is not None:
                sum_over_pairs(pairs, gradient, forces)

    def virial(self, source: SystemInput) -> torch.Tensor:
        """(3, 3) dE/d(strain), not symmetrised."""
        if self.strain is not None:
            return self.strain
        total = torch.zeros_like(source.cell)
        if self.positions is not None:
            total = total + outer_sum(source.positions, self.positions)
        if self.cell is not None:
            total = total + outer_sum(source.cell, self.cell)
        for pairs, gradient in zip(source.pairs, self.vectors, strict=False):
            if gradient is not None:
                total = total + virial_of_pairs(pairs, gradient)
        return total


def _backward(
    energy: torch.Tensor, leaves: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    try:
        return torch.autograd.grad(energy, leaves, torch.ones_like(energy), allow_unused=True)
    except Exception as error:  # operators of the model's own may raise anything
        raise EvaluationError(
            "gradient of the model's energy",
            expected="derivatives with respect to positions and cell",
            got=last_line(error),
            fix="use the model's non-conservative forces, or correct the model",
        ) from error


def differentiate(energy: torch.Tensor, graphs: Sequence[Graph]) -> list[Gradient]:
    """Derivatives of the sum of ``energy`` by the leaves of each system.

    Raises
    ------
    NoGradientError
        If there are neighbours, but the energy does not depend on anything.
    EvaluationError
        If the backward pass fails.
    """
    leaves: list[torch.Tensor] = []
    counts = []
    for graph in graphs:
        own = [graph.positions, graph.cell if graph.strain is None else graph.strain]
        own += graph.vectors if graph.strain is None else []
        counts.append(len(own))
        leaves += own
    if energy.requires_grad:
        found = _backward(energy, leaves)
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
        gradients.append(Gradient(graph, found[start : start + count]))
        start += count
    return gradients
