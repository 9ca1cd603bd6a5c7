"""Other people's engines, in a process of their own.

What a step costs depends on what the process does with its memory, and a provider changes that for
the whole process. Here the peers have what their users have. They still take turns with the bridge:
one process waits while the other computes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch

from alchemi_bridge.bench.paths import TimedPath, metatomic_ase, metatomic_torchsim
from alchemi_bridge.errors import EvaluationError

#: All peers; each is ``None`` where it is not installed.
PEERS: tuple[Callable[[ase.Atoms, Path, torch.device], TimedPath | None], ...] = (
    metatomic_ase,
    metatomic_torchsim,
)


class RemotePath(TimedPath):
    """A path that another process runs."""

    def __init__(self, peers: Peers, name: str) -> None:
        self._peers, self.name = peers, name

    def step(self, positions: np.ndarray) -> tuple[float, float]:
        wall, cpu = self._peers.ask("step", self.name, positions)
        return wall, cpu

    def forces(self) -> np.ndarray:
        return np.asarray(self._peers.ask("forces", self.name))


class Peers:
    """The process with the peers; a context, which ends it.

    Parameters
    ----------
    device
        Where they compute.
    threads
        torch threads, ``None`` for what torch takes.
    """

    def __init__(self, device: torch.device, threads: int | None) -> None:
        # a new Python: a fork would have the memory of this one, and torch's threads do not fork
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, str(device), threads), daemon=True
        )
        self._process.start()
        theirs.close()

    def paths(self, atoms: ase.Atoms, model: Path) -> list[TimedPath]:
        """The peers that are installed, for this structure and model."""
        return [RemotePath(self, name) for name in self.ask("prepare", atoms, model)]

    def ask(self, *request: Any) -> Any:
        """One answer.

        Raises
        ------
        EvaluationError
            If a peer fails, or its process ended.
        """
        try:
            self._pipe.send(request)
            fine, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            fine, answer = False, f"their process ended ({type(error).__name__})"
        if fine:
            return answer
        raise EvaluationError(
            "peers", expected="steps to be computed", got=str(answer), fix="leave the peer out"
        )

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *unused: object) -> None:
        self._pipe.close()
        self._process.join(timeout=10.0)
        if self._process.is_alive():
            self._process.terminate()


def _serve(pipe: Connection, device: str, threads: int | None) -> None:
    """In the other process: answers until nobody asks any more."""
    os.dup2(2, 1)  # what peers print is no part of what this program prints
    if threads is not None:
        torch.set_num_threads(threads)
    paths: dict[str, TimedPath] = {}
    while True:
        try:
            kind, *arguments = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            answer = _answer(paths, torch.device(device), kind, arguments)
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))
        else:
            pipe.send((True, answer))


def _answer(
    paths: dict[str, TimedPath], device: torch.device, kind: str, arguments: list[Any]
) -> Any:
    if kind == "prepare":
        atoms, model = arguments
        made = (make(atoms, model, device) for make in PEERS)
        paths.clear()
        paths.update({path.name: path for path in made if path is not None})
        return list(paths)
    name, *rest = arguments
    if kind == "step":
        return paths[name].step(rest[0])
    return paths[name].forces()
