"""The reactive loop, in this process: who runs how often, who gets what, and what goes wrong."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import pytest
import torch
from ensemble_units import Counting, Wanting, notes

from alchemi_bridge.ensembles import (
    InProcessExecutor,
    Objective,
    Outcome,
    ReactiveLoop,
    SchedulerHints,
    Simulator,
)
from alchemi_bridge.errors import ConfigurationError, EvaluationError, NotReadyError


def loop(simulators: list, objectives: list, **options: Any) -> ReactiveLoop:
    return ReactiveLoop(InProcessExecutor(), simulators, objectives, **options)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


# --- who runs how often -------------------------------------------------------------------------


def test_a_simulator_runs_once_for_all_its_readers_and_is_kept_for_the_next_run(folder):
    a = Counting("a", folder)
    objectives = [Wanting(f"o{i}", (a.observable(),), folder) for i in range(3)]
    work = loop([a], objectives)
    for expected in (1, 0):
        result = work.run()
        assert [result.outcomes[f"o{i}"].loss for i in range(3)] == [1.0] * 3
        assert result.simulations == expected
    assert len(notes(folder, "ran.a")) == 1
    work.forget()
    assert work.run().outcomes["o0"].loss == 1.0  # no state was left: it counts from one
    assert len(notes(folder, "ran.a")) == 2


def test_fresh_simulations_start_from_the_last_state_with_the_current_parameters(folder):
    a = Counting("a", folder)
    work = loop([a], [Wanting("o", (a.observable(),), folder), X("x", (a.observable("x"),))])
    work.run({"x": torch.tensor(1.0)})
    work.graph.objectives["o"].least = 2.0
    result = work.run({"x": torch.tensor(5.0)})
    assert result.outcomes["o"].loss == 2.0
    # `x` asks for nothing new: it saw what was there, or what came for `o`
    assert result.outcomes["x"].loss in (1.0, 5.0)
    assert work.run({"x": torch.tensor(7.0)}).outcomes["x"].loss == 5.0


class X(Objective):
    """Answers with what it reads."""

    def __init__(self, name: str, needs: tuple[str, ...]) -> None:
        self.name, self.needs = name, needs

    def compute(self, observables, parameters):
        del parameters
        return Outcome(loss=sum(observables.values()))


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_simulator_is_started_exactly_max_attempts_times_in_a_run(folder, attempts):
    a = Counting("a", folder)
    work = loop([a], [Wanting("o", (a.observable(),), folder, least=99)], max_attempts=attempts)
    with pytest.raises(NotReadyError, match=r"objective 'o'.* count.Counting.a of a"):
        work.run()
    assert len(notes(folder, "ran.a")) == attempts
    # a new run has attempts of its own, and goes on from the last state
    work.graph.objectives["o"].least = 2 * attempts
    assert work.run().outcomes["o"].loss == 2 * attempts
    assert len(notes(folder, "ran.a")) == 2 * attempts


def test_the_default_is_two_attempts(folder):
    a = Counting("a", folder)
    with pytest.raises(NotReadyError, match="2 attempts"):
        loop([a], [Wanting("o", (a.observable(),), folder, least=3)]).run()
    assert len(notes(folder, "ran.a")) == 2


def test_two_objectives_that_both_ask_share_one_run(folder):
    a = Counting("a", folder)
    objectives = [Wanting(f"o{i}", (a.observable(),), folder, least=2) for i in range(3)]
    # all three see the first version before the second is made, or some after: one run either way
    for width in (1, 4):
        work = loop([a], objectives, max_running=width)
        result = work.run()
        assert result.simulations == 2
        assert {o.loss for o in result.outcomes.values()} == {2.0}


def test_a_refresh_spoils_nothing_that_is_finished(folder):
    a, b = Counting("a", folder), Counting("b", folder)
    easy = Wanting("easy", (a.observable(),), folder)
    hard = Wanting("hard", (a.observable(), b.observable()), folder, least=2)
    result = loop([a, b], [easy, hard]).run()
    assert result.outcomes["easy"].loss == 1.0
    assert result.outcomes["hard"].loss == 4.0
    assert len(notes(folder, "asked.easy")) == 1


def test_only_what_is_asked_for_is_made_anew_and_what_arrived_is_kept(folder):
    a, b = Counting("a", folder), Counting("b", folder)
    hard = Wanting("hard", (a.observable(), b.observable()), folder, least=2)
    hard.refreshes = (a.observable(),)
    with pytest.raises(NotReadyError, match="of a"):
        loop([a, b], [hard]).run()
    assert len(notes(folder, "ran.a")) == 2
    assert len(notes(folder, "ran.b")) == 1


def test_an_objective_may_need_nothing(folder):
    assert loop([], [Wanting("o", (), folder)]).run().outcomes["o"].loss == 0


# --- errors -------------------------------------------------------------------------------------


def test_the_first_error_is_raised_and_nothing_starts_after_it(folder):
    a, b = Counting("a", folder, fails_in=(1,)), Counting("b", folder)
    work = loop([a, b], [Wanting(s.name * 2, (s.observable(),), folder) for s in (a, b)])
    with pytest.raises(ArithmeticError, match="a fails in run 1") as caught:
        work.run()
    assert caught.value.__notes__ == ["in simulator 'a'"]
    assert notes(folder, "ran.b") == []


def test_errors_that_are_kept_are_answers_and_stop_nothing_else(folder):
    a, b = Counting("a", folder, fails_in=(1,)), Counting("b", folder)
    objectives = [
        Wanting("of_a", (a.observable(),), folder),
        Wanting("of_both", (a.observable(), b.observable()), folder),
        Wanting("of_b", (b.observable(),), folder),
        Wanting("broken", (b.observable(),), folder, fails=True),
        Wanting("never", (b.observable(),), folder, least=99),
    ]
    told = {}
    result = loop([a, b], objectives).run(errors="keep", on_outcome=told.__setitem__)
    kinds = {name: type(answer).__name__ for name, answer in result.outcomes.items()}
    assert kinds == {
        "of_a": "ArithmeticError",
        "of_both": "ArithmeticError",
        "of_b": "Outcome",
        "broken": "KeyError",
        "never": "NotReadyError",
    }
    assert told == result.outcomes
    assert list(result.outcomes) == [o.name for o in objectives]


def test_a_simulator_whose_readers_all_failed_is_not_run(folder):
    a, b = Counting("a", folder, fails_in=(1,)), Counting("b", folder)
    both = Wanting("both", (a.observable(), b.observable()), folder)
    loop([a, b], [both]).run(errors="keep")
    assert notes(folder, "ran.b") == []


def test_a_failed_simulator_is_tried_in_the_next_run(folder):
    class Once(Counting):
        def run(self, parameters, state):
            self.fails_in = () if notes(folder, "ran.a") else (1,)
            return super().run(parameters, state)

    a = Once("a", folder)
    work = loop([a], [Wanting("o", (a.observable(),), folder)])
    assert isinstance(work.run(errors="keep").outcomes["o"], ArithmeticError)
    assert work.run().outcomes["o"].loss == 1.0


def test_asking_for_what_is_not_needed_is_an_error(folder):
    a = Counting("a", folder)
    wrong = Wanting("o", (a.observable(),), folder, least=9, refreshes=("x.Counting.a",))
    with pytest.raises(ConfigurationError, match=r"objective 'o'.*got x\.Counting\.a"):
        loop([a], [wrong]).run()


def test_wrong_returns_name_the_unit(folder):
    class Short(Counting):
        def run(self, parameters, state):
            return super().run(parameters, state)[0][:1], None

    class Number(Wanting):
        def compute(self, observables, parameters):
            return 1.0

    a = Short("a", folder)
    with pytest.raises(ConfigurationError, match=r"simulator 'a'.*2 observables: count, x, got 1"):
        loop([a], [X("o", (a.observable(),))]).run()
    with pytest.raises(ConfigurationError, match=r"objective 'o'.*got float"):
        loop([], [Number("o", (), folder)]).run()


def test_a_unit_that_exits_has_failed(folder):
    class Exits(Counting):
        def run(self, parameters, state):
            sys.exit(3)

    a = Exits("a", folder)
    answer = loop([a], [X("o", (a.observable(),))]).run(errors="keep").outcomes["o"]
    assert isinstance(answer, EvaluationError)
    assert "sys.exit(3)" in str(answer)


def test_an_error_of_the_listener_ends_the_run(folder):
    def stop(name, answer):
        raise KeyboardInterrupt

    objectives = [Wanting(f"o{i}", (), folder) for i in range(5)]
    with pytest.raises(KeyboardInterrupt):
        loop([], objectives, max_running=5).run(errors="keep", on_outcome=stop)
    assert len(notes(folder, "asked.o0")) == 1
    assert notes(folder, "asked.o1") == []


# --- before any work ----------------------------------------------------------------------------


def test_names_are_unique_over_both_kinds(folder):
    a = Counting("a", folder)
    for units in (
        ([a, Counting("a", folder)], [X("o", (a.observable(),))]),
        ([a], [X("a", (a.observable(),))]),
        ([a], [X("o", (a.observable(),)), X("o", (a.observable(),))]),
    ):
        with pytest.raises(ConfigurationError, match="more than once"):
            loop(*units)
    with pytest.raises(ConfigurationError, match="names of simulators"):
        loop([], [X("", ())])


def test_unknown_observables_are_named_with_near_ones(folder):
    a = Counting("argon", folder)
    with pytest.raises(ConfigurationError, match=r"'o'.*like count\.Counting\.argon"):
        loop([a], [X("o", ("cuont.Counting.argon",))])


def test_simulators_that_nobody_needs_are_an_error(folder):
    a, b = Counting("a", folder), Counting("b", folder)
    with pytest.raises(ConfigurationError, match="nobody who needs those of b"):
        loop([a, b], [X("o", (a.observable(),))])


def test_an_observable_has_one_maker(folder):
    class Same(Counting):
        def observable(self, output=None):
            return f"{output}.fixed"

    units = [Same(name, folder) for name in "ab"]
    with pytest.raises(ConfigurationError, match="one simulator that makes it, got 'a' and 'b'"):
        loop(units, [X("o", ("x.fixed",))])


def test_no_objectives_and_wrong_numbers(folder):
    with pytest.raises(ConfigurationError, match="at least one"):
        loop([], [])
    for name in ("max_attempts", "max_running"):
        with pytest.raises(ConfigurationError, match=name):
            loop([], [X("o", ())], **{name: 0})


def test_all_checks_come_before_the_first_task(folder):
    class Picky(X):
        def check(self):
            raise ConfigurationError("it", expected="a", got="b", fix="c")

    a = Counting("a", folder)
    work = loop([a], [X("o", (a.observable(),)), Picky("p", (a.observable(),))])
    with pytest.raises(ConfigurationError, match="it: expected a"):
        work.run()
    assert notes(folder, "ran.a") == []


def test_the_executor_checks_what_each_unit_gets(folder):
    class Small(InProcessExecutor):
        def check(self, hints, what):
            if (hints.num_cpus or 0) > 2:
                raise ConfigurationError(what, expected="2", got=str(hints.num_cpus), fix="less")

    a = Counting("a", folder, hints=SchedulerHints(num_gpus=1))
    units = ([a], [X("o", (a.observable(),))])
    with pytest.raises(ConfigurationError, match="'a'"):
        ReactiveLoop(Small(), *units, hints=SchedulerHints(num_cpus=3)).run()
    a.hints = SchedulerHints(num_cpus=1)
    with pytest.raises(ConfigurationError, match="'o'"):
        ReactiveLoop(Small(), *units, hints=SchedulerHints(num_cpus=3)).run()
    ReactiveLoop(Small(), *units, hints=SchedulerHints(num_cpus=2)).run()


# --- memory and speed ---------------------------------------------------------------------------


class Block:
    """Something that can be counted while it lives."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self) -> None:
        self.alive.add(self)


