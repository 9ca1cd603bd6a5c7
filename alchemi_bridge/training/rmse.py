"""Root mean square errors of energies, forces and virials, over frames of any systems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alchemi_bridge.errors import NonFiniteResultError
from alchemi_bridge.potentials.deepmd import FrameResults, SeE2A, evaluate, pairs_of_frames
from alchemi_bridge.training.loss import Targets
from alchemi_bridge.training.systems import TrainingSystem

#: What the errors are called in tables, with their units.
QUANTITIES = {"energy": "eV/atom", "force": "eV/Å", "virial": "eV/atom"}


class ErrorSums:
    """Sums of squared errors, which may be added over batches and ranks.

    Attributes
    ----------
    sums
        (3, 2) float64: for energy per atom, force components and virial components per atom the
        sum of squares and the number of values.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(3, 2, dtype=torch.float64)

    def add(self, results: FrameResults, targets: Targets) -> None:
        """Count a batch; frames of weight zero do not count."""
        n_atoms = targets.forces.shape[1]
        weights = targets.weights
        energies = (results.energies.detach() - targets.energies) / n_atoms
        self._add(0, energies[:, None], weights)
        self._add(1, (results.forces.detach() - targets.forces).flatten(1), weights)
        if targets.virials is not None:
            virials = (results.virials.detach() - targets.virials) / n_atoms
            self._add(2, virials.flatten(1), weights)

    def _add(self, row: int, errors: torch.Tensor, weights: torch.Tensor) -> None:
        self.sums[row, 0] += (weights * errors.square().sum(dim=1)).sum().cpu()
        self.sums[row, 1] += weights.sum().cpu() * errors.shape[1]

    def rmse(self) -> dict[str, float]:
        """By the names of :data:`QUANTITIES`; what no frame has is left out."""
        found = {}
        for name, (total, n) in zip(QUANTITIES, self.sums.tolist(), strict=True):
            if n > 0:
                found[name] = (total / n) ** 0.5
        return found


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's energies (F,), forces (F, N, 3) and virials (F, 3, 3) of a system, as arrays."""

    energies: np.ndarray
    forces: np.ndarray
    virials: np.ndarray


def predict(model: SeE2A, system: TrainingSystem, cutoff: float) -> Predictions:
    """Evaluate every frame of a system, one after the other."""
    results = [_result(model, system, frame, cutoff) for frame in range(system.n_frames)]
    return Predictions(
        *(
            np.concatenate([getattr(one, name).cpu().numpy() for one in results])
            for name in ("energies", "forces", "virials")
        )
    )


def errors_of(model: SeE2A, system: TrainingSystem, cutoff: float) -> ErrorSums:
    """Sums of the errors of every frame of a system.

    Raises
    ------
    NonFiniteResultError
        If the model gives NaN or infinite values; the message names system and frame.
    """
    sums = ErrorSums()
    found = predict(model, system, cutoff)
    for name, values in vars(found).items():
        bad = ~np.isfinite(values.reshape(system.n_frames, -1)).all(axis=1)
        if bad.any():
            raise NonFiniteResultError(
                f"{name} of '{system.folder}'",
                expected="finite numbers",
                got=f"NaN or infinite ones for frame {int(np.flatnonzero(bad)[0])}",
                fix="look at this frame, which may be far from the training data",
            )
    tensor = torch.from_numpy
    sums.add(
        FrameResults(tensor(found.energies), tensor(found.forces), tensor(found.virials)),
        Targets(
            tensor(system.energies),
            tensor(system.forces),
            None if system.virials is None else tensor(system.virials),
            torch.ones(system.n_frames, dtype=torch.float64),
        ),
    )
    return sums


def _result(model: SeE2A, system: TrainingSystem, frame: int, cutoff: float) -> FrameResults:
    device = model.energy_bias.device
    x = torch.from_numpy(system.coordinates[frame : frame + 1])
    cells = None if system.cells is None else torch.from_numpy(system.cells[frame : frame + 1])
    pairs = pairs_of_frames(x, cells, cutoff).to(device)
    types = torch.from_numpy(system.types).to(device)
    cells = None if cells is None else cells.to(device)
    return evaluate(model, x.to(device), cells, types, pairs)
