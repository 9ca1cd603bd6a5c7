"""The twin of argon.in: the same trajectory through ASE, from the frame that LAMMPS began with."""

import ase.units
import numpy as np
from ase.md.verlet import VelocityVerlet
from twin import frames, report, thermo

from alchemi_bridge import BridgeCalculator

first, last = frames("argon.dump", {1: "Ar"})
rows = thermo()
first.calc = BridgeCalculator("argon.pt", device="cpu")
report("energy of the first frame, eV", abs(first.get_potential_energy() - rows[0]["PotEng"]), 1e-7)
report(
    "forces of the first frame, eV/Å",
    np.abs(first.get_forces() - first.arrays["lammps_forces"]).max(),
    1e-9,
)
VelocityVerlet(first, timestep=2.0 * ase.units.fs).run(int(rows[-1]["Step"]))
moved = first.get_positions() - last.get_positions()
moved -= np.round(moved @ np.linalg.inv(first.cell.array)) @ first.cell.array
# the two programs have mass and energy units of slightly different origin
report("positions of the last frame, Å", np.abs(moved).max(), 1e-4)
report("energy of the last frame, eV", abs(first.get_potential_energy() - rows[-1]["PotEng"]), 1e-4)
