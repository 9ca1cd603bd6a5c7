"""Interleaved timing of all paths on one workload."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch

from alchemi_bridge.bench.paths import (
    ModelPath,
    ProviderPath,
    TimedPath,
    bridge_ase,
    synchronize,
)
from alchemi_bridge.bench.peers import Peers
from alchemi_bridge.bench.workloads import Workload, moving
from alchemi_bridge.errors import NonFiniteResultError
from alchemi_bridge.stages import STAGES, collect

#: Steps before anything counts: TorchScript compiles in its first calls, and the bridge tries its
#: ways of running a model, one after the other.
LEAST_WARM_UP = 8
MOST_WARM_UP = 80

#: How far forces of two paths may be apart before they are not the same computation, relative to
#: the largest force, by the model's precision.
AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-8}

#: Paths take turns of so many steps, after one that does not count: each runs as in a run of its
#: own, with its data in the caches.
TURN = 5

#: Steps that the median of the stages is taken of.
STAGE_STEPS = 10
#: The same for searches, and for lists that are handed over.
SEARCHES = 3


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes
    ----------
    device
        Where the model runs.
    threads
        torch threads, ``None`` for what is set.
    seconds
        Time for the measurement of one size, besides warm-up.
    least_steps, most_steps
        Bounds of the number of steps of each path.
    """

    device: torch.device
    threads: int | None = None
    seconds: float = 4.0
    least_steps: int = 15
    most_steps: int = 200


@dataclass
class Timing:
    """Times of one path, in milliseconds per step.

    Attributes
    ----------
    median, mean, p10, p90
        Wall time.
    cpu
        Median of the process' CPU time.
    """

    median: float
    mean: float
    p10: float
    p90: float
    cpu: float

    @classmethod
    def of(cls, seconds: Sequence[tuple[float, float]]) -> Timing:
        """From wall and CPU seconds of every step."""
        wall = np.array([w for w, _ in seconds]) * 1e3
        p10, p90 = np.percentile(wall, [10.0, 90.0])
        cpu = statistics.median(c for _, c in seconds) * 1e3
        return cls(float(np.median(wall)), float(wall.mean()), float(p10), float(p90), cpu)


@dataclass
class BenchRow:
    """One model with one number of atoms.

    Attributes
    ----------
    ms_per_step
        Median wall time of a step through the provider, as an engine pays it: energy, forces and
        virial, from positions on the device to sums in the engine's buffers.
    ratio_to_metatomic_ase
        Time of metatomic-ase over that; ``None`` where it is not installed. Larger is better.
    ase_ms_per_step, ase_ratio_to_metatomic_ase
        The same through the bridge's own ASE calculator, calculator against calculator.
    overhead_over_model
        What the step costs over the model's forward and backward, as a share of these.
    bridge_ms
        The same in milliseconds.
    stages
        Median milliseconds of each stage of a step; ``search`` of a pair search by the bridge,
        ``decode`` of a half list that an engine hands over.
    neighbors
        Rows of the model's lists, for each atom.
    searches, steps
        How many of the steps made a pair search.
    largest_force_difference
        Of all paths, eV/Å, relative to the largest force.
    """

    model: str
    atoms: int
    threads: int
    device: str
    dtype: str
    ms_per_step: float
    ratio_to_metatomic_ase: float | None
    overhead_over_model: float
    bridge_ms: float
    ase_ms_per_step: float
    ase_ratio_to_metatomic_ase: float | None
    ratio_to_metatomic_torchsim: float | None
    mode: str
    searches: int
    steps: int
    largest_force_difference: float
    neighbors: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    paths: dict[str, Timing] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def measure(
    workload: Workload,
    sizes: Sequence[int],
    options: Options,
    peers: Peers,
    progress: Callable[[str], None] = lambda text: None,
) -> Iterator[BenchRow]:
    """Time all paths of a workload, one size after the other.

    Raises
    ------
    NonFiniteResultError
        If the paths do not agree: then their times mean nothing.
    """
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        model = workload.export(Path(folder))
        try:
            if options.threads is not None:
                torch.set_num_threads(options.threads)
            for size in sizes:
                progress(f"{workload.name}, {size} atoms")
                yield measure_structure(
                    workload.name, model, workload.structure(size), options, peers
                )
        finally:
            torch.set_num_threads(before)


