"""A rank that fails, leaves or dies ends all ranks in seconds, with its message."""

from __future__ import annotations

import time

import pytest
from mpi_runs import needs_mpi, run_ranks, slow

pytestmark = needs_mpi

#: Seconds from the failure to the end of the launcher.
LIMIT = 10.0

PRELUDE = """
import os, signal, sys, threading, time
import numpy as np
from mpi4py import MPI
from alchemi_bridge.domain import abort
from alchemi_bridge.domain.abort import agree, collective, waiting
from alchemi_bridge.domain.ranks import world
from alchemi_bridge.errors import CellError, RankFailedError

def cell_error():
    return CellError("box", expected="a box", got="none", fix="draw one")

comm = world()
rank = comm.Get_rank()
comm.Barrier()
sys.stdout.write(f"\\nbegan {time.time()}\\n")
sys.stdout.flush()
"""

WAITS = {
    "barrier": "comm.Barrier()",
    "allreduce": "comm.Allreduce(np.zeros(1), np.zeros(1))",
    "receive": "comm.recv(source=1)",
    "agreement": "agree(comm, None)",
}

FAULTS = {
    "bridge error": ("raise cell_error()", "box: expected a box"),
    "error": ("raise ValueError('so it goes')", "so it goes"),
    "exit": ("sys.exit(3)", "rank 1 of 3 ended while rank"),
    "exit without a fault": ("sys.exit(0)", "rank 1 of 3 ended while rank"),
    "hard exit": ("os._exit(4)", ""),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", ""),
    "interrupt": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", "KeyboardInterrupt"),
    "thread": (
        "threading.Thread(target=lambda: 1 / 0).start(); time.sleep(60)",
        "ZeroDivisionError",
    ),
}


def seconds_after(out: str, end: float) -> float:
    began = [float(line.split()[1]) for line in out.splitlines() if line.startswith("began")]
    return end - max(began)


@pytest.mark.parametrize("fault", ["bridge error", "exit", "kill", "thread"])
def test_a_rank_that_fails_ends_all(fault: str) -> None:
    what, message = FAULTS[fault]
    script = (
        PRELUDE
        + f"""
if rank == 1:
    time.sleep(0.3)
    {what}
with waiting(comm):
    {WAITS["allreduce"]}
"""
    )
    done = run_ranks(3, script, timeout=30.0)
    taken = seconds_after(done.stdout, time.time())
    assert done.returncode != 0
    assert message in done.stdout
    assert taken < LIMIT


@pytest.mark.parametrize("wait", ["agreement", *map(slow, ("barrier", "allreduce", "receive"))])
def test_wherever_the_others_are(wait: str) -> None:
    script = (
        PRELUDE
        + f"""
if rank == 1:
    time.sleep(0.3)
    sys.exit(0)
with waiting(comm):
    {WAITS[wait]}
"""
    )
    done = run_ranks(3, script, timeout=30.0)
    assert done.returncode != 0
    assert "rank 1 of 3 ended while rank" in done.stdout
    assert seconds_after(done.stdout, time.time()) < LIMIT


def test_errors_that_all_raise_can_be_caught() -> None:
    """A script goes on after errors of one rank; the last one is not caught."""
    script = (
        PRELUDE
        + """
for number in range(3):
    try:
        with collective(comm):
            if rank == number:
                raise cell_error()
    except CellError as error:
        assert (error.of_rank is None) == (rank == number)
        assert str(error).startswith("box" if rank == number else f"rank {number}: box")
    else:
        raise SystemExit("no error")
try:
    agree(comm, ValueError("so it goes") if rank > 0 else None)
except (RankFailedError, ValueError) as error:
    assert isinstance(error, RankFailedError) == (rank == 0)
    assert "so it goes" in str(error)
assert comm.allreduce(1) == 3
with collective(comm):
    if rank == 2:
        raise cell_error()
"""
    )
    done = run_ranks(3, script, timeout=30.0)
    assert done.returncode != 0
    # once, by the rank whose error it is
    assert done.stdout.count("CellError: ") == 1
    assert "rank 2 of 3 ends all ranks" in done.stdout


@pytest.mark.parametrize("status", [2, slow(0)])
def test_ranks_that_end_together(status: int) -> None:
    """No matter that one takes longer than the patience of ranks that wait in vain."""
    script = (
        PRELUDE
        + f"""
if rank == 0:
    time.sleep(abort.PATIENCE + 1.0)
sys.stdout.write(f"\\ndone {{time.time()}}\\n")
sys.exit({status})
"""
    )
    done = run_ranks(2, script, timeout=30.0)
    assert done.returncode == status
    ends = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("done")]
    assert len(ends) == 2
    assert time.time() - max(ends) < 3.0
    assert "ends all ranks" not in done.stdout


def test_ranks_that_are_not_waited_for_may_end() -> None:
    """Two ranks work by themselves, and one of them takes its time."""
    script = (
        PRELUDE
        + """
half = world(comm.Split(rank // 2))
if rank == 2:
    sys.exit(0)
if rank == 1:
    time.sleep(abort.PATIENCE + 1.5)
with waiting(half):
    half.Barrier()
"""
    )
    done = run_ranks(3, script, timeout=30.0)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("wait", WAITS)
def test_again_and_again(fault: str, wait: str) -> None:
    what, message = FAULTS[fault]
    for number in range(5):
        script = (
            PRELUDE
            + f"""
if rank == 1:
    time.sleep({0.1 * number})
    {what}
with waiting(comm):
    {WAITS[wait]}
"""
        )
        done = run_ranks(3, script, timeout=30.0)
        assert done.returncode != 0
        assert message in done.stdout
        assert seconds_after(done.stdout, time.time()) < LIMIT
