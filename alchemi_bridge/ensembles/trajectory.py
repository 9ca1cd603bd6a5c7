"""Trajectories that know what made them: the energies, parameters and temperature of each frame.

A simulation that several objectives share, or that is used again after the parameters changed, is
reweighted from what made it. So that belongs to the trajectory, and to nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import ase
import numpy as np
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from alchemi_bridge.errors import InputError, NonFiniteError, ShapeError


@dataclass(frozen=True, eq=False)
class Origin:
    """What made a part of a trajectory.

    Attributes
    ----------
    simulator, run
        Name of the simulator, and how often it had run before.
    engine
        ``"ase"``, ``"lammps"``, ``"nvalchemi"``.
    model, sha256
        Path of the model file, and its hash.
    ensemble
        What the dynamics sample.
    pressure
        GPa, ``None`` at constant volume.
    parameters
        Values that replaced those of the file, by name; empty for the file as it is.
    """

    simulator: str
    engine: str
    model: str
    sha256: str
    ensemble: str = ""
    run: int = 0
    pressure: float | None = None
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies of the parameters, on the host."""
        return {name: torch.from_numpy(np.array(v)) for name, v in self.parameters.items()}

    def has_parameters(self, parameters: Mapping[str, torch.Tensor]) -> bool:
        """Whether these are the same names with the same values, bit by bit."""
        return set(parameters) == set(self.parameters) and all(
            np.array_equal(value.detach().cpu().numpy(), self.parameters[name])
            for name, value in parameters.items()
        )


