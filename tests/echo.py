"""A metatomic model that returns its neighbour lists, and pairs as an engine would hand them over.

No ``from __future__ import annotations`` here: TorchScript reads the annotations.
"""
# ruff: noqa: UP006, UP035, UP045

import functools
from typing import Dict, List, Optional, Tuple

import brute_force
import numpy as np
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

from alchemi_bridge.contract import Atoms, ForceBuffers, Step
from alchemi_bridge.model import LoadedModel, load_model
from alchemi_bridge.pairs import FullPairs, HalfPairs
from alchemi_bridge.provider import MetatomicForceProvider

Request = Tuple[float, bool, bool]

#: names of the two outputs of the model
PAIRS = "echo::pairs"
LENGTHS = "echo::lengths"


class Echo(torch.nn.Module):
    """Output ``echo::pairs``: one block per request, the neighbour list as it came.

    ``echo::lengths`` holds the lengths of all pairs, in the model's own arithmetic. ``energy`` is
    ``sum (1 - r^2/rc^2)^3`` over all lists.
    """

    options: List[NeighborListOptions]

    def __init__(self, requests: Tuple[Request, ...]):
        super().__init__()
        self.options = [NeighborListOptions(*request) for request in requests]

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        return self.options

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        results: Dict[str, TensorMap] = {}
        device = systems[0].device
        requests = torch.arange(len(self.options), device=device).reshape(-1, 1)
        system = systems[0]
        pairs: List[TensorBlock] = []
        lengths: List[TensorBlock] = []
        energy = torch.zeros(1, dtype=system.positions.dtype, device=device)
        for options in self.options:
            block = system.get_neighbor_list(options)
            pairs.append(block.copy())
            vectors = block.values.squeeze(-1)
            length = torch.sqrt((vectors * vectors).sum(dim=1))
            single = torch.zeros((1, 1), dtype=torch.int32, device=device)
            lengths.append(
                TensorBlock(
                    values=length.reshape(-1, 1),
                    samples=block.samples,
                    components=[],
                    properties=Labels(["length"], single),
                )
            )
            energy = energy + ((1.0 - (length / options.cutoff) ** 2) ** 3).sum()
        if "echo::pairs" in outputs:
            results["echo::pairs"] = TensorMap(Labels(["request"], requests), pairs)
        if "echo::lengths" in outputs:
            results["echo::lengths"] = TensorMap(Labels(["request"], requests), lengths)
        if "energy" in outputs:
            zero = torch.zeros((1, 1), dtype=torch.int32, device=device)
            total = TensorBlock(
                values=energy.reshape(1, 1),
                samples=Labels(["system"], zero),
                components=[],
                properties=Labels(["energy"], zero),
            )
            results["energy"] = TensorMap(Labels(["_"], zero), [total])
        return results


def make(
    requests: Tuple[Request, ...], dtype: str = "float64", length_unit: str = "angstrom"
) -> AtomisticModel:
    """The model for these requests, each ``(cutoff, full_list, strict)``."""
    capabilities = ModelCapabilities(
        outputs={
            "energy": ModelOutput(unit="eV", sample_kind="system"),
            PAIRS: ModelOutput(sample_kind="system"),
            LENGTHS: ModelOutput(sample_kind="system"),
        },
        atomic_types=[18],
        interaction_range=max(cutoff for cutoff, _, _ in requests),
        length_unit=length_unit,
        supported_devices=["cpu", "cuda"],
        dtype=dtype,
    )
    return AtomisticModel(Echo(requests).eval(), ModelMetadata(name="echo"), capabilities)


@functools.cache
def loaded(
    *requests: Request,
    dtype: str = "float64",
    device: str = "cpu",
    length_unit: str = "angstrom",
) -> LoadedModel:
    """The model, made once per process."""
    return load_model(make(requests, dtype, length_unit), device=device)


def received(
    model: object,
    positions: np.ndarray | torch.Tensor,
    pairs: object,
    cell: object,
    *,
    subset: np.ndarray | None = None,
    output: str = PAIRS,
    check_consistency: bool = True,
) -> list[TensorBlock]:
    """What the model gets from a provider, one block per request."""
    provider = MetatomicForceProvider(
        model, extra_outputs=[output], check_consistency=check_consistency
    )
    provider.set_atoms(Atoms(types=np.full(len(positions), 18), subset=subset))
    provider.set_pairs(pairs, cell)
    provider.compute(Step(positions, energy=False, forces=False), ForceBuffers()).synchronize()
    return list(provider.results.extra[output].blocks())


def samples_of(block: TensorBlock) -> np.ndarray:
    """(n_pairs, 5) indices and shifts of a neighbour list."""
    return block.samples.values.cpu().numpy()


def full_pairs(found: brute_force.PairSet, reach: float) -> FullPairs:
    """Both directions, in a random order."""
    rng = np.random.default_rng(len(found.samples))
    rows = rng.permutation(found.samples)
    return FullPairs(rows[:, 0].copy(), rows[:, 1].copy(), rows[:, 2:].copy(), reach)


def half_pairs(found: brute_force.PairSet, reach: float) -> HalfPairs:
    """Each pair once, in a random direction and order."""
    rows = found.half().samples.copy()
    rng = np.random.default_rng(len(rows))
    turned = rng.random(len(rows)) < 0.5
    rows[turned] = np.array([brute_force.backward(tuple(r)) for r in rows[turned]]).reshape(-1, 5)
    rows = rng.permutation(rows)
    first, second, shifts = (
        rows[:, 0].astype(np.int32),
        rows[:, 1].astype(np.int32),
        rows[:, 2:].astype(np.int32),
    )
    return HalfPairs(first, second, shifts, reach)
