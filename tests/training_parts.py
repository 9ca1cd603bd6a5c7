"""Small training systems and inputs for the tests of the training."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from alchemi_bridge.training import Start, Training, joined, read_input

#: As small as a model of two types can be.
INPUT: dict[str, Any] = {
    "model": {
        "type_map": ["Cu", "Au"],
        "descriptor": {
            "type": "se_e2_a", "rcut": 3.6, "rcut_smth": 2.0, "sel": "auto",
            "neuron": [4, 8], "axis_neuron": 2,
        },
        "fitting_net": {"neuron": [8, 8]},
    },
    "learning_rate": {"type": "exp", "start_lr": 0.003, "stop_lr": 1e-4, "decay_steps": 5},
    "loss": {"start_pref_v": 0.1, "limit_pref_v": 1},
    "training": {
        "training_data": {"systems": "data", "batch_size": 2},
        "numb_steps": 12, "seed": 3, "disp_freq": 4, "save_freq": 6,
    },
}  # fmt: skip

#: Frames of each system: neither divides by what the tests divide by.
SYSTEMS = {"alloy": ("CuAuCuAu", 7), "copper": ("Cu8", 5)}


def write_data(folder: Path, seed: int = 0) -> Path:
    """Write one system of each kind of :data:`SYSTEMS`, labelled by EMT."""
    random = np.random.default_rng(seed)
    for name, (formula, n_frames) in SYSTEMS.items():
        frames = []
        for _ in range(n_frames):
            atoms = bulk("Cu", cubic=True) * ((1, 1, 1) if name == "alloy" else (2, 1, 1))
            atoms.set_chemical_symbols(formula)
            atoms.set_cell(atoms.cell * random.uniform(0.97, 1.1), scale_atoms=True)
            atoms.positions += random.normal(scale=0.1, size=(len(atoms), 3))
            atoms.calc = EMT()
            frames.append(atoms)
        one = folder / name
        (one / "set.000").mkdir(parents=True)
        # the order of the file, not that of the model
        kinds = sorted(set(frames[0].symbols))
        (one / "type_map.raw").write_text("\n".join(kinds))
        (one / "type.raw").write_text("\n".join(str(kinds.index(s)) for s in frames[0].symbols))
        values = {
            "coord": [a.positions for a in frames],
            "box": [a.cell.array for a in frames],
            "energy": [a.get_potential_energy() for a in frames],
            "force": [a.get_forces() for a in frames],
            "virial": [-a.get_volume() * a.get_stress(voigt=False) for a in frames],
        }
        for key, rows in values.items():
            np.save(one / "set.000" / f"{key}.npy", np.array(rows).reshape(n_frames, -1))
    return folder


def write_input(folder: Path, **changes: Any) -> Path:
    """Write :data:`INPUT`; changes are given as ``training__numb_steps=3``, None takes out."""
    document = copy.deepcopy(INPUT)
    for key, value in changes.items():
        *sections, last = key.split("__")
        target = document
        for section in sections:
            target = target.setdefault(section, {})
        if value is None:
            target.pop(last)
        else:
            target[last] = value
    path = folder / "input.json"
    path.write_text(json.dumps(document))
    return path


def make(path: Path, output: Path, start: Start | None = None) -> Training:
    """A training that is ready to run."""
    with joined("cpu") as ranks:
        return Training(read_input(path), output, ranks, start or Start())


def train(
    path: Path, output: Path, start: Start | None = None, stop: int | None = None
) -> Training:
    """A training that has run, up to a step if ``stop`` is given."""
    training = make(path, output, start)
    steps = training.steps()
    for step in steps:
        if step == stop:
            steps.close()
    return training


def launch(
    n_ranks: int, path: Path, output: Path, *arguments: object, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """``torchrun ... train``, as users start it."""
    output.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc_per_node={n_ranks}", "-m", "alchemi_bridge.cli.main",
        "train", str(path), "--output", str(output), "--device", "cpu", *map(str, arguments),
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "Warning" not in done.stderr
    return done
