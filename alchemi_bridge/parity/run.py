"""Run cases on paths: evaluate, compare, time."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from ase import Atoms

from alchemi_bridge.errors import BridgeError, ConfigurationError, EvaluationError
from alchemi_bridge.interrupts import Interrupts
from alchemi_bridge.model import load_model
from alchemi_bridge.parity.cases import Case
from alchemi_bridge.parity.compare import Comparison, Precision, compare
from alchemi_bridge.parity.evaluation import (
    evaluate_frames,
    in_one_line,
    load_facts,
    precision,
    with_frames,
)
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath
from alchemi_bridge.parity.results import PathResult
from alchemi_bridge.parity.structures import single_precision, stepped

LOGGER = logging.getLogger(__name__)

#: Paths in the order in which they are preferred as the reference.
REFERENCES = ("oracle", "metatomic-ase", "bridge-cpu")


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes
    ----------
    repeats
        Largest number of timed steps of each path.
    seconds_per_case
        Time after which no further round of steps starts; at least three rounds are timed.
    warm_up
        Steps before the first timed one: TorchScript optimises during the first calls of a model,
        and a provider tries ways of running it during some 15 steps.
    threads
        Threads of torch; one makes times comparable.
    options
        Keywords that both ASE calculators understand (see :class:`~.paths.Job`).
    sha256
        Hash that a user's model file must have.
    """

    repeats: int = 25
    seconds_per_case: float = 1.5
    warm_up: int = 16
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None


@dataclass
class PathReport:
    """One path in one case.

    Attributes
    ----------
    name
        The path's name.
    results
        Its numbers, one for each frame; empty if it did not run.
    comparison
        Its comparison with the reference.
    ms_per_step
        Median time of a step (energy and forces), ms; None if it was not timed.
    skipped
        Why it did not take part: not available, or not made for this case. Neither good nor bad.
    problem
        Why it failed to give numbers. Always bad.
    """

    name: str
    results: list[PathResult] = field(default_factory=list)
    comparison: Comparison | None = None
    ms_per_step: float | None = None
    skipped: str | None = None
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it gave numbers and all of them are within their limits."""
        return self.problem is None and self.comparison is not None and self.comparison.passed

    @property
    def failures(self) -> list[str]:
        """What is off, in words."""
        if self.skipped is not None:
            return []
        if self.problem is not None:
            return [self.problem]
        if self.comparison is None or not self.comparison.checks:
            return ["nothing was compared"]
        # two checks of one quantity have the same problem: say it once
        return list(dict.fromkeys(check.describe() for check in self.comparison.failures))


@dataclass
class CaseReport:
    """All paths in one case."""

    case: Case
    frames: list[Atoms]
    precision: Precision
    reference: str
    paths: list[PathReport]

    @property
    def dtype(self) -> str:
        """Precision that the model computes in."""
        return self.precision.dtype

    @property
    def ran(self) -> list[PathReport]:
        """Paths that took part."""
        return [path for path in self.paths if path.skipped is None]

    @property
    def passed(self) -> bool:
        """Whether the reference and at least one other path agree, and no path disagrees."""
        return len(self.ran) > 1 and all(path.passed for path in self.ran)


@dataclass
class Report:
    """All cases of a run.

    Attributes
    ----------
    cases, settings, paths
        What was run.
    seconds
        Wall time of all of it.
    cpu_share
        Processor time over wall time of the timed steps; well below 1 on one thread, others kept
        the machine busy and the times are too long. None if nothing was timed.
    """

    cases: list[CaseReport]
    settings: Settings
    paths: list[ParityPath]
    seconds: float = 0.0
    cpu_share: float | None = None

    @property
    def passed(self) -> bool:
        """Whether there is a case and all cases passed."""
        return bool(self.cases) and all(case.passed for case in self.cases)


def run(
    cases: Sequence[Case],
    paths: Sequence[ParityPath],
    settings: Settings | None = None,
    watch: Callable[[Sequence[Case]], Iterator[Case]] | None = None,
) -> Report:
    """Run every case on every path that serves it.

    Parameters
    ----------
    cases, paths
        What to compute, and the ways to do it.
    settings
        How to run.
    watch
        Wraps the iteration over the cases: a progress bar.

    Raises
    ------
    ConfigurationError
        If no path, or only the reference, is left to run.
    BridgeError
        If a user's own model or structure can not be used.
    """
    settings = settings or Settings()
    start = time.perf_counter()
    report = Report([], settings, list(paths))
    with (
        tempfile.TemporaryDirectory(prefix="alchemi-bridge-") as folder,
        _threads(settings.threads),
    ):
        clocks = _Clocks()
        workshop = _Workshop(pathlib.Path(folder), settings)
        for case in watch(cases) if watch else cases:
            LOGGER.info("case %s", case.name)
            report.cases.append(_run_case(case, paths, workshop.job(case), settings, clocks))
    report.seconds = time.perf_counter() - start
    report.cpu_share = clocks.cpu / clocks.wall if clocks.wall > 0 else None
    return report


@dataclass
class _Clocks:
    """Time of the timed steps, s: of the wall's clock and of this process's processors."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


