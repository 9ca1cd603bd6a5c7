"""Tasks one after another, in this process: for small work, and where there is no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from alchemi_bridge.ensembles.executors.base import Executor, Reference
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.errors import ProtocolError


class InProcessExecutor(Executor):
    """Runs a task when somebody waits for it, so that no result is there before it is asked for.

    Values are handed from task to task as they are, nothing is copied: a task must not change what
    it was given. Resources are not looked at, but for the number of torch's threads, which is that
    of ``num_cpus`` where it is given. What ends a process ends this one: ``max_retries`` means
    nothing here.
    """

    name = "in-process"

    def start(self) -> None:
        """Nothing to do."""

    def check(self, hints: SchedulerHints, what: str) -> None:
        """Whatever is asked for, a task gets this process."""

    def put(self, value: Any) -> Reference:
        """Keep a value."""
        return _Slot(None, value=value)

    def submit(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        *,
        name: str,
        hints: SchedulerHints,
        returns: int = 1,
    ) -> list[Reference]:
        """Note a task down."""
        task = _Task(function, tuple(arguments), name, hints, returns)
        return task.slots()

    def wait(self, references: Sequence[Reference]) -> list[Reference]:
        """Those that are finished; if none is, the first one's task is run before."""
        finished = [slot for slot in references if slot.task is None]
        if finished or not references:
            return finished
        references[0].task.run()
        return [slot for slot in references if slot.task is None]

    def result(self, reference: Reference) -> Any:
        """The value; its task is run if it was not yet."""
        return reference.read()

    def cancel(self, references: Sequence[Reference]) -> None:
        """Tasks that did not run never will."""
        for slot in references:
            if slot.task is not None:
                slot.task.cancel()

    def close(self) -> None:
        """Nothing to do: results go with their references."""


class _Slot:
    """Place of one result. ``task`` is what fills it, ``None`` once it is filled."""

    __slots__ = ("error", "task", "value")

    def __init__(self, task: _Task | None, value: Any = None) -> None:
        self.task = task
        self.value = value
        self.error: Exception | None = None

    def fill(self, value: Any, error: Exception | None) -> None:
        self.task, self.value, self.error = None, value, error

    def read(self) -> Any:
        if self.task is not None:
            self.task.run()
        if self.error is not None:
            raise self.error
        return self.value


class _Task:
    """A call that is still to be made; the slots of its results hold it until then."""

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        name: str,
        hints: SchedulerHints,
        returns: int,
    ) -> None:
        self._function = function
        self._arguments = arguments
        self._name = name
        self._hints = hints
        self._slots = [_Slot(self) for _ in range(returns)]

    def slots(self) -> list[Reference]:
        return list(self._slots)

    def run(self) -> None:
        values: list[Any] = [None] * len(self._slots)
        error = None
        try:
            arguments = [a.read() if isinstance(a, _Slot) else a for a in self._arguments]
            with torch_threads(self._hints.num_cpus):
                returned = self._function(*arguments)
            values = self._split(returned)
        except Exception as raised:
            error = raised
        self._finish(values, error)

    def cancel(self) -> None:
        problem = ProtocolError(
            f"task '{self._name}'",
            expected="a task that ran",
            got="one that was cancelled",
            fix="start it again",
        )
        self._finish([None] * len(self._slots), problem)

    def _split(self, returned: Any) -> list[Any]:
        count = len(self._slots)
        if count == 1:
            return [returned]
        if not isinstance(returned, list | tuple) or len(returned) != count:
            raise ProtocolError(
                f"task '{self._name}'",
                expected=f"{count} results",
                got=f"{len(returned)}" if isinstance(returned, list | tuple) else "one",
                fix="return a tuple of as many",
            )
        return list(returned)

    def _finish(self, values: list[Any], error: Exception | None) -> None:
        for slot, value in zip(self._slots, values, strict=True):
            slot.fill(value, error)
        # what the task was given is free from now on
        self._slots, self._arguments = [], ()


@contextmanager
def torch_threads(num_cpus: float | None) -> Iterator[None]:
    """As many threads of torch as cores, at least one; ``None``: as many as there are."""
    before = torch.get_num_threads()
    wanted = before if num_cpus is None else max(1, int(num_cpus))
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