class Blocks(Simulator):
    outputs = ("block",)

    def __init__(self, name: str, folder: str) -> None:
        self.name, self.folder = name, folder

    def run(self, parameters, state):
        return (Block(),), Block()


class Reads(X):
    most = 0

    def compute(self, observables, parameters):
        type(self).most = max(self.most, len(Block.alive))
        return Outcome(loss=1.0)


def test_forgetting_bounds_what_is_alive(folder):
    simulators = [Blocks(f"s{i}", folder) for i in range(50)]
    objectives = [Reads(f"o{i}", (s.observable(),)) for i, s in enumerate(simulators)]
    Reads.most = 0
    work = loop(simulators, objectives)
    work.run(forget=True)
    gc.collect()
    assert Reads.most <= 4  # of one simulator, and of one on its way out
    assert not Block.alive
    work.run()
    gc.collect()
    assert len(Block.alive) == 100
    work.forget()
    gc.collect()
    assert not Block.alive


def test_kept_errors_hold_no_arrays(folder):
    class Bad(Blocks):
        def run(self, parameters, state):
            big = Block()
            raise ArithmeticError(type(big).__name__)

    a = Bad("a", folder)
    result = loop([a], [Reads("o", (a.observable(),))]).run(errors="keep")
    gc.collect()
    assert isinstance(result.outcomes["o"], ArithmeticError)
    assert not Block.alive


#: Seconds; a loop that looks at everything after each event needs minutes.
_OVERHEAD = 5.0


def test_ten_thousand_units_cost_little(folder):
    a = Blocks("a", folder)
    objectives = [Reads(f"o{i}", (a.observable(),)) for i in range(10_000)]
    start = perf_counter()
    assert len(loop([a], objectives).run(forget=True).outcomes) == 10_000
    assert perf_counter() - start < _OVERHEAD
