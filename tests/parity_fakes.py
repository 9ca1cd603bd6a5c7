"""Paths that are wrong in one way each, to show that the parity harness notices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from ase import Atoms

from alchemi_bridge.parity import oracles, paths
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath
from alchemi_bridge.parity.results import PathResult

Spoil = Callable[[PathResult, int], PathResult]


class SpoiledPath(ParityPath):
    """The oracle, with its results passed through ``spoil(result, number_of_the_frame)``."""

    description = "the oracle, spoiled"

    def __init__(self, spoil: Spoil, name: str = "spoiled") -> None:
        self.name = name
        self.spoil = spoil

    def prepare(self, job: Job) -> Evaluator:
        potential = job.case.potential
        assert potential is not None
        return SpoiledEvaluator(oracles.build(potential.name, **potential.options), self.spoil)


class SpoiledEvaluator(Evaluator):
    """See :class:`SpoiledPath`."""

    def __init__(self, oracle: oracles.Oracle, spoil: Spoil) -> None:
        self.oracle = oracle
        self.spoil = spoil

    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        results = []
        for number, atoms in enumerate(frames):
            found = self.oracle.evaluate(atoms)
            good = PathResult(found.energy, found.forces, found.virial, found.energies)
            results.append(self.spoil(good, number))
        return results

    def step(self, atoms: Atoms) -> float:
        self.oracle.evaluate(atoms)
        return 1.0


def unspoiled(result: PathResult, number: int) -> PathResult:
    del number
    return result


def wrong_force(result: PathResult, number: int) -> PathResult:
    """One component of one force in the second frame, ten times its tolerance."""
    forces = result.forces.copy()
    forces[0, 1] += 1e-8 if number == 1 else 0.0
    return dataclasses.replace(result, forces=forces)


def wrong_energy(result: PathResult, number: int) -> PathResult:
    del number
    return dataclasses.replace(result, energy=result.energy * (1.0 + 1e-9))


def wrong_virial(result: PathResult, number: int) -> PathResult:
    """Of the wrong sign, as engines that count pressure positive have it."""
    del number
    assert result.virial is not None
    return dataclasses.replace(result, virial=-result.virial)


def wrong_energies(result: PathResult, number: int) -> PathResult:
    """Of the right sum, given to the wrong atoms."""
    del number
    assert result.energies is not None
    energies = result.energies.copy()
    energies[0] += 1e-6
    energies[-1] -= 1e-6
    return dataclasses.replace(result, energies=energies)


def nan_force(result: PathResult, number: int) -> PathResult:
    forces = result.forces.copy()
    forces[-1, 2] = np.nan if number == 0 else forces[-1, 2]
    return dataclasses.replace(result, forces=forces)


def nan_energy(result: PathResult, number: int) -> PathResult:
    return dataclasses.replace(result, energy=np.nan if number == 0 else result.energy)


def infinite_virial(result: PathResult, number: int) -> PathResult:
    del number
    return dataclasses.replace(result, virial=np.full((3, 3), np.inf))


def no_virial(result: PathResult, number: int) -> PathResult:
    del number
    return dataclasses.replace(result, virial=None)


def short_forces(result: PathResult, number: int) -> PathResult:
    del number
    return dataclasses.replace(result, forces=result.forces[:-1])


def raises(result: PathResult, number: int) -> PathResult:
    raise RuntimeError("this path is broken\nand says so at length")


@contextmanager
def registered(path: ParityPath) -> Iterator[ParityPath]:
    """Let a path take part for a while."""
    paths.registered()  # the built-in ones come first
    paths.register(path)
    try:
        yield path
    finally:
        paths.unregister(path.name)
