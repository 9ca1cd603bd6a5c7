"""The paths that are always there: the oracle, metatomic-ase, and the bridge behind ASE."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from alchemi_bridge.batch import StructureResult, evaluate_structures
from alchemi_bridge.contract import Cell, ForceBuffers, Step
from alchemi_bridge.device import cuda_devices
from alchemi_bridge.engines.ase import BridgeCalculator
from alchemi_bridge.engines.ase_batch import positions_of, structure_of
from alchemi_bridge.engines.ase_inputs import quantities
from alchemi_bridge.errors import UnsupportedOutputError
from alchemi_bridge.model import Wanted
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath, Stopwatch, register
from alchemi_bridge.parity.results import PathResult
from alchemi_bridge.parity.structures import stepped


class _OracleEvaluator(Evaluator):
    def __init__(self, oracle: Any) -> None:
        self._oracle = oracle

    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        results = []
        for atoms in frames:
            found = self._oracle.evaluate(atoms)
            results.append(PathResult(found.energy, found.forces, found.virial, found.energies))
        return results

    def step(self, atoms: Atoms) -> float:
        with Stopwatch() as watch:
            self._oracle.evaluate(atoms)
        return watch.ms


class OraclePath(ParityPath):
    """NumPy in float64, sharing no code with the models: the answer, for built-in potentials."""

    name = "oracle"
    description = "independent NumPy implementation in float64 (built-in cases only)"

    def refuses(self, job: Job) -> str | None:
        return None if job.case.built_in else "there is no oracle for a model of yours"

    def expected(self, job: Job) -> frozenset[str]:
        return frozenset({"energy", "forces", "virial", "energies"})

    def prepare(self, job: Job) -> Evaluator:
        from alchemi_bridge.parity import oracles

        potential = job.case.potential
        assert potential is not None  # refuses() has seen to it
        return _OracleEvaluator(oracles.build(potential.name, **potential.options))


class _AseEvaluator(Evaluator):
    """A calculator of ASE: metatomic-ase's or the bridge's."""

    def __init__(self, calculator: Any, expected: frozenset[str]) -> None:
        self._calculator = calculator
        self._with_virial = "virial" in expected
        # energies first: what both calculators compute along with them is then in their cache
        self._wanted = ["energies"] if "energies" in expected else []
        self._wanted += ["energy", "forces"]

    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        return [self._evaluate(with_volume(atoms)) for atoms in frames]

    def _evaluate(self, atoms: Atoms) -> PathResult:
        found = self._properties(atoms, self._wanted)
        return PathResult(
            energy=float(found["energy"]),
            forces=np.array(found["forces"], dtype=np.float64),
            virial=self._virial(atoms) if self._with_virial else None,
            energies=np.array(found["energies"]) if "energies" in found else None,
        )

    def _virial(self, atoms: Atoms) -> np.ndarray:
        stress = self._properties(atoms, ["stress"])["stress"]
        return np.asarray(voigt_6_to_full_3x3_stress(stress) * atoms.cell.volume)

    def step(self, atoms: Atoms) -> float:
        with Stopwatch() as watch:
            self._properties(atoms, ["forces", "energy"])
        return watch.ms

    def _properties(self, atoms: Atoms, names: Sequence[str]) -> dict[str, Any]:
        """Properties the way ASE's dynamics asks for them, with what it keeps between steps."""
        with warnings.catch_warnings():
            # metatomic-ase warns that a stress needs three periodic directions; here it only
            # carries the virial, stress times volume, which does not
            warnings.filterwarnings("ignore", message="stress requested but likely to be wrong")
            return {name: self._calculator.get_property(name, atoms) for name in names}


def with_volume(atoms: Atoms) -> Atoms:
    """A copy whose cell has a volume: zero vectors of non-periodic directions become unit ones.

    ASE hands out stress, never the virial. metatomic drops the vectors of non-periodic directions
    before it evaluates, so that the volume here only serves to divide and multiply by.
    """
    if not atoms.pbc.all() and atoms.cell.rank < 3:
        atoms = atoms.copy()
        atoms.set_cell(atoms.cell.complete())
    return atoms


class MetatomicAsePath(ParityPath):
    """metatomic's own calculator for ASE: the peer, and the reference for a user's own model."""

    name = "metatomic-ase"
    description = "metatomic-ase's MetatomicCalculator on the CPU"

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("metatomic_ase") is None:
            return "metatomic-ase is not installed (pip install metatomic-ase)"
        return None

    def refuses(self, job: Job) -> str | None:
        return _without_cpu(job)

    def prepare(self, job: Job) -> Evaluator:
        # it searches with Warp where there is one, which tells of itself on the standard output
        with contextlib.redirect_stdout(sys.stderr):
            from metatomic_ase import MetatomicCalculator
        warp = sys.modules.get("warp")
        if warp is not None:
            warp.config.log_level = warp.LOG_WARNING
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deprecated.*")
            calculator = MetatomicCalculator(str(job.model_file), device="cpu", **job.options)
        return _AseEvaluator(calculator, job.expected)


