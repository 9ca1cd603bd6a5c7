"""Evaluate frozen models with DeepPot; runs in an environment with deepmd-kit.

``python reference.py FOLDER``: for every ``NAME.pth`` writes ``NAME.npz`` with the energy (eV), the
energies of the atoms (eV), the forces (eV/Å) and dE/d(strain) (eV) of each structure.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from cases import MODELS, NOT_SCRIPTED, structures
from deepmd.infer import DeepPot
from deepmd.pt.infer.inference import Tester
from make_models import STEPS


def evaluate(file: Path, structure: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Energy, forces, virial and atomic energies from DeepPot."""
    potential = DeepPot(str(file), auto_batch_size=False)
    results = potential.eval(*arguments(structure), atomic=True)
    return list(results[:4])


def evaluate_checkpoint(file: Path, structure: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The same from a checkpoint, in plain Python."""
    model = Tester(str(file)).model.eval()
    coordinates, cell, types = arguments(structure)
    box = None if cell is None else torch.from_numpy(cell)
    found = model(torch.from_numpy(coordinates), torch.from_numpy(types)[None], box)
    names = ("energy", "force", "virial", "atom_energy")
    return [found[name].detach().numpy() for name in names]


def arguments(structure: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """One frame as DeePMD-kit wants it."""
    periodic = structure["cell"].any()
    cell = structure["cell"].reshape(1, 9) if periodic else None
    return structure["positions"].reshape(1, -1), cell, structure["types"]


def main(folder: Path) -> None:
    """Evaluate every model on every structure."""
    for name, (type_map, _, _) in MODELS.items():
        if not (folder / f"{name}.pth").exists():
            continue
        results = {}
        for label, structure in structures(len(type_map)).items():
            if name in NOT_SCRIPTED:
                file = folder / name / f"model.ckpt-{STEPS}.pt"
                energy, forces, virial, atom_energies = evaluate_checkpoint(file, structure)
            else:
                file = folder / f"{name}.pth"
                energy, forces, virial, atom_energies = evaluate(file, structure)
            results[f"{label}/energy"] = energy.reshape(())
            results[f"{label}/forces"] = forces.reshape(-1, 3)
            # DeePMD's virial is -dE/d(strain)
            results[f"{label}/virial"] = -virial.reshape(3, 3)
            results[f"{label}/energies"] = atom_energies.reshape(-1)
        np.savez(folder / f"{name}.npz", **results)
        print(name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
