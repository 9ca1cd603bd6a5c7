"""Make training data for water: a box of molecules in motion, labelled by GFN1-xTB.

    python examples/deepmd/label_water.py examples/deepmd/water

writes systems in DeePMD's npy format, for training and validation, in some minutes. It needs
tblite (``pip install tblite``). The molecules are moved as rigid TIP3P water by ASE, and every atom
by some hundredths of an Å from there: the bonds are then stretched, too.
"""

import sys
from pathlib import Path

import ase.units
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.tip3p import TIP3P, angleHOH, rOH
from ase.constraints import FixBondLengths
from ase.md.langevin import Langevin
from label_copper import write_system

try:
    from tblite.ase import TBLite
except ImportError:
    raise SystemExit("label_water.py needs tblite: pip install tblite") from None

#: Molecules along each axis of the box, and Å for each of them: 0.997 g/cm³.
CELLS, SPACING = 3, 3.107
N_TRAINING, N_VALIDATION = 120, 12
#: Temperature (K), time step (fs) and steps between frames; displacement (Å) of the atoms after it.
TEMPERATURE, TIMESTEP, STEPS = 350.0, 2.0, 20
DISPLACEMENT = 0.04


def box(random: np.random.Generator) -> Atoms:
    """Molecules with TIP3P's geometry on a lattice, turned at random."""
    one = molecule("H2O")
    one.set_distance(0, 1, rOH, fix=0)
    one.set_distance(0, 2, rOH, fix=0)
    one.set_angle(1, 0, 2, angleHOH, indices=[2])
    one.positions -= one.positions[0]
    atoms = Atoms(cell=[CELLS * SPACING] * 3, pbc=True)
    for corner in np.ndindex(CELLS, CELLS, CELLS):
        turned = one.copy()
        turned.rotate(float(random.uniform(0.0, 360.0)), random.normal(size=3))
        turned.translate(SPACING * np.array(corner))
        atoms += turned
    return atoms


def frames(n: int, random: np.random.Generator) -> list[Atoms]:
    """Frames of a trajectory, each with its energies and forces, in random order."""
    atoms = box(random)
    molecules = range(0, len(atoms), 3)
    atoms.set_constraint(
        FixBondLengths([(i + a, i + b) for i in molecules for a, b in ((0, 1), (0, 2), (1, 2))])
    )
    atoms.calc = TIP3P(rc=CELLS * SPACING / 2 - 0.1)
    # without fixcm: the centre of mass moves, which changes nothing here
    md = Langevin(
        atoms, TIMESTEP * ase.units.fs, temperature_K=TEMPERATURE, friction=0.05 / ase.units.fs,
        rng=random, fixcm=False,
    )  # fmt: skip
    md.run(10 * STEPS)
    found = []
    for _ in range(n):
        md.run(STEPS)
        frame = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
        frame.positions += random.normal(scale=DISPLACEMENT, size=(len(frame), 3))
        frame.calc = TBLite(method="GFN1-xTB", verbosity=0)
        found.append(frame)
    return [found[k] for k in random.permutation(n)]


def main(folder: Path) -> None:
    random = np.random.default_rng(7)
    found = frames(N_TRAINING + N_VALIDATION, random)
    write_system(folder / "training" / "box", found[:N_TRAINING])
    write_system(folder / "validation" / "box", found[N_TRAINING:])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/deepmd/water"))
