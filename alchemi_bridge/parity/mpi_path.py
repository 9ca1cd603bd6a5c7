"""The path over several MPI ranks: the bridge's calculator, with the model on all of them.

In a serial run the ranks are started once, by mpiexec, and serve all cases; a run that was itself
started by mpiexec uses the ranks that it has.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np

from alchemi_bridge.domain.leading import leader
from alchemi_bridge.domain.ranks import mpiexec
from alchemi_bridge.engines.ase import BridgeCalculator
from alchemi_bridge.parity.builtin_paths import BridgeEvaluator
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath, register
from alchemi_bridge.parity.remote import RemoteEvaluator, Worker, worker

#: Ranks that a serial run starts.
RANKS = 2


def started(n_ranks: int) -> Worker:
    """The ranks of this process: started once, they serve all cases."""
    launcher = mpiexec()
    assert launcher is not None  # unavailable() has seen to it
    program = [sys.executable, "-m", f"{__package__}.mpi_worker"]
    return worker(
        "ranks",
        lambda: Worker(
            [launcher, "-n", str(n_ranks), *program],
            name=f"{n_ranks} ranks",
            fix="see whether 'mpiexec -n 2 python -c \"from mpi4py import MPI\"' works",
        ),
    )


def calculator(model_file: str, options: dict[str, Any], expected: frozenset[str]) -> Evaluator:
    """The evaluator that runs on all ranks, called by the one that leads."""
    made = BridgeCalculator(model_file, device="cpu", comm="auto", **options)
    return BridgeEvaluator(made, expected)


class MpiPath(ParityPath):
    """The bridge's calculator with the atoms divided over MPI ranks, on the CPU."""

    name = "bridge-mpi"

    @property
    def description(self) -> str:  # type: ignore[override]
        """With the number of ranks."""
        group = leader()
        count = RANKS if group is None else group.comm.Get_size()
        return f"BridgeCalculator with the atoms divided over {count} MPI ranks, on the CPU"

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("mpi4py") is None:
            return 'mpi4py is not installed (pip install "alchemi-bridge[mpi]")'
        return None if leader() is not None or mpiexec() else "there is no mpiexec"

    def refuses(self, job: Job) -> str | None:
        if not np.isfinite(job.loaded.interaction_range):
            return "the model's interaction range is infinite"
        if job.options.get("non_conservative") in (True, "stress"):
            return "a non-conservative stress can not be put together from the ranks' parts"
        supported = list(job.loaded.capabilities.supported_devices)
        return None if "cpu" in supported else "the model does not support cpu"

    def prepare(self, job: Job) -> Evaluator:
        if leader() is not None:
            return calculator(str(job.model_file), dict(job.options), job.expected)
        return RemoteEvaluator(started(RANKS), str(job.model_file), dict(job.options), job.expected)


register(MpiPath())
