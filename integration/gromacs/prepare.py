"""Models and structures of the decks, made in the current folder: ``python prepare.py``.

Structures are the same every time, and written with all digits of float64.
"""

from pathlib import Path

import ase.units
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.optimize import BFGS

from alchemi_bridge import BridgeCalculator, potentials
from alchemi_bridge.engines.gromacs_files import write_gro
from alchemi_bridge.parity.structures import liquid_argon, rattled

#: Atoms of the region in the ML/MM deck.
REGION = 64


def write(name: str, atoms: Atoms) -> None:
    """A structure of ASE as a .gro file."""
    names = atoms.get_chemical_symbols()
    write_gro(Path(name), names, atoms.positions / ase.units.nm, atoms.cell.array / ase.units.nm)


def triclinic_argon() -> Atoms:
    """The crystal of 256 atoms in another box of its lattice, each atom moved by some 0.2 Å."""
    atoms = bulk("Ar", "fcc", a=5.726, cubic=True).repeat(4)
    cell = atoms.cell.array
    cell[1, 0] = 0.25 * cell[0, 0]
    cell[2, :2] = -0.25 * cell[0, 0], 0.25 * cell[0, 0]
    atoms.set_cell(cell)
    atoms.wrap()
    return rattled(atoms, 0.2, seed=1)


def ml_mm_argon() -> Atoms:
    """The liquid, with the atoms nearest to the middle of the box first."""
    atoms = liquid_argon()
    middle = atoms.cell.array.sum(axis=0) / 2.0
    apart = atoms.positions - middle
    apart -= np.round(apart @ np.linalg.inv(atoms.cell.array)) @ atoms.cell.array
    return atoms[np.argsort(np.linalg.norm(apart, axis=1), kind="stable")]


def relaxed_ethanol(model: str) -> Atoms:
    """Ethanol's atoms where a model has them at rest; the net's weights know no chemistry.

    GROMACS needs a box: no image is within the range of the model, 12 Å.
    """
    atoms = molecule("CH3CH2OH", cell=[30.0, 30.0, 30.0], pbc=True)
    atoms.center()
    atoms.calc = BridgeCalculator(model, device="cpu")
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    return atoms


def main() -> None:
    """Write all files."""
    # GROMACS' potential-shift is the model's energy-shift
    potentials.export("lennard-jones", "argon.pt", truncation="energy-shift", cutoff=8.5)
    potentials.export("message-passing", "net.pt", types=(1, 6, 8))
    potentials.export("copper", "copper.pt")
    write("argon.gro", liquid_argon())
    write("argon_triclinic.gro", triclinic_argon())
    write("ml_mm.gro", ml_mm_argon())
    crystal = rattled(bulk("Cu", "fcc", a=3.61, cubic=True).repeat(4), 0.05, seed=2)
    write("copper.gro", crystal)
    crystal.write("copper.xyz")
    write("molecule.gro", relaxed_ethanol("net.pt"))
    numbers = " ".join(str(number) for number in range(1, REGION + 1))
    Path("ml_mm.ndx").write_text(f"[ Region ]\n{numbers}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
