"""The trainings that are compared with DeePMD-kit's: one input file each, for both programs.

A system has as many frames as a batch, so that every step sees the same frames whoever draws them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from cases import structures

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "deepmd"
FRAMES, STEPS = 3, 8
TYPE_MAP = ["O", "H"]
WEIGHTS = {
    "start_pref_e": 0.2, "limit_pref_e": 1, "start_pref_f": 100, "limit_pref_f": 2,
    "start_pref_v": 0.3, "limit_pref_v": 1.5,
}  # fmt: skip
#: name: (learning_rate, loss, optimizer, changes of the descriptor)
TRAININGS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "adam": (
        {"type": "exp", "start_lr": 0.01, "stop_lr": 1e-4, "decay_steps": 3},
        WEIGHTS,
        {"type": "Adam"},
        {"type_one_side": False},
    ),
    # defaults of decay_steps and stop_lr, which depend on the number of steps
    "adam-defaults": (
        {"start_lr": 0.01},
        {},
        {"type": "Adam", "adam_beta1": 0.8, "adam_beta2": 0.99, "weight_decay": 0.01},
        {"type_one_side": True, "resnet_dt": True},
    ),
    "adamw-warm-up": (
        {
            "start_lr": 0.01, "stop_lr_ratio": 0.1, "decay_steps": 2, "smooth": True,
            "warmup_ratio": 0.4, "warmup_start_factor": 0.1, "scale_by_worker": "linear",
        },
        {**WEIGHTS, "intensive_ener_virial": True},
        {"type": "AdamW", "weight_decay": 0.02},
        {"set_davg_zero": True},
    ),
    "adam-given-rate": (
        {"start_lr": 0.01, "stop_lr": 0.002, "decay_steps": 2, "decay_rate": 0.5},
        {**WEIGHTS, "start_pref_v": 0, "limit_pref_v": 0},
        {"type": "Adam"},
        {"exclude_types": [[0, 1]]},
    ),
    "lkf": (
        {"start_lr": 0.01},
        {},
        {
            "type": "LKF", "kf_blocksize": 50,
            "kf_start_pref_e": 1, "kf_limit_pref_e": 2,
            "kf_start_pref_f": 3, "kf_limit_pref_f": 0.5,
        },
        {"type_one_side": False, "resnet_dt": True},
    ),
    "lkf-one-block": ({"start_lr": 0.01}, {}, {"type": "LKF"}, {"type_one_side": True}),
}  # fmt: skip


def write(folder: Path, name: str) -> Path:
    """Write a system and the input file of a training; returns the latter's path."""
    rate, weights, optimizer, changes = TRAININGS[name]
    folder.mkdir(parents=True, exist_ok=True)
    write_system(folder / "system")
    descriptor = {
        "type": "se_e2_a", "sel": [20, 20], "rcut": 4.0, "rcut_smth": 1.0, "neuron": [3, 6],
        "axis_neuron": 2, "seed": 1, **changes,
    }  # fmt: skip
    document = {
        "model": {
            "type_map": TYPE_MAP,
            "descriptor": descriptor,
            "fitting_net": {"neuron": [6, 6], "seed": 1},
        },
        "learning_rate": rate,
        "loss": weights,
        "optimizer": optimizer,
        "training": {
            "training_data": {"systems": [str(folder / "system")], "batch_size": FRAMES},
            "numb_steps": STEPS, "seed": 5, "disp_freq": STEPS, "save_freq": STEPS,
        },
    }  # fmt: skip
    path = folder / "input.json"
    path.write_text(json.dumps(document, indent=2))
    return path


def write_system(folder: Path) -> None:
    """Frames of one structure with random labels."""
    random = np.random.default_rng(12)
    structure = structures(len(TYPE_MAP))["small"]
    # DeePMD-kit sorts atoms by their type in the model; sorted already, both name the same atoms
    types = np.sort(np.arange(len(structure["types"])) % len(TYPE_MAP))[::-1]
    n_atoms = len(types)
    (folder / "set.000").mkdir(parents=True, exist_ok=True)
    # the order of the file is not that of the model
    (folder / "type_map.raw").write_text("\n".join(reversed(TYPE_MAP)) + "\n")
    np.savetxt(folder / "type.raw", types, fmt="%d")
    moved = structure["positions"] + random.normal(scale=0.2, size=(FRAMES, n_atoms, 3))
    arrays = {
        "coord": moved.reshape(FRAMES, -1),
        "box": np.tile(structure["cell"].reshape(1, 9), (FRAMES, 1)),
        "energy": random.normal(loc=-3.0 * n_atoms, size=FRAMES),
        "force": random.normal(size=(FRAMES, 3 * n_atoms)),
        "virial": random.normal(scale=3.0, size=(FRAMES, 9)),
    }
    for key, array in arrays.items():
        np.save(folder / "set.000" / f"{key}.npy", array)


def write_copper(folder: Path) -> Path:
    """Input of the copper example with its validation data, of which every frame is counted."""
    data = folder / "copper"
    if not data.exists():
        command = [sys.executable, str(EXAMPLES / "label_copper.py"), str(data)]
        subprocess.run(command, check=True)
    document = json.loads((EXAMPLES / "copper.json").read_text())
    document["model"]["data_stat_nbatch"] = 100
    # DeePMD-kit asks for these sections also where the filter does not use them
    document |= {"learning_rate": {"start_lr": 0.001}, "loss": {}}
    training = document["training"]
    del training["validation_data"]
    systems = sorted(str(path.parent) for path in data.glob("validation/*/type.raw"))
    training["training_data"] = {"systems": systems, "batch_size": 4}
    path = folder / "input.json"
    path.write_text(json.dumps(document, indent=2))
    return path
