"""The programs of integration/nvalchemi, with fewer systems than they have by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alchemi_bridge.engines.nvalchemi_version import missing

FOLDER = Path(__file__).parents[1] / "integration" / "nvalchemi"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


def _run(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_systems_arrive_and_end_where_they_end_alone(n_ranks: int, tmp_path: Path) -> None:
    output = tmp_path / "pipeline.json"
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_ranks}")
    _run(*launcher, str(FOLDER / "pipeline.py"), "--systems", "1", "5", "--json", str(output))
    found = json.loads(output.read_text())
    assert [row["arrived"] for row in found] == [n_ranks // 2 * n for n in (1, 5) for _ in range(6)]
    assert all(row["good"] for row in found)


def test_many_relaxations(tmp_path: Path) -> None:
    output = tmp_path / "relax.json"
    _run(str(FOLDER / "relax_many.py"), "--systems", "6", "--json", str(output))
    assert json.loads(output.read_text())["systems"] == 6  # it ends with an error if minima differ
