"""Which frames are of one ensemble: temperature, pressure or cell, periodicity, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alchemi_bridge.ensembles.reweighting import Ensembles
from alchemi_bridge.ensembles.trajectory import Origin, Trajectory
from alchemi_bridge.errors import ConfigurationError

#: Cells whose products of vectors differ by less, relative to the largest, are one: engines hand
#: them back with roundoff.
CELL_RTOL = 1e-9


@dataclass(frozen=True)
class Condition:
    """What is kept while frames are drawn, besides their number of atoms.

    Attributes
    ----------
    temperature
        K.
    pressure
        GPa; ``None`` at constant volume.
    pbc
        Directions in which they are periodic.
    cell
        Number of the cell, at constant pressure of its shape.
    volume
        Å^3, of the first such frame; says nothing at constant pressure.
    """

    temperature: float
    pressure: float | None
    pbc: tuple[bool, ...]
    cell: int
    volume: float

    def __str__(self) -> str:
        kept = f"{self.volume:.6g} Å^3" if self.pressure is None else f"{self.pressure:g} GPa"
        periodic = "".join("FT"[flag] for flag in self.pbc)
        return f"{self.temperature:g} K, {kept}, pbc {periodic}, cell {self.cell}"


class Conditions:
    """Ensembles of several trajectories: one for each condition and set of parameters.

    Parameters
    ----------
    trajectories
        With what messages call them.

    Raises
    ------
    ConfigurationError
        If a frame has no temperature.
    """

    def __init__(self, trajectories: Sequence[tuple[str, Trajectory]]) -> None:
        self._cells: list[np.ndarray] = []
        self._volumes: list[float] = []
        known: dict[tuple, int] = {}
        index: list[int] = []
        self.of_trajectory: list[set[int]] = []
        for name, trajectory in trajectories:
            _require_temperatures(name, trajectory)
            made_with = [_parameters(origin) for origin in trajectory.origins]
            conditions = self._of(trajectory)
            numbers = [
                known.setdefault((condition, made_with[origin]), len(known))
                for condition, origin in zip(conditions, trajectory.origin.tolist(), strict=True)
            ]
            index += numbers
            self.of_trajectory.append(set(numbers))
        self.of_ensemble: list[Condition] = [condition for condition, _ in known]
        temperatures = torch.tensor([c.temperature for c in self.of_ensemble], dtype=torch.float64)
        self.ensembles = Ensembles(torch.tensor(index), temperatures)

    def temperature(self, wanted: float | None, where: str) -> float:
        """The one that is wanted, or the only one.

        Raises
        ------
        ConfigurationError
            If it is not there, or none is wanted and there are several.
        """
        there = sorted({condition.temperature for condition in self.of_ensemble})
        found = there[0] if wanted is None and len(there) == 1 else wanted
        if found is None or found not in there:
            raise ConfigurationError(
                f"temperature of {where}",
                expected=f"one of {', '.join(f'{one:g} K' for one in there)}",
                got="none" if wanted is None else f"{wanted:g} K",
                fix="name the temperature of one of the trajectories",
            )
        return found

    def require_one(self, temperature: float, where: str) -> None:
        """Refuse an average over frames that differ in more than what generated them.

        Raises
        ------
        ConfigurationError
            If there are several pressures, cells or periodicities at this temperature.
        """
        there = {c: None for c in self.of_ensemble if c.temperature == temperature}
        if len(there) > 1:
            raise ConfigurationError(
                where,
                expected="an average over one pressure or one cell",
                got="; ".join(map(str, there)),
                fix="make an objective for each of them",
            )

    def _of(self, trajectory: Trajectory) -> list[Condition]:
        """Of each frame."""
        pbc = tuple(bool(flag) for flag in trajectory.pbc)
        pressures = [trajectory.origins[k].pressure for k in trajectory.origin]
        volumes = trajectory.volumes
        # only vectors of periodic directions count, and no rotation
        cells = trajectory.cells * trajectory.pbc[:, None]
        products = cells @ cells.transpose(0, 2, 1)
        found = []
        for k, pressure in enumerate(pressures):
            # at constant pressure, the volume is one of the things that are drawn
            scale = 1.0 if pressure is None else float(np.cbrt(volumes[k])) ** 2
            number = self._cell(products[k] / scale, float(volumes[k]))
            found.append(
                Condition(
                    float(trajectory.temperatures[k]), pressure, pbc, number, self._volumes[number]
                )
            )
        return found

    def _cell(self, product: np.ndarray, volume: float) -> int:
        for number, known in enumerate(self._cells):
            if np.abs(known - product).max() <= CELL_RTOL * np.abs(known).max():
                return number
        self._cells.append(product)
        self._volumes.append(volume)
        return len(self._cells) - 1


def require_same_atoms(trajectories: Sequence[tuple[str, Trajectory]]) -> None:
    """Raise :class:`ConfigurationError` if trajectories, with their names, are of other atoms."""
    first_name, first = trajectories[0]
    for name, other in trajectories[1:]:
        if not np.array_equal(np.sort(other.numbers), np.sort(first.numbers)):
            raise ConfigurationError(
                "trajectories of one objective",
                expected="the same atoms in all of them",
                got=f"{len(first.numbers)} and {len(other.numbers)} atoms, or other elements, in "
                f"'{first_name}' and '{name}'",
                fix="make an objective for each system",
            )


def _require_temperatures(name: str, trajectory: Trajectory) -> None:
    if not np.isfinite(trajectory.temperatures).all():
        raise ConfigurationError(
            f"trajectory '{name}'",
            expected="frames of a known temperature, without which they have no weights",
            got="frames without one",
            fix="simulate with a thermostat",
        )


def _parameters(origin: Origin) -> tuple:
    """What replaced the values of the file."""
    return tuple((name, value.tobytes()) for name, value in sorted(origin.parameters.items()))
