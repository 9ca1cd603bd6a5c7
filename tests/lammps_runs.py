"""LAMMPS in the tests: always in a process of its own, since MPI can be initialised once only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from alchemi_bridge.compiling import find_compiler
from alchemi_bridge.domain.ranks import environment_of_one
from alchemi_bridge.engines import lammps_library


def missing() -> str:
    """What is not there; empty if LAMMPS and its plugin can be run."""
    why = lammps_library.missing()
    if why is not None:
        return why
    return "" if find_compiler() else "no C++ compiler"


def _needed() -> str:
    if missing() and os.environ.get("CI"):
        raise RuntimeError(f"{missing()}: these tests must run in continuous integration")
    return missing()


needs_lammps = pytest.mark.skipif(bool(_needed()), reason=missing() or "there")


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
