"""The template for Slurm, with stand-ins that print what srun would be called with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "deepmd" / "train.slurm"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with the stand-ins on the path."""
    stand_ins = {"srun": 'echo "$OMP_NUM_THREADS" "$@"', "scontrol": "printf 'node3\\nnode4\\n'"}
    (tmp_path / "bin").mkdir()
    for name, line in stand_ins.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{line}\n")
        path.chmod(0o755)
    return tmp_path


def submit(job: Path, checkpoint: str = "model.ckpt") -> list[str]:
    """What ``srun`` is called with, for an input whose checkpoints have this name."""
    (job / "input.json").write_text(json.dumps({"training": {"save_ckpt": checkpoint}}))
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, str(SCRIPT)], cwd=job, capture_output=True, text=True, check=True, timeout=60,
        env={
            **os.environ, "PATH": f"{job / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node[3-4]", "SLURM_JOB_NUM_NODES": "2",
            "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32", "INPUT": "input.json",
        },
    )  # fmt: skip
    return done.stdout.split()


def test_a_job_begins_and_goes_on(job: Path) -> None:
    threads, *words = submit(job)
    assert threads == "8"
    assert words[:2] == ["--cpus-per-task=32", "torchrun"]
    assert {"--nnodes=2", "--nproc_per_node=4", "--rdzv_endpoint=node3:29500"} <= set(words)
    assert words[-3:] == ["--output", "training", "--force"]
    (job / "training" / "model.ckpt-100.pt").touch()
    assert submit(job)[-2:] == ["--restart", "training/model.ckpt"]


def test_checkpoints_of_any_name_are_found_or_left_alone(job: Path) -> None:
    """``--force`` removes files: never where there is a checkpoint that it could be about."""
    (job / "training").mkdir()
    (job / "training" / "best-100.pt").touch()
    assert submit(job, "best")[-2:] == ["--restart", "training/best"]
    assert submit(job, "other")[-2:] == ["--output", "training"]
