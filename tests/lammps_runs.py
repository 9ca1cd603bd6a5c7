"""LAMMPS in the tests: always in a process of its own, since MPI can be initialised once only."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from alchemi_bridge.domain.ranks import environment_of_one
from alchemi_bridge.engines import lammps_library

needs_lammps = pytest.mark.skipif(
    lammps_library.missing() is not None, reason=lammps_library.missing() or "there"
)


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
