"""``python -m alchemi_bridge.parity.nvalchemi_worker``: serves one parity run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms

from alchemi_bridge.engines.nvalchemi import MetatomicModel, make_batch
from alchemi_bridge.parity.paths import Evaluator, Stopwatch
from alchemi_bridge.parity.remote import serve
from alchemi_bridge.parity.results import PathResult


class _NvalchemiEvaluator(Evaluator):
    def __init__(self, model_file: str, options: dict[str, Any], stress: bool) -> None:
        self._model: Any = MetatomicModel(model_file, device="cpu", **options)
        self._stress = stress
        self._batch: Any = None
        self._sizes: list[int] = []

    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        found = self._computed(make_batch(frames), stress=self._stress)
        energies: list[float] = found["energy"][:, 0].tolist()
        forces = np.split(found["forces"].numpy(), np.cumsum([len(a) for a in frames])[:-1])
        stress = found["stress"].numpy() if "stress" in found else [None] * len(frames)
        return [
            PathResult(energy, own, None if s is None else s * abs(atoms.cell.volume))
            for atoms, energy, own, s in zip(frames, energies, forces, stress, strict=True)
        ]

    def step(self, atoms: Atoms) -> float:
        if self._batch is None or self._sizes != [len(atoms)]:
            self._batch, self._sizes = make_batch([atoms]), [len(atoms)]
        self._batch.positions.copy_(torch.from_numpy(atoms.positions))
        with Stopwatch() as watch:
            self._computed(self._batch, stress=False)
        return watch.ms

    def _computed(self, batch: Any, *, stress: bool) -> dict[str, Any]:
        self._model.set_config("active_outputs", {"energy", "forces", *["stress"] * stress})
        found: dict[str, Any] = self._model(batch)
        return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(_NvalchemiEvaluator)