#: Arrays with one row for each frame.
FRAMES = ("positions", "cells", "energies", "temperatures", "times", "origin")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Frames of the same atoms. Arrays are NumPy's, so that it is pickled compactly.

    Attributes
    ----------
    numbers
        (n_atoms,) int64 atomic numbers.
    masses
        (n_atoms,) float64, u.
    pbc
        (3,) flags.
    positions
        (n_frames, n_atoms, 3) float64, Å, not wrapped.
    cells
        (n_frames, 3, 3) float64, Å; rows are the vectors.
    energies
        (n_frames,) float64, eV: of the model that made the frame, with its parameters, evaluated
        by the bridge for the positions above.
    temperatures
        (n_frames,) float64, K, that the thermostat was set to; NaN without one.
    times
        (n_frames,) float64, fs, since the beginning of the simulation.
    origin
        (n_frames,) int64: which of ``origins`` made the frame.
    origins
        One for each run of a simulator.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    NonFiniteError
        If a position, cell vector or energy is no number; it names the frame.
    """

    numbers: np.ndarray
    masses: np.ndarray
    pbc: np.ndarray
    positions: np.ndarray
    cells: np.ndarray
    energies: np.ndarray
    temperatures: np.ndarray
    times: np.ndarray
    origin: np.ndarray
    origins: tuple[Origin, ...]

    def __post_init__(self) -> None:
        types: dict[str, type] = {"numbers": np.int64, "pbc": np.bool_, "origin": np.int64}
        for f in fields(self):
            if f.name != "origins":
                dtype = np.dtype(types.get(f.name, np.float64))
                array: np.ndarray = np.ascontiguousarray(getattr(self, f.name), dtype)
                object.__setattr__(self, f.name, array)
        n_frames, n_atoms = len(self.positions), len(self.numbers)
        shapes = {
            "numbers": (n_atoms,),
            "masses": (n_atoms,),
            "pbc": (3,),
            "positions": (n_frames, n_atoms, 3),
            "cells": (n_frames, 3, 3),
            **dict.fromkeys(FRAMES[2:], (n_frames,)),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ShapeError(
                    f"'{name}' of a trajectory of {n_frames} frames of {n_atoms} atoms",
                    expected=f"shape {shape}",
                    got=f"shape {getattr(self, name).shape}",
                    fix="keep the number of atoms the same in all frames",
                )
        self._check_values()

    def _check_values(self) -> None:
        if len(self) and not 0 <= self.origin.min() <= self.origin.max() < len(self.origins):
            raise InputError(
                "'origin' of a trajectory",
                expected=f"indices of {len(self.origins)} origins",
                got=f"{self.origin.min()} to {self.origin.max()}",
                fix="name an origin for each frame",
            )
        for name in ("positions", "cells", "energies"):
            array = getattr(self, name)
            finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
            bad = np.flatnonzero(~finite)
            if len(bad):
                raise NonFiniteError(
                    f"{name} of a trajectory, frame {bad[0]}",
                    expected="finite numbers",
                    got="NaN or infinite values",
                    fix="look at the simulation: its time step, its start, its model",
                )

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def n_atoms(self) -> int:
        """Number of atoms in each frame."""
        return len(self.numbers)

    @property
    def volumes(self) -> np.ndarray:
        """(n_frames,) float64, Å^3."""
        return np.asarray(np.abs(np.linalg.det(self.cells)))

    def __getitem__(self, frames: int | slice | np.ndarray | Sequence[int]) -> Trajectory:
        """Frames by slice, indices or flags; one number gives a trajectory of one frame."""
        chosen = [frames] if isinstance(frames, (int, np.integer)) else frames
        rows = {name: getattr(self, name)[chosen] for name in FRAMES}
        kept, rows["origin"] = np.unique(rows["origin"], return_inverse=True)
        return replace(self, **rows, origins=tuple(self.origins[k] for k in kept))

    def after(self, equilibration: float | int) -> Trajectory:
        """Without the first frames of each run.

        Parameters
        ----------
        equilibration
            A fraction of each run's frames below one (float), or a number of frames (int).

        Raises
        ------
        InputError
            If it is negative, or no frame would remain.
        """
        of_run = np.empty(len(self), dtype=np.int64)
        counts = np.bincount(self.origin, minlength=len(self.origins))
        for k in range(len(self.origins)):
            of_run[self.origin == k] = np.arange(counts[k])
        whole = isinstance(equilibration, (int, np.integer))
        cut = equilibration if whole else np.ceil(equilibration * counts[self.origin])
        keep = of_run >= cut
        if equilibration < 0 or not keep.any():
            raise InputError(
                "equilibration",
                expected="a fraction of the frames, or a number of frames, that leaves some",
                got=f"{equilibration!r} of {len(self)} frames",
                fix="simulate longer, or cut less",
            )
        return self[keep]

    def with_energies(self, energies: np.ndarray) -> Trajectory:
        """The same with other (n_frames,) energies."""
        return replace(self, energies=energies)

    @classmethod
    def concatenate(cls, parts: Sequence[Trajectory]) -> Trajectory:
        """All frames of several trajectories of the same atoms, in their order.

        Raises
        ------
        InputError
            If there are none, or they are of other atoms; temperatures and parameters may differ.
        """
        if not parts:
            raise InputError(
                "trajectories", expected="at least one", got="none", fix="name a simulator"
            )
        first = parts[0]
        for k, part in enumerate(parts):
            for name in ("numbers", "masses", "pbc"):
                if not np.array_equal(getattr(part, name), getattr(first, name)):
                    raise InputError(
                        f"trajectory {k}",
                        expected=f"the atoms of the first one ({_formula(first)})",
                        got=f"other {name} ({_formula(part)})",
                        fix="use one objective for each kind of system",
                    )
        origins: list[Origin] = []
        shifted = []
        for part in parts:
            where = [_place(origins, origin) for origin in part.origins]
            shifted.append(np.array(where, dtype=np.int64)[part.origin])
        rows = {name: np.concatenate([getattr(p, name) for p in parts]) for name in FRAMES[:-1]}
        return replace(first, **rows, origin=np.concatenate(shifted), origins=tuple(origins))

    def atoms(self, frame: int) -> ase.Atoms:
        """One frame as ASE's structure, with its energy."""
        k = range(len(self))[frame]
        made = ase.Atoms(
            self.numbers,
            positions=self.positions[k],
            cell=self.cells[k],
            pbc=self.pbc,
            masses=self.masses,
            info={"time_fs": float(self.times[k]), "temperature_K": float(self.temperatures[k])},
        )
        made.calc = SinglePointCalculator(made, energy=float(self.energies[k]))
        return made

    def to_ase(self) -> Iterator[ase.Atoms]:
        """All frames, one after the other."""
        return (self.atoms(k) for k in range(len(self)))


def _formula(trajectory: Trajectory) -> str:
    return str(ase.Atoms(trajectory.numbers).symbols)


def _place(origins: list[Origin], origin: Origin) -> int:
    """Where it is in the list, to which it is added if it is new."""
    for k, known in enumerate(origins):
        if known is origin or _same(known, origin):
            return k
    origins.append(origin)
    return len(origins) - 1


def _same(one: Origin, other: Origin) -> bool:
    plain = (f.name for f in fields(Origin) if f.name != "parameters")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and one.has_parameters(
        other.tensors()
    )
