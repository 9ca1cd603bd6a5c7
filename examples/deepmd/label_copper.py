"""Make training data for copper: crystals, strained and displaced, labelled by ASE's EMT potential.

    python examples/deepmd/label_copper.py examples/deepmd/copper

writes systems in DeePMD's npy format, for training and validation. It takes some seconds.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

#: Repetitions of the cubic cell (4 atoms) and numbers of frames, for training and validation.
SYSTEMS = {"32": ((2, 2, 2), 240, 16), "48": ((3, 2, 2), 120, 8)}
#: Displacements (Å, standard deviation) and strains (largest element) go up to these.
DISPLACEMENT, STRAIN = 0.11, 0.05


def frames(repeat: tuple[int, int, int], n: int, random: np.random.Generator) -> list[Atoms]:
    """Displaced and strained crystals with their energies and forces."""
    found = []
    for amount in np.linspace(0.1, 1.0, n):
        atoms = bulk("Cu", cubic=True) * repeat
        strain = STRAIN * amount * random.uniform(-1, 1, (3, 3))
        strain = (strain + strain.T) / 2
        atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        atoms.positions += random.normal(scale=DISPLACEMENT * amount, size=(len(atoms), 3))
        atoms.calc = EMT()
        found.append(atoms)
    return [found[k] for k in random.permutation(n)]


def write_system(folder: Path, found: list[Atoms]) -> None:
    """Write one system of DeePMD's npy format."""
    kinds = sorted(set(found[0].symbols))
    (folder / "set.000").mkdir(parents=True, exist_ok=True)
    (folder / "type_map.raw").write_text("\n".join(kinds) + "\n")
    (folder / "type.raw").write_text(
        "\n".join(str(kinds.index(symbol)) for symbol in found[0].symbols) + "\n"
    )
    arrays = {
        "coord": [atoms.positions for atoms in found],
        "box": [atoms.cell.array for atoms in found],
        "energy": [[atoms.get_potential_energy()] for atoms in found],
        "force": [atoms.get_forces() for atoms in found],
        # DeePMD's virial is minus dE/d(strain), ASE's stress dE/d(strain) over the volume
        "virial": [-atoms.get_volume() * atoms.get_stress(voigt=False) for atoms in found],
    }
    for name, values in arrays.items():
        np.save(folder / "set.000" / f"{name}.npy", np.array(values).reshape(len(found), -1))


def main(folder: Path) -> None:
    random = np.random.default_rng(7)
    for name, (repeat, n_training, n_validation) in SYSTEMS.items():
        write_system(folder / "training" / name, frames(repeat, n_training, random))
        write_system(folder / "validation" / name, frames(repeat, n_validation, random))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/deepmd/copper"))
