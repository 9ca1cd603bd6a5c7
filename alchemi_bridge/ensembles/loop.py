"""The reactive loop: whatever can be done is started, whatever finishes makes more possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from alchemi_bridge.ensembles.executors.base import Executor, Reference
from alchemi_bridge.ensembles.graph import WorkGraph
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.running import Answer, Run, Store, Terms
from alchemi_bridge.ensembles.work import Objective, Parameters, Simulator
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.interrupts import Interrupts


@dataclass(frozen=True)
class LoopResult:
    """What a run found.

    Attributes
    ----------
    outcomes
        By name, in the objectives' order. Exceptions are among them with ``errors="keep"`` only.
    simulations
        How often a simulator was started.
    seconds
        Wall time.
    """

    outcomes: dict[str, Answer]
    simulations: int
    seconds: float


class ReactiveLoop:
    """Simulators and objectives on an executor.

    An objective starts as soon as its observables are there, whatever else is running; a simulator
    starts when an objective needs one of its observables and it is not there, or not good enough.
    Observables and states stay where they were made: this process holds references to them, and
    fetches outcomes only.

    Parameters
    ----------
    executor
        Where the work is done. It is not closed here.
    simulators, objectives
        The units; what :class:`WorkGraph` says about names holds. A simulator whose observables
        nobody needs is an error.
    hints
        Default resources of the units.
    max_attempts
        How often a simulator may be started in one :meth:`run`.
    max_running
        Number of tasks in flight; ``None``: the executor's ``width``.

    Raises
    ------
    ConfigurationError
        If units or numbers are not usable.
    """

    def __init__(
        self,
        executor: Executor,
        simulators: Iterable[Simulator],
        objectives: Iterable[Objective],
        *,
        hints: SchedulerHints | None = None,
        max_attempts: int = 2,
        max_running: int | None = None,
    ) -> None:
        for name, value in (("max_attempts", max_attempts), ("max_running", max_running)):
            if value is not None and value < 1:
                raise ConfigurationError(
                    name, expected="at least 1", got=str(value), fix="allow one or more"
                )
        self.executor = executor
        self.graph = WorkGraph(simulators, objectives)
        self.max_attempts = max_attempts
        self.max_running = max_running
        self._hints = SchedulerHints() if hints is None else hints
        self._merged: dict[int, SchedulerHints] = {}
        self._checked = False
        self._store = Store()

    def hints_of(self, unit: Simulator | Objective) -> SchedulerHints:
        """Resources of a unit: its own, and the default's where it says nothing."""
        if unit.hints is None:
            return self._hints
        # units share their hints by the thousand
        key = id(unit.hints)
        if key not in self._merged:
            self._merged[key] = unit.hints.over(self._hints)
        return self._merged[key]

    def check(self) -> None:
        """Connect, and let units and executor say what can never work.

        :meth:`run` does it before its first task.

        Raises
        ------
        BridgeError
            The first problem.
        """
        if self._checked:
            return
        units: list[Simulator | Objective] = [
            *self.graph.simulators.values(),
            *self.graph.objectives.values(),
        ]
        for unit in units:
            unit.check()
        self.executor.start()
        seen: set[int] = set()
        for unit in units:
            hints = self.hints_of(unit)
            if id(hints) not in seen:
                seen.add(id(hints))
                self.executor.check(hints, f"'{unit.name}'")
        self._checked = True

    def run(
        self,
        parameters: Parameters | None = None,
        *,
        on_outcome: Callable[[str, Answer], None] | None = None,
        errors: Literal["raise", "keep"] = "raise",
        forget: bool = False,
    ) -> LoopResult:
        """Get an answer from every objective.

        Parameters
        ----------
        parameters
            For simulators and objectives.
        on_outcome
            Called with the name of an objective and its answer, in the order in which they come.
        errors
            ``"raise"``: the first error ends the run; what is in flight is cancelled. ``"keep"``:
            an error is the answer of its objective, that of a simulator of all that wait for it,
            and everything else goes on.
        forget
            Let go of observables and states as soon as no objective of this run needs them, instead
            of keeping them for the next.

        Raises
        ------
        NotReadyError
            If an objective asks for fresh simulations after the last attempt (``"raise"``).
        Exception
            What a unit raised (``"raise"``), or ``on_outcome``.
        KeyboardInterrupt
            After Ctrl-C, also where a unit made another error of it, or none.
        """
        start = perf_counter()
        self.check()
        terms = Terms(
            hints_of=self.hints_of,
            max_attempts=self.max_attempts,
            max_running=self.max_running,
            on_outcome=on_outcome,
            keep=errors == "keep",
            forget=forget,
        )
        with Interrupts() as interrupts:
            run = Run(self.executor, self.graph, self._store, terms, parameters or {}, interrupts)
            try:
                run.complete()
            except BaseException:
                run.abandon()
                raise
        outcomes = {name: run.answers[name] for name in self.graph.objectives}
        return LoopResult(outcomes, run.starts.total(), perf_counter() - start)

    def begin_with(self, states: Mapping[str, Reference]) -> None:
        """States that simulators get in their first run, by name; else that is ``None``.

        The references come from :meth:`Executor.put`, so that many simulators can begin with one.
        """
        self._store.states.update(states)

    def forget(self) -> None:
        """Let go of all observables and states; the next run simulates anew."""
        self._store.clear()
