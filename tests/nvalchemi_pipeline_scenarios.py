"""What ranks of a pipeline do in the tests; each function runs on all of them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import astuple
from typing import Any

from nvalchemi_pipeline_parts import Keeper, contents, crystals, digest, nv, rich_batch, sampler

from alchemi_bridge.engines.nvalchemi_pipeline import (
    BufferConfig,
    DistributedPipeline,
    ExactMemory,
)

from nvalchemi.dynamics import FIRE, NVE, ConvergenceHook, HostMemory  # isort: skip
from nvalchemi.dynamics.base import DynamicsStage, FusedStage  # isort: skip

MODES = ("sync", "async_recv", "fully_async")

#: What the pipeline itself adds.
ADDED = ("pipeline_id", "system_id")


def buffer(n_systems: int, n_atoms: int = 1000) -> BufferConfig:
    return BufferConfig(num_systems=n_systems, num_nodes=n_atoms, num_edges=0)


def _digests(batch: Any) -> dict[str, str]:
    """``{number: digest}`` of all systems that were in sinks."""
    numbers = [int(n) for n in batch.pipeline_id.flatten().tolist()]
    assert len(set(numbers)) == len(numbers)
    found = map(digest, contents(batch, skip=ADDED))
    return {str(number): own for number, own in zip(numbers, found, strict=True)}


def passage(rank: int, n_ranks: int, cases: list[list[Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Pipelines of stages that change nothing, one after the other.

    A case is ``[comm_mode, capacity of buffer and stages, number of systems, options]``. The first
    rank says what it sent, the last what came.
    """
    said = []
    for mode, capacity, n, options in cases:
        batch = rich_batch(crystals(n, seed), seed)
        sent = {str(k): digest(own) for k, own in enumerate(contents(batch))}
        sinks = [ExactMemory(max(1, n - 1)), ExactMemory(n)]
        n_steps = options.pop("n_steps", [2, 1, 3])
        fused = options.pop("fused", None)
        stages = {}
        for k in range(n_ranks):
            common = {
                "comm_mode": mode,
                "buffer_config": buffer(capacity),
                "max_batch_size": n if k == 0 else capacity,
                "device_type": "cpu",
                "sinks": sinks if k == n_ranks - 1 else None,
                "active_batch": batch if k == rank == 0 else None,
            }
            part = Keeper(n_steps[k % len(n_steps)], **({} if k == fused else common))
            stages[k] = FusedStage([(0, part)], **common) if k == fused else part
        pipeline = DistributedPipeline(stages, **options)
        pipeline.setup()
        pipeline.run()
        visits = [astuple(visit) for visit in pipeline.journal()]
        came: dict[str, str] = {}
        for sink in sinks:
            for kept in sink.batches():
                assert not set(came) & set(_digests(kept))
                came |= _digests(kept)
        said.append({"sent": sent, "came": came, "visits": visits, "case": [mode, capacity, n]})
    return said


def chains(rank: int, n_ranks: int) -> list[dict[str, Any]]:
    """Two chains of two ranks: by order, and crosswise; the first stages have samplers."""
    said = []
    for links in ({0: 1, 2: 3}, {0: 2, 1: 3}, {3: 0, 1: 2}):
        stages = {}
        for k in range(n_ranks):
            before = {follower: first for first, follower in links.items()}.get(k)
            n = 3 + k
            stages[k] = Keeper(
                1 + k,
                prior_rank=before,
                next_rank=links.get(k),
                buffer_config=buffer(2),
                max_batch_size=2,
                sampler=sampler(crystals(n, k), max_batch_size=None, max_atoms=20)
                if before is None
                else None,
                sinks=[ExactMemory()] if k not in links else None,
            )
        pipeline = DistributedPipeline(stages)
        pipeline.setup()
        pipeline.run()
        sinks = stages[rank].sinks
        positions = {}
        if sinks:
            kept = sinks[0].read()
            numbers = kept.pipeline_id.flatten().tolist()
            positions = {str(n): kept.get_data(k).positions.tolist() for k, n in enumerate(numbers)}
        visits = [(v.system, v.rank, v.to) for v in pipeline.journal()]
        said.append({"positions": positions, "visits": visits})
    return said


def both(rank: int, n_ranks: int) -> dict[str, Any]:
    """Batches and a sampler at the first stage, and a batch at the second."""
    stages = {}
    for k in range(n_ranks):
        stages[k] = Keeper(
            1 + k,
            buffer_config=buffer(2),
            max_batch_size=3,
            active_batch=nv.make_batch(crystals(2, seed=k)),
            sampler=sampler(crystals(5, seed=7), max_batch_size=2) if k == 0 else None,
            refill_frequency=2,
            sinks=[HostMemory(9)],
        )
    pipeline = DistributedPipeline(stages)
    pipeline.setup()
    pipeline.run()
    sink = stages[rank].sinks[0]
    kept = sink.read().to_data_list() if len(sink) else []
    positions = [own.positions.tolist() for own in kept]
    return {"visits": [astuple(v) for v in pipeline.journal()], "positions": positions}


