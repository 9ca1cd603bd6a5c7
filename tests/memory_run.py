"""A simulation whose number of pairs goes up and down, and what it takes of memory; a program.

``python memory_run.py MODEL {cut,whole} ATOMS_PER_EDGE STEPS [--leak BYTES]`` prints one line of
JSON. In a process of its own, since other tests fill and free the memory of theirs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics

import ase.build
import numpy as np
import torch

import alchemi_bridge.provider as provider_module
from alchemi_bridge import Atoms, Cell, ForceBuffers, MetatomicForceProvider, Search, Step
from alchemi_bridge.model.tuning import Mode, Tuner

#: Reads of the memory in one window, whose median counts: single reads see what is just in use.
WINDOW = 100

#: Steps of one breath of the box, and how far its edges go.
BREATH, AMPLITUDE = 157, 0.025

SKIN = 1.0

#: Steps after which nothing may grow any more.
SETTLED = 1000


class Memory:
    """How much of this process is in memory; reading it takes none."""

    def __init__(self) -> None:
        # pathlib would put its parts into the interpreter's table of strings in every read
        self._file = os.open("/proc/self/statm", os.O_RDONLY)
        self._page = os.sysconf("SC_PAGE_SIZE")

    def resident(self) -> int:
        """Bytes."""
        return int(os.pread(self._file, 256, 0).split()[1]) * self._page


def live_tensors() -> int:
    """How many tensors Python knows of."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


class Simulation:
    """Argon in a box that breathes, atoms that wander."""

    def __init__(self, model: str, mode: str, edge: int) -> None:
        self.provider = MetatomicForceProvider(model)
        device = self.provider.loaded.device
        self.provider._tuner = Tuner([Mode(optimize=True, uncut=mode == "whole")], device)
        atoms = ase.build.bulk("Ar", "fcc", a=5.3, cubic=True).repeat(edge)
        self.box, self.rng = atoms.cell.array, np.random.default_rng(1)
        self.lattice, self.away = atoms.positions, np.zeros_like(atoms.positions)
        self.provider.set_atoms(Atoms(types=np.asarray(atoms.numbers)))
        self.provider.set_pairs(Search(SKIN), Cell.of(self.box))
        self.buffers = ForceBuffers(np.zeros_like(atoms.positions), np.zeros(1), np.zeros((3, 3)))
        self.steps, self.pairs = 0, [10**9, 0]
        make = provider_module.system_input

        def noted(*arguments):  # type: ignore[no-untyped-def]
            made = make(*arguments)
            within = len(made.pairs[0].vectors)
            self.pairs = [min(self.pairs[0], within), max(self.pairs[1], within)]
            return made

        provider_module.system_input = noted

    def step(self) -> None:
        """Energy, forces and virial of the next one."""
        scale = 1.0 + AMPLITUDE * np.sin(2.0 * np.pi * self.steps / BREATH)
        self.away = 0.98 * self.away + self.rng.normal(0.0, 0.035, self.away.shape)
        positions = (self.lattice + self.away) * scale
        cell = Cell.of(self.box * scale)
        self.provider.compute(Step(positions, cell=cell, virial=True), self.buffers)
        self.steps += 1


def main() -> None:
    """Run, and print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("mode", choices=["cut", "whole"])
    parser.add_argument("edge", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("--leak", type=int, default=0, help="bytes that every step keeps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    simulation = Simulation(options.model, options.mode, options.edge)
    memory = Memory()
    kept: list[torch.Tensor] = []
    medians, tensors = [], 0
    while simulation.steps < options.steps:
        if simulation.steps == SETTLED:
            tensors = live_tensors()
        reads = []
        for _ in range(WINDOW):
            simulation.step()
            if options.leak:
                kept.append(torch.ones(options.leak, dtype=torch.uint8))
            reads.append(memory.resident())
        medians.append(int(statistics.median(reads)))
    found = {
        "settled": medians[SETTLED // WINDOW],
        "last": medians[-1],
        "largest": max(medians[SETTLED // WINDOW :]),
        "tensors_settled": tensors,
        # counted last: the list of all objects takes megabytes
        "tensors_last": live_tensors(),
        "pairs": simulation.pairs,
        "searches": simulation.provider.searches,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
