"""A model with messages through two neighbour lists of different cutoffs.

    h_i = sum_j s(r_ij / a) (2 + cos x_ij),   e_i = sum_j s(r_ij / b) h_j + 0.1 h_i^2
    s(t) = (1 - t^2)^3

with cutoffs a and b, so that the energy of an atom depends on what is within a + b of it. eV and
angstrom, of a unit each.

No ``from __future__ import annotations`` here, as in zoo.py.
"""
# ruff: noqa: UP006, UP035, UP045

from typing import Dict, List, Optional

import metatensor.torch as mts
import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)


class TwoLists(torch.nn.Module):
    """The first list makes messages, the second sums them."""

    def __init__(self, first: float, second: float):
        super().__init__()
        self.first = first
        self.second = second

    def options(self, cutoff: float) -> NeighborListOptions:
        return NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        return [self.options(self.first), self.options(self.second)]

    def weights(self, vectors: torch.Tensor, cutoff: float) -> torch.Tensor:
        return (1.0 - (vectors * vectors).sum(dim=1) / cutoff**2) ** 3

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        energies: List[torch.Tensor] = []
        rows: List[torch.Tensor] = []
        for number, system in enumerate(systems):
            n_atoms = len(system.types)
            near = system.get_neighbor_list(self.options(self.first))
            far = system.get_neighbor_list(self.options(self.second))
            r, q = near.values.reshape(-1, 3), far.values.reshape(-1, 3)
            i = near.samples.column("first_atom").to(torch.long)
            j = far.samples.column("first_atom").to(torch.long)
            k = far.samples.column("second_atom").to(torch.long)
            nothing = torch.zeros(n_atoms, dtype=r.dtype, device=r.device)
            message = self.weights(r, self.first) * (2.0 + torch.cos(r[:, 0]))
            h = nothing.index_add(0, i, message)
            energies.append(
                nothing.index_add(0, j, self.weights(q, self.second) * h[k]) + 0.1 * h * h
            )
            atoms = torch.arange(n_atoms, dtype=torch.int32, device=r.device)
            rows.append(torch.stack([torch.full_like(atoms, number), atoms], dim=1))
        values = torch.cat(energies).reshape(-1, 1)
        zero = torch.zeros((1, 1), dtype=torch.int32, device=values.device)
        block = TensorBlock(
            values,
            Labels(["system", "atom"], torch.cat(rows)),
            torch.jit.annotate(List[Labels], []),
            Labels(["energy"], zero),
        )
        energy = TensorMap(Labels(["_"], zero), [block])
        if selected_atoms is not None:
            energy = mts.slice(energy, "samples", selected_atoms)
        if outputs["energy"].sample_kind == "system":
            energy = mts.sum_over_samples(energy, ["atom"])
        return {"energy": energy}


def two_lists(first: float, second: float) -> AtomisticModel:
    """With these cutoffs."""
    capabilities = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="atom")},
        atomic_types=[14, 18],
        interaction_range=first + second,
        length_unit="angstrom",
        supported_devices=["cpu", "cuda"],
        dtype="float64",
    )
    return AtomisticModel(TwoLists(first, second).eval(), ModelMetadata(), capabilities)
