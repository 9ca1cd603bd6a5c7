"""Pipelines on several ranks: what arrives, and how they end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvalchemi_parts import engine

nv = engine()

from nvalchemi.dynamics import FIRE, NVE, ConvergenceHook  # noqa: E402
from nvalchemi_pipeline_parts import crystals  # noqa: E402
from nvalchemi_pipeline_ranks import PATIENCE, environment, interpreters, results, together  # noqa: E402

MODES = ("sync", "async_recv", "fully_async")

#: The sum of a model over a batch of other systems may be rounded otherwise, and relaxation and
#: dynamics let that grow; a step more or less moves atoms by 1e-3 Å and more.
SAME_PATH = 1e-9  # Å

#: Warp and torch.compile, which nvalchemi's integrators use, warn of their own future.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


def check_limits(visits: list[list[Any]], rank: int, capacity: int) -> None:
    """No message and no stage holds more than it may."""
    stays = [(entered, left) for _, entered, left, at, *_ in visits if at == rank]
    for time in {left for _, left in stays}:
        assert sum(left == time for _, left in stays) <= capacity
        assert sum(entered <= time <= left for entered, left in stays) <= capacity


def check(said: list[list[dict[str, Any]]]) -> None:
    """Every system arrives once, bit for bit, by way of all ranks."""
    n_ranks = len(said)
    for first, last in zip(said[0], said[-1], strict=True):
        assert last["came"] == first["sent"], first["case"]
        for own in said:
            assert own[said[0].index(first)]["visits"] == first["visits"]
        by_system = {(system, rank) for system, _, _, rank, *_ in first["visits"]}
        for rank in range(1, n_ranks):
            check_limits(first["visits"], rank, first["case"][1])
        assert len(first["visits"]) == len(by_system)
        assert by_system == set(product(range(first["case"][2]), range(n_ranks)))


def test_every_system_arrives_as_it_was(tmp_path: Path) -> None:
    """All modes, capacities 1 and 4, 1, 3 and 16 systems, 15 dtypes on atoms and systems."""
    cases = [[*case, {}] for case in product(MODES, (1, 4), (1, 3, 16))]
    cases += [["async_recv", 2, 5, {"synchronized": True}], ["sync", 3, 4, {"debug_mode": True}]]
    cases += [[mode, 2, 5, {"fused": k}] for mode, k in zip(MODES, (0, 1, 1), strict=True)]
    check(results(together("passage", 2, tmp_path, cases=cases)))
    debug = (tmp_path / "rank-1.txt").read_text()
    assert "[rank 1] iteration 2: [0, 1, 2] of rank 0" in debug


def test_back_pressure(tmp_path: Path) -> None:
    """The last of three stages is slow: systems wait in the second, and then in the first."""
    cases = [[mode, 2, 9, {"n_steps": [1, 1, 5]}] for mode in MODES]
    said = results(together("passage", 3, tmp_path, cases=cases))
    check(said)
    for case in said[0]:
        stays = [left - entered for _, entered, left, rank, *_ in case["visits"] if rank < 2]
        assert max(stays) > 5


def test_four_ranks_in_two_chains(tmp_path: Path) -> None:
    """Neighbouring ranks, and others; numbers say where a system entered."""
    said = results(together("chains", 4, tmp_path))
    for case, links in enumerate(({0: 1, 2: 3}, {0: 2, 1: 3}, {3: 0, 1: 2})):
        for first, last in links.items():
            expected = {str(first * 10**12 + k): 0 for k in range(3 + first)}
            found = said[last][case]["positions"]
            assert found.keys() == expected.keys()
            sent = sorted(atoms.positions.tolist() for atoms in crystals(3 + first, first))
            assert sorted(found.values()) == sent
        visits = said[0][case]["visits"]
        assert {(s // 10**12, r) for s, r, _ in visits} == {
            (first, rank) for first, last in links.items() for rank in (first, last)
        }


def test_batches_and_a_sampler(tmp_path: Path) -> None:
    """What is there at the beginning, on any rank, and what comes later, all arrive."""
    said = results(together("both", 2, tmp_path))
    assert said[0]["positions"] == []
    whole = [*crystals(2, seed=0), *crystals(5, seed=7), *crystals(2, seed=1)]
    sent = sorted(atoms.positions.tolist() for atoms in whole)
    assert sorted(said[1]["positions"]) == sent
    visits = said[0]["visits"]
    assert {system for system, *_ in visits} == {*range(7), 10**12, 10**12 + 1}
    check_limits(visits, 1, 3)
    came = [entered for _, entered, _, rank, *_ in visits if rank == 0]
    assert sorted(came)[:2] == [0, 0]
    assert max(came) > 1


def test_relaxation_and_dynamics_as_in_one_process(
    tmp_path: Path, model_file: Callable[..., Path]
) -> None:
    """Numbers are those of the same dynamics, one system after the other."""
    path = model_file("lennard-jones")
    said = results(together("relax_and_move", 2, tmp_path, model=str(path)))
    found = said[1]
    steps = {(system, rank): n for system, rank, n in found.pop("visits")}
    assert len(found) == 5
    model = nv.MetatomicModel(path)
    left = {tuple(atoms.positions.ravel()): atoms for atoms in crystals(5)}
    ends = []
    for atoms in left.values():
        batch = nv.make_batch([atoms])
        relax = FIRE(model, dt=0.1, convergence_hook=ConvergenceHook.from_fmax(1e-3))
        nv.prime(relax, batch)
        relax.run(batch, n_steps=40)
        move = NVE(model, dt=1.0)
        nv.prime(move, batch)
        move.run(batch, n_steps=15)
        ends.append((batch.positions.numpy(), batch.velocities.numpy(), relax.step_count))
    for number, (positions, velocities, _) in found.items():
        same = [end for end in ends if end[0].shape == np.shape(positions)]
        nearest = min(same, key=lambda end: np.abs(end[0] - positions).max())
        np.testing.assert_allclose(positions, nearest[0], rtol=0, atol=SAME_PATH)
        np.testing.assert_allclose(velocities, nearest[1], rtol=0, atol=SAME_PATH)
        assert steps[int(number), 0] == nearest[2]
        assert steps[int(number), 1] == 15
    assert len({steps[int(number), 0] for number in found}) > 1


@pytest.mark.parametrize(("mode", "at"), [("sync", 0), ("async_recv", 1), ("fully_async", 2)])
def test_a_rank_that_raises(mode: str, at: int, tmp_path: Path) -> None:
    said = together("failing", 3, tmp_path, how="raise", at=at, mode=mode)
    for rank, own in enumerate(said):
        assert own["kind"] == "RankFailedError"
        assert own["of_rank"] == at
        assert own["error"].startswith(f"rank {at} of the pipeline (Keeper): expected a stage that")
        assert "OSError: the disk of this rank is full" in own["error"]
        assert own["cause"] == ("OSError" if rank == at else None)


def test_full_sinks(tmp_path: Path) -> None:
    for own in together("failing", 2, tmp_path, how="full", at=1):
        assert own["kind"] == "RankFailedError"
        assert "expected room for systems 3, got all full, 3 of 3" in own["error"]


@pytest.mark.parametrize(("how", "at"), [("kill", 0), ("kill", 1), ("kill", 2), ("exit", 1)])
def test_a_rank_that_is_gone(how: str, at: int, tmp_path: Path) -> None:
    """The others end with an error."""
    said = together("failing", 3, tmp_path, how=how, at=at)
    for rank, own in enumerate(said):
        if rank == at:
            assert own == {"code": {"kill": -9, "exit": 3}[how]}
        else:
            assert own["kind"] == "RankFailedError"
            assert "all ranks to take part" in own["error"]


def test_scripts_that_differ(tmp_path: Path) -> None:
    """The same error on all ranks, and none of them waits."""
    expected = {
        "": ("", "results"),
        "n_steps": ("ConfigurationError", "n_steps of the stage of rank 0 on rank 1: expected 1,"),
        "synchronized": ("ConfigurationError", "options of the pipeline on rank 1"),
        "links": ("ConfigurationError", "next of the stage of rank 0 on rank 1: expected -1"),
        "buffer": ("ConfigurationError", "buffer_config of the stage of rank 1: expected that of"),
        "own buffer": ("ConfigurationError", "buffer of the stage of rank 1 on rank 1"),
        "missing": ("", "results"),
        "foreign": ("ConfigurationError", "stages on rank 0: expected at least the stage of"),
        "too many": ("ConfigurationError", "expected one for each of 2 ranks, 0 to 1, got stages"),
        "endless": ("ConfigurationError", "no system would ever finish"),
    }
    said = results(together("scripts", 2, tmp_path, cases=list(expected)))
    for case, one, other in zip(expected, *said, strict=True):
        kind, text = expected[case]
        assert one[0] == other[0] == kind, (case, one, other)
        assert text in one[1], case
        if kind:
            assert one == other


# --- as users start them ------------------------------------------------------------------------

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "nvalchemi_pipeline.py"


def torchrun(*options: object) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    return [*command, "--standalone", *map(str, options)]


def launched(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Ends with all its ranks, whatever happens."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("systems", "capacity", "mode"),
    [
        (5, 2, "async_recv"),
        (16, 1, "fully_async"),
        (16, 4, "sync"),
    ],
)
def test_example(systems: int, capacity: int, mode: str, tmp_path: Path) -> None:
    """Prints where every system went."""
    path = tmp_path / "journal.json"
    options = ["--systems", systems, "--capacity", capacity, "--comm-mode", mode, "--json", path]
    done = launched(torchrun(EXAMPLE, *options))
    assert done.returncode == 0, done.stderr
    assert f"{systems} of {systems} systems in the sink, torch.float64" in done.stdout
    found = json.loads(path.read_text())
    assert set(found["energies"]) == {str(k) for k in range(systems)}
    visits = found["visits"]
    went = [(visit["system"], visit["stage"], visit["to"]) for visit in visits]
    assert sorted(went) == sorted(
        went
        for k in range(systems)
        for went in ((k, "FIRE", "rank 1"), (k, "NVTLangevin", "sink 0 (HostMemory)"))
    )
    for visit in visits:
        line = rf"\n +{visit['system']} +{visit['entered']} +{visit['left']} +{visit['rank']} "
        assert re.search(line, done.stdout)


def test_example_without_torchrun() -> None:
    done = launched([sys.executable, str(EXAMPLE)])
    assert done.returncode == 1
    assert done.stderr == ("Two ranks, please: torchrun --nproc_per_node=2 nvalchemi_pipeline.py\n")


@pytest.mark.slow
def test_killed_under_torchrun(tmp_path: Path) -> None:
    """The job ends with an error, long before all systems are done."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    done = launched(torchrun(script))
    assert done.returncode != 0
    assert "exitcode  : -9" in done.stderr


KILLED = """
from nvalchemi_pipeline_parts import Keeper, crystals, sampler
from nvalchemi_pipeline_scenarios import Trouble, buffer
from alchemi_bridge.engines.nvalchemi_pipeline import DistributedPipeline, ExactMemory

common = {"buffer_config": buffer(1), "max_batch_size": 1}
first = Keeper(2, sampler=sampler(crystals(9), 1), **common)
last = Keeper(5, sinks=[ExactMemory()], hooks=[Trouble("kill")], **common)
with DistributedPipeline({0: first, 1: last}) as pipeline:
    pipeline.run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("ALCHEMI_BRIDGE_SEEDS", "12"))))
def test_hash_seeds(seed: int, tmp_path: Path) -> None:
    """Each rank is an interpreter of its own, with its own order of sets; each run within 60 s."""
    combinations = list(product((1, 3, 16), MODES, (1, 4)))
    n, mode, capacity = combinations[7 * seed % len(combinations)]  # 7: the first few differ in all
    cases = [[mode, capacity, n, {"fused": seed % 4}]]
    check(interpreters("passage", 2, tmp_path, seed, cases=cases, seed=seed))
