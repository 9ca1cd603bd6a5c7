"""Who is there: what launchers say, and what MPI says of device memory."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mpi_runs import needs_mpi, run_ranks, slow

from alchemi_bridge import potentials
from alchemi_bridge.domain import aware, ranks
from alchemi_bridge.domain.leading import Lead, LedForceProvider, lead
from alchemi_bridge.domain.ranks import launched_ranks, mpi, mpiexec, share_cores, world
from alchemi_bridge.errors import ConfigurationError


@pytest.mark.parametrize(("environ", "expected"), [
    ({}, 1),
    ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
    ({"PMI_SIZE": "3"}, 3),
    ({"PMI_SIZE": "1"}, 1),
    ({"SLURM_STEP_NUM_TASKS": "16"}, 16),
    ({"SLURM_NTASKS": "16"}, 1),  # of the whole job: its script runs once
    ({"PMI_SIZE": "many"}, 1),
    ({"PMI_SIZE": ""}, 1),
    ({"PMI_SIZE": "0"}, 1),
])  # fmt: skip
def test_launchers(environ: dict[str, str], expected: int) -> None:
    assert launched_ranks(environ) == expected


def test_a_serial_run_does_not_touch_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ranks.SIZES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ranks, "mpi", lambda: pytest.fail("MPI is asked"))
    assert world("auto") is None


def test_ranks_without_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would run the whole program, and write the same files."""
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ConfigurationError, match=r"alchemi-bridge\[mpi\]"):
        world("auto")


def test_launcher_beside_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert mpiexec() is None
    for folder in (tmp_path / "bin", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "mpiexec").write_text("#!/bin/sh\n")
        (folder / "mpiexec").chmod(0o755)
        assert mpiexec() == str(folder / "mpiexec")


@pytest.mark.parametrize(("cores", "on_node", "given", "threads"), [
    (8, 2, None, 4),
    (8, 3, None, 2),
    (2, 8, None, 1),
    (64, 2, None, 6),  # no more than torch has
    (8, 2, "6", 6),
])  # fmt: skip
def test_ranks_of_a_node_share_its_cores(
    cores: int, on_node: int, given: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [6]
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: now.__setitem__(0, count))
    monkeypatch.setattr(ranks, "mpi", lambda: SimpleNamespace(COMM_TYPE_SHARED=1))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    node = SimpleNamespace(Get_size=lambda: on_node, Free=lambda: None)
    share_cores(SimpleNamespace(Split_type=lambda kind: node))
    assert now == [threads]


# --- device memory ------------------------------------------------------------------------------


class FakeComm:
    """Of this rank and others that say what they say."""

    def __init__(self, *others: aware.Awareness) -> None:
        self.others = others

    def allgather(self, mine: aware.Awareness) -> list[aware.Awareness]:
        return [mine, *self.others]


def library(monkeypatch: pytest.MonkeyPatch, **functions: object) -> None:
    mpi()  # is loaded before
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**functions))
    monkeypatch.delenv(aware.VARIABLE, raising=False)


@needs_mpi
def test_what_mpi_says_of_device_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def mpich(kind: int, flag: object) -> None:
        assert kind == 0  # CUDA, in MPICH's header
        flag._obj.value = 1  # type: ignore[attr-defined]

    for functions, supported, word in (
        ({"MPIX_Query_cuda_support": lambda: 1}, True, "MPIX_Query_cuda_support"),
        ({"MPIX_Query_cuda_support": lambda: 0}, False, "MPIX_Query_cuda_support"),
        ({"MPIX_GPU_query_support": mpich}, True, "MPIX_GPU_query_support"),
        ({}, False, "does not say"),
    ):
        library(monkeypatch, **functions)
        found = aware.cuda_aware(FakeComm())
        assert found.supported is supported
        assert word in found.reason


@needs_mpi
def test_all_ranks_must_agree_on_device_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, MPIX_Query_cuda_support=lambda: 1)
    other = aware.Awareness(False, "another MPI")
    assert aware.cuda_aware(FakeComm(other)) == other


