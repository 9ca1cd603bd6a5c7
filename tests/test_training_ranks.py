"""Several ranks: restarts, failures, how long they talk; and the variables of torchrun."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import training_parts
from torch.nn.parallel import DistributedDataParallel
from training_parts import launch

from alchemi_bridge.errors import ConfigurationError, RankFailedError
from alchemi_bridge.training import checkpoint, joined
from alchemi_bridge.training.output import OutputFolder
from alchemi_bridge.training.timing import rank_times

#: DistributedDataParallel divides gradients into other buckets after its first step, so that the
#: first step after a restart may sum them in another order. Relative to the largest weight, after
#: six steps; what is seen is 0 with Adam and 6e-16 with the filter.
OTHER_ORDER = 1e-12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training_parts.write_data(tmp_path / "data")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", None), ("LOCAL_RANK", "one"), ("WORLD_SIZE", "two")]
)
def test_variables_of_torchrun(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    for key, number in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, number)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"environment variable {name}"), joined("cpu"):
        pass


def _failing(rank: int, store: str, kind: str) -> None:
    """One of two ranks fails; the other notices when it wants to talk."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=store, WORLD_SIZE="2", RANK=str(rank),
        LOCAL_RANK=str(rank),
    )  # fmt: skip
    with joined("cpu") as ranks:
        ranks.wait()
        if rank == 1:
            if kind == "killed":
                os._exit(9)
            raise ConfigurationError("data", expected="some", got="none", fix="look")
        ranks.sum(torch.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["said", "killed"])
def test_a_rank_that_fails_is_not_a_bug_of_the_others(kind: str) -> None:
    """Where it has said why, the others are quiet; where not, they say that one has gone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()

    processes = [context.Process(target=_report, args=(queue, k, port, kind)) for k in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    found = {}
    while not queue.empty():
        rank, error = queue.get()
        found[rank] = error
    if kind == "said":
        assert found == {0: "SystemExit 2", 1: "ConfigurationError"}
    else:
        assert found == {0: RankFailedError.__name__}


def _report(queue: object, rank: int, port: str, kind: str) -> None:
    try:
        _failing(rank, port, kind)
    except SystemExit as stop:
        queue.put((rank, f"SystemExit {stop.code}"))  # type: ignore[attr-defined]
    except Exception as error:
        queue.put((rank, type(error).__name__))  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["Adam", "LKF"])
def test_restart_on_three_ranks(folder: Path, optimiser: str) -> None:
    path = training_parts.write_input(
        folder, training__opt_type=optimiser, loss={}, training__training_data__batch_size=1
    )
    document = json.loads(launch(3, path, folder / "whole", "--json").stdout)
    assert document["ranks"] == 3
    # 12 evaluations and more: torch measures the first ten
    assert document["times_ms"]["communication"] > 0.0
    start = folder / "whole" / "model.ckpt-6.pt"
    launch(3, path, folder / "again", "--restart", start)
    whole, again = (
        checkpoint.load(folder / name / "model.ckpt-12.pt").model for name in ("whole", "again")
    )
    for name, tensor in whole.items():
        limit = OTHER_ORDER * float(tensor.abs().max())
        assert float((again[name] - tensor).abs().max()) <= limit, name


@pytest.mark.slow
def test_an_error_of_the_first_rank_is_said_once(folder: Path) -> None:
    """Only the first rank holds the lock; the other waits for it in a sum."""
    path, out = training_parts.write_input(folder), folder / "out"
    out.mkdir()
    with OutputFolder(out, "model.ckpt", "lcurve.csv").held():
        said = launch(2, path, out, status=1).stderr
    assert said.count("error: ") == 1
    assert "another one that is running" in said
    assert "bug" not in said


def test_times_of_a_rank(tmp_path: Path) -> None:
    """A group of one rank: torch's statistics are there, in milliseconds."""
    assert rank_times(torch.nn.Linear(2, 1)) == {}
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        module = DistributedDataParallel(torch.nn.Linear(2, 1))
        for _ in range(12):
            module(torch.ones(2, 2)).sum().backward()
        times = rank_times(module)
    finally:
        dist.destroy_process_group()
    assert times.keys() == {"forward", "backward", "communication", "overlap"}
    assert 0.0 < times["communication"] < 1e3
