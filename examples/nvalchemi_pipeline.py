"""Relaxation, then dynamics: torchrun --nproc_per_node=2 nvalchemi_pipeline.py"""

import argparse
import dataclasses
import json
import os
import sys

import ase.build
import numpy as np
import torch

from alchemi_bridge import potentials
from alchemi_bridge.engines.nvalchemi_version import missing

if missing():
    sys.exit(f"This example needs nvalchemi: {missing()}")
if int(os.environ.get("WORLD_SIZE", 1)) != 2:
    sys.exit("Two ranks, please: torchrun --nproc_per_node=2 nvalchemi_pipeline.py")

from nvalchemi.dynamics import FIRE, ConvergenceHook, HostMemory, NVTLangevin, SizeAwareSampler

from alchemi_bridge.engines.nvalchemi import MetatomicModel, atomic_data
from alchemi_bridge.engines.nvalchemi_pipeline import BufferConfig, DistributedPipeline, table

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--systems", type=int, default=8)
parser.add_argument("--capacity", type=int, default=4, help="systems in a message and a stage")
parser.add_argument("--comm-mode", default="async_recv", help="or sync, fully_async")
parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
parser.add_argument("--json", help="file for the journal and the energies")
options = parser.parse_args()


class Crystals:
    """Argon with krypton, 4 to 32 atoms, in float64: a data set as nvalchemi's samplers want it."""

    def __len__(self):
        return options.systems

    def __getitem__(self, k):
        atoms = ase.build.bulk("Ar", "fcc", a=5.4, cubic=True) * (1 + k % 2, 1 + k // 2 % 2, 1)
        atoms.numbers[np.arange(len(atoms)) % (2 + k % 3) == 0] = 36
        atoms.rattle(0.1, seed=k)
        return atomic_data(atoms), {}

    def get_metadata(self, k):
        return len(self[k][0].atomic_numbers), 0


rank = int(os.environ["RANK"])
device = "cpu" if options.device == "cpu" else f"cuda:{os.environ['LOCAL_RANK']}"
model = MetatomicModel(potentials.build("lennard-jones"), device=device)
common = {
    "comm_mode": options.comm_mode,
    "buffer_config": BufferConfig(num_systems=options.capacity, num_nodes=1000, num_edges=0),
    "max_batch_size": options.capacity,
    "device_type": options.device,
}
relax = FIRE(
    model, dt=0.1, n_steps=300, convergence_hook=ConvergenceHook.from_fmax(0.003),
    sampler=SizeAwareSampler(Crystals(), max_batch_size=options.capacity) if rank == 0 else None,
    **common,
)  # fmt: skip
sink = HostMemory(options.systems)
thermostat = {"temperature": 30.0, "friction": 0.02}
move = NVTLangevin(model, dt=2.0, n_steps=100, sinks=[sink], **thermostat, **common)
with DistributedPipeline({0: relax, 1: move}) as pipeline:
    pipeline.run()
    journal = pipeline.journal()

if rank == 1:
    print(table(journal))
    results = sink.read()
    found = {int(n): e for n, e in torch.cat([results.pipeline_id, results.energy], 1).tolist()}
    print(f"{len(found)} of {options.systems} systems in the sink, {results.positions.dtype}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"visits": [*map(dataclasses.asdict, journal)], "energies": found}, file)
