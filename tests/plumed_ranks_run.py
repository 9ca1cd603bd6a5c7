"""Run by test_plumed_ranks.py: an engine whose atoms are spread over the ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI
from plumed_engine import Engine, told

WORLD = MPI.COMM_WORLD

#: Forces in kJ/mol/nm, of about 100; positions are the same bits on any number of ranks.
TOLERANCE = 1e-10


def started(library: str, setup: str, n_atoms: int, fortran: bool) -> Engine:
    run = Engine(Path(library), n_atoms)
    if fortran:
        run.whole("setMPIFComm", WORLD.py2f())
    else:
        handle = np.frombuffer(MPI.memory.fromaddress(MPI._addressof(WORLD), 8), dtype=np.int64)
        run.cmd("setMPIComm", handle)
    return run.start(Path(setup))


def local_step(run: Engine, mine: np.ndarray, places: np.ndarray, box: np.ndarray) -> tuple:
    run.whole("setAtomsNlocal", len(mine))
    run.cmd("setAtomsGatindex", mine.astype(np.int32))
    return run.step(0, places[mine], box)


def together(n_atoms: int, mine: np.ndarray, forces: np.ndarray, virial: np.ndarray) -> tuple:
    whole = np.zeros((n_atoms, 3))
    whole[mine] = forces
    return WORLD.allreduce(whole), WORLD.allreduce(virial)


def main(library: str, setup: str, system: str) -> None:
    known = np.load(system)
    places, box, wanted, strain = (known[k] for k in ("positions", "box", "forces", "virial"))
    n_atoms, rng = len(places), np.random.default_rng(5)
    for fortran in (False, True):
        run = started(library, setup, n_atoms, fortran)
        for step in range(4):
            owner = rng.integers(0, WORLD.size, n_atoms)
            if step == 2:
                owner[:] = WORLD.size - 1  # the first rank has none
            mine = np.flatnonzero(owner == WORLD.rank)
            found, virial = together(n_atoms, mine, *local_step(run, mine, places, box))
            np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
            np.testing.assert_allclose(virial, strain, rtol=0, atol=TOLERANCE)
        # what fails on one rank fails on all, and the next step is another one
        for failing in range(WORLD.size):
            mine = np.flatnonzero(owner == WORLD.rank)
            if WORLD.rank == failing:
                mine = np.append(mine, n_atoms + 4)
            with told("index of a local atom" if failing == 0 else "another rank"):
                local_step(run, mine, np.vstack([places, np.zeros((5, 3))]), box)
        mine = np.flatnonzero((owner == WORLD.rank) & (np.arange(n_atoms) != 1))
        with told(f"each of {n_atoms} once"):  # one of them is on no rank
            local_step(run, mine, places, box)
        run.close()
    # so does the model's own failure, in the middle
    run = started(library, setup, n_atoms, False)
    mine = np.arange(WORLD.rank, n_atoms, WORLD.size)
    local_step(run, mine, places, box)
    overlapping = places.copy()
    overlapping[1] = overlapping[0]
    with told("distance of at least"):
        local_step(run, mine, overlapping, box)
    local_step(run, mine, places, box)
    run.close()
    with told("no such file"):
        started(library, setup + ".not-there", n_atoms, False)
    WORLD.Barrier()
    if WORLD.rank == 0:
        print("all right")


main(*sys.argv[1:])
