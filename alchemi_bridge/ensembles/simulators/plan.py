"""What a simulation is to do, where it starts, and what it has recorded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase import units

from alchemi_bridge.ensembles.kinds import is_number, is_whole
from alchemi_bridge.errors import ConfigurationError

ENSEMBLES = ("nvt-langevin", "nve", "npt")

#: Relaxation times of Nosé-Hoover thermostats and barostats in time steps, as LAMMPS' manual
#: advises for its own.
THERMOSTAT_STEPS, BAROSTAT_STEPS = 100, 1000


@dataclass(frozen=True)
class Plan:
    """Settings of a simulation; see :class:`.dynamics.DynamicsSimulator`."""

    ensemble: str
    temperature: float
    timestep: float
    steps: int
    equilibration: int
    every: int
    friction: float
    pressure: float | None

    def check(self, what: str) -> None:
        """Raise :class:`ConfigurationError` if a setting can not be."""
        positive = {"timestep": self.timestep, "steps": self.steps, "every": self.every}
        if self.ensemble != "nve":
            positive |= {"friction": self.friction, "temperature": self.temperature}
        for name, value in positive.items():
            if not is_number(value) or value <= 0:
                raise _wrong(what, name, "a number above zero", value)
        for name in ("temperature", "equilibration"):
            value = getattr(self, name)
            if not is_number(value) or value < 0:
                raise _wrong(what, name, "a number that is not negative", value)
        for name in ("steps", "equilibration", "every"):
            value = getattr(self, name)
            if not is_whole(value):
                raise _wrong(what, name, "a whole number of steps", value)
        if self.every > self.steps:
            raise _wrong(what, "every", f"at most the {self.steps} steps", self.every)
        if self.ensemble not in ENSEMBLES:
            raise _wrong(what, "ensemble", f"one of {', '.join(ENSEMBLES)}", self.ensemble)
        if (self.ensemble == "npt") != (self.pressure is not None) or (
            self.pressure is not None and not is_number(self.pressure)
        ):
            raise _wrong(
                what, "pressure", "a pressure in GPa with npt, none without", self.pressure
            )

    @property
    def n_frames(self) -> int:
        """Frames that are kept."""
        return self.steps // self.every


def _wrong(what: str, name: str, expected: str, got: Any) -> ConfigurationError:
    return ConfigurationError(
        f"{name} of {what}", expected=expected, got=repr(got), fix=f"choose another {name}"
    )


@dataclass(frozen=True, eq=False)
class Member:
    """Where one of the replicas is: positions and cell in Å, velocities in ASE's unit."""

    positions: np.ndarray
    velocities: np.ndarray
    cell: np.ndarray

    @classmethod
    def of(cls, atoms: ase.Atoms) -> Member:
        """Of a structure with velocities."""
        return cls(atoms.get_positions(), atoms.get_velocities(), atoms.cell.array.copy())

    def placed(self, structure: ase.Atoms) -> ase.Atoms:
        """A copy of a structure, there."""
        atoms = structure.copy()
        atoms.set_cell(self.cell)
        atoms.positions[:] = self.positions
        atoms.set_velocities(self.velocities)
        return atoms


@dataclass(frozen=True, eq=False)
class State:
    """What the next run of a simulator continues from.

    Attributes
    ----------
    run
        How often it has run before that.
    time
        fs since the beginning.
    members
        One for each replica.
    """

    run: int
    time: float
    members: tuple[Member, ...]


@dataclass(frozen=True, eq=False)
class Recorded:
    """Frames of one replica.

    Attributes
    ----------
    positions, cells
        (n_frames, n_atoms, 3) and (n_frames, 3, 3) float64, Å.
    energies
        (n_frames,) float64, eV; ``None`` if the engine does not get them from the bridge in full.
    last
        Where it ended.
    """

    positions: np.ndarray
    cells: np.ndarray
    energies: np.ndarray | None
    last: Member


def seed_of(name: str, run: int, member: int, seed: int, purpose: str = "") -> int:
    """63 bits that depend on nothing but the arguments: the same on every machine and each time."""
    text = f"{name}\0{run}\0{member}\0{seed}\0{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def start_of(structure: ase.Atoms, temperature: float, seed: int) -> ase.Atoms:
    """A copy with velocities drawn from Maxwell and Boltzmann's distribution, at rest as a whole.

    Parameters
    ----------
    temperature
        K; at zero the velocities that the structure has are kept.
    """
    atoms = structure.copy()
    if temperature > 0.0:
        masses = atoms.get_masses()[:, None]
        normal = np.random.default_rng(seed).standard_normal((len(atoms), 3))
        velocities = normal * np.sqrt(units.kB * temperature / masses)
        if len(atoms) > 1:
            velocities -= (masses * velocities).sum(axis=0) / masses.sum()
        atoms.set_velocities(velocities)
    return atoms


#: 1 GPa in eV/Å^3, 1/ps in ASE's unit, and ASE's unit of velocity in Å/ps.
GPA, PER_PS, ANGSTROM_PER_PS = units.GPa, 1.0 / (1000.0 * units.fs), 1000.0 * units.fs
