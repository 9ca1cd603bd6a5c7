"""Ctrl-C in the midst of code that makes another error of it, or swallows it."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import parity_fakes as fakes
import pytest
from ensemble_units import Counting

from alchemi_bridge.cli import parity
from alchemi_bridge.cli.main import main
from alchemi_bridge.ensembles import InProcessExecutor, Objective, Outcome, ReactiveLoop
from alchemi_bridge.errors import EvaluationError
from alchemi_bridge.interrupts import Interrupts
from alchemi_bridge.parity import cases, paths
from alchemi_bridge.parity.results import PathResult
from alchemi_bridge.parity.run import Settings, run
from alchemi_bridge.potentials import build
from alchemi_bridge.verify.check import CHECKS, Check, Severity, Status
from alchemi_bridge.verify.run import make_subject, run_check


@pytest.fixture(autouse=True)
def _handlers_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    found = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert found == before


def lost(number: signal.Signals = signal.SIGINT) -> NoReturn:
    """A signal whose exception becomes another one, as in C++ of torch."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(number)
    raise RuntimeError("Python error details: KeyboardInterrupt")  # without a cause or a context


def swallowed() -> None:
    with pytest.raises(RuntimeError):
        lost()


class Terminated(KeyboardInterrupt):
    """What a handler of SIGTERM may raise."""


def stop(number: int, frame: FrameType | None) -> None:
    raise Terminated


# --- the context --------------------------------------------------------------------------------


def test_an_interrupt_that_became_another_error_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt) as found, Interrupts():
        lost()
    assert isinstance(found.value.__cause__, RuntimeError)


def test_an_interrupt_that_was_swallowed_is_raised_on_leaving() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        swallowed()  # raises nothing


def test_check_raises_an_interrupt_that_was_swallowed() -> None:
    def work() -> None:
        with Interrupts() as interrupts:
            interrupts.check()
            swallowed()
            interrupts.check()
            pytest.fail("check() let an interrupt pass")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_an_interrupt_that_is_not_lost_stays_what_it_is() -> None:
    with pytest.raises(KeyboardInterrupt) as found, Interrupts():
        signal.raise_signal(signal.SIGINT)
    assert found.value.__cause__ is None


def test_another_interrupt_in_its_place_becomes_the_first_one() -> None:
    def work() -> None:
        with Interrupts():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Terminated:
                raise KeyboardInterrupt from None

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Terminated):
            work()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_errors_without_an_interrupt_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="its own"), Interrupts():
        raise RuntimeError("its own")
    with pytest.raises(SystemExit), Interrupts():
        raise SystemExit(3)


def test_an_interrupt_of_an_earlier_use_is_forgotten() -> None:
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt), interrupts:
        swallowed()
    with interrupts:
        interrupts.check()


def test_a_handler_keeps_its_way() -> None:
    """One that raises something else, one that raises nothing, none."""

    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Terminated), Interrupts():
            lost(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is stop
        signal.signal(signal.SIGTERM, note)
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGTERM)
            interrupts.check()
        assert received == [signal.SIGTERM]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with Interrupts() as interrupts:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_was_set_within_is_left_there() -> None:
    def other(number: int, frame: FrameType | None) -> None:
        pass

    before = signal.getsignal(signal.SIGINT)
    try:
        with Interrupts():
            signal.signal(signal.SIGINT, other)
        assert signal.getsignal(signal.SIGINT) is other
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_others_have_kept_works_after_the_context() -> None:
    with Interrupts():
        kept = signal.getsignal(signal.SIGINT)
    before = signal.signal(signal.SIGINT, kept)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_that_names_the_interrupt_as_its_cause_makes_no_circle() -> None:
    """Programs that follow causes and contexts would never come to an end."""

    def work() -> None:
        with Interrupts():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as interrupt:
                raise RuntimeError("while it was interrupted") from interrupt

    with pytest.raises(KeyboardInterrupt) as found:
        work()
    seen, error = [], found.value
    while error is not None:
        assert error not in seen
        seen.append(error)
        context = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or context


def test_nothing_of_what_was_interrupted_is_kept() -> None:
    """Tensors of the frames between would wait for the collector."""

    class Large:
        pass

    def work() -> None:
        large = Large()
        alive.append(weakref.ref(large))
        lost()

    def interrupted() -> None:
        with Interrupts():
            work()

    alive: list[weakref.ref[Large]] = []
    gc.disable()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            interrupted()
        assert alive[0]() is None
    finally:
        gc.enable()


