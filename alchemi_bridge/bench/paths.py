"""The ways to compute a step that are compared: the bridge, other people's engines, the model."""

from __future__ import annotations

import importlib
import importlib.util
import time
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import Atoms, ForceBuffers, Step
from alchemi_bridge.engines.ase import BridgeCalculator
from alchemi_bridge.geometry import Geometry, system_input
from alchemi_bridge.model import LoadedModel, Wanted
from alchemi_bridge.model.evaluate import requests_for
from alchemi_bridge.model.execution import optimized
from alchemi_bridge.model.graph import build_graph
from alchemi_bridge.pairs import HalfPairs, Search, find_pairs
from alchemi_bridge.provider import MetatomicForceProvider

PROPERTIES = ["energy", "forces", "stress"]

#: What the lists of the bridge reach beyond the cutoff, Å; the default of its ASE calculator.
SKIN = 1.0


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; nothing to do for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class TimedPath(ABC):
    """One way to compute energy, forces and virial of a step."""

    name: str

    @abstractmethod
    def step(self, positions: np.ndarray) -> tuple[float, float]:
        """Compute at these positions; wall and CPU seconds, without handing them over."""

    def forces(self) -> np.ndarray:
        """(n_atoms, 3) eV/Å of the last step."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether what is done in the first steps only is over."""
        return True


class AsePath(TimedPath):
    """An ASE calculator."""

    def __init__(self, name: str, atoms: ase.Atoms, calculator: Any, device: torch.device) -> None:
        self.name, self.atoms, self.device = name, atoms.copy(), device
        self.calculator = calculator

    def step(self, positions: np.ndarray) -> tuple[float, float]:
        self.atoms.positions[:] = positions
        wall, cpu = time.perf_counter(), time.process_time()
        self.calculator.calculate(self.atoms, PROPERTIES, ["positions"])
        synchronize(self.device)
        return time.perf_counter() - wall, time.process_time() - cpu

    def forces(self) -> np.ndarray:
        return np.asarray(self.calculator.results["forces"])

    @property
    def ready(self) -> bool:
        provider = getattr(self.calculator, "provider", None)
        return provider is None or bool(provider.tuned)


class ProviderPath(TimedPath):
    """The contract: what an engine pays that has its own arrays on the device."""

    name = "bridge"
    skin = SKIN

    def __init__(self, atoms: ase.Atoms, model: Path, device: torch.device) -> None:
        self.device = device
        self.provider = MetatomicForceProvider(model, device=device)
        self.provider.set_atoms(Atoms(types=np.asarray(atoms.numbers, dtype=np.int64)))
        self.cell = Cell.of(atoms.cell.array, atoms.pbc)
        self.search()
        n_atoms = len(atoms)

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.positions = zeros(n_atoms, 3)
        self.out = ForceBuffers(forces=zeros(n_atoms, 3), energy=zeros(1), virial=zeros(3, 3))
        self.request = Step(self.positions, virial=True)

    def search(self) -> None:
        """Have the provider search at the next step."""
        self.provider.set_pairs(Search(self.skin), self.cell)

    def hand_over(self, positions: np.ndarray) -> None:
        """Search as an engine would, and hand over a half list for these positions."""
        self.positions.copy_(torch.from_numpy(positions))
        reach = self.provider.requirements.pair_range + self.skin
        found = find_pairs(self.positions, self.cell, reach)
        half = found.canonical
        arrays = (found.first[half], found.second[half], found.shifts[half])
        self.provider.set_pairs(HalfPairs(*arrays, reach), self.cell)

    def step(self, positions: np.ndarray) -> tuple[float, float]:
        self.positions.copy_(torch.from_numpy(positions))
        self.out.forces.zero_()
        synchronize(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        self.provider.compute(self.request, self.out).synchronize()
        return time.perf_counter() - wall, time.process_time() - cpu

    def forces(self) -> np.ndarray:
        return np.asarray(self.out.forces.cpu())

    @property
    def ready(self) -> bool:
        return self.provider.tuned


class ModelPath(TimedPath):
    """The model alone: forward and backward on inputs that are made beforehand."""

    name = "model"

    def __init__(self, atoms: ase.Atoms, provider: MetatomicForceProvider) -> None:
        self.provider, self.device = provider, provider.loaded.device
        loaded: LoadedModel = provider.loaded
        self.types = torch.as_tensor(atoms.numbers, dtype=torch.int32, device=self.device)
        self.geometry = Geometry(loaded, n_atoms=len(atoms), subset=None, length=1.0)
        self.geometry.set_pairs(Search(SKIN), Cell.of(atoms.cell.array, atoms.pbc))
        #: Rows of the model's lists for each atom, in the last step.
        self.neighbors = 0.0
        wanted = Wanted(virial=True)
        self.energy = provider.plan.energy
        self.requests = requests_for(loaded, provider.plan, wanted)

    def step(self, positions: np.ndarray) -> tuple[float, float]:
        loaded = self.provider.loaded
        there = torch.as_tensor(positions, device=self.device)
        source = system_input(loaded, self.types, self.geometry.step(there, None), {})
        graph = build_graph(loaded, source, True, False)
        self.neighbors = sum(len(p.samples) for p in source.pairs) / len(self.types)
        synchronize(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        with optimized(self.provider.mode.optimize):
            outputs = loaded.module.module([graph.system], self.requests, None)
            values = outputs[self.energy].block().values
            torch.autograd.grad(values, graph.vectors, torch.ones_like(values), allow_unused=True)
        synchronize(self.device)
        return time.perf_counter() - wall, time.process_time() - cpu


def metatomic_ase(atoms: ase.Atoms, model: Path, device: torch.device) -> AsePath | None:
    """metatomic's own ASE calculator, ``None`` where it is not installed."""
    if importlib.util.find_spec("metatomic_ase") is None:
        return None
    module = importlib.import_module("metatomic_ase")
    return AsePath("metatomic-ase", atoms, module.MetatomicCalculator(model, device=str(device)),
                   device)  # fmt: skip


class TorchSimPath(TimedPath):
    """metatomic's model for torch-sim."""

    name = "metatomic-torchsim"

    def __init__(self, atoms: ase.Atoms, model: Path, device: torch.device) -> None:
        peer = importlib.import_module("metatomic_torchsim")
        states = importlib.import_module("torch_sim")
        self.device = device
        self.model = peer.MetatomicModel(model, device=device)
        self.state = states.io.atoms_to_state([atoms], device=device, dtype=self.model.dtype)
        self.results: dict[str, torch.Tensor] = {}

    def step(self, positions: np.ndarray) -> tuple[float, float]:
        there = torch.as_tensor(positions, device=self.device).to(self.state.positions.dtype)
        self.state.positions = there
        synchronize(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        self.results = self.model(self.state)
        synchronize(self.device)
        return time.perf_counter() - wall, time.process_time() - cpu

    def forces(self) -> np.ndarray:
        return np.asarray(self.results["forces"].detach().cpu())


def metatomic_torchsim(atoms: ase.Atoms, model: Path, device: torch.device) -> TimedPath | None:
    """metatomic's torch-sim model, ``None`` where it is not installed."""
    names = ("metatomic_torchsim", "torch_sim")
    if any(importlib.util.find_spec(name) is None for name in names):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TorchSimPath(atoms, model, device)


def bridge_ase(atoms: ase.Atoms, model: Path, device: torch.device) -> AsePath:
    """The bridge's ASE calculator."""
    calculator = BridgeCalculator(model, device=device, neighbor_skin=SKIN)
    return AsePath("bridge-ase", atoms, calculator, device)
