"""What an average is to be: an observable, its target, and how much the difference counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from alchemi_bridge.ensembles.frame_cache import CACHE
from alchemi_bridge.ensembles.objectives.checks import require_positive, require_weight
from alchemi_bridge.ensembles.observables import (
    Density,
    PotentialEnergy,
    RadialDistribution,
    Volume,
)
from alchemi_bridge.ensembles.trajectory import Trajectory
from alchemi_bridge.errors import ConfigurationError, InputError


class OfEnergies(Protocol):
    """An observable that depends on the energies of the frames, so on the parameters directly."""

    def of_energies(self, trajectory: Trajectory, energies: torch.Tensor) -> torch.Tensor:
        """(n_frames, ...) float64 of (n_frames,) energies (eV), made of torch's operations."""
        ...


#: A value for each frame: of the frames alone, or of their energies as well.
Observable = Callable[[Trajectory], np.ndarray] | OfEnergies

#: Observables that never change, and that read nothing but what the digest of a trajectory has.
_OF_FRAMES = (Density, RadialDistribution, Volume)


def values_of(
    observable: Observable, trajectory: Trajectory, energies: torch.Tensor, digest: str
) -> torch.Tensor:
    """Values of an observable with the current parameters.

    Parameters
    ----------
    observable
        :class:`~alchemi_bridge.ensembles.observables.PotentialEnergy` means the current energies,
        not those that the trajectory was made with. The bridge's own observables of the frames
        alone are worked out once; others may read anything, and are called each time.
    trajectory
        Frames.
    energies
        (n_frames,) float64, eV, of the current parameters; may have a graph.
    digest
        :func:`~alchemi_bridge.ensembles.frame_cache.digest_of_trajectory`.

    Returns
    -------
    torch.Tensor
        (n_frames, ...) float64, on the host.

    Raises
    ------
    InputError
        If it is not one value for each frame.
    """
    found: Any
    if isinstance(observable, PotentialEnergy):
        found = energies / trajectory.n_atoms if observable.per_atom else energies
    elif hasattr(observable, "of_energies"):
        found = observable.of_energies(trajectory, energies)
    elif type(observable) in _OF_FRAMES:
        make: Any = observable
        found = CACHE.values(digest, make, lambda: np.asarray(make(trajectory)))
    else:
        found = np.asarray(observable(trajectory))
    if np.shape(found)[:1] != tuple(energies.shape):
        raise InputError(
            f"observable {observable}",
            expected=f"one value for each of {len(energies)} frames",
            got=f"an array of shape {tuple(np.shape(found))}",
            fix="let it return an array of which the first axis are the frames",
        )
    return (
        found if isinstance(found, torch.Tensor) else torch.from_numpy(np.array(found, np.float64))
    )


@dataclass(frozen=True, eq=False)
class Target:
    """What the average of an observable is to be.

    ``loss = weight * mean(((average - value) / scale)^2)``

    Attributes
    ----------
    name
        In reports; unlike those of other targets of the same objective.
    observable
        What is averaged; it travels to the workers, so its class or function must be of a module.
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
    value: np.ndarray | float
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

    def require_shape(self, shape: tuple[int, ...], where: str) -> None:
        """Raise :class:`InputError` unless a frame's value of this shape can be compared."""
        if np.shape(self.value) != shape:
            raise InputError(
                where,
                expected=f"the shape of the observable, {shape}",
                got=f"{np.shape(self.value)}",
                fix="give it as many values as the observable has, at the same places",
            )

    def loss(self, average: torch.Tensor) -> torch.Tensor:
        """() of an average.

        Raises
        ------
        InputError
            If its shape is not that of the target.
        """
        self.require_shape(tuple(average.shape), f"target '{self.name}'")
        value = torch.as_tensor(np.asarray(self.value, dtype=np.float64))
        return self.weight * ((average - value) / self.scale).square().mean()
