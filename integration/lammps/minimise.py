"""The twin of minimise.in: the relaxed structure through ASE, and the crystal it must be."""

import ase.build
import numpy as np
from twin import frames, report, thermo

from alchemi_bridge import BridgeCalculator

calculator = BridgeCalculator("silicon.pt", device="cpu")
[relaxed] = frames("minimise.dump", {1: "Si"})
relaxed.calc = calculator
last = thermo()[-1]
report("energy, eV", abs(relaxed.get_potential_energy() - last["PotEng"]), 1e-6)
report("largest force that is left, eV/Å", np.abs(relaxed.get_forces()).max(), 1e-4)
crystal = ase.build.bulk("Si", cubic=True, a=5.431) * (3, 3, 3)
crystal.calc = calculator
report(
    "energy above the crystal, eV",
    abs(relaxed.get_potential_energy() - crystal.get_potential_energy()),
    1e-6,
)
