"""Run alone: what the pair style adds to a step beside the provider, and what memory it keeps.

``python lammps_cost.py FOLDER`` expects the models of ``lammps_parts`` in FOLDER.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge.engines import lammps_plugin
from alchemi_bridge.engines.lammps_library import start
from alchemi_bridge.provider import MetatomicForceProvider

STEPS = 25

#: Others use the machine, too: one quiet moment is enough.
SECONDS = 15.0


def argon(folder: Path, cells: int, *more: str) -> Any:
    lmp = start()
    lammps_plugin.load(lmp)
    for line in (
        "units metal",
        "lattice fcc 5.3",
        f"region box block 0 {cells} 0 {cells} 0 {cells}",
        "create_box 1 box",
        "create_atoms 1 box",
        "mass 1 39.948",
        f"pair_style alchemi {folder}/lj.pt",
        "pair_coeff * * 18",
        "neighbor 1.0 bin",
        "fix nve all nve",
        "timestep 0.002",
        "thermo 100000",
        *more,
    ):
        lmp.command(line)
    return lmp


def outside(folder: Path, cells: int) -> float:
    """Microseconds of a step outside ``compute``, without a search; the least of some rounds.

    Of the processor: the machine may be busy. That is the whole step of LAMMPS, of which the
    integrator and the ghosts' coordinates are a part.
    """
    spent: list[float] = []
    inside = MetatomicForceProvider.compute

    def timed(self: MetatomicForceProvider, *arguments: Any) -> Any:
        begin = time.thread_time()
        result = inside(self, *arguments)
        spent.append(time.thread_time() - begin)
        return result

    quiet = ("velocity all create 5 123", "neigh_modify every 10000 delay 10000", "run 20")
    lmp = argon(folder, cells, *quiet)
    MetatomicForceProvider.compute = timed  # type: ignore[method-assign]
    found = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        spent.clear()
        begin = time.thread_time()
        lmp.command(f"run {STEPS} pre no post no")
        whole = time.thread_time() - begin
        assert len(spent) == STEPS
        found.append(1e6 * (whole - sum(spent)) / STEPS)
    MetatomicForceProvider.compute = inside  # type: ignore[method-assign]
    lmp.close()
    return min(found)


def resident() -> float:
    """MiB of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024.0


def growth(folder: Path) -> float:
    """MiB after 10,000 steps with some thousand pair searches."""
    lmp = argon(folder, 3, "velocity all create 120 123", "run 3000")
    before = resident()
    lmp.command("run 10000")
    after = resident()
    lmp.close()
    return after - before


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    found = {"864": outside(folder, 6), "10976": outside(folder, 14), "growth": growth(folder)}
    (folder / "cost-1.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
