"""DiffTRe: differentiate averages over trajectories without differentiating the dynamics.

Averages are reweighted (:mod:`alchemi_bridge.ensembles.reweighting`), so that they depend on the
parameters through the energies of the frames, and directly where the observable is one of energies.
A function of all energies is differentiated in two passes (:mod:`alchemi_bridge.ensembles.energies`).

Source: S. Thaler and J. Zavadlav, Nat. Commun. 12, 6884 (2021), doi:10.1038/s41467-021-27241-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alchemi_bridge.ensembles.energies import Frames
from alchemi_bridge.ensembles.frame_cache import digest_of_trajectory, frames_of
from alchemi_bridge.ensembles.models import WorkerModel, require_same_file
from alchemi_bridge.ensembles.objectives.targets import Target
from alchemi_bridge.ensembles.reweighting import (
    Ensembles,
    averages,
    effective_fractions,
    log_weights,
    shares,
)
from alchemi_bridge.ensembles.trajectory import Trajectory
from alchemi_bridge.ensembles.work import Parameters
from alchemi_bridge.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Sample:
    """Frames of one observable, with what they are worth now.

    Attributes
    ----------
    observable
        Qualified name.
    trajectory
        Without its beginning.
    digest
        Of its frames.
    frames
        The same, with pairs.
    energies
        (n_frames,) float64, eV, with the current parameters.
    generating
        (n_frames,) float64, eV, with those that it was made with; where these are the current ones,
        ``energies`` themselves, so that weights are equal to the last bit.
    """

    observable: str
    trajectory: Trajectory
    digest: str
    frames: Frames
    energies: torch.Tensor
    generating: torch.Tensor

    @classmethod
    def of(
        cls,
        model: WorkerModel,
        observable: str,
        trajectory: Trajectory,
        parameters: Parameters,
        equilibration: float,
        chunk: int | None,
    ) -> Sample:
        """A trajectory in the light of the current parameters, which ``model`` has."""
        require_same_file(model, trajectory.model_sha256, f"trajectory '{observable}'")
        used = trajectory.after(equilibration)
        frames = frames_of(model, used, chunk)
        energies = frames.energies()
        return cls(observable, used, digest_of_trajectory(used), frames, energies, energies)
