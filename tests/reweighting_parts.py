"""Argon with epsilon and sigma as parameters, trajectories without dynamics, finite differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk

from alchemi_bridge.ensembles.energies import Frames
from alchemi_bridge.ensembles.models import ModelFile
from alchemi_bridge.ensembles.trajectory import Origin, Trajectory

EPSILON, SIGMA = 0.0104, 3.4
TEMPERATURE = 90.0


def argon_options() -> dict[str, object]:
    """Of the built-in Lennard-Jones."""
    return {
        "types": [18],
        "epsilon": [EPSILON],
        "sigma": [SIGMA],
        "cutoff": 6.5,
        "trainable": True,
    }


def drawn(
    path: Path,
    n_frames: int = 30,
    *,
    parameters: Mapping[str, torch.Tensor] | None = None,
    element: str = "Ar",
    a: float = 5.5,
    repeat: int = 2,
    spread: float = 0.2,
    seed: int = 0,
    temperature: float = TEMPERATURE,
) -> Trajectory:
    """Frames of a rattled crystal, with the energies that a model gives them.

    They are not Boltzmann distributed, which matters to nobody who differentiates.
    """
    crystal = bulk(element, "fcc", cubic=True, a=a) * (repeat, repeat, repeat)
    rng = np.random.default_rng(seed)
    file = ModelFile.of(path).check()
    made = Trajectory(
        numbers=crystal.numbers,
        masses=crystal.get_masses(),
        pbc=crystal.pbc,
        positions=crystal.positions + rng.normal(0.0, spread, (n_frames, len(crystal), 3)),
        cells=np.repeat(crystal.cell.array[None], n_frames, axis=0),
        energies=np.zeros(n_frames),
        temperatures=np.full(n_frames, temperature),
        times=np.arange(n_frames) * 1.0,
        origin=np.zeros(n_frames),
        origins=(
            Origin(
                simulator="drawn",
                engine="none",
                model=str(file.path),
                sha256=str(file.sha256),
                parameters={k: v.numpy().copy() for k, v in (parameters or {}).items()},
            ),
        ),
    )
    model = file.load(parameters)
    return made.with_energies(Frames.of_trajectory(model.loaded, made).energies().numpy())


def finite_difference(
    loss: Callable[[dict[str, torch.Tensor]], float],
    parameters: Mapping[str, torch.Tensor],
    name: str,
    place: tuple[int, ...],
    step: float,
) -> float:
    """Derivative by one number, from four values: the error goes with the fourth power of step."""
    found = []
    for times in (1, -1, 2, -2):
        moved = {key: value.clone() for key, value in parameters.items()}
        moved[name][place] += times * step
        found.append(loss(moved))
    return (8.0 * (found[0] - found[1]) - (found[2] - found[3])) / (12.0 * step)
