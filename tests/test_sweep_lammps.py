"""Processes of LAMMPS that serve a sweep: they end with their worker, and let models go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runs import environment
from lammps_runs import needs_lammps
from sweep_parts import planned, save, silicon, swept

from alchemi_bridge.parity import remote


@pytest.fixture
def si(model_file: Callable[..., Path]) -> Path:
    return model_file("stillinger-weber")


_EVALUATE = """
import sys, time
from pathlib import Path
from sweep_parts import planned
from alchemi_bridge.ensembles.sweep.evaluation import Evaluation
from alchemi_bridge.parity import remote
model, structures = map(Path, sys.argv[1:])
plan = planned([model], [structures], ["lammps"])
found, _ = Evaluation(plan.models[0], plan.structures[0], plan.engines[0], {}).run({}, None)
assert found[0].results, found
print(remote._workers["lammps"]._process.pid, flush=True)
time.sleep(600)
"""


@needs_lammps
def test_lammps_ends_with_a_worker_that_is_killed(si: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "si.xyz", silicon())
    variables = environment()
    variables["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    worker = subprocess.Popen(
        [sys.executable, "-c", _EVALUATE, str(si), str(file)],
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    with worker.stdout:
        child = int(worker.stdout.readline())
    assert alive(child)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@needs_lammps
def test_evaluators_of_another_process_are_let_go(si: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "si.xyz", silicon())
    plan = planned([si], [file], ["lammps"])
    for number in range(2):
        swept(plan, tmp_path / f"out{number}")
    worker = remote._workers["lammps"]
    # those of both sweeps have gone; the next question says so
    assert len(worker._released) >= 1
    numbers = list(worker._released)
    matrix = swept(plan, tmp_path / "out2")
    assert matrix.passed
    assert not set(numbers) & set(worker._released)
