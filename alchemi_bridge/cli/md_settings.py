"""What a run of ``alchemi-bridge md`` is asked to do, checked before anything is loaded."""

from __future__ import annotations

import argparse
import math
import secrets
from dataclasses import dataclass
from pathlib import Path

from alchemi_bridge.errors import ConfigurationError

ENSEMBLES = ("nve", "langevin", "fire")

#: Options that mean something for some ensembles only.
_USED_BY = {
    "timestep": ("nve", "langevin"),
    "temperature": ("nve", "langevin"),
    "friction": ("langevin",),
    "fmax": ("fire",),
    "seed": ("nve", "langevin"),
    "new_velocities": ("nve", "langevin"),
}

DEFAULT_TIMESTEP_FS = 1.0
DEFAULT_FRICTION_PER_PS = 10.0
DEFAULT_FMAX = 0.01


@dataclass(frozen=True)
class Files:
    """The three files of a run, side by side."""

    trajectory: Path
    thermo: Path
    plot: Path

    @classmethod
    def with_prefix(cls, prefix: Path) -> Files:
        """``run`` gives ``run.extxyz``, ``run.csv`` and ``run.png``."""
        return cls(*(Path(f"{prefix}{suffix}") for suffix in (".extxyz", ".csv", ".png")))

    def all(self) -> tuple[Path, Path, Path]:
        """Trajectory, thermo table and plot."""
        return self.trajectory, self.thermo, self.plot


@dataclass(frozen=True)
class Settings:
    """One run.

    Attributes
    ----------
    ensemble
        ``"nve"``, ``"langevin"`` or ``"fire"``.
    steps
        Length of the whole run; a restarted run continues up to this step.
    timestep
        fs.
    temperature
        K, or None (NVE from the velocities in the file; FIRE).
    friction
        1/ps, of the Langevin thermostat.
    fmax
        eV/Å; FIRE stops when no atom feels a larger force.
    seed
        Seed of velocities and noise; None takes the one of the trajectory that is continued, or
        else draws one.
    interval, thermo_interval
        Steps from one frame, and from one row of the table, to the next.
    new_velocities
        Draw velocities even where the file has some.
    """

    ensemble: str
    steps: int
    timestep: float
    temperature: float | None
    friction: float
    fmax: float
    seed: int | None
    interval: int
    thermo_interval: int
    new_velocities: bool

    @property
    def is_dynamics(self) -> bool:
        """Whether atoms have velocities: not in a relaxation."""
        return self.ensemble != "fire"

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Settings:
        """Settings from the command line.

        Raises
        ------
        ConfigurationError
            If a number is out of its range, or an option has no meaning for the ensemble.
        """
        for option, ensembles in _USED_BY.items():
            given = getattr(args, option)
            if given not in (None, False) and args.ensemble not in ensembles:
                raise ConfigurationError(
                    f"--{option.replace('_', '-')}",
                    expected=f"an ensemble that uses it ({', '.join(ensembles)})",
                    got=f"--ensemble {args.ensemble}",
                    fix="leave the option out or choose another ensemble",
                )
        _check(args.steps >= 0, "--steps", "zero or more", args.steps)
        _positive("--timestep", args.timestep, "fs")
        _positive("--friction", args.friction, "1/ps")
        _positive("--fmax", args.fmax, "eV/Å")
        _positive("--temperature", args.temperature, "K", zero=args.ensemble == "nve")
        _check(args.seed is None or 0 <= args.seed < 2**63, "--seed", "0 ... 2^63 - 1", args.seed)
        if args.ensemble == "langevin" and args.temperature is None:
            raise ConfigurationError(
                "--temperature",
                expected="the temperature of the Langevin thermostat",
                got="none",
                fix="pass --temperature K",
            )
        return cls(
            ensemble=args.ensemble,
            steps=args.steps,
            timestep=DEFAULT_TIMESTEP_FS if args.timestep is None else args.timestep,
            temperature=args.temperature,
            friction=DEFAULT_FRICTION_PER_PS if args.friction is None else args.friction,
            fmax=DEFAULT_FMAX if args.fmax is None else args.fmax,
            seed=args.seed,
            interval=args.interval,
            thermo_interval=args.thermo_interval,
            new_velocities=args.new_velocities,
        )


def draw_seed() -> int:
    """A seed nobody chose; it is written to the trajectory, so that the run can be repeated."""
    return secrets.randbits(63)


def _positive(option: str, value: float | None, unit: str, *, zero: bool = False) -> None:
    if value is None:
        return
    good = math.isfinite(value) and (value > 0 or (zero and value == 0))
    _check(good, option, f"a {'non-negative' if zero else 'positive'} number of {unit}", value)


def _check(good: bool, option: str, expected: str, got: object) -> None:
    if not good:
        raise ConfigurationError(option, expected=expected, got=str(got), fix=f"correct {option}")
