"""Store what the tests of the native model compare with: weights, structures, DeePMD-kit's numbers.

``python store_golden.py FOLDER TARGET``, with FOLDER as ``run.py`` leaves it. The frozen files are
not stored: they hold DeePMD-kit's code, which has a licence of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from cases import MODELS, structures

from alchemi_bridge.potentials.deepmd.frozen import read_frozen

NAMES = (
    "se_e2_a-water",
    "se_e2_a-one-side",
    "se_e2_a-few-neighbours",
    "se_e2_a-excluded",
    "se_e2_a-vacuum",
    "se_e2_a-float32",
)
STRUCTURES = ("triclinic", "small", "molecule", "no-neighbours")
#: Second names of tensors, and empty tables.
LEFT_OUT = ("._networks.", ".compress_", ".emask.", "default_fparam")


def main(folder: Path, target: Path) -> None:
    """Write one file for each model."""
    target.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        file = read_frozen(folder / f"{name}.pth")
        arrays = {"definition": np.array(json.dumps(file.definition))}
        for key, tensor in file.module.state_dict().items():
            if not any(part in key for part in LEFT_OUT):
                arrays[f"weights/{key}"] = tensor.numpy()
        made = structures(len(MODELS[name][0]))
        with np.load(folder / f"{name}.npz") as reference:
            for label in STRUCTURES:
                for key, array in made[label].items():
                    arrays[f"{label}/{key}"] = array
                for key in ("energies", "forces", "virial"):
                    arrays[f"{label}/{key}"] = reference[f"{label}/{key}"]
        system = folder / name / "system"
        for key in ("coord", "box", "energy"):
            arrays[f"data/{key}"] = np.load(system / "set.000" / f"{key}.npy")
        arrays["data/types"] = np.loadtxt(system / "type.raw", dtype=int)
        np.savez_compressed(target / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
