"""What a run leaves behind while it goes on: trajectory and table, safe against being killed."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from ase import Atoms, units

from alchemi_bridge.cli.extxyz import write_frame
from alchemi_bridge.cli.md_settings import Files, Settings
from alchemi_bridge.cli.md_start import Start
from alchemi_bridge.errors import ConfigurationError, NonFiniteResultError

logger = logging.getLogger(__name__)

#: Columns of the table. Temperature counts ASE's degrees of freedom, pressure is tensile negative
#: and holds the kinetic part in dynamics; what does not apply is left empty.
COLUMNS = (
    "step",
    "time_ps",
    "potential_energy_eV",
    "kinetic_energy_eV",
    "total_energy_eV",
    "temperature_K",
    "pressure_GPa",
    "max_force_eV_per_A",
    "max_uncertainty_eV",
    "wall_time_s",
)


class Recorder:
    """Writes a frame and a row at their intervals, each in one piece.

    Use as a context manager: the files are opened on entering (a new run empties them, a restarted
    one cuts off what came after its first frame) and closed on leaving.
    """

    def __init__(self, atoms: Atoms, settings: Settings, start: Start, files: Files) -> None:
        self._atoms = atoms
        self._settings = settings
        self._start = start
        self._files = files
        self._wall_before = 0.0
        self._warned = False
        self._last_frame = start.step if start.offset is not None else None
        self._last_row = self._last_frame

    def __enter__(self) -> Recorder:
        with contextlib.ExitStack() as stack:
            new = self._start.offset is None
            if not new:
                self._wall_before = keep_rows(self._files.thermo, self._start.step)
            if self._start.offset is not None:
                os.truncate(self._files.trajectory, self._start.offset)
            mode = "w" if new else "a"
            self._trajectory = stack.enter_context(
                self._files.trajectory.open(mode, encoding="utf-8")
            )
            self._thermo = stack.enter_context(
                self._files.thermo.open(mode, encoding="utf-8", newline="")
            )
            if new:
                self._write_row(COLUMNS)
            self._stack = stack.pop_all()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def observe(self, step: int, *, last: bool = False) -> None:
        """Record the present state if it is its turn, or if it is the last of the run.

        Raises
        ------
        NonFiniteResultError
            If an energy or a force is NaN or infinite; nothing of that step is written.
        """
        row = last or step % self._settings.thermo_interval == 0
        frame = last or step % self._settings.interval == 0
        if row and step != self._last_row:
            self._write_row(self._row(step))
            self._last_row = step
        if frame and step != self._last_frame:
            self._write_frame(step)
            self._last_frame = step

    def time_ps(self, step: int) -> float:
        """Time at a step, in ps."""
        return self._start.time_ps + (step - self._start.step) * self._settings.timestep / 1000

    def _row(self, step: int) -> tuple:
        atoms = self._atoms
        dynamics = self._settings.is_dynamics
        potential = float(atoms.get_potential_energy())
        max_force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        kinetic = float(atoms.get_kinetic_energy()) if dynamics else 0.0
        if not math.isfinite(potential + kinetic + max_force):
            raise NonFiniteResultError(
                f"state at step {step}",
                expected="finite energies and forces",
                got=f"potential {potential} eV, kinetic {kinetic} eV, max. force {max_force} eV/Å",
                fix="use a smaller --timestep, or look at the last frames of the trajectory",
            )
        return (
            step,
            f"{self.time_ps(step):.6f}" if dynamics else "",
            repr(potential),
            repr(kinetic) if dynamics else "",
            repr(potential + kinetic) if dynamics else "",
            f"{atoms.get_temperature():.4f}" if dynamics else "",
            self._pressure(),
            repr(max_force),
            self._max_uncertainty(step),
            f"{self._wall_before + time.perf_counter() - self._began:.3f}",
        )

    def _pressure(self) -> str:
        stress = self._stress()
        if stress is None:
            return ""
        pressure = -float(np.mean(stress[:3]))
        if self._settings.is_dynamics:  # the ideal-gas part; the sum over atoms is 2 K / 3 V
            kinetic = float(self._atoms.get_kinetic_energy())
            pressure += 2 * kinetic / (3 * float(self._atoms.get_volume()))
        return repr(float(pressure / units.GPa))

    def _max_uncertainty(self, step: int) -> str:
        """Largest uncertainty of an atom's energy; the first one above the threshold is logged."""
        uncertainty = self._atoms.calc.uncertainty
        if uncertainty is None:
            return ""
        largest = float(np.max(uncertainty))
        threshold = self._atoms.calc.parameters["uncertainty_threshold"]
        if largest > threshold and not self._warned:
            self._warned = True
            logger.warning(
                "from step %d on, some atoms' energy is more uncertain than %g eV (atom %d: %.3g"
                " eV); see max_uncertainty_eV in '%s'",
                step,
                threshold,
                int(np.argmax(uncertainty)),
                largest,
                self._files.thermo,
            )
        return repr(largest)

    def _stress(self) -> np.ndarray | None:
        """Voigt stress in eV/Å^3 where it has a meaning: in a fully periodic cell."""
        calculator = self._atoms.calc
        if not self._atoms.pbc.all() or "stress" not in calculator.implemented_properties:
            return None
        return np.asarray(self._atoms.get_stress(apply_constraint=False))

    def _write_row(self, values: tuple) -> None:
        text = io.StringIO()
        csv.writer(text).writerow(values)
        self._thermo.write(text.getvalue())
        self._thermo.flush()

    def _write_frame(self, step: int) -> None:
        atoms = self._atoms
        info = {
            "step": step,
            "time_ps": self.time_ps(step) if self._settings.is_dynamics else 0.0,
            "ensemble": self._settings.ensemble,
            "seed": self._start.seed,
            "energy": float(atoms.get_potential_energy()),
        }
        stress = self._stress()
        if stress is not None:
            xx, yy, zz, yz, xz, xy = stress
            info["stress"] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        text = io.StringIO()
        arrays = {"forces": atoms.get_forces(apply_constraint=False)}
        if atoms.calc.uncertainty is not None:
            arrays["energy_uncertainty"] = atoms.calc.uncertainty
        write_frame(text, atoms, arrays=arrays, info=info)
        # one write: a process that is killed leaves whole frames, or one that frame_ranges drops
        self._trajectory.write(text.getvalue())
        self._trajectory.flush()


def read_rows(thermo: Path) -> Iterator[tuple[str, ...]]:
    """Complete rows of a table, without its header.

    Raises
    ------
    ConfigurationError
        If the file has other columns than those written here.
    """
    with thermo.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(line for line in file if line.endswith("\n"))
        header = next(rows, None)
        if header is None:
            return
        if tuple(header) != COLUMNS:
            raise ConfigurationError(
                f"table '{thermo}'",
                expected=f"the columns {','.join(COLUMNS)}",
                got=",".join(header),
                fix="move the file away",
            )
        for row in rows:
            if len(row) == len(COLUMNS) and row[0].isdigit():
                yield tuple(row)


def keep_rows(thermo: Path, last_step: int) -> float:
    """Drop the rows behind a step (and a torn last one), in place; the file is made if missing.

    Returns
    -------
    float
        Wall time (s) of the last row that stays.
    """
    rows: list[tuple[str, ...]] = []
    if thermo.is_file():
        rows = [row for row in read_rows(thermo) if int(row[0]) <= last_step]
    else:
        logger.warning("'%s' is missing; the table begins at step %d", thermo, last_step)
    new = thermo.with_name(thermo.name + ".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    new.replace(thermo)
    return float(rows[-1][-1]) if rows else 0.0
