"""What a training step costs: energies, forces, virial, loss, its gradient, Adam.

``python time_step.py FOLDER DEEPMD_PYTHON``, where alchemi_bridge is installed, writes
``FOLDER/time_step.json``. It starts itself with both Pythons (``--steps native NAME`` and ``--steps
deepmd NAME``), which make a step each in turn, so that both meet the same machine. Equal settings,
one thread, processor time; medians over the steps of a run, and the quietest run of several.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: The fitting net, its neighbours, and the crystals (repetitions of a cubic cell, frames).
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, int, int], int]] = {
    # nets of DeePMD-kit's examples
    "large": (
        {
            "sel": [90], "rcut": 5.0, "rcut_smth": 0.5, "neuron": [25, 50, 100],
            "axis_neuron": 16, "type_one_side": True,
        },
        (120, 120, 120), (3, 3, 2), 1,
    ),
    # those of examples/deepmd/copper.json
    "copper": (
        {
            "sel": [68], "rcut": 5.0, "rcut_smth": 2.0, "neuron": [8, 16, 32],
            "axis_neuron": 4,
        },
        (32, 32, 32), (2, 2, 2), 2,
    ),
}  # fmt: skip
STEPS, WARM_UP, RUNS = 40, 5, 3
#: Ours may cost this part of DeePMD-kit's.
LIMIT = 0.5

Forces = Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def section(name: str) -> dict[str, Any]:
    """The section ``model`` of a case."""
    descriptor, neuron, _, _ = CASES[name]
    return {
        "type_map": ["Cu"],
        "descriptor": {"type": "se_e2_a", **descriptor},
        "fitting_net": {"neuron": list(neuron), "resnet_dt": True},
    }


def frames(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(F, N, 3) positions and (F, 3, 3) cells of displaced fcc copper, Å."""
    _, _, repeat, n_frames = CASES[name]
    random = np.random.default_rng(1)
    base = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    corners = np.indices(repeat).reshape(3, -1).T
    crystal = 3.61 * (corners[:, None] + base).reshape(-1, 3)
    x = crystal + random.normal(scale=0.1, size=(n_frames, *crystal.shape))
    cells = np.tile(3.61 * np.diag(repeat), (n_frames, 1, 1))
    return torch.from_numpy(x), torch.from_numpy(cells)


def native(name: str, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.nn.Module, Forces]:
    """This package's model and its evaluation; pairs are found once for a data set."""
    from alchemi_bridge.potentials.deepmd import SeE2A, evaluate, pairs_of_frames, read_definition

    definition = read_definition(section(name))
    model = SeE2A(definition)
    model.initialise(seed=0)
    pairs = pairs_of_frames(x, h, definition.rcut)
    types = torch.zeros(x.shape[1], dtype=torch.int64)

    def forces() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = evaluate(model, x, h, types, pairs, differentiable=True)
        return found.energies, found.forces, found.virials

    return model, forces


def deepmd(name: str, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.nn.Module, Forces]:
    """DeePMD-kit's model as its trainer calls it: eagerly, and with a search in every step."""
    from deepmd.pt.model.model import get_model

    model = get_model(section(name)).train()
    types = torch.zeros(x.shape[:2], dtype=torch.int64)

    def forces() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = model(x, types, h.reshape(-1, 9))
        return found["energy"], found["force"], found["virial"]

    return model, forces


def steps(name: str, make: Callable[..., tuple[torch.nn.Module, Forces]]) -> None:
    """Make a step for every line of the input, and print its processor time in ms."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, h = frames(name)
    model, forces = make(name, x, h)
    target = torch.randn(x.shape, dtype=torch.float64)
    # each as its trainer asks for it on a CPU
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=make is native)
    for _ in sys.stdin:
        start = time.process_time()
        optimizer.zero_grad()
        energy, force, virial = forces()
        loss = (force - target).square().mean()
        loss = loss + 1e-3 * energy.square().mean() + 1e-3 * virial.square().mean()
        loss.backward()
        optimizer.step()
        print(1e3 * (time.process_time() - start), flush=True)


def compare(name: str, pythons: dict[str, str]) -> dict[str, float]:
    """Medians of both in one run, ms, and their ratio."""
    processes = {
        whose: subprocess.Popen(
            [python, __file__, "--steps", whose, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for whose, python in pythons.items()
    }  # fmt: skip
    times: dict[str, list[float]] = {whose: [] for whose in processes}
    for _ in range(STEPS):
        for whose, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            times[whose].append(float(process.stdout.readline()))
    for process in processes.values():
        process.communicate()
    medians = {whose: statistics.median(found[WARM_UP:]) for whose, found in times.items()}
    return {**medians, "ratio": medians["native"] / medians["deepmd"]}


def main(arguments: list[str]) -> None:
    """Make steps, or compare those of both."""
    if arguments[0] == "--steps":
        steps(arguments[2], native if arguments[1] == "native" else deepmd)
        return
    folder, pythons = Path(arguments[0]), {"native": sys.executable, "deepmd": arguments[1]}
    entries = []
    for name, (_, _, _, n_frames) in CASES.items():
        runs = [compare(name, pythons) for _ in range(RUNS)]
        quietest = min(runs, key=lambda run: run["native"] + run["deepmd"])
        size = {"atoms": frames(name)[0].shape[1], "frames": n_frames}
        good = quietest["ratio"] <= LIMIT
        entry = {"model": name, **size, "ms": quietest, "runs": runs, "limit": LIMIT, "good": good}
        print(entry)
        entries.append(entry)
    (folder / "time_step.json").write_text(json.dumps(entries, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
