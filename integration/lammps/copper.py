"""The twin of copper.in: numbers of both frames, and the same trajectory through ASE."""

import ase.units
import numpy as np
from ase.md.verlet import VelocityVerlet
from twin import frames, report, thermo

from alchemi_bridge import BridgeCalculator

first, last = frames("copper.dump", {1: "Cu"})
rows = thermo()
calculator = BridgeCalculator("copper.pt", device="cpu")
for label, atoms, row in (("first", first, rows[0]), ("last", last, rows[-1])):
    atoms.calc = calculator
    name = f"{label} frame"
    report(f"{name}: energy, eV", abs(atoms.get_potential_energy() - row["PotEng"]), 1e-6)
    forces = atoms.get_forces() - atoms.arrays["lammps_forces"]
    report(f"{name}: forces, eV/Å", np.abs(forces).max(), 1e-9)
    energies = atoms.get_potential_energies() - atoms.arrays["c_energies"].ravel()
    report(f"{name}: energies of atoms, eV", np.abs(energies).max(), 1e-9)
total = [row["TotEng"] for row in rows]
report("total energy over the run, eV per atom", np.ptp(total) / len(first), 2e-4)
VelocityVerlet(first, timestep=2.0 * ase.units.fs).run(int(rows[-1]["Step"]))
moved = first.get_positions() - last.get_positions()
moved -= np.round(moved @ np.linalg.inv(first.cell.array)) @ first.cell.array
# the two programs have mass and energy units of slightly different origin
report("positions of the last frame, Å", np.abs(moved).max(), 1e-4)