def measure_structure(
    name: str, model: Path, atoms: ase.Atoms, options: Options, peers: Peers
) -> BenchRow:
    """Time all paths for one structure; ``peers`` with the same device and threads."""
    device = options.device
    engine = ProviderPath(atoms, model, device)
    paths: list[TimedPath] = [engine, bridge_ase(atoms, model, device)]
    paths += peers.paths(atoms, model)
    motion = moving(atoms)
    alone = ModelPath(atoms, engine.provider)
    _warm_up([*paths, alone], motion)
    steps = _steps([*paths, alone], motion, options)
    difference = _require_agreement(paths, next(motion), engine.provider.loaded.dtype)
    searches = engine.provider.searches
    seconds: dict[str, list[tuple[float, float]]] = {path.name: [] for path in [*paths, alone]}
    for _ in range(max(1, round(steps / TURN))):
        turn = list(islice(motion, 1 + TURN))
        for path in [*paths, alone]:
            path.step(turn[0])
            seconds[path.name] += [path.step(positions) for positions in turn[1:]]
    steps = len(seconds["bridge"])
    timings = {path: Timing.of(found) for path, found in seconds.items()}
    searches = engine.provider.searches - searches
    row = _row(name, atoms, engine, timings, searches, steps, difference)
    row.neighbors, row.stages = alone.neighbors, _stages(engine, motion)
    return row


def _warm_up(paths: Sequence[TimedPath], motion: Iterator[np.ndarray]) -> None:
    for count, positions in enumerate(islice(motion, MOST_WARM_UP)):
        cold = [path for path in paths if count < LEAST_WARM_UP or not path.ready]
        if not cold:
            return
        for path in cold:
            path.step(positions)


def _steps(paths: Sequence[TimedPath], motion: Iterator[np.ndarray], options: Options) -> int:
    start = time.perf_counter()
    for positions in islice(motion, 2):
        for path in paths:
            path.step(positions)
    each = (time.perf_counter() - start) / 2.0
    return int(np.clip(options.seconds / each, options.least_steps, options.most_steps))


def _require_agreement(
    paths: Sequence[TimedPath], positions: np.ndarray, dtype: torch.dtype
) -> float:
    found = []
    for path in paths:
        path.step(positions)
        found.append(path.forces().astype(np.float64))
    scale = max(float(np.abs(found[0]).max()), 1e-12)
    difference = max(float(np.abs(other - found[0]).max()) for other in found) / scale
    if not difference <= AGREEMENT[dtype]:
        names = ", ".join(path.name for path in paths)
        raise NonFiniteResultError(
            f"forces of {names}",
            expected=f"the same within {AGREEMENT[dtype]:g} of the largest force",
            got=f"a difference of {difference:.3g}",
            fix="find out which is wrong (alchemi-bridge parity); times of different results mean "
            "nothing",
        )
    return difference


def _stages(engine: ProviderPath, motion: Iterator[np.ndarray]) -> dict[str, float]:
    """Medians over some steps of their own, and over some pair searches and decodings."""
    totals: dict[str, list[float]] = {}

    def take(count: int, prepare: Callable[[np.ndarray], None] = lambda positions: None) -> None:
        for positions in islice(motion, count):
            with collect(lambda: synchronize(engine.device)) as times:
                prepare(positions)
                engine.step(positions)
            for stage, seconds in times.items():
                totals.setdefault(stage, []).append(sum(seconds))

    take(STAGE_STEPS)
    steps = {stage: totals.pop(stage) for stage in tuple(totals)}
    take(SEARCHES, lambda positions: engine.search())
    take(SEARCHES, engine.hand_over)
    totals = {**totals, **steps, "search": totals["search"]}
    return {stage: 1e3 * statistics.median(totals[stage]) for stage in STAGES if totals.get(stage)}


def _row(
    name: str,
    atoms: ase.Atoms,
    engine: ProviderPath,
    timings: dict[str, Timing],
    searches: int,
    steps: int,
    difference: float,
) -> BenchRow:
    mine, through_ase = timings["bridge"].median, timings["bridge-ase"].median
    model = timings["model"].median

    def ratio(peer: str, time: float) -> float | None:
        return timings[peer].median / time if peer in timings else None

    return BenchRow(
        model=name,
        atoms=len(atoms),
        threads=torch.get_num_threads(),
        device=_device_name(engine.device),
        dtype=str(engine.provider.loaded.dtype).removeprefix("torch."),
        ms_per_step=mine,
        ratio_to_metatomic_ase=ratio("metatomic-ase", mine),
        overhead_over_model=mine / model - 1.0,
        bridge_ms=mine - model,
        ase_ms_per_step=through_ase,
        ase_ratio_to_metatomic_ase=ratio("metatomic-ase", through_ase),
        ratio_to_metatomic_torchsim=ratio("metatomic-torchsim", mine),
        mode=str(engine.provider.mode),
        searches=searches,
        steps=steps,
        largest_force_difference=difference,
        paths=timings,
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
