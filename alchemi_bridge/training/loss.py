"""The loss: squared errors of energies, forces and virials, weighted as in DeePMD-kit.

Source: DeePMD-kit 3.2.0, https://docs.deepmodeling.com/projects/deepmd, loss[ener].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alchemi_bridge.potentials.deepmd import FrameResults


@dataclass(frozen=True)
class Prefactor:
    """A weight that goes from ``start`` to ``limit`` as the learning rate goes to zero."""

    start: float
    limit: float

    def at(self, ratio: float) -> float:
        """The weight when the learning rate is ``ratio`` times that of the first step."""
        return self.limit + (self.start - self.limit) * ratio


@dataclass(frozen=True)
class LossWeights:
    """Weights of the mean squared errors: energy in eV, force in eV/Å, virial in eV.

    Attributes
    ----------
    energy, force, virial
        DeePMD-kit 3.2 leaves a term out if either end of its prefactor is zero, though its
        documentation says both; here both must be.
    intensive
        Divide the squared errors of energy and virial by the square of the number of atoms, instead
        of by the number.
    """

    energy: Prefactor
    force: Prefactor
    virial: Prefactor
    intensive: bool = False


@dataclass(frozen=True, eq=False)
class Targets:
    """What F frames of N atoms should have.

    Attributes
    ----------
    energies, forces, virials
        As in :class:`FrameResults`; virials None if there are none.
    weights
        (F,) 1, or 0 for frames that only fill up a batch.
    """

    energies: torch.Tensor
    forces: torch.Tensor
    virials: torch.Tensor | None
    weights: torch.Tensor


def squared_errors(results: FrameResults, targets: Targets) -> dict[str, torch.Tensor]:
    """(F,) squared errors of each frame: of its energy, and means over components of the others."""
    errors = {
        "energy": (results.energies - targets.energies).square(),
        "force": (results.forces - targets.forces).square().mean(dim=(1, 2)),
    }
    if targets.virials is not None:
        errors["virial"] = (results.virials - targets.virials).square().mean(dim=(1, 2))
    return errors


def loss(
    results: FrameResults, targets: Targets, weights: LossWeights, ratio: float, n_frames: int
) -> torch.Tensor:
    """The part of these frames in the mean loss of a batch.

    Parameters
    ----------
    results, targets
        Of the frames that are here.
    weights, ratio
        Prefactors, and the learning rate over that of the first step.
    n_frames
        Number of frames of the whole batch, those of other ranks included.

    Returns
    -------
    torch.Tensor
        () float64; summed over the ranks it is the mean over the frames of the batch.
    """
    n_atoms = targets.forces.shape[1]
    size = n_atoms**2 if weights.intensive else n_atoms
    factors = {
        "energy": weights.energy.at(ratio) / size,
        "force": weights.force.at(ratio),
        "virial": weights.virial.at(ratio) / size,
    }
    # a term with weight zero stays: every parameter must have a gradient on every rank
    total = sum(factors[name] * error for name, error in squared_errors(results, targets).items())
    assert isinstance(total, torch.Tensor)
    return (targets.weights * total).sum() / n_frames
