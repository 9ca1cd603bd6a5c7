"""The twin of ml_mm.in: one model of all pairs, which region and surrounding must add up to."""

import numpy as np
from twin import frames, report, thermo

from alchemi_bridge import BridgeCalculator, potentials

everything = potentials.export(
    "lennard-jones", "argon_krypton.pt", truncation="none", pairs={(18, 36): (0.0121, 3.525)}
)
calculator = BridgeCalculator(everything, device="cpu")
for atoms, row in zip(frames("ml_mm.dump", {1: "Ar", 2: "Kr"}), thermo(), strict=True):
    atoms.calc = calculator
    step = f"step {row['Step']:.0f}"
    report(f"{step}: energy, eV", abs(atoms.get_potential_energy() - row["PotEng"]), 1e-6)
    forces = atoms.get_forces() - atoms.arrays["lammps_forces"]
    report(f"{step}: forces, eV/Å", np.abs(forces).max(), 1e-9)
