"""Train the models of ``training_cases`` with this package, for DeePMD-kit to do the same.

``python train_native.py FOLDER``: writes ``FOLDER/training/NAME/native.npz`` with the first weights
under DeePMD-kit's names (``first/``), loss and gradient of the first step, learning rates, the
atoms that the Kalman filter measures, and the last weights (``last/``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_cases import TRAININGS, write, write_copper

from alchemi_bridge.potentials.deepmd import Definition, SeE2A, evaluate, to_deepmd
from alchemi_bridge.training import Start, Training, TrainingInput, joined, read_input
from alchemi_bridge.training.loading import Batches
from alchemi_bridge.training.loss import loss
from alchemi_bridge.training.stepping import measured_atoms
from alchemi_bridge.training.systems import read_systems


def train(path: Path) -> dict[str, np.ndarray]:
    """Everything that is compared, of the training of an input file."""
    settings = read_input(path)
    with joined("cpu") as ranks:
        training = Training(settings, path.parent, ranks, Start(force=True))
        model, definition = training.model, training.definition
        found = {f"first/{k}": v.numpy() for k, v in to_deepmd(model, definition).items()}
        value, gradients, n_atoms = first_step(settings, model, definition)
        found |= {f"gradient/{k}": v for k, v in gradients.items()}
        found["loss"] = np.array(value)
        found["rates"] = np.array([settings.rate(n) for n in range(settings.n_steps)])
        found["atoms"] = np.stack(
            [measured_atoms(n_atoms, settings.seed, n) for n in range(settings.n_steps)]
        )
        for _ in training.steps():
            pass
    return found | {f"last/{k}": v.numpy() for k, v in to_deepmd(model, definition).items()}


def first_step(
    settings: TrainingInput, model: SeE2A, definition: Definition
) -> tuple[float, dict[str, np.ndarray], int]:
    """Loss of the first step, its gradient under DeePMD-kit's names, and the number of atoms."""
    systems = read_systems(settings.training.systems, definition.type_map)
    [size] = settings.training.batch_sizes
    assert size is not None
    [batch] = Batches(systems, [size], definition.rcut).epoch(0)
    results = evaluate(
        model, batch.coordinates, batch.cells, batch.types, batch.pairs, differentiable=True
    )
    ratio = settings.rate(0) / settings.rate.start
    value = loss(results, batch.targets, settings.weights, ratio, batch.n_batch)
    gradient: dict[str, Any] = dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(value, list(model.parameters())),
            strict=True,
        )
    )
    # the names of the gradients are those of the parameters
    named = SeE2A(definition)
    named.load_state_dict({**model.state_dict(), **gradient})
    names = {k for k in to_deepmd(named, definition) if ".networks." in k}
    return (
        float(value.detach()),
        {k: v.numpy() for k, v in to_deepmd(named, definition).items() if k in names},
        systems[0].n_atoms,
    )


def statistics(path: Path) -> dict[str, np.ndarray]:
    """What a new model takes from the data: sel, and statistics under DeePMD-kit's names."""
    with joined("cpu") as ranks:
        training = Training(read_input(path), path.parent, ranks, Start(force=True))
    state = to_deepmd(training.model, training.definition)
    found = {f"first/{k}": v.numpy() for k, v in state.items()}
    return found | {"sel": np.array(training.definition.sel)}


def main(folder: Path) -> None:
    """All trainings, and the statistics of the copper example."""
    copper = folder.resolve() / "training" / "copper"
    copper.mkdir(parents=True, exist_ok=True)
    np.savez(copper / "native.npz", **statistics(write_copper(copper)))
    for name in TRAININGS:
        path = write(folder.resolve() / "training" / name, name)
        np.savez(path.parent / "native.npz", **train(path))


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
