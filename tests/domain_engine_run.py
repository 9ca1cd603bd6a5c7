"""``mpiexec -n N python domain_engine_run.py [STEPS]``: atoms on all ranks, a line of JSON.

An engine as in the examples, against the same on one rank.
Bytes are counted where they are handed to MPI, by a communicator that looks on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase import units
from ase.md.velocitydistribution import thermalize_momenta
from domain_systems import crystal, mixed, sheared
from mpi4py import MPI

from alchemi_bridge import geometry as geometry_module
from alchemi_bridge import potentials
from alchemi_bridge.bench.schnet import schnet_like
from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import Atoms, ForceBuffers, Step
from alchemi_bridge.domain.halo import ROUNDING
from alchemi_bridge.pairs import Search
from alchemi_bridge.provider import MetatomicForceProvider

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from parallel_engine import DIVIDE_EVERY, ParallelEngine

STEPS = 100
TIMESTEP = 0.5 * units.fs
SKIN = 1.0

#: What all communicators count in: the duplicate that is worked with is made once.
SENT: dict[str, int] = {}


class Watched:
    """A communicator, and the ones made from it: bytes that pass to other ranks, by call."""

    def __init__(self, comm: Any, sent: dict[str, int]) -> None:
        self._comm, self.sent = comm, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def Dup(self) -> Watched:
        return Watched(self._comm.Dup(), self.sent)

    def Create_dist_graph_adjacent(self, *arguments: Any, **options: Any) -> Watched:
        return Watched(self._comm.Create_dist_graph_adjacent(*arguments, **options), self.sent)

    def Neighbor_alltoallv(self, out: Any, into: Any) -> None:
        self._count("Neighbor_alltoallv", sum(out[1][0]))
        self._comm.Neighbor_alltoallv(out, into)

    def Allreduce(self, out: Any, into: Any, **options: Any) -> None:
        self._count("Allreduce", into.nbytes)
        self._comm.Allreduce(out, into, **options)

    def Allgatherv(self, out: Any, into: Any) -> None:
        self._count("Allgatherv", into[0].nbytes)
        self._comm.Allgatherv(out, into)

    def _count(self, name: str, n_bytes: int) -> None:
        self.sent[name] = self.sent.get(name, 0) + int(n_bytes)


def serial(model: Any, atoms: ase.Atoms, steps: int) -> tuple[np.ndarray, list[float]]:
    """Velocity Verlet on one rank: positions at the end, and total energies."""
    provider = MetatomicForceProvider(model, tuning=False)
    provider.set_atoms(Atoms(atoms.numbers))
    provider.set_pairs(Search(SKIN), Cell.of(atoms.cell.array, atoms.pbc))
    mass, x, v = atoms.get_masses()[:, None], atoms.positions.copy(), atoms.get_velocities()
    energies = []

    def forces() -> tuple[np.ndarray, float]:
        f, e = np.zeros_like(x), np.zeros(1)
        provider.compute(Step(x), ForceBuffers(f, e)).synchronize()
        return f, float(e[0])

    f, _ = forces()
    for _ in range(steps):
        v = v + f / mass * (TIMESTEP / 2)
        x = x + v * TIMESTEP
        f, energy = forces()
        v = v + f / mass * (TIMESTEP / 2)
        energies.append(energy + 0.5 * float(np.sum(mass * v**2)))
    return x, energies


def rows_of_a_step(engine: ParallelEngine) -> tuple[int, list[np.ndarray]]:
    """Rows of the model's lists in one step, and the first atoms of each."""
    found: list[Any] = []
    original = geometry_module.Geometry.step

    def spy(self: Any, *arguments: Any) -> Any:
        geometry = original(self, *arguments)
        found.append(geometry)
        return geometry

    geometry_module.Geometry.step = spy
    try:
        engine.compute()
    finally:
        geometry_module.Geometry.step = original
    if not found:
        return 0, []
    pairs = found[-1].pairs
    return sum(len(p.samples) for p in pairs), [p.first.numpy() for p in pairs]


