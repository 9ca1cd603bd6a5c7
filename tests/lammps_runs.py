"""LAMMPS in the tests: always in a process of its own, since MPI can be initialised once only."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from mpi_runs import skip_if

from alchemi_bridge.compiling import find_compiler
from alchemi_bridge.domain.ranks import environment_of_one
from alchemi_bridge.engines import lammps_library


def missing() -> str:
    """What is not there; empty if LAMMPS and its plugin can be run."""
    why = lammps_library.missing()
    if why is not None:
        return why
    return "" if find_compiler() else "no C++ compiler"


needs_lammps = skip_if(missing())


def run_script(source: str | Path, *arguments: object, timeout: float = 300.0) -> str:
    """Run a script, or the text of one, that must not fail; what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        path = source
        if isinstance(source, str):
            path = Path(folder) / "script.py"
            path.write_text(source, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(path), *map(str, arguments)],
            cwd=folder,
            env=environment_of_one(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