class BridgeEvaluator(_AseEvaluator):
    """The bridge's calculator, which rightly refuses a stress where there is no volume."""

    def _virial(self, atoms: Atoms) -> np.ndarray:
        if atoms.pbc.all():
            return super()._virial(atoms)
        provider = self._calculator.provider
        virial = torch.zeros((3, 3), dtype=torch.float64, device=provider.loaded.device)
        step = Step(
            positions=positions_of(atoms, provider.loaded.device),
            cell=Cell.of(atoms.cell.array, atoms.pbc),
            energy=False,
            forces=False,
            virial=True,
            inputs=quantities(atoms, provider.loaded.requested_inputs),
        )
        provider.compute(step, ForceBuffers(virial=virial)).synchronize()
        return virial.cpu().numpy()


class BridgeAsePath(ParityPath):
    """The bridge behind ASE, on one kind of device."""

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self.device = device
        self.description = f"BridgeCalculator on the {'GPU' if device == 'cuda' else 'CPU'}"

    def unavailable(self) -> str | None:
        if self.device == "cuda" and cuda_devices() == 0:
            return "no CUDA device"
        return None

    def refuses(self, job: Job) -> str | None:
        supported = list(job.loaded.capabilities.supported_devices)
        return None if self.device in supported else f"the model does not support {self.device}"

    def prepare(self, job: Job) -> Evaluator:
        return BridgeEvaluator(self._calculator(job), job.expected)

    def _calculator(self, job: Job) -> BridgeCalculator:
        return BridgeCalculator(str(job.model_file), device=self.device, comm=None, **job.options)


class _BatchEvaluator(Evaluator):
    """All frames in one evaluation of the model."""

    #: Systems of a timed evaluation.
    SIZE = 4

    def __init__(self, calculator: BridgeCalculator, expected: frozenset[str]) -> None:
        self._provider = calculator.provider
        self._virial = "virial" in expected
        self._energies = "energies" in expected

    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        wanted = Wanted(energy=True, forces=True, virial=self._virial, energies=self._energies)
        return [
            PathResult(
                energy=float(_numpy(found.energy)),
                forces=_numpy(found.forces),
                virial=_numpy(found.virial) if self._virial else None,
                energies=_numpy(found.energies) if self._energies else None,
            )
            for found in self._run(frames, wanted)
        ]

    def step(self, atoms: Atoms) -> float:
        batch = [atoms, *(stepped(atoms, 1000 + number) for number in range(1, self.SIZE))]
        with Stopwatch() as watch:
            for found in self._run(batch, Wanted(energy=True, forces=True)):
                _numpy(found.forces)
        return watch.ms / self.SIZE

    def _run(self, frames: Sequence[Atoms], wanted: Wanted) -> list[StructureResult]:
        structures = [structure_of(atoms, self._provider.loaded) for atoms in frames]
        return evaluate_structures(self._provider, structures, wanted)[0]


def _numpy(values: torch.Tensor | None) -> np.ndarray:
    if values is None:
        raise UnsupportedOutputError(
            "result of the batch",
            expected="every wanted quantity",
            got="nothing",
            fix="report it: the batch promised more than it gave",
        )
    return values.detach().double().cpu().numpy()


class BridgeBatchPath(BridgeAsePath):
    """Several systems in one evaluation of the model."""

    def __init__(self) -> None:
        super().__init__("bridge-batch", "cpu")
        self.description = (
            "the bridge with all frames in one evaluation of the model, on the CPU "
            f"(time: of {_BatchEvaluator.SIZE} together, each with its own pair search, over "
            f"{_BatchEvaluator.SIZE})"
        )

    def prepare(self, job: Job) -> Evaluator:
        return _BatchEvaluator(self._calculator(job), job.expected)


def _without_cpu(job: Job) -> str | None:
    supported = list(job.loaded.capabilities.supported_devices)
    return None if "cpu" in supported else "the model does not support cpu"


register(OraclePath())
register(MetatomicAsePath())
register(BridgeAsePath("bridge-cpu", "cpu"))
register(BridgeAsePath("bridge-cuda", "cuda"))
register(BridgeBatchPath())
