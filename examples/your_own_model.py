# ruff: noqa: UP006, UP035, UP045  (metatomic compares the signature with typing's classes)
"""Export a model of your own and let the bridge check it: harmonic springs between near atoms."""

from typing import Dict, List, Optional

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

from alchemi_bridge.verify import verify


class Springs(torch.nn.Module):
    """Sum over pairs of ``(1 - (r/cutoff)^2)^3``: smooth at the cutoff."""

    def __init__(self, cutoff: float):
        super().__init__()
        self.cutoff = cutoff
        self.request = NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        return [self.request]

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        energies: List[torch.Tensor] = []
        for system in systems:
            block = system.get_neighbor_list(self.request)
            u = 1.0 - (block.values.squeeze(-1) ** 2).sum(dim=1) / self.cutoff**2
            energies.append((0.5 * u**3).sum().reshape(1, 1))
        device = energies[0].device
        index = torch.arange(len(systems), device=device).reshape(-1, 1)
        zero = torch.zeros(1, 1, dtype=torch.int64, device=device)
        samples, one = Labels(["system"], index), Labels(["energy"], zero)
        block = TensorBlock(torch.cat(energies), samples, [], one)
        return {"energy": TensorMap(Labels(["_"], zero), [block])}


model = AtomisticModel(
    Springs(4.0).eval(),
    ModelMetadata(name="springs"),
    ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="system")},
        atomic_types=[14],
        interaction_range=4.0,
        length_unit="angstrom",
        supported_devices=["cpu", "cuda"],
        dtype="float64",
    ),
)
model.save("springs.pt")
report = verify("springs.pt")
for check in report.outcomes:
    print(f"{check.name:20s} {check.status.value}")
print("passed" if report.passed else "failed")
