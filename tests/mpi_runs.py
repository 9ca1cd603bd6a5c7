"""Runs of several ranks, started by the tests themselves."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from alchemi_bridge.domain.ranks import mpiexec

ROOT = Path(__file__).resolve().parent.parent


def missing() -> str:
    """What is not there; empty if ranks can be started."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed"
    return "" if mpiexec() else "no mpiexec"


def skip_if(missing: str) -> pytest.MarkDecorator:
    """Mark of tests that are skipped if something is missing; in CI that is an error."""
    if missing and os.environ.get("CI"):
        raise RuntimeError(f"{missing}: these tests must run in continuous integration")
    return pytest.mark.skipif(bool(missing), reason=missing or "there")


needs_mpi = skip_if(missing())


def slow(*values: object) -> Any:
    """Values for which a test is one of the long ones: each start of ranks takes seconds."""
    return pytest.param(*values, marks=pytest.mark.slow)


def run_ranks(
    n_ranks: int,
    source: str | Path,
    *arguments: object,
    timeout: float = 120.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a script, or the text of one, on several ranks; fails at the timeout.

    Standard error comes with standard output, as the launcher forwards it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = source
        if isinstance(source, str):
            path = Path(folder) / "script.py"
            path.write_text(source, encoding="utf-8")
        command = [sys.executable, str(path), *map(str, arguments)]
        return run_command(n_ranks, command, timeout=timeout, env=env)


def run_command(
    n_ranks: int,
    command: list[str],
    *,
    timeout: float = 120.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command on several ranks."""
    launcher = mpiexec()
    assert launcher is not None
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        # Open MPI: as root, and with more ranks than cores
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        **(env or {}),
    }
    with subprocess.Popen(
        [launcher, "-n", str(n_ranks), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=cwd,
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            raise AssertionError(f"{n_ranks} ranks hang after {timeout:g} s:\n{out}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, "")


def require_success(run: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """Fail with what the run printed if it did not end with status 0."""
    assert run.returncode == 0, f"ended with status {run.returncode}:\n{run.stdout}"
    return run
