"""One engine, one model, one structure file: what a worker computes."""

from __future__ import annotations

import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from alchemi_bridge.engines.structure_files import frame_label, read_structures
from alchemi_bridge.ensembles.content import hash_of_frames, hash_of_settings
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.sweep.engines import (
    Engine,
    Inspection,
    inspect_engine,
    installed,
)
from alchemi_bridge.ensembles.sweep.plan import ModelFile, StructureFile
from alchemi_bridge.ensembles.work import Parameters, Simulator
from alchemi_bridge.errors import StructureFileError
from alchemi_bridge.model import LoadedModel
from alchemi_bridge.parity.cases import Case, user_case
from alchemi_bridge.parity.compare import Precision
from alchemi_bridge.parity.evaluation import (
    evaluate_frames,
    in_one_line,
    load_facts,
    precision,
    with_frames,
)
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath
from alchemi_bridge.parity.results import PathResult

_Thing = TypeVar("_Thing")

#: Models that a worker keeps for each engine: cells of one model come together.
KEPT = 2

#: Structure files that a worker keeps: the engines of a cell come together.
KEPT_STRUCTURES = 8

#: Characters of a traceback that are kept, from its end.
_TRACEBACK = 4000


@dataclass(frozen=True)
class Problem:
    """An error of Python, as text: some can not be pickled.

    Attributes
    ----------
    type
        Its class.
    message
        In one line.
    traceback
        Where it came from.
    """

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """What there is to say of an error."""
        lines = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, in_one_line(error), lines[-_TRACEBACK:])


@dataclass(frozen=True)
class Numbers:
    """What came of an evaluation: one of results, a reason to skip it, or a problem.

    Attributes
    ----------
    results
        One for each frame.
    precision
        What tolerances depend on, if these results are the reference.
    expected
        Quantities that the engine promises.
    seconds
        Wall time of the evaluation of all frames, without loading.
    skipped
        Why it makes no sense.
    problem
        Why it failed.
    """

    results: tuple[PathResult, ...] = ()
    precision: Precision | None = None
    expected: frozenset[str] = frozenset()
    seconds: float = 0.0
    skipped: str | None = None
    problem: Problem | None = None


class Evaluation(Simulator):
    """All frames of a structure file with one model in one engine. It never raises.

    Parameters
    ----------
    model, structure, engine
        What is evaluated.
    options
        Keywords of a parity job.
    hints
        Resources.
    """

    outputs = ("numbers",)

    def __init__(
        self,
        model: ModelFile,
        structure: StructureFile,
        engine: Engine,
        options: Mapping[str, Any],
        hints: SchedulerHints | None = None,
    ) -> None:
        self.name = f"{engine.name}: {model.name} / {structure.name}"
        self.model, self.structure, self.engine = model, structure, engine
        self.options = dict(options)
        self.hints = hints

    def run(self, parameters: Parameters, state: Any | None) -> tuple[tuple[Numbers], None]:
        """See :meth:`Simulator.run`; the state are the frames, where they need not be read."""
        del parameters
        try:
            return (self._numbers(state),), None
        except Exception as error:  # foreign code in foreign engines: that it fails is a finding
            return (Numbers(problem=Problem.of(error)),), None

    def _numbers(self, frames: Sequence[Atoms] | None) -> Numbers:
        path = self.engine.path
        _check_installed(self.engine)
        case = self._case(_frames(self.structure) if frames is None else frames)
        loaded = _facts(case, self.model, self.options)
        job = with_frames(Job(case, self.model.path, loaded, self.options))
        why = _not_applicable(job) or path.refuses(job)
        if why is not None:
            return Numbers(skipped=why)
        expected = path.expected(job)
        key = hash_of_settings(
            {
                "model": [str(self.model.path), self.model.sha256],
                "options": self.options,
                # all that evaluators take from the structures they are made for
                "expected": [sorted(job.expected), sorted(expected)],
            }
        )
        evaluator = _evaluator(key, path, job)
        try:
            start = time.perf_counter()
            results = evaluate_frames(evaluator, job)
            seconds = time.perf_counter() - start
        except Exception:
            # nobody knows what they are good for now: they may share a process that died
            _evaluators.pop(path.name, None)
            raise
        if len(results) != len(job.frames):
            message = f"{len(results)} results for {len(job.frames)} frames"
            return Numbers(problem=Problem("EvaluationError", message))
        limits = precision(job, path.name)
        return Numbers(tuple(results), limits, expected, seconds)

    def _case(self, frames: Sequence[Atoms]) -> Case:
        structure = self.structure
        label = partial(_label, structure.name, structure.index)
        return user_case(structure.name, self.model.path, frames, label)


def _label(name: str, index: str, number: int) -> str:
    return f"'{name}', {frame_label(number, index)}"


#: Paths in this worker, which may be on another machine than the driver.
_inspected: dict[str, Inspection] = {}


def _check_installed(engine: Engine) -> None:
    name = engine.path.name
    if name not in _inspected:
        _inspected[name] = inspect_engine(engine.path)
    installed(engine, _inspected[name])


@lru_cache(maxsize=KEPT_STRUCTURES)
def _frames(structure: StructureFile) -> tuple[Atoms, ...]:
    frames = tuple(read_structures(structure.path, structure.index, kind=structure.kind))
    if hash_of_frames(frames) != structure.content:
        raise StructureFileError(
            f"structure file '{structure.path}'",
            expected="what it held when the sweep began",
            got="something else",
            fix="start the sweep again: what is finished and still true is kept",
        )
    return frames


_loaded: OrderedDict[str, LoadedModel] = OrderedDict()


def _facts(case: Case, model: ModelFile, options: Mapping[str, Any]) -> LoadedModel:
    key = hash_of_settings({"model": [str(model.path), model.sha256], "options": dict(options)})
    return _kept(_loaded, key, lambda: load_facts(case, options, model.sha256))


#: By path, since each engine of a cell has its turn before the next cell.
_evaluators: dict[str, OrderedDict[str, Evaluator]] = {}


def _evaluator(key: str, path: ParityPath, job: Job) -> Evaluator:
    return _kept(_evaluators.setdefault(path.name, OrderedDict()), key, lambda: path.prepare(job))


def _kept(there: OrderedDict[str, _Thing], key: str, make: Callable[[], _Thing]) -> _Thing:
    """What is kept under a key, or made for it; what was used longest ago goes first."""
    if key not in there:
        there[key] = make()
        while len(there) > KEPT:
            there.popitem(last=False)
    there.move_to_end(key)
    return there[key]


def forget() -> None:
    """Let go of what this process keeps from one evaluation to the next."""
    for kept in (_loaded, _evaluators, _inspected):
        kept.clear()
    _frames.cache_clear()


def _not_applicable(job: Job) -> str | None:
    """Why the model is not for these structures, or None if it is."""
    known = set(job.loaded.capabilities.atomic_types)
    found = {int(number) for atoms in job.frames for number in np.unique(atoms.numbers)}
    unknown = sorted(found - known)
    if not unknown:
        return None
    return f"not applicable: the model does not know {', '.join(map(_symbol, unknown))}"


def _symbol(number: int) -> str:
    known = 0 < number < len(chemical_symbols)
    return chemical_symbols[number] if known else f"atoms of type {number}"
