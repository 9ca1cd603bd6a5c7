"""Where a run starts: the structure with its velocities, or the last frame of an earlier run."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io.extxyz import read_extxyz
from ase.md.velocitydistribution import Stationary, ZeroRotation, force_temperature

from alchemi_bridge.cli.extxyz import frame_ranges
from alchemi_bridge.cli.md_settings import Settings, draw_seed
from alchemi_bridge.errors import ConfigurationError, StructureFileError

logger = logging.getLogger(__name__)

#: The word of the Philox counter that tells the velocities' random numbers from those of the steps.
_VELOCITIES = 1


@dataclass
class Start:
    """The state before the first step that is still to be done.

    Attributes
    ----------
    atoms
        Structure with momenta (dynamics), without a calculator.
    step
        Number of steps already done.
    time_ps
        Time that has already passed.
    seed
        Seed of the run.
    offset
        Bytes of the trajectory file that are kept; None for a new run.
    """

    atoms: Atoms
    step: int
    time_ps: float
    seed: int
    offset: int | None = None


class StepNoise:
    """Normal random numbers that depend only on the seed and the step.

    A counter-based generator (Philox, J. K. Salmon et al., SC'11, doi:10.1145/2063384.2063405) is
    set to ``(seed, step)`` before every step, so that a restarted run draws what the uninterrupted
    one would have drawn.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.start(0)

    def start(self, step: int) -> None:
        """Go to the beginning of the numbers of one step."""
        self._generator = _generator(self._seed, step)

    def standard_normal(self, size: tuple[int, ...] | None = None) -> np.ndarray:
        """Numbers from N(0, 1); the interface that ASE asks of a generator."""
        return np.asarray(self._generator.standard_normal(size=size))


def _generator(seed: int, step: int, purpose: int = 0) -> np.random.Generator:
    # the low two words of the counter are left to the draws of one step
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, step, purpose]))


def new_start(atoms: Atoms, settings: Settings) -> Start:
    """Start of a new run.

    Velocities of the file are kept. If it has none (or new ones are asked for) they are drawn from
    the Maxwell-Boltzmann distribution at the wanted temperature, without net momentum and, where
    nothing is periodic, without rotation, and scaled to exactly that temperature.

    Raises
    ------
    ConfigurationError
        If velocities must be drawn and no temperature is given, or one is given that NVE would not
        use because the file has velocities.
    """
    atoms = atoms.copy()
    seed = draw_seed() if settings.seed is None else settings.seed
    if not settings.is_dynamics:
        return Start(atoms, 0, 0.0, seed)
    if atoms.has("momenta") and not settings.new_velocities and np.any(atoms.get_momenta()):
        if settings.ensemble == "nve" and settings.temperature is not None:
            raise ConfigurationError(
                "--temperature",
                expected="none, because NVE starts from the velocities in STRUCTURE"
                f" ({atoms.get_temperature():.1f} K)",
                got=f"{settings.temperature:g} K",
                fix="pass --new-velocities to draw velocities at that temperature, or leave"
                " --temperature out",
            )
        logger.info("velocities are those of the file (%.1f K)", atoms.get_temperature())
    else:
        if settings.temperature is None:
            raise ConfigurationError(
                "--temperature",
                expected="a temperature, because velocities have to be drawn",
                got="none",
                fix="pass --temperature K",
            )
        draw_velocities(atoms, settings.temperature, seed)
        logger.info("velocities drawn at %g K with seed %d", settings.temperature, seed)
    return Start(atoms, 0, 0.0, seed)


def draw_velocities(atoms: Atoms, temperature: float, seed: int) -> None:
    """Set Maxwell-Boltzmann momenta in place (see :func:`new_start`).

    Parameters
    ----------
    temperature
        K, counted over the degrees of freedom that ASE counts (3 N without constraints).
    """
    masses = atoms.get_masses()[:, None]
    normal = _generator(seed, 0, _VELOCITIES).standard_normal((len(atoms), 3))
    atoms.set_momenta(normal * np.sqrt(masses * units.kB * temperature))
    if temperature == 0:
        return
    # constraints hold some atoms in place: then neither momentum nor rotation is conserved
    if not atoms.constraints and len(atoms) > 1:
        Stationary(atoms, preserve_temperature=False)
        if len(atoms) > 2 and not atoms.pbc.any():
            ZeroRotation(atoms, preserve_temperature=False)
    if np.any(atoms.get_momenta()):
        force_temperature(atoms, temperature)


def restart(trajectory: Path, structure: Atoms, settings: Settings) -> Start:
    """Start from the last complete frame of an earlier run.

    Positions, cell and momenta come from the trajectory, everything else (masses, constraints,
    ``info``) from ``structure``. Nothing is written.

    Raises
    ------
    StructureFileError
        If there is no trajectory, or none that ``alchemi-bridge md`` wrote.
    ConfigurationError
        If it is a run of another ensemble or of other atoms.
    """
    if not trajectory.is_file():
        raise StructureFileError(
            f"trajectory '{trajectory}'",
            expected="the trajectory of an earlier run",
            got="no such file",
            fix="start the run without --restart, or check --output",
        )
    frame, end = _last_frame(trajectory)
    if end < trajectory.stat().st_size:
        logger.warning("'%s' ends with an incomplete frame, which is dropped", trajectory)
    ensemble = frame.info["ensemble"]
    if ensemble != settings.ensemble:
        raise ConfigurationError(
            "--ensemble",
            expected=f"'{ensemble}', the ensemble of '{trajectory}'",
            got=f"'{settings.ensemble}'",
            fix=f"start a new run from its last frame: md MODEL {trajectory}",
        )
    if not np.array_equal(frame.numbers, structure.numbers):
        raise ConfigurationError(
            f"structure of {len(structure)} atoms ({structure.symbols})",
            expected=f"the atoms of '{trajectory}' ({frame.symbols}) in the same order",
            got="other atoms",
            fix="give the structure that the run was started with",
        )
    atoms = structure.copy()
    atoms.set_cell(frame.cell)
    atoms.pbc = frame.pbc
    atoms.positions[:] = frame.positions
    if settings.is_dynamics:
        atoms.set_momenta(frame.get_momenta(), apply_constraint=False)
    seed = int(frame.info["seed"]) if settings.seed is None else settings.seed
    return Start(atoms, int(frame.info["step"]), float(frame.info["time_ps"]), seed, end)


def _last_frame(trajectory: Path) -> tuple[Atoms, int]:
    """The last frame that can be read whole, and where it ends."""
    ranges = list(frame_ranges(trajectory))
    with trajectory.open("rb") as file:
        while ranges:
            start, end = ranges.pop()
            file.seek(start)
            frame = _parse(file.read(end - start))
            if frame is not None:
                return frame, end
    raise StructureFileError(
        f"trajectory '{trajectory}'",
        expected="at least one complete frame written by alchemi-bridge md",
        got="none",
        fix="start the run anew with --force",
    )


def _parse(text: bytes) -> Atoms | None:
    """One frame of our own, or None: a torn frame may hold anything."""
    try:
        frame: Atoms = next(read_extxyz(io.StringIO(text.decode()), index=slice(None)))
    except (ValueError, KeyError, OSError, IndexError, StopIteration):
        return None
    keys = {"step", "time_ps", "ensemble", "seed"}
    if not keys <= frame.info.keys() or not np.all(np.isfinite(frame.positions)):
        return None
    if frame.info["ensemble"] != "fire" and not frame.has("momenta"):
        return None
    return frame
