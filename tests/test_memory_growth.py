"""Long simulations with pair counts that go up and down take no more memory in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("memory_run.py")
ROOT = PROGRAM.parent.parent

#: After the first thousand steps, in which TorchScript compiles and the heap finds its size.
MOST_GROWTH = 1 << 20

#: How much the largest number of pairs is to be above the smallest.
LEAST_BREATH = 1.1

LIMIT_SECONDS = 240


def simulated(
    model: Path, mode: str, edge: int, steps: int, leak: int = 0, keep: str = "0"
) -> dict[str, Any]:
    """What a simulation of so many steps says of its memory.

    Without ``keep``: a heap that keeps free memory hides a leak for as long as that lasts.
    """
    numbers = [str(number) for number in (edge, steps)]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(model), mode, *numbers, "--leak", str(leak)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "ALCHEMI_BRIDGE_KEEP_MEMORY": keep,
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def require_steady(found: dict[str, Any], steps: int) -> None:
    fewest, most = found["pairs"]
    assert most > LEAST_BREATH * fewest
    assert steps / 100 < found["searches"] < steps / 10
    assert found["largest"] - found["settled"] <= MOST_GROWTH
    assert found["tensors_last"] == found["tensors_settled"]


@pytest.fixture
def lennard_jones(model_file: Callable[..., Path]) -> Callable[[str], Path]:
    """Model whose lists are handed over cut, or whole."""
    return lambda mode: model_file("lennard-jones", cutoff=5.0, strict=mode == "cut")


@pytest.mark.parametrize("mode", ["cut", pytest.param("whole", marks=pytest.mark.slow)])
def test_memory_stays(lennard_jones: Callable[[str], Path], mode: str) -> None:
    require_steady(simulated(lennard_jones(mode), mode, edge=2, steps=2000), 2000)


@pytest.mark.slow
def test_a_leak_is_seen(lennard_jones: Callable[[str], Path]) -> None:
    """The control: so much per step that no free memory can hide it, in as many tensors."""
    found = simulated(lennard_jones("cut"), "cut", edge=2, steps=1600, leak=32768)
    assert found["largest"] - found["settled"] > MOST_GROWTH
    assert found["tensors_last"] - found["tensors_settled"] == 600


@pytest.mark.slow
@pytest.mark.parametrize(("edge", "keep"), [(2, "0"), (3, "1")])
@pytest.mark.parametrize("mode", ["cut", "whole"])
def test_memory_stays_for_long(
    lennard_jones: Callable[[str], Path], mode: str, edge: int, keep: str
) -> None:
    found = simulated(lennard_jones(mode), mode, edge, steps=10_000, keep=keep)
    require_steady(found, 10_000)
