"""The twin of slab.in: energy, forces and energies of atoms of LAMMPS' frames through ASE."""

import numpy as np
from twin import frames, report, thermo

from alchemi_bridge import BridgeCalculator

calculator = BridgeCalculator("silicon.pt", device="cpu")
for atoms, row in zip(frames("slab.dump", {1: "Si"}), thermo(), strict=True):
    assert atoms.pbc.tolist() == [True, True, False]
    atoms.calc = calculator
    step = f"step {row['Step']:.0f}"
    report(f"{step}: energy, eV", abs(atoms.get_potential_energy() - row["PotEng"]), 1e-6)
    forces = atoms.get_forces() - atoms.arrays["lammps_forces"]
    report(f"{step}: forces, eV/Å", np.abs(forces).max(), 1e-9)
    energies = atoms.get_potential_energies() - atoms.arrays["c_energies"].ravel()
    report(f"{step}: energies of atoms, eV", np.abs(energies).max(), 1e-9)
