"""An evaluation that is recorded once as a CUDA graph, and replayed in later steps.

A step of a light model is many short kernels, and launching them takes longer than running them.
Where the inputs are in the same memory in every step (whole lists, see
:class:`~alchemi_bridge.model.graph.Lasting`) the launches can be recorded and replayed as one. Not
every model can: what reads from the device, or allocates outside torch, breaks the recording. Then
the evaluation goes on as before, with one line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch

from alchemi_bridge.errors import first_line
from alchemi_bridge.model.evaluate import Evaluation

LOGGER = logging.getLogger(__name__)

#: Ordinary steps with the same inputs before a recording: lists that last shorter are not worth it.
STEPS_BEFORE = 3

#: A replay runs the same kernels on the same numbers; sums with atomics differ in the last digits.
RTOL = {torch.float32: 1e-4, torch.float64: 1e-9}


class Recorder(Protocol):
    """Records what a function queues, and hands back its results with what replays it."""

    def __call__(self, run: Callable[[], Evaluation]) -> tuple[Callable[[], None], Evaluation]:
        """The results are in memory that every replay writes again."""
        ...


def record_cuda_graph(run: Callable[[], Evaluation]) -> tuple[Callable[[], None], Evaluation]:
    """Record on the current device; nothing is run meanwhile."""
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # of this thread only: what others do meanwhile is their business
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            found = run()
    finally:
        torch.cuda.set_stream(before)  # torch forgets to, if the recording was broken
    return graph.replay, found


class Replay:
    """Evaluates, and records when that pays.

    Parameters
    ----------
    record
        How to record.
    """

    def __init__(self, record: Recorder = record_cuda_graph) -> None:
        self._record = record
        self._key: tuple[Any, ...] | None = None
        self._steps = 0
        self._replay: Callable[[], None] | None = None
        self._found: Evaluation | None = None
        #: Why nothing is recorded any more; empty while that has not failed.
        self.failure = ""

    @property
    def active(self) -> bool:
        """Whether the last step was, or the next one can be, a replay."""
        return self._replay is not None

    def run(self, key: tuple[Any, ...], evaluate: Callable[[], Evaluation]) -> Evaluation:
        """Results of this step.

        Parameters
        ----------
        key
            The objects that hold the inputs, and whatever else the evaluation depends on. The same
            key means the same memory with other numbers.
        evaluate
            Evaluates these inputs.
        """
        if self.failure:
            return evaluate()
        if self._key is None or not _same(key, self._key):
            self._key, self._steps, self._replay, self._found = key, 0, None, None
        self._steps += 1
        if self._replay is not None and self._found is not None:
            self._replay()
            return self._found
        found = evaluate()
        if self._steps > STEPS_BEFORE:
            self._try(evaluate, found)
        return found

    def _try(self, evaluate: Callable[[], Evaluation], expected: Evaluation) -> None:
        """Record, replay once, and compare with the ordinary results of the same inputs."""
        try:
            replay, found = self._record(evaluate)
            replay()
            if not _agree(found, expected):
                self._fail("a replay gives other results")
                return
        except Exception as error:  # the model is foreign code, and so is what it calls
            self._fail(first_line(error))
            return
        self._replay, self._found = replay, found
        LOGGER.info("the evaluation is replayed as a CUDA graph")

    def _fail(self, reason: str) -> None:
        self.failure, self._replay, self._found = reason, None, None
        LOGGER.warning("the evaluation is not replayed as a CUDA graph: %s", reason)


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(one) == len(other) and all(
        a is b or (isinstance(a, (bool, str)) and a == b) for a, b in zip(one, other, strict=True)
    )


def _agree(found: Evaluation, expected: Evaluation) -> bool:
    for name in ("energy", "forces", "virial", "energies", "virials"):
        one, other = getattr(found, name), getattr(expected, name)
        if (one is None) != (other is None):
            return False
        if one is None or other.numel() == 0:
            continue
        rtol = RTOL.get(other.dtype, 1e-4)
        scale = float(other.abs().amax())
        if not float((one - other).abs().amax()) <= rtol * max(scale, 1e-30):
            return False
    return True
