"""Small sweeps, and engines that are wrong in one way each; they are sent to workers by name."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.build import bulk

from alchemi_bridge.cli.extxyz import write_frame
from alchemi_bridge.ensembles.executors.base import Executor
from alchemi_bridge.ensembles.executors.in_process import InProcessExecutor
from alchemi_bridge.ensembles.sweep.engines import Engine, engine
from alchemi_bridge.ensembles.sweep.matrix import Matrix
from alchemi_bridge.ensembles.sweep.plan import Plan, make_plan
from alchemi_bridge.ensembles.sweep.run import HINTS, inspected, run
from alchemi_bridge.ensembles.sweep.store import CellStore
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath, registered
from alchemi_bridge.parity.results import PathResult

#: Added to one component of one force, eV/Å: six orders beyond the limit of a float64 model.
SHIFT = 1e-3


class Faked(ParityPath):
    """The bridge behind ASE, and a file that gets a line for each evaluation."""

    description = "the bridge, with something on top"

    def __init__(self, name: str, log: Path, at: str = "") -> None:
        self.name = name
        self.log = log
        #: Formula of the structures at which something happens; all if empty.
        self.at = at
        #: How often a model was loaded by this object.
        self.prepared = 0

    def refuses(self, job: Job) -> str | None:
        return registered()["bridge-cpu"].refuses(job)

    def prepare(self, job: Job) -> Evaluator:
        self.prepared += 1
        return FakedEvaluator(registered()["bridge-cpu"].prepare(job), self)

    def meets(self, frames: Sequence[ase.Atoms]) -> bool:
        return self.at in ("", frames[0].get_chemical_formula())

    def results(self, found: list[PathResult]) -> list[PathResult]:
        """What becomes of the right results."""
        return found

    @property
    def evaluations(self) -> list[str]:
        """Processes that evaluated, one for each evaluation."""
        return self.log.read_text().split() if self.log.exists() else []


class FakedEvaluator(Evaluator):
    """See :class:`Faked`."""

    def __init__(self, true: Evaluator, path: Faked) -> None:
        self.true, self.path = true, path

    def evaluate(self, frames: Sequence[ase.Atoms]) -> list[PathResult]:
        with self.path.log.open("a") as log:
            log.write(f"{os.getpid()}\n")
        found = self.true.evaluate(frames)
        return self.path.results(found) if self.path.meets(frames) else found

    def step(self, atoms: ase.Atoms) -> float:
        return self.true.step(atoms)


class Shifted(Faked):
    """One component of one force is off."""

    def results(self, found: list[PathResult]) -> list[PathResult]:
        forces = found[0].forces.copy()
        forces[0, 1] += SHIFT
        return [dataclasses.replace(found[0], forces=forces), *found[1:]]


class Lacking(Faked):
    """A number is none."""

    def results(self, found: list[PathResult]) -> list[PathResult]:
        forces = found[0].forces.copy()
        forces[0, 1] = np.nan
        return [dataclasses.replace(found[0], forces=forces), *found[1:]]


class Raising(Faked):
    """An error of Python."""

    def results(self, found: list[PathResult]) -> list[PathResult]:
        raise ZeroDivisionError("this engine is broken\nand says so at length")


class Dying(Faked):
    """Ends its process, the first time or always."""

    always = False

    def results(self, found: list[PathResult]) -> list[PathResult]:
        marker = self.log.with_suffix(".died")
        if self.always or not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return found


class Mortal(Dying):
    """Ends its process each time."""

    always = True


class Interrupting(Faked):
    """As if somebody pressed Ctrl-C."""

    def results(self, found: list[PathResult]) -> list[PathResult]:
        raise KeyboardInterrupt


class Absent(Faked):
    """Not installed."""

    def unavailable(self) -> str | None:
        return "it is on another planet"


def save(path: Path, *frames: ase.Atoms) -> Path:
    """A structure file with every digit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for atoms in frames:
            write_frame(file, atoms)
    return path


def silicon(number: int = 0, repeat: int = 1) -> ase.Atoms:
    """8 repeat^3 atoms; each number another structure, with another formula for even ones."""
    atoms = bulk("Si", cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(0.05, seed=number)
    return atoms


def argon(number: int = 0) -> ase.Atoms:
    """32 atoms."""
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * 2
    atoms.rattle(0.1, seed=number)
    return atoms


def planned(
    models: Sequence[Path],
    structures: Sequence[Path],
    engines: Sequence[ParityPath | str],
    reference: str = "metatomic-ase",
    **options: Any,
) -> Plan:
    """A plan of files, with engines by name or as they are."""
    chosen = [engine(one) if isinstance(one, str) else Engine(one.name, one) for one in engines]
    names = [[str(path) for path in group] for group in (models, structures)]
    return make_plan(*names, chosen, engine(reference), **options)


def swept(plan: Plan, folder: Path, executor: Executor | None = None) -> Matrix:
    """The matrix of a plan, with what is in the folder taken as finished."""
    executor = executor or InProcessExecutor()
    with CellStore(folder) as store:
        return run(inspected(plan, executor), executor, store, hints=HINTS)


def statuses(matrix: Matrix) -> Counter[str]:
    """Number of cells by status, without zeros."""
    return Counter(row.status for row in matrix.rows)
