# ruff: noqa: UP006, UP035, UP045  (TorchScript and metatomic compare against typing's classes)
"""A net of the size and cost of SchNet, with random weights: something heavy to time."""

from typing import Dict, List, Optional

import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)

from alchemi_bridge.potentials._interface import (
    concatenated_types,
    energy_map,
    gather_pairs,
    no_energy,
)

N_ELEMENTS = 119


class ShiftedSoftplus(torch.nn.Module):
    """``log(exp(x)/2 + 1/2)``, SchNet's activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it to each element."""
        return torch.nn.functional.softplus(x) - 0.6931471805599453


class Interaction(torch.nn.Module):
    """One continuous-filter convolution and the layers around it."""

    def __init__(self, n_features: int, n_basis: int) -> None:
        super().__init__()
        self.filters = torch.nn.Sequential(
            torch.nn.Linear(n_basis, n_features),
            ShiftedSoftplus(),
            torch.nn.Linear(n_features, n_features),
        )
        self.before = torch.nn.Linear(n_features, n_features, bias=False)
        self.after = torch.nn.Sequential(
            torch.nn.Linear(n_features, n_features),
            ShiftedSoftplus(),
            torch.nn.Linear(n_features, n_features),
        )

    def forward(
        self,
        x: torch.Tensor,
        basis: torch.Tensor,
        envelope: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
    ) -> torch.Tensor:
        """New features from the messages of the neighbours."""
        filters = self.filters(basis) * envelope
        messages = self.before(x).index_select(0, second) * filters
        return x + self.after(torch.zeros_like(x).index_add(0, first, messages))


class SchNetLike(torch.nn.Module):
    """K. T. Schütt et al., J. Chem. Phys. 148, 241722 (2018), doi:10.1063/1.5019779."""

    centres: torch.Tensor

    def __init__(self, cutoff: float, n_layers: int, n_features: int, n_basis: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.request = NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)
        self.embedding = torch.nn.Embedding(N_ELEMENTS, n_features)
        self.layers = torch.nn.ModuleList(
            [Interaction(n_features, n_basis) for _ in range(n_layers)]
        )
        self.readout = torch.nn.Sequential(
            torch.nn.Linear(n_features, n_features // 2),
            ShiftedSoftplus(),
            torch.nn.Linear(n_features // 2, 1),
        )
        self.width = cutoff / (n_basis - 1)
        self.register_buffer("centres", torch.linspace(0.0, cutoff, n_basis))

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        """Return the one list that the model reads."""
        return [self.request]

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        """Compute the energy; see :class:`metatomic.torch.ModelInterface`."""
        results: Dict[str, TensorMap] = {}
        if "energy" not in outputs:
            return results
        sample_kind = outputs["energy"].sample_kind
        if len(systems) == 0:
            results["energy"] = no_energy(self.centres, sample_kind)
            return results
        vectors, first, second = gather_pairs(systems, self.request)
        x, y, z = vectors.unbind(1)
        r = (x * x + y * y + z * z).sqrt().unsqueeze(1)
        envelope = 0.5 * (torch.cos(r * (3.141592653589793 / self.cutoff)) + 1.0)
        basis = torch.exp(((r - self.centres) / self.width).square() * -0.5)
        features = self.embedding(concatenated_types(systems))
        for layer in self.layers:
            features = layer(features, basis, envelope, first, second)
        energies = self.readout(features).squeeze(1)
        results["energy"] = energy_map(energies, systems, sample_kind, selected_atoms)
        return results


def schnet_like(
    *,
    cutoff: float = 5.0,
    n_layers: int = 2,
    n_features: int = 32,
    n_basis: int = 20,
    dtype: str = "float32",
    seed: int = 2024,
) -> AtomisticModel:
    """The net as a metatomic model for all elements, in Å and eV; it describes no material."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = SchNetLike(cutoff, n_layers, n_features, n_basis)
    module = module.to(getattr(torch, dtype)).eval()
    capabilities = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="atom")},
        atomic_types=list(range(1, N_ELEMENTS)),
        interaction_range=n_layers * cutoff,
        length_unit="angstrom",
        supported_devices=["cpu", "cuda"],
        dtype=dtype,
    )
    metadata = ModelMetadata(
        name="SchNet-like net",
        description=f"{n_layers} layers, {n_features} features, random weights, for timing only",
    )
    return AtomisticModel(module, metadata, capabilities)
