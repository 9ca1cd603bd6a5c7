"""Make training data for water: boxes of molecules at random, labelled by GFN1-xTB.

    python examples/deepmd/label_water.py examples/deepmd/water

writes systems in DeePMD's npy format, for training and validation, in some minutes. It needs
tblite (``pip install tblite``). Molecules are turned at random on a lattice, without any two coming
too close, and every atom is moved by some hundredths of an Å. That is not liquid water, whose
molecules have found their hydrogen bonds: a model for simulations wants frames of one, too.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.geometry import get_distances
from label_copper import write_system

try:
    from tblite.ase import TBLite
except ImportError:
    raise SystemExit("label_water.py needs tblite: pip install tblite") from None

#: Molecules along each axis of the box, and Å for each of them: 0.997 g/cm³.
CELLS, SPACING = 3, 3.107
N_TRAINING, N_VALIDATION = 110, 12
#: Displacements (standard deviation) of molecules and atoms, and the smallest distance between
#: atoms of two molecules, Å.
LOOSE, DISPLACEMENT, CORE = 0.2, 0.04, 1.6


def frame(random: np.random.Generator) -> Atoms:
    """A box of molecules."""
    atoms = Atoms(cell=[CELLS * SPACING] * 3, pbc=True)
    for corner in np.ndindex(CELLS, CELLS, CELLS):
        while True:
            one = molecule("H2O")
            one.rotate(float(random.uniform(0.0, 360.0)), random.normal(size=3))
            one.translate(SPACING * np.array(corner) + random.normal(scale=LOOSE, size=3))
            if len(atoms) == 0:
                break
            _, apart = get_distances(one.positions, atoms.positions, cell=atoms.cell, pbc=True)
            if apart.min() > CORE:
                break
        atoms += one
    atoms.positions += random.normal(scale=DISPLACEMENT, size=(len(atoms), 3))
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    return atoms


def main(folder: Path) -> None:
    random = np.random.default_rng(7)
    for part, n in (("training", N_TRAINING), ("validation", N_VALIDATION)):
        write_system(folder / part / "box", [frame(random) for _ in range(n)])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/deepmd/water"))