def neighbourhood(atoms: ase.Atoms, centers: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each of the others from the nearest center, by brute force over images."""
    cell = atoms.cell.array
    images = np.array([(i, j, k) for i in range(-2, 3) for j in range(-2, 3) for k in range(-2, 3)])
    if not len(centers) or not len(others):
        return np.full(len(others), np.inf)
    nearest = np.full(len(others), np.inf)
    fractional = np.linalg.solve(cell.T, others.T).T
    base = (fractional - np.floor(fractional)) @ cell
    at = np.linalg.solve(cell.T, centers.T).T
    at = (at - np.floor(at)) @ cell
    for image in images:
        moved = base + image @ cell
        distance = np.linalg.norm(moved[:, None, :] - at[None], axis=2).min(axis=1)
        nearest = np.minimum(nearest, distance)
    return nearest


def gathered(comm: Any, engine: ParallelEngine, name: str) -> np.ndarray:
    """Rows of all ranks in the order of the atoms' numbers."""
    numbers = np.concatenate(comm.allgather(engine.atoms["number"]))
    rows = np.concatenate(comm.allgather(engine.atoms[name]))
    return rows[np.argsort(numbers)]


def case(name: str, model: Any, atoms: ase.Atoms, steps: int) -> dict[str, Any]:
    """One simulation on all ranks against one on a single rank."""
    comm, sent = MPI.COMM_WORLD, SENT
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(1))
    engine = ParallelEngine(model, atoms, Watched(comm, sent), SKIN)
    evaluator = engine.provider._evaluator
    # bytes of one step that does not search
    sent.clear()
    searches = engine.provider.searches
    engine.compute()
    assert engine.provider.searches == searches
    step_bytes, sent_atoms = dict(sent), evaluator.exchange.pattern.n_sent
    positions = gathered(comm, engine, "position")
    mine = np.isin(np.arange(len(atoms)), engine.atoms["number"])
    width = evaluator.range + SKIN
    distances = neighbourhood(atoms, positions[mine], positions[~mine])
    needed = int(np.sum(distances <= width * (1.0 + ROUNDING)))
    n_halo = evaluator.exchange.pattern.n_halo
    # pairs that count: of a first atom whose energy, or whose message, can reach a home atom
    n_rows, firsts = rows_of_a_step(engine)
    local_distance = np.zeros(mine.sum() + n_halo)
    farthest = 0.0
    labels = evaluator._domain.labels.numpy()
    others = {int(n): d for n, d in zip(np.flatnonzero(~mine), distances, strict=True)}
    number_of = comm.allgather(engine.atoms["number"])
    for row in range(int(mine.sum()), len(local_distance)):
        rank, local = labels[row]
        local_distance[row] = others[int(number_of[rank][local])]
    for first, request in zip(firsts, evaluator.loaded.requests, strict=True):
        beyond = evaluator.range - float(request.cutoff)
        limit = beyond + SKIN if beyond > 1e-6 else 0.0
        if len(first) and request.full_list:
            farthest = max(farthest, float(local_distance[first].max()) - limit)
    before = gathered(comm, engine, "number")
    owners = engine.atoms["number"].copy()
    totals = []
    for _ in range(steps // DIVIDE_EVERY):
        engine.run(DIVIDE_EVERY, TIMESTEP)
        totals.append(engine.total_energy())
    moved = int(comm.allreduce(len(np.setdiff1d(engine.atoms["number"], owners))))
    right, energies = serial(model, atoms, steps)
    together = gathered(comm, engine, "position")
    row = {
        "case": name,
        "home": comm.gather(int(mine.sum())),
        "halo": comm.gather(n_halo),
        "needed": comm.gather(needed),
        "rows": comm.gather(n_rows),
        "bytes": comm.gather(step_bytes),
        "sent_atoms": comm.gather(sent_atoms),
        "beyond": max(comm.allgather(farthest)),
        "all_there": bool(np.array_equal(before, np.arange(len(atoms)))),
        "moved": moved,
        "trajectory": float(np.abs(together - right).max()),
        "energy": abs(totals[-1] - energies[-1]) / len(atoms),
        "spread": float(np.ptp(totals)) / len(atoms),
        "serial_spread": float(np.ptp(energies[DIVIDE_EVERY - 1 :: DIVIDE_EVERY])) / len(atoms),
    }
    return row


def main() -> None:
    torch.set_num_threads(1)
    net = potentials.message_passing()
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    rows = [
        case("silicon", potentials.stillinger_weber(), crystal("Si", (4, 2, 2)), steps),
        case("net, triclinic", net, mixed(sheared(crystal("Si", (3, 2, 2))), net), STEPS),
        case("one layer", schnet_like(n_layers=1, cutoff=4.0, dtype="float64"),
             crystal("Si", (6, 2, 1)), 20),
    ]  # fmt: skip
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
