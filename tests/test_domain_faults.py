"""One rank fails, leaves or dies somewhere in a step: none hangs, and none gets wrong forces."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mpi_runs import needs_mpi, run_ranks, slow

pytestmark = needs_mpi

PROGRAM = Path(__file__).with_name("domain_faults.py")

#: Seconds.
LIMIT = 10.0

PHASES = ("reading the step", "advancing", "dividing", "offering", "measuring", "searching",
          "handing over", "evaluating", "sending", "sending back", "adding")  # fmt: skip


def test_errors_in_every_phase_are_everybody_s() -> None:
    done = run_ranks(3, PROGRAM)
    assert done.returncode == 0, done.stdout
    assert "all phases 8" in done.stdout


def ended(phase: str, fault: str, unlucky: int = 1) -> str:
    done = run_ranks(3, PROGRAM, phase, fault, unlucky, timeout=60.0)
    began = [float(x.split()[1]) for x in done.stdout.splitlines() if x.startswith("began")]
    assert done.returncode != 0
    assert time.time() - max(began) < LIMIT
    return done.stdout


@pytest.mark.parametrize(("phase", "fault"), [
    slow("sending", "raise"), ("sending back", "exit"), slow("evaluating", "kill"),
    slow("searching", "leave"),
])  # fmt: skip
def test_what_ends_one_ends_all(phase: str, fault: str) -> None:
    out = ended(phase, fault)
    if fault == "raise":
        assert "so it goes" in out
    if fault == "exit":
        assert "rank 1 of 3 ended while rank" in out


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("fault", ["raise", "exit", "leave", "kill"])
def test_in_every_phase(phase: str, fault: str) -> None:
    """Each kind 22 times, twice in each phase; and above 24 times an error that is caught."""
    for unlucky in (0, 2):
        ended(phase, fault, unlucky)
