"""``python -m alchemi_bridge.ensembles.simulators.lammps_worker``: dynamics in LAMMPS."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import ase
import numpy as np

from alchemi_bridge.engines import lammps_plugin
from alchemi_bridge.engines.lammps_box import LammpsBox
from alchemi_bridge.engines.lammps_frame import Frame
from alchemi_bridge.engines.lammps_library import command, start
from alchemi_bridge.ensembles.simulators.plan import (
    ANGSTROM_PER_PS,
    BAROSTAT_STEPS,
    THERMOSTAT_STEPS,
    Member,
    Plan,
    Recorded,
)
from alchemi_bridge.errors import EvaluationError, last_line
from alchemi_bridge.parity.lammps_worker import quoted, words_of
from alchemi_bridge.parity.remote import serve

#: LAMMPS takes seeds from 1 on that are below this.
_LARGEST_SEED = 900_000_000

_BAR_PER_GPA = 1e4

_DOUBLE, _INT = 1, 0


class Dynamics:
    """Dynamics with one model file.

    Parameters
    ----------
    model_file
        The model.
    options
        The calculators' options.
    device
        Where the model runs.
    """

    def __init__(self, model_file: str, options: Mapping[str, Any], device: str) -> None:
        self._style = " ".join(
            [f"pair_style alchemi {quoted(model_file)}", f"device {device}", *words_of(options)]
        )

    def _pair(self, kinds: Sequence[int]) -> list[str]:
        return [self._style, "pair_coeff * * " + " ".join(map(str, kinds))]

    def simulate(self, request: tuple[ase.Atoms, Plan, int]) -> Recorded:
        """One simulation, from ``(structure with velocities, plan, seed)``.

        Raises
        ------
        EvaluationError
            With what LAMMPS said, and after how many steps.
        """
        atoms, plan, seed = request
        with LammpsBox(self._pair, opened=_opened) as box:
            box.evaluate(atoms, virial=False, energies=False)
            frame = box.frame
            assert frame is not None  # it has just been made
            motion = _Motion(box.lmp, frame, atoms)
            motion.start(atoms, plan, seed)
            return motion.run(plan)


class _Motion:
    """Atoms that LAMMPS moves, seen in the frame of the structure."""

    def __init__(self, lmp: Any, frame: Frame, atoms: ase.Atoms) -> None:
        self._lmp, self._frame = lmp, frame
        self._cell = atoms.cell.array.copy()
        self._n_atoms = len(atoms)
        # Where LAMMPS has put the atoms, which it is asked: one on a face may be on either side of
        # the box, and LAMMPS wraps atoms that are made without counting that.
        away = (frame.into(atoms.positions) - self._gather("x", _DOUBLE)) @ frame.inverse
        away[:, ~frame.periodic] = 0.0
        self._wraps = np.round(away).astype(np.int64) - self._gather("image", _INT)

    def start(self, atoms: ase.Atoms, plan: Plan, seed: int) -> None:
        """Masses, velocities and integrators."""
        for number, kind in enumerate(sorted(set(atoms.numbers.tolist())), start=1):
            mass = atoms.get_masses()[atoms.numbers == kind][0]
            command(self._lmp, f"mass {number} {float(mass)!r}")
        flat = np.ascontiguousarray(
            atoms.get_velocities() @ self._frame.rotation * ANGSTROM_PER_PS, dtype=np.float64
        )
        self._lmp.scatter_atoms(
            "v", _DOUBLE, 3, flat.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        )
        for text in _integrators(plan, seed):
            command(self._lmp, text)

    def run(self, plan: Plan) -> Recorded:
        """All steps."""
        positions = np.empty((plan.n_frames, self._n_atoms, 3))
        cells = np.empty((plan.n_frames, 3, 3))
        done, lengths = 0, [plan.every] * plan.n_frames
        if left := plan.steps % plan.every:
            lengths.append(left)
        try:
            command(self._lmp, f"run {plan.equilibration} post no")
            done = plan.equilibration
            for k, length in enumerate(lengths):
                # without 'pre': nothing has changed, and forces need not be computed again
                command(self._lmp, f"run {length} pre no post no")
                done += length
                if k < plan.n_frames:
                    positions[k], cells[k] = self._place()
        except EvaluationError as error:
            raise EvaluationError(
                f"LAMMPS after {done} of {plan.equilibration + plan.steps} steps",
                expected="the next ones",
                got=last_line(error),
                fix="see what LAMMPS says",
            ) from error
        last_positions, last_cell = self._place()
        velocities = self._gather("v", _DOUBLE) / ANGSTROM_PER_PS
        last = Member(last_positions, self._frame.back(velocities), last_cell)
        return Recorded(positions, cells, None, last)

    def _place(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions that are not wrapped, and the cell."""
        scale = self._scale()
        images = self._gather("image", _INT) + self._wraps
        inside = self._gather("x", _DOUBLE) + images @ (self._frame.lattice * scale)
        return self._frame.back(inside), self._cell * scale

    def _scale(self) -> float:
        """By how much the cell has grown, in each direction: barostats here are isotropic."""
        if not self._frame.periodic.all():
            return 1.0
        low, high, *_ = self._lmp.extract_box()
        return float((high[0] - low[0]) / self._frame.lattice[0, 0])

    def _gather(self, name: str, kind: int) -> np.ndarray:
        values = np.array(np.ctypeslib.as_array(self._lmp.gather_atoms(name, kind, 3)))
        return values.reshape(self._n_atoms, 3)


def _integrators(plan: Plan, seed: int) -> list[str]:
    step = plan.timestep / 1000.0  # ps
    kelvin = float(plan.temperature)
    lines = [f"timestep {step!r}", "thermo 0"]
    if plan.ensemble == "npt":
        assert plan.pressure is not None  # Plan.check has seen to it
        bar = plan.pressure * _BAR_PER_GPA
        return [
            *lines,
            f"fix bridge_npt all npt temp {kelvin!r} {kelvin!r} {THERMOSTAT_STEPS * step!r} "
            f"iso {bar!r} {bar!r} {BAROSTAT_STEPS * step!r}",
        ]
    lines.append("fix bridge_nve all nve")
    if plan.ensemble == "nvt-langevin":
        lines.append(
            f"fix bridge_langevin all langevin {kelvin!r} {kelvin!r} {1.0 / plan.friction!r} "
            f"{1 + seed % (_LARGEST_SEED - 1)}"
        )
    return lines


def _opened() -> Any:
    lmp = start()
    lammps_plugin.load(lmp)
    return lmp


if __name__ == "__main__":
    serve(Dynamics)
