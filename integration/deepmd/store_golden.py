"""Store what tests compare with: weights, structures, trainings, DeePMD-kit's numbers.

``python store_golden.py FOLDER TARGET``, with FOLDER as ``run.py`` leaves it. The frozen files are
not stored: they hold DeePMD-kit's code, which has a licence of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from cases import MODELS, structures
from training_cases import TRAININGS

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


def store_trainings(folder: Path, target: Path) -> None:
    """One file with inputs, data, first weights and DeePMD-kit's numbers of all trainings.

    Weights are behind each other, sorted by their names: hundreds of arrays would take more room
    for their names than for their numbers.
    """
    arrays = {}
    for name in TRAININGS:
        place = folder / "training" / name
        document = json.loads((place / "input.json").read_text())
        document["training"]["training_data"]["systems"] = ["system"]
        arrays[f"{name}/input"] = np.array(json.dumps(document))
        with np.load(place / "native.npz") as file:
            first = {k: v for k, v in file.items() if k.startswith("first/")}
        with np.load(place / "deepmd.npz") as file:
            found = {**first, **file}
        for kind in ("first", "gradient", "last"):
            keys = sorted(k for k in found if k.startswith(f"{kind}/") and ".networks." in k)
            if keys:
                arrays[f"{name}/{kind}"] = np.concatenate([found[key].ravel() for key in keys])
        for key in sorted(found):
            if key in ("loss", "rates") or key.startswith("statistics/"):
                arrays[f"{name}/{key.rpartition('.')[2]}"] = found[key]
    system = folder / "training" / name / "system"
    for text in ("type.raw", "type_map.raw"):
        arrays[f"system/{text}"] = np.array((system / text).read_text())
    for path in system.glob("set.000/*.npy"):
        arrays[f"system/{path.stem}"] = np.load(path)
    np.savez_compressed(target, **arrays)


def main(folder: Path, target: Path) -> None:
    """Write one file for each model."""
    target.mkdir(parents=True, exist_ok=True)
    store_trainings(folder, target.parent / "deepmd_training.npz")
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
