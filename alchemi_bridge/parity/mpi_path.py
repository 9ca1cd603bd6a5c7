"""The path over several MPI ranks: the bridge's calculator, with the model on all of them.

In a serial run the ranks are started once, by mpiexec, and serve all cases; a run that was itself
started by mpiexec uses the ranks that it has.
"""

from __future__ import annotations

import atexit
import importlib.util
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from alchemi_bridge.domain.leading import leader
from alchemi_bridge.domain.ranks import environment_of_one, mpiexec
from alchemi_bridge.engines.ase import BridgeCalculator
from alchemi_bridge.errors import BridgeError, EvaluationError
from alchemi_bridge.parity.builtin_paths import BridgeEvaluator
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath, register
from alchemi_bridge.parity.results import PathResult

#: Ranks that a serial run starts.
RANKS = 2

#: Seconds until the ranks must have answered for the first time: torch is imported by each.
PATIENCE = 120.0

#: Environment variables that tell the first rank where to report: address, and key in hexadecimal.
ADDRESS, KEY = "ALCHEMI_BRIDGE_PARITY_ADDRESS", "ALCHEMI_BRIDGE_PARITY_KEY"


class Ranks:
    """Ranks that were started for this process, until it ends."""

    def __init__(self, n_ranks: int) -> None:
        self.n_ranks = n_ranks
        launcher = mpiexec()
        assert launcher is not None  # unavailable() has seen to it
        self._folder = tempfile.TemporaryDirectory()
        address, key = str(Path(self._folder.name) / "ranks"), secrets.token_bytes(16)
        environment = {
            **environment_of_one(),
            "OMP_NUM_THREADS": "1",
            ADDRESS: address,
            KEY: key.hex(),
        }
        with Listener(address, "AF_UNIX", authkey=key) as listener:
            # _listener._socket: the only way to a timeout, without which a launcher that fails
            # would be waited for forever
            listener._listener._socket.settimeout(PATIENCE)  # type: ignore[attr-defined]
            self._process = subprocess.Popen(
                [launcher, "-n", str(n_ranks), sys.executable, "-m", __package__ + ".mpi_worker"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            try:
                self._pipe: Connection = listener.accept()
            except OSError as error:
                raise self._failed(error) from error
        atexit.register(self.close)

    def ask(self, *request: Any) -> Any:
        """One answer of the first rank; what it raised is raised here."""
        try:
            self._pipe.send(request)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._failed(error) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _failed(self, error: BaseException) -> BridgeError:
        self._process.terminate()
        out, _ = self._process.communicate()
        said = out.decode(errors="replace").strip().splitlines()
        return EvaluationError(
            f"{self.n_ranks} ranks",
            expected="to answer",
            got=f"{type(error).__name__}; they said: {' / '.join(said[-5:]) or 'nothing'}",
            fix="see whether 'mpiexec -n 2 python -c \"from mpi4py import MPI\"' works",
        )

    def close(self) -> None:
        """Let them end."""
        self._pipe.close()
        try:
            self._process.communicate(timeout=20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._folder.cleanup()


_ranks: Ranks | None = None


def started(n_ranks: int) -> Ranks:
    """The ranks of this process."""
    global _ranks
    if _ranks is None:
        _ranks = Ranks(n_ranks)
    return _ranks


class _RemoteEvaluator(Evaluator):
    """A calculator that lives on the ranks."""

    def __init__(self, ranks: Ranks, job: Job) -> None:
        self._ranks = ranks
        self._number = ranks.ask("prepare", str(job.model_file), dict(job.options), job.expected)

    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        found: list[PathResult] = self._ranks.ask("evaluate", self._number, list(frames))
        return found

    def step(self, atoms: Atoms) -> float:
        return float(self._ranks.ask("step", self._number, atoms))


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
        return _RemoteEvaluator(started(RANKS), job)


register(MpiPath())
