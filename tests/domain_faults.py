"""``mpiexec -n N python domain_faults.py``: errors of one rank in every phase of a step.

``raise``: all ranks raise, nothing is added, and the next step is right. With a phase and ``exit``
or ``kill`` one rank ends there, for good.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from domain_systems import crystal, start, step
from mpi4py import MPI

from alchemi_bridge import potentials
from alchemi_bridge.contract import ForceBuffers, Step
from alchemi_bridge.domain import ReplicatedForceProvider, evaluator, halo, replicated
from alchemi_bridge.domain.exchange import Exchange
from alchemi_bridge.errors import BridgeError, NonFiniteError, RankFailedError
from alchemi_bridge.provider import MetatomicForceProvider

#: Where a rank can fail: an object, and the name of what it calls there.
PHASES: dict[str, tuple[Any, str]] = {
    "reading the step": (ReplicatedForceProvider, "_checked"),
    "advancing": (evaluator, "advance"),
    "dividing": (replicated, "decompose"),
    "offering": (halo, "_near_box"),
    "measuring": (halo, "_distances"),
    "searching": (evaluator, "find_pairs"),
    "handing over": (MetatomicForceProvider, "set_atoms"),
    "evaluating": (MetatomicForceProvider, "compute"),
}

#: Where it can only end, since others are on their way already.
JOURNEYS: dict[str, tuple[Any, str]] = {
    "sending": (Exchange, "outward"),
    "sending back": (Exchange, "homeward"),
    "adding": (ReplicatedForceProvider, "_gathered"),
}


@contextmanager
def failing(where: tuple[Any, str], fault: Callable[[], Any]) -> Iterator[None]:
    """Within, the first call there fails."""
    owner, name = where
    original = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        setattr(owner, name, original)
        fault()
        return original(*arguments, **options)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, original)


def cry() -> None:
    raise ValueError("so it goes")


FAULTS: dict[str, Callable[[], Any]] = {
    "raise": cry,
    "exit": lambda: sys.exit(0),
    "leave": lambda: os._exit(5),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def caught() -> None:
    """Every phase, on every rank; a script that catches the errors goes on."""
    comm = MPI.COMM_WORLD
    model, atoms = potentials.stillinger_weber(), crystal("Si", (3, 2, 2))
    alone = MetatomicForceProvider(model, tuning=False)
    together = ReplicatedForceProvider(model, comm, tuning=False)
    for provider in (alone, together):
        start(provider, atoms)
    for phase, where in PHASES.items():
        for unlucky in range(comm.size):
            start(together, atoms)  # so that the step searches
            forces, energy = np.zeros((len(atoms), 3)), np.zeros(1)
            error = None
            mine = comm.rank == unlucky
            with failing(where, cry if mine else lambda: None):
                try:
                    together.compute(Step(atoms.positions), ForceBuffers(forces, energy))
                except (RankFailedError, ValueError) as problem:
                    error = problem
            assert isinstance(error, ValueError if mine else RankFailedError), (phase, error)
            assert "so it goes" in str(error)
            assert not forces.any(), phase
            assert not energy.any(), phase
            found, right = step(together, atoms), step(alone, atoms)
            assert np.abs(found.forces - right.forces).max() < 1e-10, phase
    # errors of the bridge keep their class; the atoms have the names that the caller knows
    bad = atoms.copy()
    bad.positions[17] = bad.positions[40]
    for provider in (together, alone):
        try:
            step(provider, bad)
        except BridgeError as error:
            text = f"{type(error).__name__} {error}"
            assert text.startswith("OverlapError"), text
            assert "17" in text, text
            assert "40" in text, text
        else:
            raise AssertionError("no error")
    bad.positions[17, 1] = np.nan
    with pytest.raises(NonFiniteError, match=r"\(17\)"):
        step(together, bad)
    assert np.abs(step(together, atoms).forces - step(alone, atoms).forces).max() < 1e-10
    if comm.rank == 0:
        print("all phases", len(PHASES))


def ends(phase: str, fault: str, unlucky: int) -> None:
    """A rank ends in this phase of the second step."""
    comm = MPI.COMM_WORLD
    atoms = crystal("Si", (3, 2, 2))
    provider = ReplicatedForceProvider(potentials.stillinger_weber(), comm, tuning=False)
    start(provider, atoms)
    step(provider, atoms)
    start(provider, atoms)
    comm.Barrier()
    sys.stdout.write(f"\nbegan {time.time()}\n")
    sys.stdout.flush()
    where = {**PHASES, **JOURNEYS}[phase]
    with failing(where, FAULTS[fault] if comm.rank == unlucky else lambda: None):
        step(provider, atoms)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 1:
        caught()
    else:
        ends(sys.argv[1], sys.argv[2], int(sys.argv[3]))
