"""Relaxation and then dynamics of several crystals in one batch, with nvalchemi.

Needs the extra: pip install "alchemi-bridge[nvalchemi]"
"""

import ase.build
import ase.units
from nvalchemi.dynamics import FIRE, ConvergenceHook, NVTLangevin

from alchemi_bridge import potentials
from alchemi_bridge.engines import nvalchemi

structures = []
for number, repeat in enumerate([(2, 2, 2), (3, 2, 2), (3, 3, 2), (3, 3, 3)]):
    crystal = ase.build.bulk("Ar", "fcc", a=5.1 + 0.1 * number, cubic=True) * repeat
    crystal.rattle(0.1, seed=number)
    structures.append(crystal)

model = nvalchemi.MetatomicModel(potentials.export("lennard_jones", "argon.pt"))
batch = nvalchemi.make_batch(structures)

# until the forces are small, then 1.2 ps at 30 K; the systems change over one by one
relaxation = FIRE(model, dt=0.1, convergence_hook=ConvergenceHook.from_fmax(0.001))
dynamics = NVTLangevin(model, dt=4.0, temperature=30.0, friction=0.01, n_steps=300)
minima = {}


class Minima:
    """Notes the energy of each system at the end of its relaxation."""

    frequency, stage = 1, None

    def _runs_on_stage(self, stage):
        return stage.name == "AFTER_STEP"

    def __call__(self, context, stage):
        for k, status in enumerate(context.batch.status.flatten().tolist()):
            if status > 0 and k not in minima:
                minima[k] = context.step_count + 1, context.batch.energy[k].item()


fused = relaxation + dynamics
fused.register_hook(nvalchemi.SystemsHook())
fused.register_hook(Minima())
fused.run(batch)

energies = 0.5 * batch.atomic_masses * batch.velocities.square().sum(dim=1)
print("system  atoms  relaxed in  minimum (eV/atom)  after dynamics  temperature (K)")
for k, atoms in enumerate(structures):
    steps, minimum = minima[k]
    kinetic = energies[batch.batch_idx == k].sum().item()
    kelvin = kinetic / (1.5 * len(atoms) * ase.units.kB)
    print(
        f"{k:6d}  {len(atoms):5d}  {steps:10d}  {minimum / len(atoms):17.5f}"
        f"  {batch.energy[k].item() / len(atoms):14.5f}  {kelvin:15.1f}"
    )
