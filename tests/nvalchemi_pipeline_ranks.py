"""Ranks of a pipeline, as processes: started by the tests, and what they do.

Importing nvalchemi takes many seconds. So that it is done once, ranks are forked from a server that
has imported it and has done nothing else; or, on the command line, each is an interpreter of its
own: ``python nvalchemi_pipeline_ranks.py SCENARIO RANK N_RANKS FOLDER OPTIONS``.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

HERE = Path(__file__).resolve().parent

#: A rank that hangs fails its test after this; a rank needs seconds.
PATIENCE = 300.0

#: No run may take longer, once nvalchemi has been imported (which may take as long, if much else
#: runs on the machine).
HANGS = 60.0


# --- in the test --------------------------------------------------------------------------------


def together(
    scenario: str, n_ranks: int, folder: Path, timeout: float = PATIENCE, **options: Any
) -> list[dict[str, Any]]:
    """Run a scenario on some ranks; what each says, and its exit code.

    A rank says ``{"result": ...}`` or ``{"error": its text, "kind": its type}``, or nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nvalchemi_pipeline_ranks", "nvalchemi_pipeline_scenarios"])
    ranks = [
        context.Process(target=act, args=(scenario, rank, n_ranks, str(folder), options))
        for rank in range(n_ranks)
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():  # of the server, which the first one starts
            patch.setenv(name, value)
        for process in ranks:
            process.start()
    end = time.monotonic() + timeout
    for process in ranks:
        process.join(max(0.0, end - time.monotonic()))
    late = [rank for rank, process in enumerate(ranks) if process.is_alive()]
    for rank in late:
        ranks[rank].kill()
        ranks[rank].join()
    assert not late, f"ranks {late} hang\n{_said(folder)}"
    found = [_read(folder / f"rank-{rank}.json") for rank in range(n_ranks)]
    for own, process in zip(found, ranks, strict=True):
        own["code"] = process.exitcode
    return found


def results(found: list[dict[str, Any]]) -> list[Any]:
    """What each rank found; fails if one failed."""
    assert all("result" in own for own in found), found
    return [own["result"] for own in found]


def interpreters(
    scenario: str, n_ranks: int, folder: Path, hash_seed: int, **options: Any
) -> list[Any]:
    """The same with a new interpreter for each rank, each with another seed of its hashes."""
    variables = {**os.environ, **environment()}
    processes = []
    for rank in range(n_ranks):
        command = [sys.executable, __file__, scenario, str(rank), str(n_ranks), str(folder)]
        variables["PYTHONHASHSEED"] = str(n_ranks * hash_seed + rank)
        processes.append(subprocess.Popen([*command, json.dumps(options)], env=variables))
    end = time.monotonic() + PATIENCE
    try:
        for process in processes:
            process.wait(max(0.1, end - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
    found = [_read(folder / f"rank-{rank}.json") for rank in range(n_ranks)]
    said = results(found)
    assert max(own["seconds"] for own in found) < HANGS
    return said


def environment() -> dict[str, str]:
    """Where the modules are; one thread, and no GPU, which does not survive a fork."""
    paths = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    return {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _said(folder: Path) -> str:
    return "\n".join(f"{p.name}:\n{p.read_text()}" for p in sorted(folder.glob("rank-*.txt")))


# --- in a rank ----------------------------------------------------------------------------------


def act(scenario: str, rank: int, n_ranks: int, folder: str, options: dict[str, Any]) -> None:
    """Do the part of one rank, and write down what came of it."""
    from nvalchemi_pipeline_scenarios import SCENARIOS

    out = Path(folder) / f"rank-{rank}"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    begin = time.monotonic()
    scene: Callable[..., Any] = SCENARIOS[scenario]
    with open(f"{out}.txt", "w", buffering=1) as text, contextlib.redirect_stdout(text):
        os.dup2(text.fileno(), 2)
        try:
            distributed.init_process_group(
                "gloo",
                init_method=f"file://{folder}/store",
                rank=rank,
                world_size=n_ranks,
                timeout=timedelta(seconds=PATIENCE),
            )
            said: dict[str, Any] = {"result": scene(rank, n_ranks, **options)}
            distributed.destroy_process_group()
        except Exception as error:
            cause = error.__cause__
            said = {
                "error": str(error),
                "kind": type(error).__name__,
                "of_rank": getattr(error, "of_rank", None),
                "cause": None if cause is None else type(cause).__name__,
            }
    said["seconds"] = time.monotonic() - begin
    Path(f"{out}.json").write_text(json.dumps(said))
    sys.stderr.flush()
    os._exit(0 if "result" in said else 1)


if __name__ == "__main__":
    act(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5]))