@contextlib.contextmanager
def _threads(wanted: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Workshop:
    """Exports the built-in models, each once, and loads the models' facts."""

    def __init__(self, folder: pathlib.Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        self._jobs: dict[str, Job] = {}

    def job(self, case: Case) -> Job:
        if case.potential is None:
            loaded = load_facts(case, self._settings.options, self._settings.sha256)
            assert case.model is not None  # load_facts() has seen to it
            return Job(case, case.model, loaded, self._settings.options)
        key = f"{case.potential.name} {sorted(case.potential.options.items())} {case.dtype}"
        if key not in self._jobs:
            from alchemi_bridge import potentials

            file = self._folder / f"{case.potential.name}-{len(self._jobs)}.pt"
            potentials.export(case.potential.name, file, dtype=case.dtype, **case.potential.options)
            self._jobs[key] = Job(case, file, load_model(file, device="cpu"))
        known = self._jobs[key]
        return Job(case, known.model_file, known.loaded)


def _run_case(
    case: Case,
    paths: Sequence[ParityPath],
    job: Job,
    settings: Settings,
    clocks: _Clocks,
) -> CaseReport:
    job = with_frames(job)
    reports: list[PathReport] = []
    evaluators: dict[str, Evaluator] = {}
    for path in paths:
        report = PathReport(path.name, skipped=path.unavailable() or path.refuses(job))
        reports.append(report)
        if report.skipped is None:
            evaluator = _evaluate(path, job, report)
            if evaluator is not None:
                evaluators[path.name] = evaluator
    reference = _reference(case, reports)
    limits = precision(job, reference.name)
    expected = {path.name: path.expected(job) for path in paths}
    for report in reports:
        _compare(report, reference, expected[report.name], limits)
    with clocks.running():
        _time(evaluators, reports, job, settings)
    return CaseReport(case, list(job.frames), limits, reference.name, reports)


def _evaluate(path: ParityPath, job: Job, report: PathReport) -> Evaluator | None:
    """Evaluate the frames on one path; what goes wrong is written into the report."""
    try:
        with Interrupts():
            evaluator = path.prepare(job)
            report.results = evaluate_frames(evaluator, job)
    except BridgeError as error:
        if not job.case.built_in and not isinstance(error, EvaluationError):
            raise  # the user's own file or options are at fault, not the path
        LOGGER.debug("path %s", path.name, exc_info=True)
        report.problem = in_one_line(error)
        return None
    except Exception as error:  # a path is foreign code; that it fails is a finding
        LOGGER.debug("path %s", path.name, exc_info=True)
        report.problem = in_one_line(error)
        return None
    if len(report.results) != len(job.frames):
        report.problem = f"{len(report.results)} results for {len(job.frames)} frames"
        return None
    return evaluator


def _reference(case: Case, reports: Sequence[PathReport]) -> PathReport:
    """The path that the others are compared with: the most trusted one that gave numbers."""
    ran = {report.name: report for report in reports if report.skipped is None}
    trusted = [ran[name] for name in REFERENCES if name in ran]
    # one that broke is a failure of its own, and no reason to compare nothing else
    found = next((r for r in trusted if r.problem is None), trusted[0] if trusted else None)
    if found is None or len(ran) < 2:
        skipped = "; ".join(f"{r.name}: {r.skipped}" for r in reports if r.skipped is not None)
        raise ConfigurationError(
            f"paths for case '{case.name}'",
            expected=f"a reference ({', '.join(REFERENCES)}) and at least one other path",
            got=(", ".join(ran) or "none") + (f" ({skipped})" if skipped else ""),
            fix="name further paths, or leave --path out",
        )
    return found


def _compare(
    report: PathReport, reference: PathReport, expected: Collection[str], precision: Precision
) -> None:
    if report.skipped is not None or report.problem is not None:
        return
    if reference.problem is not None:
        report.problem = f"no reference: {reference.name} failed: {reference.problem}"
        return
    report.comparison = compare(
        report.results, reference.results, precision=precision, expected=expected
    )


def _time(
    evaluators: Mapping[str, Evaluator],
    reports: Sequence[PathReport],
    job: Job,
    settings: Settings,
) -> None:
    """Medians of steps on atoms that move a little; the paths take turns, so that they share the
    machine's good and bad moments."""
    times: dict[str, list[float]] = {name: [] for name in evaluators}
    problems: dict[str, str] = {}
    start = time.perf_counter()
    for number in range(-settings.warm_up, settings.repeats):
        if number == 0:
            start = time.perf_counter()
        if number >= 3 and time.perf_counter() - start > settings.seconds_per_case:
            break
        moved = stepped(job.frames[0], 2 + number + settings.warm_up)
        if job.dtype == "float32":
            moved = single_precision(moved)
        # nobody is always the first or the last one of a round
        turn = number % max(len(evaluators), 1)
        order = [*list(evaluators)[turn:], *list(evaluators)[:turn]]
        for name in order:
            if name in problems:
                continue
            try:
                with Interrupts():
                    ms = evaluators[name].step(moved.copy())
            except Exception as error:  # foreign code again
                LOGGER.debug("path %s", name, exc_info=True)
                problems[name] = f"while timing: {in_one_line(error)}"
                continue
            if number >= 0:
                times[name].append(ms)
    for report in reports:
        report.problem = report.problem or problems.get(report.name)
        if times.get(report.name) and report.name not in problems:
            report.ms_per_step = statistics.median(times[report.name])
