"""What an average is to be: an observable, its target, and how much the difference counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alchemi_bridge.ensembles.frame_cache import CACHE
from alchemi_bridge.ensembles.objectives.checks import require_positive, require_weight
from alchemi_bridge.ensembles.trajectory import Trajectory
from alchemi_bridge.errors import ConfigurationError, InputError


@dataclass(frozen=True)
class Observable:
    """A number, or an array, for each frame of a trajectory.

    Attributes
    ----------
    function
        Of a module, since it is sent by its name: ``function(trajectory, **options)`` gives
        (n_frames, ...) float64, which does not depend on the model's parameters.
    options
        Name and value of each, hashable.
    of_energies
        Then it is ``function(trajectory, energies, **options)`` with (n_frames,) float64 energies
        (eV) as a tensor, made of torch's operations: it is differentiated by them.
    """

    function: Callable[..., Any]
    options: tuple[tuple[str, Any], ...] = ()
    of_energies: bool = False

    def values(self, trajectory: Trajectory, energies: torch.Tensor, digest: str) -> torch.Tensor:
        """(n_frames, ...) float64, on the host.

        Parameters
        ----------
        trajectory
            Frames.
        energies
            (n_frames,) eV, of the current parameters.
        digest
            Of the frames: what does not depend on energies is worked out once.

        Raises
        ------
        InputError
            If it is not one value for each frame.
        """
        options = dict(self.options)
        if self.of_energies:
            found = self.function(trajectory, energies, **options)
        else:
            found = torch.from_numpy(
                CACHE.values(digest, self, lambda: np.asarray(self.function(trajectory, **options)))
            )
        if not isinstance(found, torch.Tensor) or found.shape[:1] != energies.shape:
            raise InputError(
                f"observable '{getattr(self.function, '__name__', self.function)}'",
                expected=f"one value for each of {len(energies)} frames",
                got=str(tuple(np.shape(found))),
                fix="let it return an array of which the first axis are the frames",
            )
        return found.double()


@dataclass(frozen=True, eq=False)
class Target:
    """What the average of an observable is to be.

    ``loss = weight * mean(((average - value) / scale)^2)``

    Attributes
    ----------
    name
        In reports; unlike those of other targets of the same objective.
    observable
        What is averaged.
    value
        Of the shape that one frame has, float64.
    weight
        Not negative.
    scale
        Above zero, in the unit of the observable: the uncertainty of ``value``, or what counts as a
        large difference.
    temperature
        K; may be left out if all trajectories have the same.
    """

    name: str
    observable: Observable
    value: np.ndarray
    weight: float = 1.0
    scale: float = 1.0
    temperature: float | None = None

    def check(self, where: str) -> None:
        """Raise :class:`ConfigurationError` if a number is out of its range."""
        require_weight(f"weight of target '{self.name}' of {where}", self.weight)
        require_positive(f"scale of target '{self.name}' of {where}", self.scale)
        if not np.isfinite(np.asarray(self.value, dtype=np.float64)).all():
            raise ConfigurationError(
                f"target '{self.name}' of {where}",
                expected="finite numbers",
                got="NaN or infinite ones",
                fix="correct them",
            )

    def loss(self, average: torch.Tensor) -> torch.Tensor:
        """() of an average.

        Raises
        ------
        InputError
            If its shape is not that of the target.
        """
        value = torch.as_tensor(np.asarray(self.value, dtype=np.float64))
        if value.shape != average.shape:
            raise InputError(
                f"target '{self.name}'",
                expected=f"the shape of the observable, {tuple(average.shape)}",
                got=f"{tuple(value.shape)}",
                fix="give it as many values as the observable has, at the same places",
            )
        return self.weight * ((average - value) / self.scale).square().mean()