def relax_and_move(rank: int, n_ranks: int, model: str) -> dict[str, Any]:
    """Relaxation on rank 0, NVE on rank 1, of crystals with several species and sizes."""
    relax = FIRE(
        nv.MetatomicModel(model),
        dt=0.1,
        convergence_hook=ConvergenceHook.from_fmax(1e-3),
        n_steps=40,
        sampler=sampler(crystals(5), max_batch_size=3) if rank == 0 else None,
        max_batch_size=3,
        buffer_config=buffer(2),
        device_type="cpu",
    )
    move = NVE(
        nv.MetatomicModel(model),
        dt=1.0,
        n_steps=15,
        sinks=[ExactMemory()],
        max_batch_size=3,
        buffer_config=buffer(2),
        device_type="cpu",
    )
    pipeline = DistributedPipeline.of(relax | move)
    pipeline.setup()
    pipeline.run()
    said: dict[str, Any] = {"visits": [(v.system, v.rank, v.steps) for v in pipeline.journal()]}
    if rank == 1:
        kept = move.sinks[0].read()
        for k, number in enumerate(kept.pipeline_id.flatten().tolist()):
            own = kept.get_data(k)
            said[str(number)] = [own.positions.tolist(), own.velocities.tolist(), own.energy.item()]
            assert own.positions.dtype == own.velocities.dtype
    return said


class Trouble:
    """A hook that makes a rank fail."""

    stage = DynamicsStage.AFTER_STEP
    frequency = 1

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, ctx: Any, stage: Any) -> None:
        if ctx.step_count < 3:
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            raise SystemExit(3)
        raise OSError("the disk of this rank is full")


def failing(rank: int, n_ranks: int, how: str, at: int, mode: str = "async_recv") -> str:
    """One rank fails in its fourth step."""
    stages = {}
    for k in range(n_ranks):
        stages[k] = Keeper(
            2,
            comm_mode=mode,
            buffer_config=buffer(1),
            max_batch_size=1,
            active_batch=None,
            sampler=sampler(crystals(8), max_batch_size=1) if k == 0 else None,
            sinks=[ExactMemory()],
            hooks=[Trouble(how)] if k == at and how != "full" else None,
        )
    if how == "full" and rank == n_ranks - 1:
        stages[rank].sinks = [ExactMemory(3)]
    begin = time.monotonic()
    pipeline = DistributedPipeline(stages)
    pipeline.setup()
    pipeline.run()
    return f"ran {time.monotonic() - begin} s"


def scripts(rank: int, n_ranks: int, cases: list[str]) -> list[list[str]]:
    """Ranks whose scripts differ, or whose stages make no chain; the errors of each."""
    said = []
    for case in cases:
        options: dict[int, dict[str, Any]] = {
            k: {"buffer_config": buffer(2), "sinks": [ExactMemory()]} for k in range(n_ranks)
        }
        options[0]["sampler"] = sampler(crystals(2))
        n_steps = 1
        numbers = list(range(n_ranks))
        pipeline_options = {}
        if case == "n_steps" and rank == 1:
            n_steps = 2
        if case == "synchronized":
            pipeline_options["synchronized"] = rank == 1
        if case == "links" and rank == 1:
            options[0]["next_rank"], options[1]["prior_rank"] = None, None
        if case == "buffer":
            options[1]["buffer_config"] = buffer(3)
        if case == "own buffer" and rank == 1:
            options[1]["buffer_config"] = buffer(3)
        if case == "missing" and rank == 0:
            numbers.remove(1)
        if case == "foreign" and rank == 0:
            numbers = [1]
        if case == "too many":
            numbers.append(n_ranks)
            options[n_ranks] = {}
        if case == "endless" and rank == 1:
            n_steps = None
        stages = {k: Keeper(n_steps, **options[k]) for k in numbers}
        try:
            pipeline = DistributedPipeline(stages, **pipeline_options)
            pipeline.setup()
            pipeline.run()
            said.append(["", f"{len(stages[rank].sinks[0])} results"])
        except Exception as error:
            said.append([type(error).__name__, str(error)])
    return said


SCENARIOS = {
    "passage": passage,
    "chains": chains,
    "both": both,
    "relax_and_move": relax_and_move,
    "failing": failing,
    "scripts": scripts,
}
