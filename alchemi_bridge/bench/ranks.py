"""``mpiexec -n N python -m alchemi_bridge.bench.ranks``: times of one model on N ranks, as JSON.

Every rank has its own atoms, as an engine would divide them, and one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from metatomic.torch import AtomisticModel

from alchemi_bridge.bench.schnet import schnet_like
from alchemi_bridge.bench.workloads import WORKLOADS, moving
from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import Atoms, ForceBuffers, ForceProvider, Step
from alchemi_bridge.domain import DomainForceProvider, decompose, wrap
from alchemi_bridge.domain.abort import install
from alchemi_bridge.domain.world import mpi, single, world
from alchemi_bridge.pairs import Search
from alchemi_bridge.provider import MetatomicForceProvider
from alchemi_bridge.stages import collect

#: Å.
SKIN = 1.0

#: Steps before anything counts: the ways of running the model are tried in them.
MOST_WARM_UP = 60

#: Makes of water a gas without pairs; and so many atoms are hardly any.
FAR_APART, FEW = 10.0, 3

#: What is timed: water, which the net knows nothing of, with one and three layers.
LAYERS = {"schnet-like, 1 layer": 1, "schnet-like, 3 layers": 3}
CUTOFF = {1: 5.0, 3: 3.5}


@dataclass
class RanksRow:
    """One model on some ranks.

    Attributes
    ----------
    ms_per_step
        Median over steps of the slowest rank's wall time.
    crowded_serial_ms
        Median over steps of the same on one rank while all ranks do it, each for itself: what the
        memory that cores share costs, without any exchange.
    fixed_ms, atoms_ms
        Measured on one rank only: of a step with hardly any atoms; and what all atoms add to it if
        they are so far apart that there are no pairs.
    exchange_ms, exchange_share
        Of a step in which all ranks come to each exchange together, so that it is not their
        waiting for each other that is timed; and its share of the step.
    atoms, halo, rows
        Of all ranks together: home atoms, halo atoms, rows of the model's lists.
    bytes_per_step
        That all ranks together send to each other, but for the sums.
    range, cutoff, density
        Å, and atoms for each cubic Å.
    """

    model: str
    ranks: int
    atoms: int
    ms_per_step: float
    crowded_serial_ms: float
    fixed_ms: float | None
    atoms_ms: float | None
    exchange_ms: float
    exchange_share: float
    halo: int
    rows: int
    bytes_per_step: int
    range: float
    cutoff: float
    skin: float
    density: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class RankTimes:
    """A model and this rank's part of a structure."""

    def __init__(self, name: str, n_atoms: int) -> None:
        self.name, layers = name, LAYERS[name]
        water = next(w for w in WORKLOADS if w.name == "schnet-like")
        atoms = water.structure(n_atoms)
        self.atoms, self.cell = atoms, Cell.of(atoms.cell.array, atoms.pbc)
        self.model: AtomisticModel = schnet_like(n_layers=layers, cutoff=CUTOFF[layers])
        self.comm = world(mpi().COMM_WORLD) or single()
        self.provider = DomainForceProvider(self.model, self.comm)
        coordinates, _ = wrap(atoms.positions, self.cell)
        halo = self.provider.requirements.halo_range
        domains = decompose(
            coordinates, self.comm.Get_size(), self.cell.pbc, heights=self.cell.heights, halo=halo
        )
        owners = domains.owner(coordinates)
        self.mine = np.flatnonzero(owners == self.comm.Get_rank())
        self.provider.set_atoms(Atoms(atoms.numbers[self.mine].astype(np.int64)))
        self.provider.set_pairs(Search(SKIN), self.cell)

    def step(self, positions: np.ndarray) -> float:
        """Seconds until the slowest rank was done."""
        return self._timed(self.provider, positions[self.mine])

    def _timed(self, provider: ForceProvider, positions: np.ndarray) -> float:
        out = ForceBuffers(np.zeros_like(positions), np.zeros(1), np.zeros((3, 3)))
        self.comm.Barrier()
        start = time.perf_counter()
        provider.compute(Step(positions, virial=True), out).synchronize()
        self.comm.Barrier()
        return time.perf_counter() - start

    def _everybody(self, value: bool) -> bool:
        return bool(min(self.comm.allgather(value)))

    def alone(self, atoms: ase.Atoms, n_steps: int) -> float:
        """Milliseconds of a step on one rank, while all ranks do the same."""
        provider = MetatomicForceProvider(self.model)
        provider.set_atoms(Atoms(atoms.numbers.astype(np.int64)))
        provider.set_pairs(Search(SKIN), Cell.of(atoms.cell.array, atoms.pbc))
        motion = moving(atoms)
        for count, positions in enumerate(islice(motion, MOST_WARM_UP)):
            self._timed(provider, positions)
            if count >= 3 and self._everybody(provider.tuned):
                break
        return 1e3 * statistics.median(self._timed(provider, p) for p in islice(motion, n_steps))

    def parts(self, n_steps: int) -> tuple[float, float]:
        """Milliseconds of a step without atoms, nearly, and what atoms without pairs add."""
        apart = self.atoms.copy()
        apart.set_cell(self.atoms.cell.array * FAR_APART, scale_atoms=True)
        fixed = self.alone(apart[:FEW], n_steps)
        return fixed, max(self.alone(apart, n_steps) - fixed, 0.0)

    def measure(self, n_steps: int) -> RanksRow:
        """Medians of some steps."""
        motion = moving(self.atoms)
        for count, positions in enumerate(islice(motion, MOST_WARM_UP)):
            self.step(positions)
            if count >= 3 and self._everybody(self.provider.tuned):
                break
        seconds = statistics.median(self.step(p) for p in islice(motion, n_steps))
        exchange = []
        for positions in islice(motion, max(n_steps // 2, 3)):
            with collect(self.comm.Barrier) as times:
                self.step(positions)
            exchange.append(sum(times.get("exchange", [0.0])))
        facts = self.provider.facts()
        totals = np.sum(self.comm.allgather([facts.halo, facts.rows, facts.bytes_sent]), axis=0)
        shared = statistics.median(exchange)
        requirements = self.provider.requirements
        fixed, of_atoms = self.parts(n_steps) if self.comm.Get_size() == 1 else (None, None)
        return RanksRow(
            model=self.name,
            ranks=self.comm.Get_size(),
            atoms=len(self.atoms),
            ms_per_step=1e3 * seconds,
            crowded_serial_ms=self.alone(self.atoms, n_steps),
            fixed_ms=fixed,
            atoms_ms=of_atoms,
            exchange_ms=1e3 * shared,
            exchange_share=shared / seconds,
            halo=int(totals[0]),
            rows=int(totals[1]),
            bytes_per_step=int(totals[2]),
            range=requirements.halo_range,
            cutoff=requirements.pair_range,
            skin=SKIN,
            density=len(self.atoms) / self.cell.volume,
        )


def main() -> None:
    """On every rank; the first writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--atoms", type=int, default=10125)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    comm = world(mpi().COMM_WORLD) or single()
    install(comm)
    rows = [RankTimes(name, args.atoms).measure(args.steps) for name in LAYERS]
    if comm.Get_rank() == 0:
        with tempfile.NamedTemporaryFile("w", dir=args.output.parent, delete=False) as file:
            json.dump([row.as_dict() for row in rows], file)
        Path(file.name).replace(args.output)


if __name__ == "__main__":
    main()
