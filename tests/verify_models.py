"""Models with one fault each, for the tests of the verification: every check must be able to fail.

All extend the pair potential of ``zoo_parts.py`` and stay Python modules (nothing is scripted).
"""
# ruff: noqa: UP006, UP035, UP045

from typing import Dict, List, Optional

import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import AtomisticModel, ModelOutput, System
from zoo_parts import CUTOFF, Pairs, make, switch

JUMP = 0.05  # eV
INNER_RADIUS = 2.6  # angstrom, inside of the cutoff and declared nowhere
LEAKED = 100  # numbers
SURPLUS = 1.01  # of the per-atom energies


class Detached(Pairs):
    def extra_energy(self, system: System) -> torch.Tensor:
        return 0.1 * self.pair_sums(system).detach()


class DetachedVolume(Pairs):
    def extra_energy(self, system: System) -> torch.Tensor:
        volume = torch.abs(torch.linalg.det(system.cell)).detach()
        return (0.003 * volume / len(system)).expand(len(system))


class Shapes(Pairs):
    """A model that is only another shape of the potential."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def shape(self, vectors: torch.Tensor, cutoff: float) -> torch.Tensor:
        r = torch.linalg.vector_norm(vectors, dim=1)
        if self.kind == "linear":
            return 1.0 - r / cutoff
        if self.kind == "inner jump":
            return switch(vectors, cutoff) + JUMP * (r < INNER_RADIUS)
        if self.kind == "anisotropic":
            return switch(vectors, cutoff) * (1.0 + 0.3 * vectors[:, 0] ** 2)
        raise ValueError(self.kind)


class Chiral(Pairs):
    """A triple product of three vectors that each atom makes of its neighbours."""

    def extra_energy(self, system: System) -> torch.Tensor:
        block = system.get_neighbor_list(self.options[0])
        vectors = block.values.squeeze(-1)
        weight = switch(vectors, CUTOFF).unsqueeze(1)
        first = block.samples.column("first_atom").to(torch.int64)
        sums = [
            torch.zeros_like(system.positions).index_add(0, first, weight**power * vectors)
            for power in (1, 2, 3)
        ]
        return (torch.linalg.cross(sums[0], sums[1]) * sums[2]).sum(dim=1)


class Numbered(Pairs):
    def extra_energy(self, system: System) -> torch.Tensor:
        odd = torch.arange(len(system), device=system.device) % 2
        return 0.1 * odd * self.pair_sums(system)


class MeanField(Pairs):
    def extra_energy(self, system: System) -> torch.Tensor:
        n = len(system)
        return torch.full((n,), 1e-3 * n, dtype=system.positions.dtype, device=system.device)


class PerNeighbor(Pairs):
    """The mean over neighbours: 0 / 0 without any."""

    def extra_energy(self, system: System) -> torch.Tensor:
        block = system.get_neighbor_list(self.options[0])
        first = block.samples.column("first_atom").to(torch.int64)
        zeros = torch.zeros(len(system), dtype=system.positions.dtype, device=system.device)
        # a smooth count, so that the fault is the only one
        counts = zeros.index_add(0, first, switch(block.values.squeeze(-1), CUTOFF))
        return self.pair_sums(system) ** 2 / counts


class AllDistances(Pairs):
    """Every atom feels every other one, although the model says that its range is the cutoff."""

    def extra_energy(self, system: System) -> torch.Tensor:
        arms = system.positions.unsqueeze(0) - system.positions.unsqueeze(1)
        return 0.5 / (1.0 + (arms * arms).sum(dim=2)).sqrt().sum(dim=1)


class Leaking(Pairs):
    def __init__(self, what: str):
        super().__init__()
        self.what = what
        self.kept: list = []

    def extra_energy(self, system: System) -> torch.Tensor:
        if self.what == "tensors":
            self.kept.append(torch.zeros(LEAKED, dtype=torch.float64))
        else:
            self.kept.append(bytearray(8 * LEAKED))
        return torch.zeros_like(system.positions[:, 0])


class Flickering(Pairs):
    """Every other evaluation differs by a factor."""

    def __init__(self, relative: float):
        super().__init__()
        self.relative = relative
        self.count = 0

    def extra_energy(self, system: System) -> torch.Tensor:
        self.count += 1
        return (self.count % 2) * self.relative * self.pair_sums(system)


class Faulty(Pairs):
    """Faults that only the whole evaluation has: of batches, or of the per-atom energies."""

    def __init__(self, fault: str):
        super().__init__()
        self.fault = fault

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        results = super().forward(systems, outputs, selected_atoms)
        values = results["energy"].block().values
        if self.fault == "batch":
            values *= 1.0 + 0.01 * (len(systems) - 1)
        elif self.fault == "per-atom" and outputs["energy"].sample_kind == "atom":
            values *= SURPLUS
        return results


def broken(module: Pairs) -> AtomisticModel:
    return make(module, type(module).__name__)