@pytest.mark.parametrize(("text", "supported"), [("1", True), ("0", False)])
def test_the_user_knows_better(text: str, supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(aware.VARIABLE, text)
    found = aware.cuda_aware(FakeComm())
    assert found.supported is supported
    assert text in found.reason


def test_nonsense_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(aware.VARIABLE, "yes")
    with pytest.raises(ConfigurationError, match=r"auto, 0 or 1.*'yes'"):
        aware.cuda_aware(FakeComm())


@needs_mpi
def test_the_mpi_of_this_machine_is_asked() -> None:
    found = aware.cuda_aware(mpi().COMM_SELF)
    assert found.reason
    assert aware.check_against_host(mpi().COMM_SELF, torch.device("cpu"))


# --- one leads ----------------------------------------------------------------------------------


def test_only_the_first_rank_leads() -> None:
    with pytest.raises(ConfigurationError, match=r"rank 0.*rank 2"):
        lead(SimpleNamespace(Get_rank=lambda: 2))


def test_followers_read_the_model_themselves() -> None:
    """One in memory can not be sent."""
    with pytest.raises(ConfigurationError, match="path of a file"):
        LedForceProvider(potentials.stillinger_weber(), Lead(None))


FOLLOWING = """
import gc
import sys
import numpy as np
from domain_systems import crystal, start, step
from mpi4py import MPI
from alchemi_bridge.domain import dismiss, follow, lead, provider_for, world
from alchemi_bridge.domain.exchange import Exchange
from alchemi_bridge.errors import BridgeError
from alchemi_bridge.provider import MetatomicForceProvider

comm = world(MPI.COMM_WORLD)
live, make, free = [0], Exchange.__init__, Exchange.free

def counted(change, original):
    def call(*arguments, **options):
        live[0] += change
        original(*arguments, **options)
    return call

Exchange.__init__, Exchange.free = counted(1, make), counted(-1, free)
if comm.Get_rank() > 0:
    status = follow(comm)
    assert live[0] == 1
    sys.exit(status)
lead(comm)
atoms = crystal("Si", (2, 2, 2))
alone, first, second = (
    MetatomicForceProvider(sys.argv[1], tuning=False),
    provider_for(sys.argv[1], tuning=False),
    provider_for(sys.argv[1], tuning=False),
)
for provider in (alone, first, second):
    start(provider, atoms)
right = step(alone, atoms)
assert np.abs(step(first, atoms).forces - right.forces).max() < 1e-10
# what goes wrong is the leader's to say, and the others are still there
bad = atoms.copy()
bad.positions[3] = bad.positions[5]
for provider in (first, second):
    try:
        step(provider, bad)
    except BridgeError as error:
        assert "3" in str(error) and "5" in str(error)
    else:
        raise SystemExit("no error")
    assert np.abs(step(provider, atoms).forces - right.forces).max() < 1e-10
try:
    provider_for(sys.argv[1] + "-that-is-not-there")
except BridgeError as error:
    assert "that-is-not-there" in str(error)
else:
    raise SystemExit("no error")
assert np.abs(step(second, atoms).forces - right.forces).max() < 1e-10
# MPI has about two thousand communicators: those of old searches and of dropped providers come back
for number in range(10):
    start(first, atoms)
    step(first, atoms)
assert live[0] == 2
first.close()
assert live[0] == 1
del second, provider
gc.collect()  # the errors above hold on to it
assert np.abs(step(first, atoms).forces - right.forces).max() < 1e-10
assert live[0] == 1
dismiss(6)
print("led", flush=True)
sys.exit(6)
"""


@needs_mpi
@pytest.mark.parametrize("n_ranks", [slow(3), slow(1)])
def test_followers_do_what_the_leader_does(n_ranks: int, model_file) -> None:
    done = run_ranks(n_ranks, FOLLOWING, model_file("stillinger-weber"))
    assert done.returncode == 6, done.stdout
    assert "led" in done.stdout
