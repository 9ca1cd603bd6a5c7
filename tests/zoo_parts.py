"""Parts that the models in ``zoo.py`` are made of: the pair potential, outputs, wrapping.

No ``from __future__ import annotations`` here: TorchScript reads the annotations, and
metatomic compares them with ``typing.List`` and the like.
"""
# ruff: noqa: UP006, UP035, UP045

import warnings
from pathlib import Path
from typing import Dict, List, Optional, Tuple

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

TYPES = [1, 6, 7, 8, 14, 18]
CUTOFF = 3.0
FORCE_SCALE = 0.7  # non-conservative forces are A times 0.7 sum_j s(r_ij) r_ij, plus DRIFT
DRIFT = (0.05, -0.03, 0.02)  # eV/A on every atom
STRESS_SCALE = 0.01  # non-conservative stress: 0.01 sum_ij s(r_ij) r_ij r_ij^T
MEMBERS = (0.9, 0.95, 1.05, 1.1)  # prefactors of the ensemble
UNCERTAINTY = 0.05  # eV for each atom, times the prefactor of the variant


# --- building blocks ----------------------------------------------------------------------------


def rows_of(
    systems: List[System], selected: Optional[Labels]
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """System, atom, and row in the concatenation of all systems, for every selected atom."""
    device = systems[0].positions.device
    counts = torch.tensor([len(system) for system in systems], device=device)
    starts = torch.cumsum(counts, 0) - counts
    if selected is None:
        rows = torch.arange(int(counts.sum()), device=device)
        system = torch.repeat_interleave(torch.arange(len(systems), device=device), counts)
        return system, rows - starts[system], rows
    system = selected.column("system").to(torch.int64)
    atom = selected.column("atom").to(torch.int64)
    return system, atom, starts[system] + atom


def to_map(
    values: torch.Tensor,
    systems: List[System],
    selected: Optional[Labels],
    sample_kind: str,
    components: List[Labels],
    prop: str,
) -> TensorMap:
    """Per-atom values (N, ..., P) as an output, summed over the atoms of a system if asked."""
    system, atom, rows = rows_of(systems, selected)
    values = values[rows]
    if sample_kind == "atom":
        samples = Labels(["system", "atom"], torch.stack([system, atom], dim=1).to(torch.int32))
    else:
        known, inverse = torch.unique(system, return_inverse=True)
        if selected is None:
            known = torch.arange(len(systems), device=values.device)
            inverse = system
        shape = list(values.shape)
        shape[0] = known.shape[0]
        zero = torch.zeros(shape, dtype=values.dtype, device=values.device)
        values = zero.index_add(0, inverse, values)
        samples = Labels(["system"], known.reshape(-1, 1).to(torch.int32))
    return wrap(values, samples, components, prop)


def wrap(values: torch.Tensor, samples: Labels, components: List[Labels], prop: str) -> TensorMap:
    n = values.shape[len(values.shape) - 1]
    block = TensorBlock(
        values=values,
        samples=samples,
        components=components,
        properties=Labels([prop], torch.arange(n, device=values.device).reshape(-1, 1)),
    )
    keys = Labels(["_"], torch.tensor([[0]], device=values.device))
    return TensorMap(keys=keys, blocks=[block])


def axis(name: str, device: torch.device) -> Labels:
    return Labels([name], torch.arange(3, device=device).reshape(-1, 1))


def switch(vectors: torch.Tensor, cutoff: float) -> torch.Tensor:
    """s(r) for vectors (P, 3); zero beyond the cutoff, whatever the list holds."""
    r2 = (vectors * vectors).sum(dim=1)
    return torch.clamp(1.0 - r2 / (cutoff * cutoff), min=0.0) ** 3


class Pairs(torch.nn.Module):
    """The pair potential; the other models extend or replace parts of it."""

    options: List[NeighborListOptions]
    prefactors: Dict[str, float]

    def __init__(
        self,
        requests: Tuple[Tuple[float, bool, bool], ...] = ((CUTOFF, True, True),),
        prefactors: Optional[Dict[str, float]] = None,
    ):
        super().__init__()
        self.options = [NeighborListOptions(*request) for request in requests]
        # output name -> prefactor, for all energies
        self.prefactors = {"energy": 1.0} if prefactors is None else dict(prefactors)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        return self.options

    def shape(self, vectors: torch.Tensor, cutoff: float) -> torch.Tensor:
        return switch(vectors, cutoff)

    def pair_sums(self, system: System) -> torch.Tensor:
        """sum_j s(r_ij) / 2 for each atom, (N,)."""
        total = torch.zeros(len(system), dtype=system.positions.dtype, device=system.device)
        for options in self.options:
            block = system.get_neighbor_list(options)
            terms = 0.5 * self.shape(block.values.squeeze(-1), options.cutoff)
            first = block.samples.column("first_atom").to(torch.int64)
            total = total.index_add(0, first, terms)
            if not options.full_list:
                second = block.samples.column("second_atom").to(torch.int64)
                total = total.index_add(0, second, terms)
        return total

    def extra_energy(self, system: System) -> torch.Tensor:
        """What a model adds to the pair energies, (N,)."""
        return torch.zeros(len(system), dtype=system.positions.dtype, device=system.device)

    def extra_output(
        self,
        name: str,
        output: ModelOutput,
        systems: List[System],
        selected_atoms: Optional[Labels],
    ) -> TensorMap:
        """An output that is no energy."""
        raise ValueError("zoo: unknown output " + name)

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        results: Dict[str, TensorMap] = {}
        for name, output in outputs.items():
            if len(systems) == 0:
                continue
            if name in self.prefactors:
                sums = torch.cat([self.pair_sums(system) for system in systems])
                extra = torch.cat([self.extra_energy(system) for system in systems])
                values = (self.prefactors[name] * sums + extra).reshape(-1, 1)
                results[name] = to_map(
                    values, systems, selected_atoms, output.sample_kind, [], "energy"
                )
            else:
                results[name] = self.extra_output(name, output, systems, selected_atoms)
        return results


def make(
    module: torch.nn.Module,
    name: str,
    outputs: Optional[Dict[str, Tuple[str, str]]] = None,
    *,
    interaction_range: float = CUTOFF,
    length_unit: str = "angstrom",
    dtype: str = "float64",
    devices: Tuple[str, ...] = ("cpu", "cuda"),
) -> AtomisticModel:
    """Wrap a module; ``outputs`` maps names to (unit, sample kind)."""
    declared = {"energy": ("eV", "atom")} if outputs is None else outputs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated.*")
        capabilities = ModelCapabilities(
            outputs={
                key: ModelOutput(unit=unit, sample_kind=kind, description="zoo: " + key)
                for key, (unit, kind) in declared.items()
            },
            atomic_types=TYPES,
            interaction_range=interaction_range,
            length_unit=length_unit,
            supported_devices=list(devices),
            dtype=dtype,
        )
        metadata = ModelMetadata(name="zoo: " + name, description="a model for tests")
        return AtomisticModel(module.eval(), metadata, capabilities)


def save(model: AtomisticModel, directory: Path, name: str) -> Path:
    """Write ``directory/name.pt`` and return its path."""
    path = Path(directory) / f"{name}.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated.*")
        model.save(str(path))
    return path


