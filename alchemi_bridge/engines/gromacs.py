"""Which GROMACS there is.

GROMACS itself is as somebody else built it. ``mdrun`` loads the bridge through its PLUMED
interface, which versions from 2025 on have.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from alchemi_bridge.engines import gromacs_packages
from alchemi_bridge.engines.gromacs_commands import Gromacs, environment
from alchemi_bridge.errors import ConfigurationError, first_line

#: Set to the program ``gmx`` (or ``gmx_d``) to be used.
PROGRAM_VARIABLE = "ALCHEMI_BRIDGE_GMX"

#: The first release with the PLUMED interface.
FIRST_YEAR = 2025

#: What an installation may call its programs, by precision.
NAMES = {False: ("gmx", "gmx_mpi"), True: ("gmx_d", "gmx_mpi_d")}

_PRECISION = {False: "mixed", True: "double"}

#: How to come by one.
INSTALL = "fetch one: python -m alchemi_bridge.engines.gromacs_packages"


def find(*, double: bool = False) -> Gromacs:
    """The GROMACS to use: the one that :data:`PROGRAM_VARIABLE` names, the one that was fetched,
    or the one in ``PATH``; whichever is there first.

    Parameters
    ----------
    double
        Whether it must compute in double precision; else in GROMACS' usual mixed one.

    Raises
    ------
    ConfigurationError
        If there is none, it is too old, or of the wrong precision.
    """
    program = _program(double)
    if program is None:
        raise ConfigurationError(
            "GROMACS" + (" in double precision" if double else ""),
            expected=f"a program {NAMES[double][0]}, {FIRST_YEAR} or later",
            got="none in PATH",
            fix=f"{INSTALL}; or name it with {PROGRAM_VARIABLE}",
        )
    found = inspected(program)
    if found.double != double:
        raise ConfigurationError(
            f"program '{program}'",
            expected=f"GROMACS in {_PRECISION[double]} precision",
            got=f"{_PRECISION[found.double]} precision",
            fix=f"put {NAMES[double][0]} beside it, or {INSTALL}",
        )
    return found


def missing(*, double: bool = False) -> str | None:
    """Why there is no GROMACS to use, or None if there is one."""
    try:
        find(double=double)
    except ConfigurationError as error:
        return first_line(error)
    return None


def inspected(program: Path) -> Gromacs:
    """A program of GROMACS, which must know the PLUMED interface.

    Raises
    ------
    ConfigurationError
        If it is none, or too old, or was built without the interface.
    """
    return _inspected(program, program.stat().st_mtime_ns if program.exists() else 0)


@cache
def _inspected(program: Path, _changed: int) -> Gromacs:
    told = _told(program, "--version")
    version = re.search(r"^GROMACS version:\s+(\S+)", told, re.MULTILINE)
    if version is None:
        raise _unusable(program, "no GROMACS", INSTALL)
    year = re.match(r"\d+", version[1])
    if year is not None and int(year[0]) < FIRST_YEAR:
        raise _unusable(program, f"GROMACS {version[1]}, which is too old", INSTALL)
    if "-plumed" not in _told(program, "mdrun", "-h"):
        raise _unusable(program, "one that was built without it", INSTALL)
    double = re.search(r"^Precision:\s+double", told, re.MULTILINE) is not None
    return Gromacs(program, version[1], double)


def _program(double: bool) -> Path | None:
    named = os.environ.get(PROGRAM_VARIABLE)
    if named:
        path = Path(shutil.which(named) or named)
        beside = path.with_name(NAMES[double][0])
        # a name that nobody knows is inspected as it is
        same = path.name in NAMES[double] or path.name not in sum(NAMES.values(), ())
        return path if same or not beside.exists() else beside
    fetched = gromacs_packages.folder() / NAMES[double][0]
    if fetched.is_file():
        return fetched
    return next((Path(at) for name in NAMES[double] if (at := shutil.which(name))), None)


def _told(program: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            [str(program), "-quiet", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60.0,
            env=environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unusable(program, first_line(error), INSTALL) from error
    return done.stdout


def _unusable(program: Path, got: str, fix: str) -> ConfigurationError:
    return ConfigurationError(
        f"program '{program}'",
        expected=f"GROMACS {FIRST_YEAR} or later, with its PLUMED interface",
        got=got,
        fix=f"{fix}; or name another one with {PROGRAM_VARIABLE}",
    )
