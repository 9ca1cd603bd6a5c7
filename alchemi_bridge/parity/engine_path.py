"""The contract as an engine uses it: own units, own pair list, own buffers that are added to.

The pair list is ASE's, made on the engine's side and held with a skin; units are GROMACS's (nm and
kJ/mol), converted here with scipy's constants and not with the bridge's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from alchemi_bridge.contract import Atoms as EngineAtoms
from alchemi_bridge.contract import Cell, ForceBuffers, Step
from alchemi_bridge.engines.boxes import same_system
from alchemi_bridge.engines.gromacs_files import KJ_PER_MOL, NM
from alchemi_bridge.pairs import FullPairs, HalfPairs
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath, Stopwatch, register
from alchemi_bridge.parity.results import PathResult
from alchemi_bridge.provider import MetatomicForceProvider
from alchemi_bridge.units import Units

#: How far the engine's list reaches beyond the model's cutoff, nm.
SKIN = 0.1


@dataclass
class _Buffers:
    """The engine's memory. It holds the engine's own contributions, which must survive."""

    forces: np.ndarray
    energy: np.ndarray
    virial: np.ndarray
    energies: np.ndarray

    @classmethod
    def of(cls, n_atoms: int, force_dtype: np.dtype, seed: int) -> _Buffers:
        rng = np.random.default_rng(seed)
        return cls(
            forces=rng.normal(0.0, 1.0, (n_atoms, 3)).astype(force_dtype),
            energy=rng.normal(0.0, 1.0, 1),
            virial=rng.normal(0.0, 1.0, (3, 3)),
            energies=rng.normal(0.0, 1.0, n_atoms),
        )

    def copy(self) -> _Buffers:
        return _Buffers(
            self.forces.copy(), self.energy.copy(), self.virial.copy(), self.energies.copy()
        )


class _EngineEvaluator(Evaluator):
    """A small engine: searches pairs when atoms have moved too far, and calls the provider."""

    def __init__(self, provider: MetatomicForceProvider, job: Job, half: bool) -> None:
        self._provider = provider
        self._half = half
        self._virial = "virial" in job.expected
        self._energies = "energies" in job.expected
        # forces in the model's precision; positions and sums in float64: rounding positions in nm
        # to float32 would move the atoms by 1e-6 Å, away from where the reference has them
        self._force_dtype = np.dtype(job.dtype)
        self._searched: Atoms | None = None

    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        return [self._evaluate(atoms, seed) for seed, atoms in enumerate(frames)]

    def _evaluate(self, atoms: Atoms, seed: int) -> PathResult:
        self._search_if_needed(atoms)
        before = _Buffers.of(len(atoms), self._force_dtype, seed)
        after = before.copy()
        step = Step(self._positions(atoms), virial=self._virial, energies=self._energies)
        out = ForceBuffers(after.forces, after.energy, after.virial, after.energies)
        self._provider.compute(step, out).synchronize()
        forces = after.forces.astype(np.float64) - before.forces.astype(np.float64)
        return PathResult(
            energy=float(after.energy[0] - before.energy[0]) * KJ_PER_MOL,
            forces=forces * (KJ_PER_MOL / NM),
            virial=(after.virial - before.virial) * KJ_PER_MOL if self._virial else None,
            energies=(after.energies - before.energies) * KJ_PER_MOL if self._energies else None,
        )

    def step(self, atoms: Atoms) -> float:
        self._search_if_needed(atoms)  # the engine's own work, and not in every step
        positions = self._positions(atoms)
        buffers = _Buffers.of(len(atoms), self._force_dtype, 0)
        out = ForceBuffers(forces=buffers.forces, energy=buffers.energy)
        with Stopwatch() as watch:
            self._provider.compute(Step(positions), out).synchronize()
        return watch.ms

    def _positions(self, atoms: Atoms) -> np.ndarray:
        return np.asarray(atoms.positions / NM)

    def _search_if_needed(self, atoms: Atoms) -> None:
        last = self._searched
        if last is not None and same_system(last, atoms):
            moved = np.linalg.norm(atoms.positions - last.positions, axis=1).max(initial=0.0)
            if moved / NM < 0.5 * SKIN:
                return
        self._search(atoms)

    def _search(self, atoms: Atoms) -> None:
        numbers = np.ascontiguousarray(atoms.numbers, dtype=np.int32)
        self._provider.set_atoms(EngineAtoms(types=numbers))
        reach = self._provider.requirements.pair_range + SKIN
        first, second, shifts = neighbor_list("ijS", atoms, reach * NM)
        kind: type[FullPairs] | type[HalfPairs] = FullPairs
        if self._half:
            kind, keep = HalfPairs, _one_of_each(first, second, shifts)
            first, second, shifts = first[keep], second[keep], shifts[keep]
        pairs = kind(
            np.ascontiguousarray(first, dtype=np.int32),
            np.ascontiguousarray(second, dtype=np.int32),
            np.ascontiguousarray(shifts, dtype=np.int32),
            reach,
        )
        self._provider.set_pairs(pairs, Cell.of(atoms.cell.array / NM, atoms.pbc))
        self._searched = atoms.copy()


def _one_of_each(first: np.ndarray, second: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Mask that keeps one direction of every pair, also of an atom with its own images."""
    a, b, c = shifts.T
    positive = (a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))
    return np.asarray((first < second) | ((first == second) & positive))


class EnginePath(ParityPath):
    """An engine with its own pair list behind the provider's contract."""

    def __init__(self, name: str, *, half: bool) -> None:
        self.name = name
        self.half = half
        each = "every pair once" if half else "every pair in both directions"
        self.description = (
            f"an engine's own pair list ({each}), in nm and kJ/mol, on the CPU "
            "(time: without the engine's pair search)"
        )

    def refuses(self, job: Job) -> str | None:
        if "cpu" not in job.loaded.capabilities.supported_devices:
            return "the model does not support cpu"
        if job.loaded.requested_inputs:
            return f"the model requests {', '.join(job.loaded.requested_inputs)}"
        return None

    def prepare(self, job: Job) -> Evaluator:
        options: dict[str, Any] = dict(job.options)
        provider = MetatomicForceProvider(
            str(job.model_file), device="cpu", units=Units("nm", "kJ/mol"), **options
        )
        return _EngineEvaluator(provider, job, self.half)


register(EnginePath("bridge-list", half=False))
register(EnginePath("bridge-half-list", half=True))
