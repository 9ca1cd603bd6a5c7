"""Train every model of ``cases`` for a few steps with deepmd-kit, and freeze it.

Runs in an environment with deepmd-kit: ``python make_models.py FOLDER [NAME ...]``. Labels are
random numbers: what counts is that weights and statistics are those of a trained file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from cases import MODELS, model_section, structures

STEPS = 3
FRAMES = 4


def write_system(folder: Path, type_map: list[str]) -> None:
    """One system in deepmd-kit's npy format."""
    random = np.random.default_rng(11)
    structure = structures(len(type_map))["triclinic"]
    n_atoms = len(structure["types"])
    (folder / "set.000").mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "type.raw", structure["types"], fmt="%d")
    (folder / "type_map.raw").write_text("\n".join(type_map) + "\n")
    moved = structure["positions"] + random.normal(scale=0.1, size=(FRAMES, n_atoms, 3))
    arrays = {
        "coord": moved.reshape(FRAMES, -1),
        "box": np.tile(structure["cell"].reshape(1, 9), (FRAMES, 1)),
        "energy": random.normal(loc=-4.0 * n_atoms, size=FRAMES),
        "force": random.normal(size=(FRAMES, 3 * n_atoms)),
    }
    for name, array in arrays.items():
        np.save(folder / "set.000" / f"{name}.npy", array)


def training_input(name: str, system: Path) -> dict:
    """The whole input file of ``dp train``."""
    data = {"systems": [str(system)], "batch_size": 1}
    return {
        "model": model_section(name),
        "learning_rate": {
            "type": "exp",
            "start_lr": 1e-3,
            "stop_lr": 1e-5,
            "decay_steps": 10,
        },
        "loss": {
            "type": "ener",
            "start_pref_e": 0.02,
            "limit_pref_e": 1,
            "start_pref_f": 1000,
            "limit_pref_f": 1,
            "start_pref_v": 0,
            "limit_pref_v": 0,
        },
        "training": {
            "training_data": data,
            "numb_steps": STEPS,
            "seed": 5,
            "disp_file": "lcurve.out",
            "disp_freq": 1,
            "save_freq": STEPS,
        },
    }


def run(command: list[str], folder: Path) -> None:
    """Run ``dp``, and show what it says only if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "deepmd", *command], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"dp {' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


def main(arguments: list[str]) -> None:
    """Make the models that are named, or all."""
    root = Path(arguments[0]).resolve()
    for name in arguments[1:] or list(MODELS):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        write_system(folder / "system", MODELS[name][0])
        document = json.dumps(training_input(name, folder / "system"), indent=2)
        (folder / "input.json").write_text(document)
        run(["--pt", "train", "input.json", "--skip-neighbor-stat"], folder)
        run(["--pt", "freeze", "-o", str(root / f"{name}.pth")], folder)
        print(f"{name}: {(root / f'{name}.pth').stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
