"""Energies and forces of a model against references: how far off it is, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ase
import torch

from alchemi_bridge.ensembles.content import hash_of_frames
from alchemi_bridge.ensembles.energies import Frames
from alchemi_bridge.ensembles.frame_cache import CACHE, frames_of
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.labels import Labels
from alchemi_bridge.ensembles.models import ModelFile, WorkerModel, require_no_inputs
from alchemi_bridge.ensembles.objectives.checks import require_weight
from alchemi_bridge.ensembles.work import Objective, Outcome, Parameters
from alchemi_bridge.errors import ConfigurationError


class EnergyForceObjective(Objective):
    """Mean squared errors of energies per atom and of forces.

    ``loss = w_E mean_i ((U_i - R_i) / n_i)^2 + w_F mean_a |F_a - R_a|^2 / 3``

    Parameters
    ----------
    name
        Of the objective.
    model
        Whose parameters are differentiated by.
    reference
        File or frames with energies (eV) and, unless they have no weight, forces (eV/Å); or the
        qualified name of a trajectory, whose energies are the reference: those of another model,
        say. A trajectory has no forces.
    energy_weight, force_weight
        ``w_E`` in 1/(eV/atom)^2, ``w_F`` in 1/(eV/Å)^2; not negative, not both zero.
    any_zero
        Leave the mean error of the energy per atom out: energies count from another zero.
    chunk
        Frames evaluated at a time, see :class:`~alchemi_bridge.ensembles.energies.Frames`.
    hints
        Resources.
    """

    def __init__(
        self,
        name: str,
        model: ModelFile | str | Path,
        reference: str | Path | Sequence[ase.Atoms],
        *,
        observable: bool = False,
        energy_weight: float = 1.0,
        force_weight: float = 1.0,
        any_zero: bool = False,
        chunk: int | None = None,
        hints: SchedulerHints | None = None,
    ) -> None:
        self.name, self.model, self.reference = name, ModelFile.of(model), reference
        self.needs: tuple[str, ...] = (str(reference),) if observable else ()
        self.energy_weight = require_weight(f"energy_weight of '{name}'", energy_weight)
        self.force_weight = require_weight(f"force_weight of '{name}'", force_weight)
        self.any_zero, self.chunk, self.hints = any_zero, chunk, hints

    def check(self) -> None:
        """Read the reference, and the model."""
        if self.energy_weight == 0.0 and self.force_weight == 0.0:
            raise ConfigurationError(
                f"weights of '{self.name}'",
                expected="one that is not zero",
                got="both zero",
                fix="give energies or forces a weight",
            )
        if self.needs and self.force_weight > 0.0:
            raise ConfigurationError(
                f"force_weight of '{self.name}'",
                expected="0, since a trajectory has no forces",
                got=f"{self.force_weight:g}",
                fix="set it to 0, or compare with a file",
            )
        self.model = self.model.check()
        if self.needs:
            require_no_inputs(self.model, f"objective '{self.name}'")
        else:
            _ = self._labels

    @cached_property
    def _labels(self) -> Labels:
        with_forces = self.force_weight > 0.0
        if isinstance(self.reference, str | Path):
            return Labels.read(self.reference, with_forces)
        return Labels.of(self.reference, with_forces, f"the frames of '{self.name}'")

    def compute(self, observables: Mapping[str, Any], parameters: Parameters) -> Outcome:
        """The loss, its gradient by ``parameters``, and the root mean square errors.

        Raises
        ------
        BridgeError
            Everything that may be wrong with model, frames, parameters and results.
        """
        model = self.model.load(parameters)
        frames, energies, forces = self._reference(model, observables)
        names = list(parameters)
        if forces is None:
            found, found_forces = frames.energies(), None
        else:
            found, found_forces = frames.energies_and_forces()
        sizes = torch.tensor(frames.sizes, dtype=torch.float64)
        off = (found - energies) / sizes
        if self.any_zero:
            off = off - off.mean()
        # the mean that is taken out has no part in the derivative, since the rest sums to zero
        by_energies = 2.0 * self.energy_weight * off / (sizes * len(frames))
        loss = self.energy_weight * float(off.square().mean())
        values: dict[str, Any] = {
            "n_frames": len(frames),
            "rmse_energy": float(off.square().mean().sqrt()),
        }
        by_forces = None
        if forces is not None and found_forces is not None:
            off_forces = found_forces - forces
            mean = float(off_forces.square().mean())
            by_forces = 2.0 * self.force_weight * off_forces / off_forces.numel()
            loss += self.force_weight * mean
            values["rmse_force"] = mean**0.5
        gradient = None
        if names:
            with model.differentiable(names) as leaves:
                derivatives = frames.gradient(list(leaves.values()), by_energies, by_forces)
            gradient = {
                name: one.to(parameters[name].dtype)
                for name, one in zip(leaves, derivatives, strict=True)
            }
        return Outcome(loss=loss, gradient=gradient, values=values)

    def _reference(
        self, model: WorkerModel, observables: Mapping[str, Any]
    ) -> tuple[Frames, torch.Tensor, torch.Tensor | None]:
        """Frames, their energies, and their forces if these count."""
        if self.needs:
            trajectory = observables[self.needs[0]]
            frames = frames_of(model, trajectory, self.chunk)
            return frames, torch.from_numpy(trajectory.energies.copy()), None
        labels = self._labels
        # with all that a model may request of them: charges, spins, ...
        digest = hash_of_frames(labels.frames)
        frames = CACHE.frames(
            model.loaded,
            digest,
            (self.chunk,),
            lambda: Frames.of_atoms(model.loaded, labels.frames, chunk=self.chunk),
        )
        forces = None if labels.forces is None else torch.from_numpy(labels.forces.copy())
        return frames, torch.from_numpy(labels.energies.copy()), forces
