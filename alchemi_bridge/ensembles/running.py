"""One run of the reactive loop: what is there, what is awaited, what is in flight."""

from __future__ import annotations

import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from alchemi_bridge.ensembles.executors.base import Executor, Reference
from alchemi_bridge.ensembles.graph import WorkGraph
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.tasks import run_objective, run_simulator
from alchemi_bridge.ensembles.work import Objective, Outcome, Parameters, Simulator
from alchemi_bridge.errors import NotReadyError
from alchemi_bridge.interrupts import Interrupts

#: An answer, or why there is none.
Answer = Outcome | Exception


@dataclass
class Store:
    """What simulators made: references by qualified observable, and by name of the simulator."""

    observables: dict[str, Reference] = field(default_factory=dict)
    states: dict[str, Reference] = field(default_factory=dict)

    def clear(self) -> None:
        """Let go of everything."""
        self.observables.clear()
        self.states.clear()


@dataclass(frozen=True)
class Terms:
    """How a run is done; see :class:`ReactiveLoop` and its ``run``."""

    hints_of: Callable[[Simulator | Objective], SchedulerHints]
    max_attempts: int
    max_running: int | None
    on_outcome: Callable[[str, Answer], None] | None
    keep: bool
    forget: bool


class Run:
    """One run. Every event costs a number of steps that does not depend on the number of units.

    Parameters
    ----------
    executor, graph
        Where the work is done, and what there is to do.
    store
        What earlier runs left, and this one leaves.
    terms
        How it is done.
    parameters
        For simulators and objectives.
    interrupts
        Open while this runs: an interrupt is no answer of any unit.
    """

    def __init__(
        self,
        executor: Executor,
        graph: WorkGraph,
        store: Store,
        terms: Terms,
        parameters: Parameters,
        interrupts: Interrupts,
    ) -> None:
        self.executor, self.graph, self.store, self.terms = executor, graph, store, terms
        self.interrupts = interrupts
        self.answers: dict[str, Answer] = {}
        self.starts: Counter[str] = Counter()
        #: Finished runs of each simulator: which version of its observables is there.
        self.versions: Counter[str] = Counter()
        self.seen: dict[str, dict[str, int]] = {}
        self.ready: deque[str] = deque()
        self.wanted: deque[str] = deque()
        self.making: set[str] = set()
        self.waiting: dict[str, list[str]] = {}
        self.missing: Counter[str] = Counter()
        self.unread = Counter(self.graph.readers)
        self.unread_of: Counter[str] = Counter()
        for observable, readers in self.graph.readers.items():
            self.unread_of[self.graph.makers[observable]] += readers
        self.running: dict[Reference, Callable[[Reference], None]] = {}
        host = {name: _on_host(value) for name, value in parameters.items()}
        self.parameters = self.executor.put(host)

    def complete(self) -> None:
        """Get all answers."""
        for name, needs in self.graph.needs.items():
            there = self.store.observables
            absent = dict.fromkeys(self.graph.makers[need] for need in needs if need not in there)
            self._await(name, absent)
        limit = self.terms.max_running or self.executor.width
        while self.ready or self.wanted or self.running:
            while len(self.running) < limit and (self.ready or self.wanted):
                # objectives first: they let go of what simulators made
                if self.ready:
                    self._start_objective(self.ready.popleft())
                else:
                    self._start_simulator(self.wanted.popleft())
            if self.running:
                finished = self.executor.wait(list(self.running))
                self.interrupts.check()
                for reference in finished:
                    self.running.pop(reference)(reference)

    def abandon(self) -> None:
        """Cancel what is in flight."""
        self.executor.cancel(list(self.running))
        self.running.clear()

    # --- simulators -----------------------------------------------------------------------------

    def _await(self, objective: str, simulators: Iterable[str]) -> None:
        """Let an objective wait until all these have run; none: it can start."""
        awaited = list(simulators)
        self.missing[objective] = len(awaited)
        for simulator in awaited:
            self.waiting.setdefault(simulator, []).append(objective)
            if simulator not in self.making:
                self.making.add(simulator)
                self.wanted.append(simulator)
        if not awaited:
            self.ready.append(objective)

    def _start_simulator(self, name: str) -> None:
        if all(objective in self.answers for objective in self.waiting[name]):
            self.making.discard(name)
            self.waiting.pop(name)
            return
        unit = self.graph.simulators[name]
        self.starts[name] += 1
        try:
            receipt, *results = self.executor.submit(
                run_simulator,
                [unit, self.parameters, self.store.states.get(name)],
                name=name,
                hints=self.terms.hints_of(unit),
                returns=len(unit.outputs) + 2,
            )
        except Exception as error:
            self._simulator_failed(name, error)
            return
        self.running[receipt] = lambda finished: self._simulator_done(name, finished, results)

    def _simulator_done(self, name: str, receipt: Reference, results: list[Reference]) -> None:
        try:
            self.executor.result(receipt)
        except Exception as error:
            self._simulator_failed(name, error)
            return
        *made, state = results
        names = self.graph.simulators[name].observables
        readers = self.unread if self.terms.forget else self.graph.readers
        for observable, reference in zip(names, made, strict=True):
            if readers[observable]:
                self.store.observables[observable] = reference
        if self.unread_of[name] or not self.terms.forget:
            self.store.states[name] = state
        self.versions[name] += 1
        self.making.discard(name)
        for objective in self.waiting.pop(name):
            self.missing[objective] -= 1
            if not self.missing[objective] and objective not in self.answers:
                self.ready.append(objective)

    def _simulator_failed(self, name: str, error: Exception) -> None:
        error.add_note(f"in simulator '{name}'")
        self._raise_or_trim(error)
        self.making.discard(name)
        for objective in self.waiting.pop(name):
            if objective not in self.answers:
                self._settle(objective, error)

    # --- objectives -----------------------------------------------------------------------------

    def _start_objective(self, name: str) -> None:
        unit, needs = self.graph.objectives[name], self.graph.needs[name]
        self.seen[name] = {source: self.versions[source] for source in self.graph.sources(name)}
        observables = [self.store.observables[need] for need in needs]
        try:
            (reference,) = self.executor.submit(
                run_objective,
                [unit, needs, self.parameters, *observables],
                name=name,
                hints=self.terms.hints_of(unit),
            )
        except Exception as error:
            self._objective_failed(name, error)
            return
        self.running[reference] = lambda finished: self._objective_done(name, finished)

    def _objective_done(self, name: str, reference: Reference) -> None:
        try:
            outcome = self.executor.result(reference)
            if not outcome.ready:
                self._refresh(name, outcome.refresh)
                return
        except Exception as error:
            self._objective_failed(name, error)
            return
        self._settle(name, outcome)

    def _refresh(self, name: str, observables: tuple[str, ...]) -> None:
        stale = dict.fromkeys(self.graph.makers[observable] for observable in observables)
        # what another objective had made anew in the meantime this one has not seen yet
        old = [s for s in stale if self.versions[s] == self.seen[name][s]]
        spent = [
            s for s in old if s not in self.making and self.starts[s] >= self.terms.max_attempts
        ]
        if spent:
            raise NotReadyError(
                f"objective '{name}'",
                expected=f"an answer after {self.terms.max_attempts} attempts in one step",
                got=f"a wish for fresh {', '.join(observables)} of {', '.join(spent)}",
                fix="simulate longer, ask less of the observables, or change parameters less",
            )
        self._await(name, old)

    def _objective_failed(self, name: str, error: Exception) -> None:
        error.add_note(f"in objective '{name}'")
        self._raise_or_trim(error)
        self._settle(name, error)

    def _settle(self, name: str, answer: Answer) -> None:
        self.answers[name] = answer
        self.seen.pop(name, None)
        for need in self.graph.needs[name]:
            maker = self.graph.makers[need]
            self.unread[need] -= 1
            self.unread_of[maker] -= 1
            if self.terms.forget and not self.unread[need]:
                self.store.observables.pop(need, None)
            if self.terms.forget and not self.unread_of[maker]:
                self.store.states.pop(maker, None)
        if self.terms.on_outcome is not None:
            self.terms.on_outcome(name, answer)

    def _raise_or_trim(self, error: Exception) -> None:
        self.interrupts.check()
        if not self.terms.keep:
            raise error
        # errors that are kept must not keep the arrays of the frames that they came through
        traceback.clear_frames(error.__traceback__)


def _on_host(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu()