def test_contexts_within_each_other() -> None:
    def work() -> None:
        with Interrupts() as outer:
            with pytest.raises(KeyboardInterrupt), Interrupts():
                lost()
            outer.check()
            pytest.fail("the outer one does not know of it")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_other_threads_get_no_signals() -> None:
    before = signal.getsignal(signal.SIGINT)
    problems: list[Exception] = []

    def work() -> None:
        try:
            with Interrupts() as interrupts:
                assert signal.getsignal(signal.SIGINT) is before
                interrupts.check()
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == []


# --- those who go on after errors ---------------------------------------------------------------


class Lost(Objective):
    """Answers after an interrupt that was lost in one way or another."""

    def __init__(self, name: str, how: Callable[[], None]) -> None:
        self.name, self.needs, self.how = name, (), how

    def compute(self, observables: object, parameters: object) -> Outcome:
        self.how()
        return Outcome(loss=0.0)


@pytest.mark.parametrize("how", [lost, swallowed])
@pytest.mark.parametrize("errors", ["keep", "raise"])
def test_a_loop_ends_and_the_interrupted_unit_gives_no_answer(
    how: Callable[[], None], errors: str
) -> None:
    objectives = [Lost("a", lambda: None), Lost("b", how), Lost("c", lambda: None)]
    answered: list[str] = []
    work = ReactiveLoop(InProcessExecutor(), [], objectives)
    with pytest.raises(KeyboardInterrupt):
        work.run(errors=errors, on_outcome=lambda name, _: answered.append(name))
    assert answered == ["a"]


@pytest.mark.parametrize("method", ["submit", "result"])
def test_an_interrupt_that_an_executor_lost_is_no_answer(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, answers = InProcessExecutor(), []
    monkeypatch.setattr(executor, method, lambda *args, **options: lost())
    with pytest.raises(KeyboardInterrupt):
        ReactiveLoop(executor, [], [Lost("a", lambda: None)]).run(
            errors="keep", on_outcome=lambda _, answer: answers.append(answer)
        )
    assert answers == []


def test_a_simulator_that_was_interrupted_has_not_failed(tmp_path: Path) -> None:
    class Interrupted(Counting):
        def run(self, parameters: object, state: object) -> NoReturn:
            lost()

    class Reads(Lost):
        def __init__(self, name: str, need: str) -> None:
            super().__init__(name, lambda: None)
            self.needs = (need,)

    a = Interrupted("a", str(tmp_path))
    work = ReactiveLoop(InProcessExecutor(), [a], [Reads("o", a.observable())])
    answers: list[object] = []
    with pytest.raises(KeyboardInterrupt):
        work.run(errors="keep", on_outcome=lambda _, answer: answers.append(answer))
    assert answers == []


def test_verify_ends() -> None:
    def fails(_: object) -> NoReturn:
        try:
            lost()
        except RuntimeError as error:  # as all of the package's evaluations have it
            raise EvaluationError("model", expected="results", got=str(error), fix="") from error

    subject = make_subject(build("lennard-jones"))
    with pytest.raises(KeyboardInterrupt):
        run_check(Check("some", "some check", Severity.FAIL, fails), subject)
    assert run_check(CHECKS["forces"], subject).status is Status.PASS


class StepsLost(fakes.SpoiledEvaluator):
    def step(self, atoms: object) -> NoReturn:
        lost()


class StepsLostPath(fakes.SpoiledPath):
    def prepare(self, job: object) -> StepsLost:
        made = super().prepare(job)
        return StepsLost(made.oracle, made.spoil)


def interrupts_evaluation(result: PathResult, number: int) -> NoReturn:
    lost()


@pytest.mark.parametrize(
    "path",
    [fakes.SpoiledPath(interrupts_evaluation), StepsLostPath(fakes.unspoiled)],
    ids=["evaluation", "timing"],
)
def test_parity_ends(path: paths.ParityPath) -> None:
    chosen = [*paths.select(["oracle"]), path]
    with pytest.raises(KeyboardInterrupt):
        run(cases.select(["small-cell"]), chosen, Settings(repeats=1, warm_up=0))


@pytest.mark.parametrize("how", [lost, swallowed])
def test_the_command_line_says_interrupted(
    how: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(args: object) -> int:
        how()
        return 0

    monkeypatch.setattr(parity, "run", command)
    assert main(["parity"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
