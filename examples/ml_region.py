"""A machine-learned region in a classical surrounding (ML/MM): the model sees a subset of atoms.

The engine hands over all its atoms; forces land in the rows of the subset, others stay untouched.
"""

import ase.build
import numpy as np

from alchemi_bridge import (
    Atoms,
    Cell,
    ForceBuffers,
    MetatomicForceProvider,
    Search,
    Step,
    potentials,
)

model = potentials.export("message_passing", "net.pt")
molecule = ase.build.molecule("CH3CH2OH", vacuum=8.0)
bath = ase.build.bulk("Ar", "fcc", a=5.4, cubic=True) * (3, 3, 1)
bath.translate([0.0, 0.0, 14.0])
everything = bath + molecule
region = np.arange(len(bath), len(everything))

provider = MetatomicForceProvider(model)
provider.set_atoms(Atoms(types=everything.numbers, subset=region))
provider.set_pairs(Search(skin=1.0), Cell.open())

classical = np.full((len(everything), 3), 0.25)  # stands for what the classical force field gave
forces, energy = classical.copy(), np.zeros(1)
provider.compute(Step(positions=everything.positions), ForceBuffers(forces, energy)).synchronize()

untouched = np.array_equal(forces[: len(bath)], classical[: len(bath)])
print(f"energy of the region   {energy[0]:.6f} eV")
print(f"largest force added    {np.abs(forces - classical).max():.6f} eV/Å")
print(f"surrounding untouched  {untouched}")
