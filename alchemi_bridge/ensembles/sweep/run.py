"""Run the cells of a sweep that are not finished yet."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from alchemi_bridge.ensembles.executors.base import Executor, Reference
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.loop import ReactiveLoop
from alchemi_bridge.ensembles.sweep.comparison import CellComparison, problem_record
from alchemi_bridge.ensembles.sweep.engines import ON_GPU, Engine, inspect_engine, installed
from alchemi_bridge.ensembles.sweep.evaluation import Evaluation, Problem, forget
from alchemi_bridge.ensembles.sweep.matrix import Matrix
from alchemi_bridge.ensembles.sweep.plan import Cell, Plan
from alchemi_bridge.ensembles.sweep.store import NAMES, CellStore
from alchemi_bridge.ensembles.work import Outcome

#: A core for each task, and two more attempts where a worker dies.
HINTS = SchedulerHints(num_cpus=1, max_retries=2)

#: Resources of a comparison: some milliseconds of NumPy.
_COMPARING = SchedulerHints(num_cpus=1, num_gpus=0, mem_mb=0)

#: Called with a cell and its record as soon as it is finished and kept.
OnCell = Callable[[Cell, Mapping[str, Any]], None]


def inspected(plan: Plan, executor: Executor, hints: SchedulerHints = HINTS) -> Plan:
    """The plan with its engines as they are where the work will be done: on one of the machines.

    Raises
    ------
    ConfigurationError
        If one of them can not run there, or the hints can never be met.
    """
    executor.start()
    everything = [*plan.engines, plan.reference]
    wanted = [_hints(one, hints) for one in everything]
    for one, amount in zip(everything, wanted, strict=True):
        executor.check(amount, f"engine '{one.name}'")
    # all at once, so that workers that are still cold import at the same time
    asked = [
        executor.submit(inspect_engine, [one.path], name=f"inspect {one.name}", hints=amount)[0]
        for one, amount in zip(everything, wanted, strict=True)
    ]
    *engines, reference = (
        installed(one, executor.result(answer))
        for one, answer in zip(everything, asked, strict=True)
    )
    return dataclasses.replace(plan, engines=engines, reference=reference)


def unfinished(plan: Plan, store: CellStore) -> list[Cell]:
    """Cells that have no outcome, or an error; of several that must be the same, the first."""
    found: dict[str, Cell] = {}
    for cell in plan.cells:
        if not store.finished(cell.key):
            found.setdefault(cell.key, cell)
    return list(found.values())


def run(
    plan: Plan,
    executor: Executor,
    store: CellStore,
    *,
    hints: SchedulerHints = HINTS,
    on_cell: OnCell | None = None,
) -> Matrix:
    """Run what is not finished.

    Parameters
    ----------
    plan
        See :func:`inspected`.
    executor
        Where; it is not closed here.
    store
        Where outcomes are kept, and found.
    hints
        Resources of an evaluation. An engine on a GPU gets one where this says nothing.
    on_cell
        Called for each cell that was run.

    Returns
    -------
    Matrix
        All cells, also those that were finished before.
    """
    start = time.perf_counter()
    todo = {cell.name: cell for cell in unfinished(plan, store)}

    def keep(name: str, answer: Outcome | Exception) -> None:
        cell = todo[name]
        record = _record(answer)
        store.add(cell.key, _names(cell), record)
        if on_cell is not None:
            on_cell(cell, record)

    if todo:
        simulators, objectives = _units(plan, todo.values(), hints)
        loop = ReactiveLoop(executor, simulators, objectives, hints=hints)
        loop.begin_with(_frames(plan, executor, simulators))
        try:
            loop.run(on_outcome=keep, errors="keep", forget=True)
        finally:
            forget()
    seconds = time.perf_counter() - start
    keys = {cell.key for cell in todo.values()}
    return Matrix.of(plan, partial(_outcome, store), run=keys, seconds=seconds)


def _names(cell: Cell) -> dict[str, str]:
    names = (cell.model.name, cell.structure.name, cell.engine.name)
    return dict(zip(NAMES, names, strict=True))


def _outcome(store: CellStore, cell: Cell) -> Mapping[str, Any] | None:
    """A cell's record; where it was found with a file of the same content, that is said.

    Reasons name files.
    """
    record = store.get(cell.key)
    if record is None or not record.get("reason"):
        return record
    found = store.names(cell.key)
    others = [
        f"{what} '{found[what]}'"
        for what, name in _names(cell).items()
        if found.get(what, name) != name
    ]
    if not others:
        return record
    told = f"{record['reason']} (found with {' and '.join(others)}, which is the same)"
    return {**record, "reason": told}


def _record(answer: Outcome | Exception) -> Mapping[str, Any]:
    if isinstance(answer, Exception):  # a worker that died, or a result that got lost
        return problem_record(Problem.of(answer))
    return answer.values


def _units(
    plan: Plan, cells: Iterable[Cell], hints: SchedulerHints
) -> tuple[list[Evaluation], list[CellComparison]]:
    """An evaluation for each cell, and one of the reference for all cells that share it."""
    wanted = {engine.name: _hints(engine, hints) for engine in (*plan.engines, plan.reference)}
    references: dict[tuple[str, str], Evaluation] = {}
    simulators: list[Evaluation] = []
    objectives: list[CellComparison] = []

    def evaluation(cell: Cell, engine: Engine) -> Evaluation:
        made = Evaluation(cell.model, cell.structure, engine, plan.options, wanted[engine.name])
        simulators.append(made)
        return made

    for cell in cells:
        shared = (cell.model.name, cell.structure.name)
        if shared not in references:
            references[shared] = evaluation(cell, plan.reference)
        found = evaluation(cell, cell.engine)
        objectives.append(CellComparison(cell, found, references[shared], _COMPARING))
    return simulators, objectives


def _frames(
    plan: Plan, executor: Executor, simulators: Iterable[Evaluation]
) -> dict[str, Reference]:
    """What evaluations begin with: frames that are kept, each sent once."""
    executor.start()
    sent: dict[str, Reference] = {}
    first: dict[str, Reference] = {}
    for simulator in simulators:
        content = simulator.structure.content
        if content in plan.frames:
            if content not in sent:
                sent[content] = executor.put(plan.frames[content])
            first[simulator.name] = sent[content]
    return first


def _hints(engine: Engine, hints: SchedulerHints) -> SchedulerHints:
    return hints.over(SchedulerHints(num_gpus=1)) if engine.path.name in ON_GPU else hints
