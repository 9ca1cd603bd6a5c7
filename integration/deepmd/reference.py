"""Evaluate frozen models with DeepPot; runs in an environment with deepmd-kit.

``python reference.py FOLDER``: for every ``NAME.pth`` writes ``NAME.npz`` with the energy (eV), the
energies of the atoms (eV), the forces (eV/Å) and dE/d(strain) (eV) of each structure.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from cases import FROM_CHECKPOINT, MODELS, structures
from deepmd.infer import DeepPot
from make_models import STEPS


def main(folder: Path) -> None:
    """Evaluate every model on every structure."""
    for name, (type_map, _, _) in MODELS.items():
        if not (folder / f"{name}.pth").exists():
            continue
        checkpoint = folder / name / f"model.ckpt-{STEPS}.pt"
        file = checkpoint if name in FROM_CHECKPOINT else folder / f"{name}.pth"
        potential = DeepPot(str(file), auto_batch_size=False)
        results = {}
        for label, structure in structures(len(type_map)).items():
            periodic = structure["cell"].any()
            energy, forces, virial, atom_energies, _ = potential.eval(
                structure["positions"].reshape(1, -1),
                structure["cell"].reshape(1, 9) if periodic else None,
                structure["types"],
                atomic=True,
            )
            results[f"{label}/energy"] = energy.reshape(())
            results[f"{label}/forces"] = forces.reshape(-1, 3)
            # DeepPot's virial is -dE/d(strain)
            results[f"{label}/virial"] = -virial.reshape(3, 3)
            results[f"{label}/energies"] = atom_energies.reshape(-1)
        np.savez(folder / f"{name}.npz", **results)
        print(name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
