"""Several systems in common tensors: one leaf, one gather and one sum for all of them.

The model gets one object for each system all the same; its tensors are views of the common ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from metatensor.torch import TensorMap
from metatomic.torch import System

from alchemi_bridge.model.assembly import assemble_systems
from alchemi_bridge.model.graph import differentiate, no_virials
from alchemi_bridge.model.load import LoadedModel
from alchemi_bridge.neighbors import (
    RequestedPairs,
    attached_vectors,
    gather_forces,
    rows_times,
    shared_virials,
)


@dataclass(frozen=True, eq=False)
class JoinedPairs:
    """The pairs of one request of the model, of all systems.

    Attributes
    ----------
    pairs
        Rows of a system follow one another.
    counts
        Number of rows of each system.
    """

    pairs: RequestedPairs
    counts: list[int]


@dataclass(frozen=True, eq=False)
class JoinedInput:
    """Systems one after the other, in the model's units, dtype and device.

    Attributes
    ----------
    types
        (n_atoms,) int32.
    positions
        (n_atoms, 3).
    cells
        (n_systems, 3, 3), zero rows where not periodic.
    pbc
        (n_systems, 3) bool tensor.
    sizes
        Number of atoms of each system.
    system
        (n_atoms,) int64 system of each atom.
    volumes
        Of each system, or ``None`` where it is not periodic in three directions.
    pairs
        Neighbours for each of the model's requests, in their order.
    inputs
        Extra inputs of each system by name; empty if the model requests none.
    """

    types: torch.Tensor
    positions: torch.Tensor
    cells: torch.Tensor
    pbc: torch.Tensor
    sizes: list[int]
    system: torch.Tensor
    volumes: list[float | None]
    pairs: Sequence[JoinedPairs]
    inputs: Sequence[dict[str, TensorMap]] = field(default=())

    def __len__(self) -> int:
        return len(self.sizes)


class JoinedGraphs:
    """The inputs of the model, and the leaves that they hang on.

    Attributes
    ----------
    systems
        What the model is given.
    """

    def __init__(
        self, loaded: LoadedModel, source: JoinedInput, with_gradient: bool, attach: bool
    ) -> None:
        self.source = source
        # cells are kept from step to step, and a model may write into what it is given
        self._positions, self._cells = source.positions.detach(), source.cells.clone()
        self._vectors = [p.pairs.vectors.detach().unsqueeze(-1) for p in source.pairs]
        self._strain: torch.Tensor | None = None
        positions, cells, vectors = self._positions, self._cells, self._vectors
        if attach:
            identity = torch.eye(3, dtype=loaded.dtype, device=loaded.device)
            self._strain = identity.repeat(len(source), 1, 1).requires_grad_(True)
            self._positions = positions = positions.clone().requires_grad_(True)
            positions = rows_times(positions, self._strain[source.system])
            cells = rows_times(cells, self._strain[:, None])
            vectors = [
                attached_vectors(
                    p.pairs, positions, cells, source.system[p.pairs.first.long()]
                ).unsqueeze(-1)
                for p in source.pairs
            ]
        elif with_gradient:
            # new tensors on the memory of this step: the caller's must not become leaves here
            for leaf in (positions, cells, *vectors):
                leaf.requires_grad_(True)
        self.systems: list[System] = assemble_systems(
            source.types,
            positions,
            cells,
            source.pbc,
            source.sizes,
            list(loaded.requests),
            [p.pairs.samples for p in source.pairs],
            vectors,
            [p.counts for p in source.pairs],
        )
        for system, inputs in zip(self.systems, source.inputs, strict=False):
            for name, tensor_map in inputs.items():
                system.add_data(name, tensor_map)

    def differentiate(self, energy: torch.Tensor) -> JoinedGradients:
        """See :class:`~alchemi_bridge.model.graph.Graphs`."""
        with_pairs = any(len(vectors) for vectors in self._vectors)
        if self._strain is not None:
            found = differentiate(energy, [self._positions, self._strain], with_pairs)
            return JoinedGradients(self.source, found[0], None, found[1], [])
        leaves = [self._positions, self._cells, *self._vectors]
        found = differentiate(energy, leaves, with_pairs)
        return JoinedGradients(self.source, found[0], found[1], None, found[2:])

    def work(self, energy: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """Sum of all forces times ``directions``, with a graph by the model's parameters.

        Forces themselves need not be put together for it: a pair gives its gradient times the
        difference of the directions of its atoms.

        Parameters
        ----------
        energy
            Of the model on these inputs, with its graph; any shape.
        directions
            (n_atoms, 3) in the dtype of the positions.

        Returns
        -------
        torch.Tensor
            () float64.

        Raises
        ------
        EvaluationError
            If the energy can not be differentiated.
        """
        source = self.source
        leaves = [self._positions] if self._strain is not None else []
        leaves = leaves or [self._positions, *self._vectors]
        found = differentiate(energy, leaves, any(map(len, self._vectors)), create_graph=True)
        total = torch.zeros((), dtype=torch.float64, device=source.positions.device)
        if found[0] is not None:
            total = total - (found[0] * directions).sum(dtype=torch.float64)
        for joined, gradient in zip(source.pairs, found[1:], strict=False):
            if gradient is not None:
                first = directions.index_select(0, joined.pairs.first.long())
                second = directions.index_select(0, joined.pairs.second.long())
                product = gradient.squeeze(-1) * (first - second)
                total = total + product.sum(dtype=torch.float64)
        return total


@dataclass(frozen=True, eq=False)
class JoinedGradients:
    """Derivatives of the energy with respect to the leaves, ``None`` where it depends on none.

    Attributes
    ----------
    source
        The systems.
    positions, cells, strain
        (n_atoms, 3) and (n_systems, 3, 3); ``strain`` only on the other route.
    vectors
        (n_rows, 3, 1) for each of the model's requests.
    """

    source: JoinedInput
    positions: torch.Tensor | None
    cells: torch.Tensor | None
    strain: torch.Tensor | None
    vectors: Sequence[torch.Tensor | None]

    def collect(self, with_virial: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See :class:`~alchemi_bridge.model.graph.Gradients`."""
        source = self.source
        n_atoms, device = len(source.types), source.positions.device
        forces = torch.zeros((n_atoms, 3), dtype=source.positions.dtype, device=device)
        if self.positions is not None:
            forces -= self.positions
        rows = None
        if with_virial and self.strain is None:
            rows = torch.zeros((n_atoms, 9), dtype=torch.float64, device=device)
        for joined, gradient in zip(source.pairs, self.vectors, strict=False):
            if gradient is not None:
                gather_forces(joined.pairs, gradient, forces, rows)
        if rows is None:
            return forces, self._strain_or_zero() if with_virial else None
        if self.positions is not None:
            rows += _outer(source.positions, self.positions).reshape(-1, 9)
        lengths = torch.tensor(source.sizes, device=device)
        total = torch.segment_reduce(rows, "sum", lengths=lengths, axis=0).reshape(-1, 3, 3)
        if self.cells is not None:
            total = total + _outer(source.cells, self.cells).sum(dim=1)
        return forces, total.to(source.positions.dtype)

    def _strain_or_zero(self) -> torch.Tensor:
        return torch.zeros_like(self.source.cells) if self.strain is None else self.strain

    def virials(self) -> torch.Tensor:
        """See :meth:`~alchemi_bridge.model.graph.Gradient.virials`."""
        seen = {"positions": self.positions, "cell": self.cells, "strain": self.strain}
        used = [name for name, gradient in seen.items() if gradient is not None]
        if used:
            raise no_virials(f"one whose energy depends on {' and '.join(used)} directly")
        positions = self.source.positions
        rows = torch.zeros((len(positions), 3, 3), dtype=torch.float64, device=positions.device)
        for joined, gradient in zip(self.source.pairs, self.vectors, strict=False):
            if gradient is not None:
                shared_virials(joined.pairs, gradient, rows)
        return rows.to(positions.dtype)


def _outer(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(..., 3, 3) float64 outer products of the last axes."""
    return left.double()[..., :, None] * right.double()[..., None, :]
