"""Models whose results are not what metatomic describes, for the tests of error messages.

No ``from __future__ import annotations`` here: TorchScript reads the annotations.
"""
# ruff: noqa: UP006, UP035, UP045

from typing import Dict, List, Optional

import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import AtomisticModel, ModelOutput, System
from zoo_parts import Outputs, Pairs, make, switch, wrap


class Detached(Pairs):
    def shape(self, vectors: torch.Tensor, cutoff: float) -> torch.Tensor:
        return switch(vectors, cutoff).detach()


def no_gradient() -> AtomisticModel:
    """The plain pair potential, cut off from the graph."""
    return make(Detached(), "no gradient")


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise AssertionError("zoo: no backward pass")


class OneWay(Pairs):
    def shape(self, vectors: torch.Tensor, cutoff: float) -> torch.Tensor:
        return Backward.apply(switch(vectors, cutoff))


def no_backward() -> AtomisticModel:
    """An energy whose backward pass fails; for use in memory only."""
    return make(OneWay(), "no backward")


class Misshapen(Outputs):
    what: str

    def __init__(self, what: str):
        super().__init__({"energy": 1.0}, {"non_conservative_force": 1.0})
        self.what = what

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        results: Dict[str, TensorMap] = {}
        for name in outputs.keys():  # noqa: SIM118 (TorchScript)
            if self.what == "nothing":
                continue
            n = len(systems[0])
            if self.what == "fewer rows":
                n = n - 1
            width = 2 if self.what == "two columns" else 1
            system = torch.zeros(n, dtype=torch.int32)
            atom = torch.arange(n, dtype=torch.int32)
            if self.what == "other atoms":
                atom = atom + 100
            samples = Labels(["system", "atom"], torch.stack([system, atom], dim=1))
            components: List[Labels] = []
            shape = [n, width]
            if name != "energy":
                components.append(Labels(["xyz"], torch.arange(3).reshape(-1, 1)))
                shape = [n, 3, width]
            values = torch.ones(shape, dtype=systems[0].positions.dtype)
            results[name] = wrap(values, samples, components, "energy")
        return results


def misshapen(what: str) -> AtomisticModel:
    """Results with ``nothing`` in them, ``fewer rows``, ``two columns``, or of ``other atoms``."""
    outputs = {"energy": ("eV", "atom"), "non_conservative_force": ("eV/A", "atom")}
    return make(Misshapen(what), "misshapen", outputs)
