"""Reads a model's blocks into tensors ordered like the atoms, and checks what it returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from metatensor.torch import TensorBlock, TensorMap

from alchemi_bridge.errors import EvaluationError, UnsupportedOutputError
from alchemi_bridge.model.graph import SystemInput
from alchemi_bridge.model.joined import JoinedInput
from alchemi_bridge.model.load import LoadedModel
from alchemi_bridge.model.outputs import OutputPlan, Wanted


@dataclass(frozen=True)
class Layout:
    """How the atoms of all systems follow one another.

    Attributes
    ----------
    offsets
        First atom of each system, and the number of all atoms at the end.
    volumes
        Of each system; ``None`` for those that are not periodic in three directions.
    pbc
        (3,) bool of each system.
    """

    offsets: list[int]
    volumes: list[float | None]
    pbc: Sequence[torch.Tensor] | torch.Tensor

    @classmethod
    def of(cls, systems: Sequence[SystemInput] | JoinedInput) -> Layout:
        """Of the inputs of an evaluation."""
        if isinstance(systems, JoinedInput):
            offsets = list(accumulate(systems.sizes, initial=0))
            return cls(offsets, systems.volumes, systems.pbc)
        offsets = list(accumulate((len(system.types) for system in systems), initial=0))
        return cls(offsets, [s.volume for s in systems], [s.pbc for s in systems])

    def __len__(self) -> int:
        return len(self.volumes)


class Results:
    """Reads the model's blocks into tensors that are ordered like the atoms."""

    def __init__(
        self,
        loaded: LoadedModel,
        plan: OutputPlan,
        layout: Layout,
        outputs: dict[str, TensorMap],
        all_atoms: bool,
    ) -> None:
        self.loaded, self.plan, self.layout = loaded, plan, layout
        self.offsets, self.outputs, self.all_atoms = layout.offsets, outputs, all_atoms
        self._blocks: dict[str, TensorBlock] = {}

    def energy_values(self) -> torch.Tensor:
        """(n, 1) energies of systems or atoms, with their graph."""
        return self._block(self.plan.energy, (1,)).values

    def energy(self) -> torch.Tensor:
        """(n_systems,) float64, detached."""
        return self.energy_with_graph().detach()

    def energy_with_graph(self) -> torch.Tensor:
        """(n_systems,) float64, with its graph."""
        block = self._block(self.plan.energy, (1,))
        values = block.values.squeeze(1)
        if len(self.layout) == 1:
            return values.sum(dtype=torch.float64).reshape(1)
        values = values.double()
        total = torch.zeros(len(self.layout), dtype=torch.float64, device=values.device)
        return total.index_add(0, block.samples.column("system").to(torch.int64), values)

    def per_atom(self, name: str | None, shape: tuple[int, ...] = (1,)) -> torch.Tensor:
        """(n_atoms, *shape without its last axis) of an output, zero for atoms not selected."""
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
                for k in range(len(self.layout)):
                    rows = forces[self.offsets[k] : self.offsets[k + 1]]
                    rows -= rows.mean(dim=0)
        if wanted.virial and self.plan.stress is not None:
            block = self._block(self.plan.stress, (3, 3, 1))
            stress = block.values.detach().squeeze(-1)
            order = torch.argsort(block.samples.column("system"))
            volumes = [self._volume(k) for k in range(len(self.layout))]
            virial = stress[order] * stress.new_tensor(volumes)[:, None, None]
        return forces, virial

    def _volume(self, k: int) -> float:
        volume = self.layout.volumes[k]
        if volume is None:
            place = "" if len(self.layout) == 1 else f" in system {k}"
            raise UnsupportedOutputError(
                "non-conservative stress",
                expected="a cell that is periodic in all three directions",
                got=f"pbc {tuple(self.layout.pbc[k].tolist())}{place}",
                fix="take the virial from the energy (non_conservative='forces')",
            )
        return volume

    def _block(self, name: str | None, shape: tuple[int, ...]) -> TensorBlock:
        found = self._blocks.get(str(name))
        if found is not None:
            return found
        tensor_map = self.outputs.get(str(name))
        if tensor_map is None or len(tensor_map) != 1:
            raise EvaluationError(
                f"output '{name}'",
                expected="one block of values",
                got="nothing" if tensor_map is None else "several blocks",
                fix="check the model with check_consistency=True",
            )
        block = tensor_map.block()
        got = tuple(block.values.shape)
        if got[1:] != shape:
            raise EvaluationError(
                f"output '{name}'",
                expected=f"values of shape {('any', *shape)}",
                got=f"shape {got}",
                fix="check the model with check_consistency=True",
            )
        self._blocks[str(name)] = block
        return block

    def _rows(self, block: TensorBlock) -> torch.Tensor:
        atoms = block.samples.column("atom").to(torch.int64)
        if len(self.layout) == 1:
            return atoms
        starts = torch.tensor(self.offsets[:-1], device=atoms.device)
        return starts[block.samples.column("system").to(torch.int64)] + atoms
