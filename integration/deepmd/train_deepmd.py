"""Repeat the trainings of ``train_native.py`` with DeePMD-kit's trainer, and compare.

``python train_deepmd.py FOLDER``, in an environment with deepmd-kit; writes ``training.json``, and
``FOLDER/training/NAME/deepmd.npz`` with DeePMD-kit's numbers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepmd.pt.entrypoints.main import get_trainer
from deepmd.pt.model.model import BaseModel
from deepmd.pt.optimizer.KFWrapper import KFOptimizerWrapper
from deepmd.utils.argcheck import normalize
from deepmd.utils.compat import update_deepmd_input
from deepmd.utils.data_system import get_data
from training_cases import TRAININGS

#: Relative to the largest number of the kind. Sums are in another order, and Adam divides gradients
#: by their size in every step, which makes the differences grow.
LIMITS = {
    "sel": 0.0, "statistics": 1e-12, "loss": 1e-12, "gradient": 1e-12, "rates": 1e-14,
    "last": 1e-11,
}  # fmt: skip
STATISTICS = ("descriptor.sea.mean", "descriptor.sea.stddev", "atomic_model.out_bias")


def prepare(folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """DeePMD-kit's trainer of an input file, and what its model took from the data."""
    config = json.loads((folder / "input.json").read_text())
    config = normalize(update_deepmd_input(config, warning=False))
    found = {}
    if isinstance(config["model"]["descriptor"]["sel"], str):
        type_map = config["model"]["type_map"]
        data = get_data(config["training"]["training_data"], 0, type_map, None)
        config["model"], _ = BaseModel.update_sel(data, type_map, config["model"])
        found["sel"] = np.array(config["model"]["descriptor"]["sel"])
    trainer = get_trainer(config)
    for key, tensor in trainer.wrapper.model["Default"].state_dict().items():
        if key.endswith(STATISTICS):
            found[f"statistics/{key}"] = tensor.detach().numpy().copy()
    return trainer, found


def train(folder: Path, native: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numbers of ``native`` by DeePMD-kit, from the same first weights."""
    trainer, found = prepare(folder)
    model = trainer.wrapper.model["Default"]
    first = {
        k.removeprefix("first/"): torch.from_numpy(v)
        for k, v in native.items()
        if k.startswith("first/")
    }
    model.load_state_dict(first, strict=False)
    measure_the_same_atoms(iter(native["atoms"]))
    record = watch(trainer, model)
    trainer.run()
    last = {k: v for k, v in model.state_dict().items() if k in first}
    assert last.keys() == first.keys(), "names of weights differ"
    found |= {f"last/{k}": v.detach().numpy() for k, v in last.items()}
    return found | record


def measure_the_same_atoms(tables: Iterator[np.ndarray]) -> None:
    """The filter draws atoms without a seed; here it takes those of the native training."""
    KFOptimizerWrapper._KFOptimizerWrapper__sample = lambda *_: next(tables)  # type: ignore


def watch(trainer: Any, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Record loss and gradient of the first step, and the learning rates that Adam uses."""
    record: dict[str, Any] = {}
    forward, step = trainer.loss.forward, trainer.optimizer.step

    def watched_forward(inputs: Any, model: Any, label: Any, *rest: Any, **options: Any) -> Any:
        # flags of what the data have are float32, and would round the prefactors to that
        label = {k: float(v) if k.startswith("find_") else v for k, v in label.items()}
        result = forward(inputs, model, label, *rest, **options)
        record.setdefault("loss", result[1].detach().numpy().copy())
        return result

    def watched_step(*arguments: Any, **options: Any) -> Any:
        if not any(key.startswith("gradient/") for key in record):
            for name, parameter in model.named_parameters():
                if parameter.numel() == 0:  # the tables of compressed models
                    continue
                # none: forces do not depend on it, and the energies have no weight
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                record[f"gradient/{name}"] = gradient.numpy().copy()
        rates = record.get("rates", np.zeros(0))
        record["rates"] = np.append(rates, trainer.optimizer.param_groups[0]["lr"])
        return step(*arguments, **options)

    if trainer.opt_type != "LKF":
        trainer.loss.forward = watched_forward
        # the scheduler marks the method, and warns if it is gone
        watched_step.__dict__.update(getattr(step, "__dict__", {}))
        trainer.optimizer.step = watched_step
    return record


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest number."""
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-300))


def compare(native: dict[str, np.ndarray], deepmd: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest relative difference of each kind."""
    worst: dict[str, float] = {}
    for key, theirs in deepmd.items():
        kind, _, name = key.partition("/")
        ours = native[f"first/{name}" if kind == "statistics" else key]
        worst[kind] = max(worst.get(kind, 0.0), difference(ours, theirs))
    moved = [
        difference(native[f"first/{key.removeprefix('last/')}"], array)
        for key, array in deepmd.items()
        if key.startswith("last/") and ".networks." in key
    ]
    # for scale: how far the weights went
    return {**worst, "moved": max(moved)} if moved else worst


def main(folder: Path) -> None:
    """All trainings, and the statistics of the copper example."""
    entries = []
    for name in ("copper", *TRAININGS):
        place = folder.resolve() / "training" / name
        with np.load(place / "native.npz") as file:
            native = dict(file)
        os.chdir(place)
        deepmd = prepare(place)[1] if name == "copper" else train(place, native)
        np.savez(place / "deepmd.npz", **deepmd)
        worst = compare(native, deepmd)
        good = all(value <= LIMITS[kind] for kind, value in worst.items() if kind in LIMITS)
        entries.append({"model": name, **worst, "limits": LIMITS, "good": good})
        print(entries[-1], flush=True)
    (folder / "training.json").write_text(json.dumps(entries, indent=2))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]).resolve())
