"""``mpiexec -n N python domain_agreement.py STEPS [DEVICE]``: on N ranks and on one; JSON."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from domain_systems import cases, start, step
from mpi4py import MPI

from alchemi_bridge.domain import ReplicatedForceProvider
from alchemi_bridge.provider import MetatomicForceProvider


def main() -> None:
    torch.set_num_threads(1)
    comm, rows, options = MPI.COMM_WORLD, [], {"tuning": False}
    if sys.argv[2:]:
        options["device"] = sys.argv[2]
    for name, model, atoms in cases():
        # the same way of running the model on both sides: this is not what is compared
        together = ReplicatedForceProvider(model, comm, sharing="allow", **options)
        alone = MetatomicForceProvider(model, **options)
        row = {"case": name, "atoms": len(atoms), "energy": 0.0, "forces": 0.0, "sum": 0.0,
               "virial": 0.0, "energies": 0.0}  # fmt: skip
        rng = np.random.default_rng(7)
        for provider in (together, alone):
            start(provider, atoms)
        for number in range(int(sys.argv[1])):
            found, right = step(together, atoms), step(alone, atoms)
            scale = max(float(np.abs(right.virial).max()), 1e-12)
            for key, value in {
                "energy": float(abs(found.energy - right.energy)[0]) / len(atoms),
                "forces": float(np.abs(found.forces - right.forces).max()),
                "sum": float(np.abs(found.forces.sum(axis=0)).max()) / len(atoms),
                "virial": float(np.abs(found.virial - right.virial).max()) / scale,
                "energies": float(np.abs(found.energies - right.energies).max()),
            }.items():
                row[key] = max(row[key], value)
            atoms.positions += 0.08 * rng.normal(size=(len(atoms), 3))
            atoms.set_cell(atoms.cell.array * (1.0 + 0.002 * number), scale_atoms=True)
        exchange = together._evaluator.exchange
        row["halo"] = comm.gather(exchange.pattern.n_halo)
        row["home"] = [int(n) for n in together._division.counts]
        row["searches"] = together.searches
        rows.append(row)
    if comm.rank == 0:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
