"""DiffTRe: differentiate averages over trajectories without differentiating the dynamics.

Averages are reweighted (:mod:`alchemi_bridge.ensembles.reweighting`), so that they depend on the
parameters through the energies of the frames, and directly where the observable is one of
energies. A function of all energies is differentiated in two passes
(:mod:`alchemi_bridge.ensembles.energies`).

Source: S. Thaler and J. Zavadlav, Nature Communications 12, 6884 (2021),
doi:10.1038/s41467-021-27241-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alchemi_bridge.ensembles.energies import Frames
from alchemi_bridge.ensembles.frame_cache import digest_of_trajectory, frames_of
from alchemi_bridge.ensembles.models import WorkerModel, require_same_file
from alchemi_bridge.ensembles.objectives.conditions import Conditions, require_same_atoms
from alchemi_bridge.ensembles.objectives.targets import Target, values_of
from alchemi_bridge.ensembles.reweighting import (
    averages,
    effective_fractions,
    log_weights,
    shares,
)
from alchemi_bridge.ensembles.trajectory import Trajectory
from alchemi_bridge.ensembles.work import Parameters


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
        """A trajectory in the light of the current parameters, which ``model`` has.

        Raises
        ------
        UntrustedModelError
            If it was made with another model file.
        BridgeError
            Everything that may be wrong with frames and energies.
        """
        used = trajectory.after(equilibration)
        frames = frames_of(model, used, chunk)
        energies = frames.energies()
        generating = torch.from_numpy(used.energies.copy())
        for number, origin in enumerate(used.origins):
            require_same_file(model, origin.sha256, f"trajectory '{observable}'")
            if origin.has_parameters(parameters):
                mine = torch.from_numpy(used.origin == number)
                generating[mine] = energies[mine]
        return cls(observable, used, digest_of_trajectory(used), frames, energies, generating)


class Reweighting:
    """Frames of all samples with their weights.

    Parameters
    ----------
    samples
        At least one; all of the same atoms.

    Raises
    ------
    ConfigurationError
        If they are of different atoms.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        named = [(one.observable, one.trajectory) for one in samples]
        require_same_atoms(named)
        self.samples = samples
        self.sizes = [len(one.frames) for one in samples]
        self._conditions = Conditions(named)
        self.ensembles = self._conditions.ensembles
        self.energies = torch.cat([one.energies for one in samples])
        self.generating = torch.cat([one.generating for one in samples])
        logarithms = log_weights(self.energies, self.generating, self.ensembles)
        self._fractions = effective_fractions(logarithms, self.ensembles)

    @property
    def fractions(self) -> list[float]:
        """Effective over actual number of frames, of each ensemble."""
        found: list[float] = self._fractions.tolist()
        return found

    def stale(self, threshold: float) -> list[str]:
        """Observables with frames of an ensemble of which too few count."""
        bad = {k for k, fraction in enumerate(self.fractions) if fraction < threshold}
        pairs = zip(self.samples, self._conditions.of_trajectory, strict=True)
        return [sample.observable for sample, mine in pairs if bad & mine]

    def averages(
        self, targets: Sequence[Target], energies: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and averages with these energies, (n_frames,) eV, of which they are functions."""
        logarithms = log_weights(energies, self.generating, self.ensembles)
        loss = torch.zeros((), dtype=torch.float64)
        found = {}
        for target in targets:
            share = shares(self.ensembles, self._temperature(target))
            parts = energies.split(self.sizes)
            values = torch.cat(
                [
                    values_of(target.observable, one.trajectory, part, one.digest)
                    for one, part in zip(self.samples, parts, strict=True)
                ]
            )
            average = averages(values, logarithms, share)
            loss = loss + target.loss(average)
            found[target.name] = average.detach()
        return loss, found

    def differentiate(
        self, targets: Sequence[Target]
    ) -> tuple[float, torch.Tensor, dict[str, torch.Tensor]]:
        """Loss, its (n_frames,) derivative by the energies, and averages."""
        with torch.enable_grad():
            energies = self.energies.clone().requires_grad_(True)
            loss, found = self.averages(targets, energies)
            (derivative,) = torch.autograd.grad(loss, energies)
        return float(loss.detach()), derivative, found

    def gradient(
        self, model: WorkerModel, names: Sequence[str], by_energies: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """By name, in the dtype of the model's tensors, on the host."""
        with model.differentiable(names) as leaves:
            tensors = list(leaves.values())
            total = [torch.zeros(one.shape, dtype=torch.float64) for one in tensors]
            for sample, part in zip(self.samples, by_energies.split(self.sizes), strict=True):
                for sum_, one in zip(total, sample.frames.gradient(tensors, part), strict=True):
                    sum_ += one
        return {
            name: one.to(leaf.dtype)
            for (name, leaf), one in zip(leaves.items(), total, strict=True)
        }

    def _temperature(self, target: Target) -> float:
        where = f"target '{target.name}'"
        wanted = self._conditions.temperature(target.temperature, where)
        self._conditions.require_one(wanted, where)
        return wanted
