"""Constant-energy dynamics of silicon through ASE, and how well the energy is conserved."""

import ase.build
import ase.units
import numpy as np
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from alchemi_bridge import BridgeCalculator, potentials

atoms = ase.build.bulk("Si", cubic=True) * (2, 2, 2)
atoms.calc = BridgeCalculator(potentials.export("stillinger_weber", "silicon.pt"))
thermalize_momenta(atoms, temperature_K=600, rng=np.random.default_rng(0))
Stationary(atoms)

dynamics = VelocityVerlet(atoms, timestep=1.0 * ase.units.fs)
totals = []
dynamics.attach(lambda: totals.append(atoms.get_total_energy() / len(atoms)), interval=10)
dynamics.run(200)

print(f"{len(atoms)} atoms, {dynamics.nsteps} steps, {atoms.calc.provider.searches} pair searches")
print(f"temperature        {atoms.get_temperature():.1f} K")
print(f"energy fluctuation {np.ptp(totals):.2e} eV/atom")
