"""Evaluators that live in another process: one that may bring MPI up, or crash, without this one.

The other process is started by :class:`Worker`; its program calls :func:`serve`.
"""

from __future__ import annotations

import atexit
import itertools
import os
import secrets
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from ase import Atoms

from alchemi_bridge.domain.ranks import environment_of_one
from alchemi_bridge.errors import BridgeError, EvaluationError
from alchemi_bridge.parity.paths import Evaluator
from alchemi_bridge.parity.results import PathResult

#: Seconds until a process must have answered for the first time: torch is imported by each.
PATIENCE = 120.0

#: Environment variables that tell it where to report: address, and key in hexadecimal.
ADDRESS, KEY = "ALCHEMI_BRIDGE_PARITY_ADDRESS", "ALCHEMI_BRIDGE_PARITY_KEY"


class Worker:
    """A process that was started for this one, until either ends.

    Parameters
    ----------
    command
        What is run.
    name
        How errors call it.
    fix
        What the user can do if it does not answer.
    environment
        Variables to set; those of a launcher that started this process are left out.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        fix: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name, self._fix = name, fix
        self._folder = tempfile.TemporaryDirectory()
        self.alive = True
        #: Numbers of evaluators that nobody holds any more.
        self._released: list[int] = []
        address, key = str(Path(self._folder.name) / "worker"), secrets.token_bytes(16)
        variables = {
            **environment_of_one(),
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
            ADDRESS: address,
            KEY: key.hex(),
        }
        # a file and no pipe: nobody reads while it works, and a pipe that is full would stop it
        self._said = Path(self._folder.name) / "said"
        with (
            Listener(address, "AF_UNIX", authkey=key) as listener,
            self._said.open("wb") as said,
        ):
            # _listener._socket: the only way to a timeout, without which a program that fails
            # would be waited for forever
            listener._listener._socket.settimeout(PATIENCE)  # type: ignore[attr-defined]
            self._process = subprocess.Popen(
                list(command),
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            try:
                self._pipe: Connection = listener.accept()
            except OSError as error:
                raise self._failed(error) from error
        atexit.register(self.close)

    def ask(self, *request: Any) -> Any:
        """One answer; what was raised there is raised here.

        Raises
        ------
        EvaluationError
            If the process has ended.
        """
        while self._released:
            self._exchange("release", self._released.pop(), None)
        answer = self._exchange(*request)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def release(self, number: int) -> None:
        """Let an evaluator go, before the next question: this may come in the midst of one."""
        self._released.append(number)

    def _exchange(self, *request: Any) -> Any:
        try:
            self._pipe.send(request)
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> BridgeError:
        self.alive = False
        self._process.terminate()
        try:
            code = self._process.wait(timeout=20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        ended = f"signal {-code}" if code < 0 else f"exit status {code}"
        said = self._said.read_text(errors="replace").strip() if self._said.exists() else ""
        last = " / ".join(said.splitlines()[-5:]) or "nothing"
        return EvaluationError(
            self._name,
            expected="an answer",
            got=f"{type(error).__name__} ({ended}); the last words: {last}",
            fix=self._fix,
        )

    def close(self) -> None:
        """Let it end."""
        self.alive = False
        self._pipe.close()
        try:
            self._process.wait(timeout=20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


_workers: dict[str, Worker] = {}


def worker(name: str, start: Callable[[], Worker]) -> Worker:
    """The worker of that name, started for the first time or because the last one has died."""
    found = _workers.get(name)
    if found is None or not found.alive:
        found = _workers[name] = start()
    return found


class RemoteEvaluator(Evaluator):
    """An evaluator that a worker has made.

    Parameters
    ----------
    worker
        The process.
    arguments
        For what makes the evaluator there; see :func:`serve`.
    """

    def __init__(self, worker: Worker, *arguments: Any) -> None:
        self._worker = worker
        self._number = worker.ask("prepare", *arguments)
        weakref.finalize(self, worker.release, self._number).atexit = False

    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        found: list[PathResult] = self._worker.ask("evaluate", self._number, list(frames))
        return found

    def step(self, atoms: Atoms) -> float:
        return float(self._worker.ask("step", self._number, atoms))


def serve(make: Callable[..., Any]) -> None:
    """The other end of :class:`Worker`: make evaluators, and call them until nobody asks."""
    evaluators: dict[int, Any] = {}
    numbers = itertools.count()
    with Client(os.environ[ADDRESS], "AF_UNIX", authkey=bytes.fromhex(os.environ[KEY])) as pipe:
        while True:
            try:
                what, *arguments = pipe.recv()
            except EOFError:
                break
            try:
                answer: Any
                if what == "prepare":
                    answer = next(numbers)
                    evaluators[answer] = make(*arguments)
                elif what == "release":
                    del evaluators[arguments[0]]
                    answer = None
                else:
                    number, argument = arguments
                    answer = getattr(evaluators[number], what)(argument)
            except Exception as error:
                answer = error
            pipe.send(answer)
