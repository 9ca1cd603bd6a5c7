"""GROMACS in the tests: the fetched one, or the one that a variable names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from mpi_runs import skip_if

from alchemi_bridge.compiling import find_compiler
from alchemi_bridge.engines import gromacs, gromacs_commands, plugins
from alchemi_bridge.engines.gromacs_files import write_gro

#: In continuous integration GROMACS must be there, unless this says why it can not be had.
REASON_VARIABLE = "ALCHEMI_BRIDGE_NO_GROMACS"

PARAMETERS = """integrator = md
dt = 0.001
nsteps = 20
verlet-buffer-tolerance = -1
nstlist = 10
rlist = 0.5
rvdw = 0.45
rcoulomb = 0.45
nstxout = 1
nstfout = 1
"""


def missing() -> str:
    """What is not there; empty if GROMACS can be run with the bridge."""
    for double in (False, True):
        why = gromacs.missing(double=double)
        if why is not None:
            return why
    if plugins.shared_python() is None:
        return "this Python has no shared library"
    return "" if find_compiler() else "no C++ compiler"


def _mark() -> pytest.MarkDecorator:
    why, told = missing(), os.environ.get(REASON_VARIABLE)
    return pytest.mark.skipif(True, reason=f"{why}; {told}") if why and told else skip_if(why)


needs_gromacs = _mark()


def deck(
    folder: Path,
    symbols: Sequence[str],
    positions: Sequence[Sequence[float]],
    *lines: str,
    velocities: Sequence[Sequence[float]] | None = None,
    box: float | np.ndarray = 3.0,
    parameters: str = PARAMETERS,
) -> None:
    """Files of a run of heavy atoms that GROMACS has no interactions for.

    Parameters
    ----------
    folder
        Where they go: in.mdp, in.gro, in.top, bridge.dat.
    symbols
        Names of the atoms and their types.
    positions, velocities
        nm, nm/ps.
    lines
        Of the setup file.
    box
        Edge of the cubic box, or its three vectors, nm.
    parameters
        Contents of in.mdp.
    """
    (folder / "in.mdp").write_text(parameters)
    kinds = list(dict.fromkeys(symbols))
    top = ["[ defaults ]", "1 2 no 1.0 1.0", "[ atomtypes ]"]
    top += [f"{kind} 0 100.0 0.0 A 0.1 0.0" for kind in kinds]
    for kind in kinds:
        top += ["[ moleculetype ]", f"{kind} 1", "[ atoms ]", f"1 {kind} 1 X {kind} 1 0.0 100.0"]
    top += ["[ system ]", "test", "[ molecules ]", *(f"{symbol} 1" for symbol in symbols)]
    (folder / "in.top").write_text("\n".join(top) + "\n")
    moving = None if velocities is None else np.asarray(velocities, dtype=float)
    write_gro(
        folder / "in.gro",
        symbols,
        np.asarray(positions, dtype=float),
        box if isinstance(box, np.ndarray) else box * np.eye(3),
        velocities=moving,
    )
    (folder / "bridge.dat").write_text("\n".join(lines) + "\n")


def run(folder: Path, *, double: bool = False, **options: object) -> gromacs_commands.Run:
    """Prepare and run what :func:`deck` wrote."""
    program = gromacs.find(double=double)
    program.grompp(
        folder,
        parameters="in.mdp",
        structure="in.gro",
        topology="in.top",
        name="run",
        extra=["-maxwarn", 1],
    )
    return program.mdrun(folder, "run", bridge="bridge.dat", **options)
