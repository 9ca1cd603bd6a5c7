"""What one step does with a batch: one descent of the loss, or some updates of the filter."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.potentials.deepmd import FrameResults, SeE2A, evaluate
from alchemi_bridge.training.input import TrainingInput
from alchemi_bridge.training.kalman import KalmanFilter
from alchemi_bridge.training.loading import Batch
from alchemi_bridge.training.loss import loss
from alchemi_bridge.training.ranks import Ranks

#: Updates by forces in a step of the filter, and atoms whose forces make one, as in DeePMD-kit.
FORCE_UPDATES, ATOMS_OF_UPDATE = 4, 6


class Evaluated(torch.nn.Module):
    """Energies, forces and virials in one call, as DistributedDataParallel wants it."""

    def __init__(self, model: SeE2A) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the frames of a batch, with their graph; see :class:`FrameResults`."""
        found = evaluate(
            self.model,
            batch.coordinates,
            batch.cells,
            batch.types,
            batch.pairs,
            differentiable=True,
        )
        return found.energies, found.forces, found.virials


class Stepper(Protocol):
    """One step of a training.

    Attributes
    ----------
    optimiser
        Whose state belongs into a checkpoint.
    """

    optimiser: torch.optim.Optimizer

    def step(self, module: torch.nn.Module, batch: Batch, number: int) -> FrameResults:
        """Change the weights.

        Parameters
        ----------
        module
            :class:`Evaluated`, wrapped if there are several ranks: gradients are means over them.
        batch
            This rank's part.
        number
            Of the step, from zero.

        Returns
        -------
        FrameResults
            Before the weights were changed.
        """


def stepper(settings: TrainingInput, model: torch.nn.Module, ranks: Ranks) -> Stepper:
    """What the input asks for.

    Raises
    ------
    ConfigurationError
        If the optimiser can not do what the input asks for.
    """
    if settings.optimiser.name != "lkf":
        return AdamSteps(settings, model, ranks)
    virial = settings.weights.virial
    if virial.start or virial.limit:
        raise ConfigurationError(
            "loss.start_pref_v and loss.limit_pref_v",
            expected="zero with the Kalman filter, which learns from energies and forces only, "
            "as in DeePMD-kit",
            got=f"{virial.start:g} and {virial.limit:g}",
            fix="set both to zero, or train with Adam",
        )
    return KalmanSteps(settings, model, ranks)


class AdamSteps:
    """Descents of the loss; see :class:`Stepper`."""

    def __init__(self, settings: TrainingInput, model: torch.nn.Module, ranks: Ranks) -> None:
        self._settings, self._ranks = settings, ranks
        wanted = settings.optimiser
        kind = torch.optim.AdamW if wanted.name == "adamw" else torch.optim.Adam
        self.optimiser: torch.optim.Optimizer = kind(
            model.parameters(), betas=wanted.betas, weight_decay=wanted.weight_decay, fused=True
        )

    def step(self, module: torch.nn.Module, batch: Batch, number: int) -> FrameResults:
        """See :meth:`Stepper.step`."""
        settings = self._settings
        rate = settings.rate(number)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        results = FrameResults(*module(batch))
        ratio = rate / settings.rate.start
        part = loss(results, batch.targets, settings.weights, ratio, batch.n_batch)
        # DistributedDataParallel takes the mean over the ranks, and parts are to be summed
        (part * self._ranks.n_ranks).backward()
        self.optimiser.step()
        return results


class KalmanSteps:
    """An update by energies and some by forces of some atoms; see :class:`Stepper`.

    Learning rate and prefactors of the loss are not used; measurements have factors of their own.
    """

    def __init__(self, settings: TrainingInput, model: torch.nn.Module, ranks: Ranks) -> None:
        self._settings, self._ranks = settings, ranks
        self._filter = KalmanFilter(model.parameters(), settings.optimiser.block_size)
        self.optimiser: torch.optim.Optimizer = self._filter

    def step(self, module: torch.nn.Module, batch: Batch, number: int) -> FrameResults:
        """See :meth:`Stepper.step`."""
        wanted, way = self._settings.optimiser, number / self._settings.n_steps
        results = FrameResults(*module(batch))
        n_atoms = results.forces.shape[1]
        self._update(
            results.energies[:, None] / n_atoms, batch.targets.energies[:, None] / n_atoms,
            wanted.energy.at(way), batch, results,
        )  # fmt: skip
        for atoms in measured_atoms(n_atoms, self._settings.seed, number):
            chosen = torch.from_numpy(atoms).to(results.forces.device)
            found = FrameResults(*module(batch))
            # forces are divided by the number of atoms, too: DeePMD-kit's weight of both kinds
            predicted = found.forces[:, chosen].flatten(1) / n_atoms
            targets = batch.targets.forces[:, chosen].flatten(1) / n_atoms
            self._update(predicted, targets, wanted.force.at(way), batch, found)
        return FrameResults(
            results.energies.detach(), results.forces.detach(), results.virials.detach()
        )

    def _update(
        self,
        predicted: torch.Tensor,
        wanted: torch.Tensor,
        factor: float,
        batch: Batch,
        results: FrameResults,
    ) -> None:
        """One measurement: over all ranks the sum over frames of the mean of (F, M) predictions.

        As in DeePMD-kit its error is not the sum of the frames' errors but their mean times the
        square root of the number of frames. That is what one process does; DeePMD-kit's ranks take
        the mean of their measurements instead, here two ranks follow one with the double batch.
        """
        errors = wanted - predicted.detach()
        signs = torch.where(errors < 0.0, -1.0, 1.0)
        weights = factor * batch.targets.weights[:, None] / errors.shape[1]
        measured = (weights * signs * predicted).sum()
        self._filter.zero_grad(set_to_none=True)
        # every parameter must have a gradient on every rank: forces do not ask for all
        measured = measured * self._ranks.n_ranks + 0.0 * results.energies.sum()
        measured.backward()
        error = self._ranks.sum((weights * errors.abs()).sum()) / batch.n_batch
        self._filter.update(error.to(errors.device) * batch.n_batch**0.5)


def measured_atoms(n_atoms: int, seed: int, number: int) -> np.ndarray:
    """(4, 6) int64 atoms of each update by forces in a step; an atom may be drawn twice.

    They are the same on all ranks, whose frames are of the same system.
    """
    random = np.random.default_rng([seed, 2, number])
    return random.integers(n_atoms, size=(FORCE_UPDATES, ATOMS_OF_UPDATE))
