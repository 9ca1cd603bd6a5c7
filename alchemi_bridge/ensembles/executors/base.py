"""Where work is done: one interface, in this process or on Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

from alchemi_bridge.ensembles.hints import SchedulerHints

#: What stands for a result that may not be there yet; hashable, and equal only to itself.
Reference = Any


class Executor(ABC):
    """Runs functions as tasks. ``with executor:`` closes it at the end.

    Attributes
    ----------
    name
        Its name in :attr:`SchedulerHints.custom`, in options and reports.
    """

    name: str

    @property
    def width(self) -> int:
        """How many tasks in flight keep everything busy, at least one."""
        return 1

    @abstractmethod
    def start(self) -> None:
        """Connect; called before the first task, again for nothing."""

    @abstractmethod
    def check(self, hints: SchedulerHints, what: str) -> None:
        """Raise :class:`ConfigurationError` if ``what`` can never get what ``hints`` ask for."""

    @abstractmethod
    def put(self, value: Any) -> Reference:
        """Keep a value where tasks can read it, sent once for all of them."""

    @abstractmethod
    def submit(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        *,
        name: str,
        hints: SchedulerHints,
        returns: int = 1,
    ) -> list[Reference]:
        """Start a task.

        Parameters
        ----------
        function
            Of a module, since it is sent by its name.
        arguments
            Values, or references among them, which become their values in the worker: what they
            stand for does not come here.
        name
            What the task is called on a dashboard and in errors.
        hints
            Resources, complete.
        returns
            Number of results; with more than one the function returns as many.

        Returns
        -------
        list
            One reference for each result.
        """

    @abstractmethod
    def wait(self, references: Sequence[Reference]) -> list[Reference]:
        """Those that are finished, at least one, in the order given; failed ones are finished."""

    @abstractmethod
    def result(self, reference: Reference) -> Any:
        """Fetch a value.

        Raises
        ------
        Exception
            What the task raised, with its own type where that can be pickled.
        WorkerDiedError
            If its process ended more often than it may be tried again.
        """

    @abstractmethod
    def cancel(self, references: Sequence[Reference]) -> None:
        """Give up tasks: those that did not start never will, running ones are interrupted.

        An executor on other processes may need a moment for it, in which more of them start. Their
        results must not be asked for. Finished ones stay as they are.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of what was started here, and of nothing else."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
