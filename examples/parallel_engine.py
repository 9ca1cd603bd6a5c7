"""A molecular dynamics engine whose atoms are spread over MPI ranks: mpiexec -n 4 python FILE.

Every rank integrates its own atoms. Now and then the box is divided anew, and atoms move to the
ranks that own them; the provider finds halos and pairs, and exchanges coordinates and forces.
"""

import ase.build
import numpy as np
from ase import units
from ase.md.velocitydistribution import thermalize_momenta
from mpi4py import MPI

from alchemi_bridge import Atoms, Cell, DomainForceProvider, ForceBuffers, Search, Step, potentials
from alchemi_bridge.domain import decompose, migrate, over, wrap

DIVIDE_EVERY = 20


class ParallelEngine:
    """Velocity Verlet; arrays hold the atoms of this rank, in ASE's units."""

    def __init__(self, model, atoms, comm, skin=1.0):
        self.comm, self.skin = comm, skin
        self.provider = DomainForceProvider(model, comm)
        self.cell = Cell.of(atoms.cell.array, atoms.pbc)
        mine = slice(comm.rank, None, comm.size)  # in any order: they move to their owners at once
        self.atoms = {
            "number": np.arange(len(atoms))[mine],
            "type": atoms.numbers[mine],
            "mass": atoms.get_masses()[mine],
            "position": atoms.positions[mine],
            "velocity": atoms.get_velocities()[mine],
        }
        self.divide()
        self.compute()

    def divide(self):
        """Domains with equal numbers of atoms; every atom goes to its owner."""
        coordinates, _ = wrap(self.atoms["position"], self.cell)
        halo = self.provider.requirements.halo_range
        box, ranks = {"heights": self.cell.heights, "halo": halo}, self.comm.size
        domains = decompose(coordinates, ranks, self.cell.pbc, **box, total=over(self.comm))
        self.atoms = migrate(self.comm, domains.owner(coordinates), self.atoms)
        self.provider.set_atoms(Atoms(self.atoms["type"]))
        self.provider.set_pairs(Search(self.skin), self.cell)

    def compute(self):
        self.forces, self.energy = np.zeros_like(self.atoms["position"]), np.zeros(1)
        step = Step(np.ascontiguousarray(self.atoms["position"]))
        self.provider.compute(step, ForceBuffers(self.forces, self.energy)).synchronize()

    def run(self, n_steps, timestep):
        for number in range(1, n_steps + 1):
            self.kick(timestep / 2)
            self.atoms["position"] += self.atoms["velocity"] * timestep
            if number % DIVIDE_EVERY == 0:
                self.divide()
            self.compute()
            self.kick(timestep / 2)

    def kick(self, time):
        self.atoms["velocity"] += self.forces / self.atoms["mass"][:, None] * time

    def total_energy(self):
        kinetic = 0.5 * np.sum(self.atoms["mass"][:, None] * self.atoms["velocity"] ** 2)
        return self.energy[0] + self.comm.allreduce(kinetic)


if __name__ == "__main__":
    comm, model = MPI.COMM_WORLD, potentials.stillinger_weber()  # or the path of a model file
    atoms = ase.build.bulk("Si", "diamond", a=5.431, cubic=True) * (4, 4, 4)
    thermalize_momenta(atoms, temperature_K=600, rng=np.random.default_rng(1))
    engine = ParallelEngine(model, atoms, comm)
    for block in range(6):
        counts = comm.gather(len(engine.atoms["number"]))
        energy = engine.total_energy()
        if comm.rank == 0:
            print(f"step {20 * block:3d}  energy {energy:.6f} eV  atoms of each rank {counts}")
        engine.run(20, 1.0 * units.fs)
