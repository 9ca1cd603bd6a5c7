"""Observables of trajectories: one value, or one row, for each frame.

Reweighting takes averages of the frames with other weights; so averages are never taken here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from ase import units
from ase.data import atomic_numbers, chemical_symbols
from vesin import NeighborList

from alchemi_bridge.ensembles.kinds import is_number, is_whole
from alchemi_bridge.ensembles.trajectory import Trajectory
from alchemi_bridge.errors import ConfigurationError, InputError

#: 1 u/Å^3 in g/cm^3.
DENSITY_UNIT = units._amu * 1e3 / 1e-24


class Observable(Protocol):
    """A function of a trajectory.

    Attributes
    ----------
    unit
        Of its values.
    """

    @property
    def unit(self) -> str: ...

    def __call__(self, trajectory: Trajectory) -> np.ndarray:
        """(n_frames, ...) float64."""
        ...


@dataclass(frozen=True)
class PotentialEnergy:
    """Energy of the model that made the frame, eV.

    Attributes
    ----------
    per_atom
        Divide by the number of atoms.
    """

    per_atom: bool = False

    @property
    def unit(self) -> str:
        """Of its values."""
        return "eV/atom" if self.per_atom else "eV"

    def __call__(self, trajectory: Trajectory) -> np.ndarray:
        """(n_frames,) float64."""
        return trajectory.energies / (trajectory.n_atoms if self.per_atom else 1)


@dataclass(frozen=True)
class Volume:
    """Volume of the cell, Å^3, which must be periodic in three directions."""

    unit = "Å^3"

    def __call__(self, trajectory: Trajectory) -> np.ndarray:
        """(n_frames,) float64."""
        _require_periodic(trajectory, "the volume")
        return trajectory.volumes


@dataclass(frozen=True)
class Density:
    """Mass density, g/cm^3, of a cell that is periodic in three directions."""

    unit = "g/cm^3"

    def __call__(self, trajectory: Trajectory) -> np.ndarray:
        """(n_frames,) float64."""
        _require_periodic(trajectory, "the density")
        found: np.ndarray = trajectory.masses.sum() * DENSITY_UNIT / trajectory.volumes
        return found


@dataclass(frozen=True)
class RadialDistribution:
    """Radial distribution function g(r), a histogram for each frame.

    All images of all atoms count, those of an atom itself among them, so that ``r_max`` may be
    larger than half the cell, or than the cell. It is normalised by the volume of the shell and the
    density of the partners, N/V: far away g is one in every structure. (Where N - 1 partners are
    counted instead, as by LAMMPS, it is larger by N / (N - 1).)

    Attributes
    ----------
    r_max
        End of the last bin, Å.
    bins
        Their number; the first begins at zero.
    pair
        Two chemical symbols or atomic numbers: only pairs of these; by default all atoms are
        alike.
    """

    r_max: float
    bins: int = 100
    pair: tuple[str | int, str | int] | None = None
    unit: str = field(default="1", init=False, repr=False)

    def __post_init__(self) -> None:
        for name, value, least in (("r_max", self.r_max, 0.0), ("bins", self.bins, 0)):
            if not is_number(value) or not least < value:
                raise ConfigurationError(
                    f"{name} of the radial distribution function",
                    expected="a number above zero",
                    got=repr(value),
                    fix=f"choose another {name}",
                )
        if not is_whole(self.bins):
            raise ConfigurationError(
                "bins of the radial distribution function",
                expected="a whole number",
                got=repr(self.bins),
                fix="choose another bins",
            )
        if self.pair is not None and (isinstance(self.pair, str) or len(self.pair) != 2):
            raise ConfigurationError(
                "pair of the radial distribution function",
                expected="two chemical symbols or atomic numbers",
                got=repr(self.pair),
                fix='name two, ("Ar", "Ar") for example',
            )
        if self.pair is not None:
            object.__setattr__(self, "pair", tuple(_number(kind) for kind in self.pair))

    @property
    def edges(self) -> np.ndarray:
        """(bins + 1,) float64, Å."""
        return np.linspace(0.0, self.r_max, self.bins + 1)

    @property
    def r(self) -> np.ndarray:
        """(bins,) float64, Å: centres of the bins."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def __call__(self, trajectory: Trajectory) -> np.ndarray:
        """(n_frames, bins) float64.

        Raises
        ------
        InputError
            If the cell is not periodic in three directions, or has no atoms of the pair.
        """
        _require_periodic(trajectory, "a radial distribution function")
        ofs, bys = (self._members(trajectory.numbers, k) for k in (0, 1))
        # each pair once: it counts for both of its atoms
        search = NeighborList(cutoff=float(self.r_max), full_list=False)
        counts = np.empty((len(trajectory), self.bins))
        per_length = self.bins / self.r_max
        for k, (positions, cell) in enumerate(
            zip(trajectory.positions, trajectory.cells, strict=True)
        ):
            i, j, distances = search.compute(positions, cell, periodic=True, quantities="ijd")
            both = (ofs[i] & bys[j]).astype(np.float64) + (ofs[j] & bys[i])
            places = (distances * per_length).astype(np.int64)
            counts[k] = np.bincount(places, both, minlength=self.bins + 1)[: self.bins]
        shells = 4.0 / 3.0 * np.pi * np.diff(self.edges**3)
        density = bys.sum() / trajectory.volumes
        found: np.ndarray = counts / (ofs.sum() * density[:, None] * shells)
        return found

    def _members(self, numbers: np.ndarray, which: int) -> np.ndarray:
        """(n_atoms,) flags."""
        if self.pair is None:
            return np.ones(len(numbers), dtype=bool)
        flags: np.ndarray = numbers == self.pair[which]
        if not flags.any():
            raise InputError(
                "radial distribution function",
                expected=f"atoms of {chemical_symbols[int(self.pair[which])]}",
                got="none in the trajectory",
                fix="choose another pair",
            )
        return flags


def _number(kind: str | int) -> int:
    number = atomic_numbers.get(kind) if isinstance(kind, str) else int(kind)
    if number is None or not 0 < number < len(chemical_symbols):
        raise ConfigurationError(
            "pair of the radial distribution function",
            expected="chemical symbols or atomic numbers",
            got=repr(kind),
            fix="name two elements",
        )
    return int(number)


def _require_periodic(trajectory: Trajectory, what: str) -> None:
    if not trajectory.pbc.all():
        raise InputError(
            what,
            expected="a cell that is periodic in three directions",
            got=f"pbc {tuple(bool(p) for p in trajectory.pbc)}",
            fix="choose another observable, or make the structure periodic",
        )


#: Kinds of observables by their names in configurations.
OBSERVABLES: dict[str, type] = {
    "rdf": RadialDistribution,
    "density": Density,
    "energy": PotentialEnergy,
    "volume": Volume,
}
