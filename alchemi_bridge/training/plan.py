"""What the numbers of a training follow from beside its input: data, batches, ranks.

It is part of a checkpoint, so that a restart can tell that it is not the training that was begun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alchemi_bridge.training.systems import TrainingSystem

#: Entries of a plan, as messages name them.
_NAMES = {
    "seed": "training.seed",
    "ranks": "number of ranks",
    "frames": "frames of the systems",
    "atoms": "atoms of the systems",
    "batch_sizes": "batch sizes",
    "data": "structures or labels (hash)",
}


def plan(
    systems: Sequence[TrainingSystem], batch_sizes: Sequence[int], *, seed: int, n_ranks: int
) -> dict[str, Any]:
    """Numbers, lists of numbers and a hash, which a checkpoint can hold."""
    return {
        "seed": seed,
        "ranks": n_ranks,
        "frames": [system.n_frames for system in systems],
        "atoms": [system.n_atoms for system in systems],
        "batch_sizes": list(batch_sizes),
        "data": _hash(systems),
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two plans differ in, a line for each entry."""
    found = []
    for key, name in _NAMES.items():
        was, now = old.get(key), new.get(key)
        if was != now:
            found.append(f"{name}: {_short(was)} before, {_short(now)} now")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"


def _hash(systems: Sequence[TrainingSystem]) -> str:
    digest = hashlib.sha256()
    for system in systems:
        arrays = (system.types, system.coordinates, system.cells, system.energies, system.forces,
                  system.virials)  # fmt: skip
        for array in arrays:
            digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
