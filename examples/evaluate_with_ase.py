"""Energy, forces and stress of a crystal, through ASE.

Run: python evaluate_with_ase.py [MODEL STRUCTURE]
"""

import sys

import ase.build
import ase.io

from alchemi_bridge import BridgeCalculator, potentials

if len(sys.argv) == 3:
    model, atoms = sys.argv[1], ase.io.read(sys.argv[2])
else:  # without arguments: Stillinger-Weber silicon, exported as an ordinary metatomic file
    model = potentials.export("stillinger_weber", "silicon.pt")
    atoms = ase.build.bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)

atoms.calc = BridgeCalculator(model)
print(f"energy      {atoms.get_potential_energy():.6f} eV")
print(f"max force   {abs(atoms.get_forces()).max():.6f} eV/Å")
if all(atoms.pbc):
    print(f"stress      {atoms.get_stress()} eV/Å^3")
if "energies" in atoms.calc.implemented_properties:
    print(f"first atom  {atoms.get_potential_energies()[0]:.6f} eV")