class Outputs(Pairs):
    """Uncertainty, ensemble, non-conservative force and stress, and two outputs of its own."""

    prefactors: Dict[str, float]  # again: TorchScript sees the annotations of one class only
    scales: Dict[str, float]
    drift: List[float]
    members: List[float]

    def __init__(self, prefactors: Dict[str, float], scales: Dict[str, float]):
        super().__init__(prefactors=prefactors)
        self.scales = scales
        # TorchScript can not read the constants of a Python module
        self.force_scale = FORCE_SCALE
        self.stress_scale = STRESS_SCALE
        self.uncertainty = UNCERTAINTY
        self.drift = list(DRIFT)
        self.members = list(MEMBERS)

    def pair_vectors(self, system: System) -> torch.Tensor:
        """sum_j s(r_ij) r_ij for each atom, (N, 3)."""
        block = system.get_neighbor_list(self.options[0])
        vectors = block.values.squeeze(-1)
        terms = self.shape(vectors, self.options[0].cutoff).reshape(-1, 1) * vectors
        first = block.samples.column("first_atom").to(torch.int64)
        return torch.zeros_like(system.positions).index_add(0, first, terms)

    def pair_tensor(self, system: System) -> torch.Tensor:
        """sum_ij s(r_ij) r_ij r_ij^T, (3, 3)."""
        vectors = system.get_neighbor_list(self.options[0]).values.squeeze(-1)
        weight = self.shape(vectors, self.options[0].cutoff).reshape(-1, 1)
        return (weight * vectors).T @ vectors

    def extra_output(
        self,
        name: str,
        output: ModelOutput,
        systems: List[System],
        selected_atoms: Optional[Labels],
    ) -> TensorMap:
        base = name.split("/")[0]
        scale = self.scales[name]
        kind = output.sample_kind
        device = systems[0].device
        sums = torch.cat([self.pair_sums(system) for system in systems]).reshape(-1, 1)
        if base == "energy_uncertainty":
            values = torch.full_like(sums, scale * self.uncertainty)
            return to_map(values, systems, selected_atoms, kind, [], "energy")
        if base == "energy_ensemble":
            members = torch.tensor(self.members, dtype=sums.dtype, device=device)
            return to_map(sums * members, systems, selected_atoms, kind, [], "energy")
        if base == "zoo::coordination":
            return to_map(2.0 * sums, systems, selected_atoms, kind, [], "coordination")
        if base == "feature":
            values = torch.cat([2.0 * sums, sums * sums], dim=1)
            return to_map(values, systems, selected_atoms, kind, [], "feature")

        vectors = torch.cat([self.pair_vectors(system) for system in systems]).unsqueeze(-1)
        xyz = axis("xyz", device)
        if base == "zoo::dipole":
            return to_map(vectors, systems, selected_atoms, kind, [xyz], "dipole")
        if base == "non_conservative_force" or base == "non_conservative_forces":
            drift = torch.tensor(self.drift, dtype=vectors.dtype, device=device)
            values = scale * self.force_scale * vectors + drift.reshape(1, 3, 1)
            return to_map(values, systems, selected_atoms, kind, [xyz], base)
        if base == "non_conservative_stress":
            values = torch.stack([self.pair_tensor(system) for system in systems]).unsqueeze(-1)
            samples = torch.arange(len(systems), device=device).reshape(-1, 1)
            return wrap(
                scale * self.stress_scale * values,
                Labels(["system"], samples),
                [axis("xyz_1", device), axis("xyz_2", device)],
                base,
            )
        raise ValueError("zoo: unknown output " + name)
