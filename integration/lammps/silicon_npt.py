"""The twin of silicon_npt.in: energy and pressure of LAMMPS' frames through ASE."""

import ase.units
import numpy as np
from twin import frames, report, thermo

from alchemi_bridge import BridgeCalculator

calculator = BridgeCalculator("silicon.pt", device="cpu")
for atoms, row in zip(frames("silicon_npt.dump", {1: "Si"}), thermo(), strict=True):
    atoms.calc = calculator
    step = f"step {row['Step']:.0f}"
    report(f"{step}: energy, eV", abs(atoms.get_potential_energy() - row["PotEng"]), 1e-6)
    forces = atoms.get_forces() - atoms.arrays["lammps_forces"]
    report(f"{step}: forces, eV/Å", np.abs(forces).max(), 1e-9)
    # LAMMPS' pressure has the kinetic part
    stress = -atoms.get_stress(voigt=False, include_ideal_gas=True) / (1e5 * ase.units.Pascal)
    known = [row[name] for name in ("Pxx", "Pyy", "Pzz", "Pxy", "Pxz", "Pyz")]
    found = stress[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    report(f"{step}: pressure tensor, bar", np.abs(found - known).max(), 0.05)
