"""``mpiexec -n N python -m alchemi_bridge.bench.ranks``: times of one model on N ranks, as JSON.

Every rank has its own atoms, as an engine would divide them, and one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
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
from alchemi_bridge.domain.ranks import mpi, single, world
from alchemi_bridge.pairs import Search
from alchemi_bridge.provider import MetatomicForceProvider
from alchemi_bridge.stages import collect

#: Å.
SKIN = 1.0

#: Steps before anything counts: the ways of running the model are tried in them.
MOST_WARM_UP = 60

#: Seconds between looks of a rank that waits for the first.
NAP = 1e-3

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
    serial_ms, crowded_serial_ms
        The same of the first rank alone while the others sleep; and of all ranks, each for itself
        at the same time, which shows what it costs that cores share memory.
    time_over_serial
        Median over steps of their ratios: serial steps and those of all ranks take turns, so that
        what else the machine does falls out.
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
    serial_ms: float
    crowded_serial_ms: float
    time_over_serial: float
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

    def _serial(self, atoms: ase.Atoms) -> MetatomicForceProvider:
        """A provider of this rank alone, for all atoms."""
        found = MetatomicForceProvider(self.model)
        found.set_atoms(Atoms(atoms.numbers.astype(np.int64)))
        found.set_pairs(Search(SKIN), Cell.of(atoms.cell.array, atoms.pbc))
        return found

    def step(self, positions: np.ndarray) -> float:
        """Seconds of a step of all ranks together, until the slowest was done."""
        return self._timed(self.provider, positions[self.mine])

    def _timed(self, provider: ForceProvider, positions: np.ndarray, first: bool = False) -> float:
        """Seconds of a step on all ranks, or on the first while the others sleep."""
        out = ForceBuffers(np.zeros_like(positions), np.zeros(1), np.zeros((3, 3)))
        self.comm.Barrier()
        start = time.perf_counter()
        if not first or self.comm.Get_rank() == 0:
            provider.compute(Step(positions, virial=True), out).synchronize()
        end = time.perf_counter() if first else 0.0
        # a rank that waits in MPI wears out a core, which would be missed elsewhere
        barrier = self.comm.Ibarrier()
        while first and not barrier.Test():
            time.sleep(NAP)
        barrier.Wait()
        return float(self.comm.bcast(end if first else time.perf_counter()) - start)

    def _warm_up(
        self,
        provider: MetatomicForceProvider | DomainForceProvider,
        motion: Iterator[np.ndarray],
        mine: Any,
    ) -> None:
        """Until it is settled on all ranks how the model is run."""
        for count, positions in enumerate(islice(motion, MOST_WARM_UP)):
            self._timed(provider, positions[mine])
            if count >= 3 and min(self.comm.allgather(provider.tuned)):
                break

    def parts(self, n_steps: int) -> tuple[float, float]:
        """Seconds of a step without atoms, nearly, and what atoms without pairs add."""
        apart = self.atoms.copy()
        apart.set_cell(self.atoms.cell.array * FAR_APART, scale_atoms=True)
        found = []
        for atoms in (apart[:FEW], apart):
            provider, motion = self._serial(atoms), moving(atoms)
            self._warm_up(provider, motion, slice(None))
            times = [self._timed(provider, p, first=True) for p in islice(motion, n_steps)]
            found.append(statistics.median(times))
        return found[0], max(found[1] - found[0], 0.0)

    def measure(self, n_steps: int) -> RanksRow:
        """Medians of some steps: together, one rank alone, and all at once, in turns."""
        motion, serial = moving(self.atoms), self._serial(self.atoms)
        self._warm_up(self.provider, motion, self.mine)
        self._warm_up(serial, motion, slice(None))
        times = np.array([
            (self.step(p), self._timed(serial, p, first=True), self._timed(serial, p))
            for p in islice(motion, n_steps)
        ])  # fmt: skip
        together, alone, crowded = np.median(times, axis=0)
        exchange = []
        for positions in islice(motion, max(n_steps // 2, 3)):
            with collect(self.comm.Barrier) as stages:
                self.step(positions)
            exchange.append(sum(stages.get("exchange", [0.0])))
        facts = self.provider.facts()
        totals = np.sum(self.comm.allgather([facts.halo, facts.rows, facts.bytes_sent]), axis=0)
        shared = statistics.median(exchange)
        requirements = self.provider.requirements
        fixed, of_atoms = self.parts(n_steps) if self.comm.Get_size() == 1 else (None, None)
        return RanksRow(
            model=self.name,
            ranks=self.comm.Get_size(),
            atoms=len(self.atoms),
            ms_per_step=1e3 * together,
            serial_ms=1e3 * alone,
            crowded_serial_ms=1e3 * crowded,
            time_over_serial=float(np.median(times[:, 0] / times[:, 1])),
            fixed_ms=None if fixed is None else 1e3 * fixed,
            atoms_ms=None if of_atoms is None else 1e3 * of_atoms,
            exchange_ms=1e3 * shared,
            exchange_share=shared / together,
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
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    comm = world(mpi().COMM_WORLD) or single()
    rows = [RankTimes(name, args.atoms).measure(args.steps) for name in LAYERS]
    if comm.Get_rank() == 0:
        with tempfile.NamedTemporaryFile("w", dir=args.output.parent, delete=False) as file:
            json.dump([row.as_dict() for row in rows], file)
        Path(file.name).replace(args.output)


if __name__ == "__main__":
    main()
