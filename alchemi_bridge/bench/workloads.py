"""What is timed: models, structures of several sizes, and atoms that move as in dynamics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ase
import ase.build
import numpy as np
from metatomic.torch import AtomisticModel

from alchemi_bridge import potentials
from alchemi_bridge.bench.schnet import schnet_like

#: Root mean square of an atom's step, Å: hydrogen in water at 300 K moves 0.01 Å in 0.4 fs.
STEP = 0.01

#: How fast an atom forgets its velocity, and is drawn back to where it began.
MEMORY, PULL = 0.95, 0.02


@dataclass(frozen=True)
class Workload:
    """A model and structures for it.

    Attributes
    ----------
    name
        As in the results.
    description
        One line: potential, cutoff, precision, density.
    build
        Makes the model.
    structure
        Makes the structure of one of ``sizes``.
    sizes, quick
        Numbers of atoms: all, and those of a quick run.
    """

    name: str
    description: str
    build: Callable[[], AtomisticModel]
    structure: Callable[[int], ase.Atoms]
    sizes: tuple[int, ...]
    quick: tuple[int, ...]

    def export(self, folder: Path) -> Path:
        """Write the model to ``folder`` as an ordinary metatomic file."""
        path = folder / f"{self.name}.pt"
        self.build().save(path)
        return path


def moving(atoms: ase.Atoms, seed: int = 0) -> Iterator[np.ndarray]:
    """Positions of step after step, (n_atoms, 3) Å: smooth random motion around where they are."""
    rng = np.random.default_rng(seed)
    start = atoms.positions.copy()
    away = np.zeros_like(start)
    velocity = rng.normal(scale=STEP / np.sqrt(3.0), size=start.shape)
    kick = STEP / np.sqrt(3.0) * np.sqrt(1.0 - MEMORY**2)
    while True:
        away += velocity
        noise = rng.normal(scale=kick, size=start.shape)
        velocity = MEMORY * velocity - PULL * away + noise
        yield start + away


_ARGON_CELLS = {
    4: (1, 1, 1),
    192: (4, 4, 3),
    648: (6, 9, 3),
    3000: (10, 15, 5),
    10976: (14, 14, 14),
}


def _argon(n_atoms: int) -> ase.Atoms:
    return ase.build.bulk("Ar", "fcc", a=5.26, cubic=True) * _ARGON_CELLS[n_atoms]


def _silicon(n_atoms: int) -> ase.Atoms:
    cells = round((n_atoms / 8) ** (1 / 3))
    return ase.build.bulk("Si", "diamond", a=5.431, cubic=True) * (cells, cells, cells)


def _copper(n_atoms: int) -> ase.Atoms:
    cells = round((n_atoms / 4) ** (1 / 3))
    return ase.build.bulk("Cu", "fcc", a=3.61, cubic=True) * (cells, cells, cells)


def _water(n_atoms: int) -> ase.Atoms:
    """Molecules on a lattice, turned at random, 0.997 g/cm^3."""
    spacing = 3.107
    cells = round((n_atoms / 3) ** (1 / 3))
    rng = np.random.default_rng(n_atoms)
    molecules = []
    for corner in np.ndindex(cells, cells, cells):
        molecule = ase.build.molecule("H2O")
        molecule.rotate(float(rng.uniform(0.0, 360.0)), rng.normal(size=3))
        molecule.translate(spacing * np.array(corner))
        molecules.append(molecule)
    box = ase.Atoms(cell=[cells * spacing] * 3, pbc=True)
    for molecule in molecules:
        box += molecule
    return box


def _lennard_jones() -> AtomisticModel:
    # 2.5 sigma; the energy is cut off by the model, so that any list is good for it
    return potentials.lennard_jones(
        types=[18], epsilon=[0.01042332], sigma=[3.40], cutoff=8.5, full_list=True, strict=False
    )


WORKLOADS = (
    Workload(
        "lennard-jones",
        "argon, fcc, cutoff 8.5 Å (about 79 neighbours), full list, float64",
        _lennard_jones,
        _argon,
        (4, 192, 648, 3000, 10976),
        (4, 192, 648, 3000, 10976),
    ),
    Workload(
        "stillinger-weber",
        "silicon, diamond, cutoff 3.77 Å, float64",
        potentials.stillinger_weber,
        _silicon,
        (8, 216, 1000, 8000),
        (),
    ),
    Workload(
        "schnet-like",
        "water, cutoff 5 Å (about 52 neighbours), 2 layers of 32 features, float32",
        schnet_like,
        _water,
        (24, 192, 648, 3000, 10125),
        (648,),
    ),
    Workload(
        "copper",
        "copper, fcc, DeePMD se_e2_a that was trained, cutoff 5 Å (42 neighbours), float64",
        potentials.copper,
        _copper,
        (108, 864, 4000),
        (108,),
    ),
)
