"""Several structures in one evaluation of the model, and the same one by one."""

import ase.build
import numpy as np

from alchemi_bridge import BridgeCalculator, potentials

model = potentials.export("lennard_jones", "argon.pt")
calculator = BridgeCalculator(model)

frames = []
for number, a in enumerate(np.linspace(5.0, 5.8, 9)):
    crystal = ase.build.bulk("Ar", "fcc", a=a, cubic=True) * (2, 2, 2)
    crystal.rattle(0.05, seed=number)
    frames.append(crystal)

together = calculator.evaluate(frames, properties=("energy", "forces", "stress"))
for crystal, result in zip(frames, together, strict=True):
    crystal.calc = calculator
    difference = result["energy"] - crystal.get_potential_energy()
    volume = crystal.get_volume() / len(crystal)
    print(f"{volume:8.3f} Å^3/atom  {result['energy']:12.6f} eV  difference {difference:.1e} eV")
