"""The batch template for Slurm, with a false Slurm whose nodes are all this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mpi_runs import ROOT
from ray_runs import needs_ray

SCRIPT = ROOT / "examples" / "slurm" / "ray_sweep.sbatch"

#: Runs the command on this machine, whatever nodes are asked for.
SRUN = """#!/usr/bin/env bash
echo "$@" >> "$FAKE_SLURM_LOG"
while [[ "${1:-}" == --* ]]; do shift; done
exec "$@"
"""

SCONTROL = """#!/usr/bin/env bash
printf 'node1\\nnode2\\n'
"""

#: What runs on Ray: tasks on both nodes.
PROGRAM = """
import sys
import ray
from alchemi_bridge.ensembles import SchedulerHints
from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor

def where():
    return ray.get_runtime_context().get_node_id()

address = sys.argv[sys.argv.index("--ray-address") + 1]
with RayExecutor(address) as executor:
    spread = SchedulerHints(num_cpus=1, custom={"ray": {"scheduling_strategy": "SPREAD"}})
    tasks = [executor.submit(where, [], name="where", hints=spread)[0] for _ in range(8)]
    print("nodes", len({executor.result(task) for task in tasks}), sys.argv[1], flush=True)
sys.exit(7)
"""


def test_it_is_bash_and_stops_no_ray_of_others():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    commands = [
        line for line in SCRIPT.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    assert not any(word in line for line in commands for word in ("ray stop", "pkill", "killall"))


def test_it_wants_a_command():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of a job on two nodes."""
    for name, source in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(source, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    # sockets have short paths only
    temp = tempfile.mkdtemp(prefix="ab-ray-")
    yield {
        **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_"))},
        "PATH": os.pathsep.join(
            [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "FAKE_SLURM_LOG": str(tmp_path / "srun.log"),
        # another port for each of the tests that run side by side
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
        "RAY_TEMP": temp,
        "RAY_PATIENCE": "120",
    }
    shutil.rmtree(temp, ignore_errors=True)


@needs_ray
@pytest.mark.slow
def test_a_job_on_two_nodes(slurm, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        ["bash", SCRIPT, "python", program, "an argument"],
        env=slurm,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 7, done.stdout[-4000:]
    assert "ray_sweep: 2 nodes, 2 CPU" in done.stdout
    assert "nodes 2 an argument" in done.stdout
    assert not Path(slurm["RAY_TEMP"]).exists()
    port = 20000 + 4 * (int(slurm["SLURM_JOB_ID"]) % 3000)
    calls = Path(slurm["FAKE_SLURM_LOG"]).read_text(encoding="utf-8").splitlines()
    assert any("--nodelist=node1 ray start --head" in c and f"--port={port}" in c for c in calls)
    assert any("--exclude=node1 ray start --address=" in c for c in calls)
    # nothing of it is left
    assert not _processes(slurm["RAY_TEMP"])


def _processes(word: str) -> list[str]:
    """Command lines of processes that name something."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if word in line:
            found.append(line)
    return found
