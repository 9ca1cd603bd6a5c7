"""Ensembles on Ray: where data go, what a dead worker costs, sessions, resources."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ensemble_units import Counting, Quadratic, Wanting, Watched, note, notes
from mpi_runs import ROOT
from ray_runs import local_ray, ray_marks

from alchemi_bridge.ensembles import (
    Objective,
    Optimizer,
    Outcome,
    ReactiveLoop,
    SchedulerHints,
    Simulator,
)
from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor
from alchemi_bridge.errors import ConfigurationError, ModelError, NotReadyError, WorkerDiedError

pytestmark = ray_marks

#: Seconds after which a worker gives up waiting for another one's note.
_PATIENCE = 60.0


@pytest.fixture(scope="module")
def executor():
    with local_ray(resources={"licence": 1}) as executor:
        yield executor


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def wait_for(folder: str, event: str) -> None:
    """Until somebody notes it down."""
    deadline = time.monotonic() + _PATIENCE
    while not notes(folder, event):
        if time.monotonic() > deadline:
            raise TimeoutError(event)
        time.sleep(0.01)


class Makes(Simulator):
    """Hands out a value that notes where it is unpickled; runs until an event if asked to."""

    outputs = ("watched", "extra")

    def __init__(self, name: str, folder: str, size: int = 0, until: str | None = None) -> None:
        self.name, self.folder, self.size, self.until = name, folder, size, until

    def run(self, parameters, state):
        note(self.folder, f"ran.{self.name}", os.getpid())
        if self.until:
            wait_for(self.folder, self.until)
        seen = 0.0 if state is None else state.value
        made = Watched(self.folder, seen + 1.0, self.size)
        return (made, Watched(self.folder, 0.0, self.size)), Watched(self.folder, seen + 1.0)


class Reads(Objective):
    """Sums the values; ``least`` as in :class:`Wanting`; notes ``event`` when it is asked."""

    def __init__(self, name: str, needs, folder: str, event: str = "asked", least: float = 0.0):
        self.name, self.needs, self.folder = name, tuple(needs), folder
        self.event, self.least = event, least
        self.hints = None

    def compute(self, observables, parameters):
        note(self.folder, self.event, os.getpid())
        stale = tuple(n for n, o in observables.items() if o.value < self.least)
        return Outcome(loss=sum(o.value for o in observables.values()), refresh=stale)


# --- where data go ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 300_000])  # small results travel in another way than large
def test_observables_and_states_never_come_to_the_driver(executor, folder, size):
    simulators = [Makes(f"s{i}", folder, size) for i in range(3)]
    objectives = [Reads(f"o{i}", [s.observable()], folder) for i, s in enumerate(simulators)]
    objectives += [Reads("all", [s.observable() for s in simulators], folder, least=2.0)]
    outcomes = ReactiveLoop(executor, simulators, objectives).run().outcomes
    assert outcomes["all"].loss == 6.0
    readers = {int(pid) for pid in notes(folder, "unpickled")}
    assert readers
    assert os.getpid() not in readers
    assert os.getpid() not in {int(pid) for pid in notes(folder, "asked") + notes(folder, "ran")}


def test_an_objective_runs_while_a_simulator_is_still_running(executor, folder):
    # "slow" ends only when the objective of "quick" was asked: else nothing here would ever end
    quick, slow = Makes("quick", folder), Makes("slow", folder, until="early")
    objectives = [
        Reads("late", [slow.observable(), quick.observable()], folder),
        Reads("soon", [quick.observable()], folder, event="early"),
    ]
    order = []
    ReactiveLoop(executor, [slow, quick], objectives).run(on_outcome=lambda n, _: order.append(n))
    assert order == ["soon", "late"]


def test_the_loop_does_the_same_as_in_this_process(executor, folder):
    a, b = Counting("a", folder), Counting("b", folder)
    objectives = [
        Wanting("easy", (a.observable(),), folder),
        Wanting("hard", (a.observable(), b.observable()), folder, least=2),
        Wanting("never", (b.observable(),), folder, least=9),
        Wanting("broken", (b.observable(),), folder, fails=True),
    ]
    outcomes = ReactiveLoop(executor, [a, b], objectives).run(errors="keep").outcomes
    assert outcomes["easy"].loss in (1.0, 2.0)
    assert outcomes["hard"].loss == 4.0
    assert isinstance(outcomes["never"], NotReadyError)
    assert isinstance(outcomes["broken"], KeyError)
    assert len(notes(folder, "ran.a")) == len(notes(folder, "ran.b")) == 2


def test_a_fit_does_the_same_as_in_this_process(executor):
    def fit(executor):
        objectives = [Quadratic("one", 0.0), Quadratic("two", 5.0)]
        start = {"x": torch.tensor([1.0, 2.0])}
        return Optimizer(
            [], objectives, start, lambda t: torch.optim.Adam(t, lr=0.1), executor=executor
        ).run(3)[-1]

    assert torch.equal(fit(executor).after["x"], fit(None).after["x"])


# --- what goes wrong in a task ------------------------------------------------------------------


class Dies(Makes):
    """Its process is killed in the first runs."""

    def __init__(self, name: str, folder: str, times: int) -> None:
        super().__init__(name, folder)
        self.times = times

    def run(self, parameters, state):
        result = super().run(parameters, state)
        if len(notes(self.folder, f"ran.{self.name}")) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def test_a_killed_worker_loses_nothing_but_its_task(executor, folder):
    simulators = [Makes("m0", folder), Dies("dies", folder, 1), Makes("m1", folder)]
    objectives = [Reads(f"o{i}", [s.observable()], folder) for i, s in enumerate(simulators)]
    result = ReactiveLoop(executor, simulators, objectives).run()
    assert [o.loss for o in result.outcomes.values()] == [1.0] * 3
    assert len(notes(folder, "ran.dies")) == 2
    assert len(notes(folder, "ran.m0")) == len(notes(folder, "ran.m1")) == 1


def test_a_worker_that_dies_too_often_is_an_error_of_its_objectives_only(executor, folder):
    simulators = [Dies("dies", folder, 99), Makes("m", folder)]
    simulators[0].hints = SchedulerHints(max_retries=1)
    objectives = [Reads(f"o{i}", [s.observable()], folder) for i, s in enumerate(simulators)]
    outcomes = ReactiveLoop(executor, simulators, objectives).run(errors="keep").outcomes
    assert isinstance(outcomes["o0"], WorkerDiedError)
    assert "max_retries" in str(outcomes["o0"])
    assert outcomes["o1"].loss == 1.0
    assert len(notes(folder, "ran.dies")) == 2


class Odd(Exception):
    """Can not be pickled back: it wants two arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail(folder: str, kind: str) -> None:
    note(folder, f"tried.{kind}")
    if kind == "bridge":
        raise ModelError("it", expected="this", got="that", fix="do")
    if kind == "odd":
        raise Odd(1, 2)
    {}["absent"]


def run(executor, function, *arguments, returns=1, **hints):
    hints = SchedulerHints(**hints)
    references = executor.submit(function, arguments, name="t", hints=hints, returns=returns)
    return [executor.result(reference) for reference in references]


def test_errors_come_with_their_own_type_and_are_not_tried_again(executor, folder):
    with pytest.raises(KeyError) as caught:
        run(executor, fail, folder, "key", max_retries=3)
    assert type(caught.value) is KeyError
    assert "in fail" in str(caught.value.__cause__)  # the worker's traceback
    with pytest.raises(ModelError, match="it: expected this") as caught:
        run(executor, fail, folder, "bridge", max_retries=3)
    assert (type(caught.value), caught.value.fix) == (ModelError, "do")
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        run(executor, fail, folder, "odd", max_retries=3)
    for kind in ("key", "bridge", "odd"):
        assert len(notes(folder, f"tried.{kind}")) == 1


def test_code_that_workers_can_not_load_is_named(executor, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def one():\n    return 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with pytest.raises(ConfigurationError, match=r"No module named 'only_here'.*PYTHONPATH"):
        run(executor, only_here.one)


def test_the_first_error_cancels_what_is_running(executor, folder):
    waits, breaks = Makes("waits", folder, until="never"), Counting("b", folder, fails_in=(1,))
    objectives = [
        Reads("o", [waits.observable()], folder),
        Wanting("w", (breaks.observable(),), folder),
    ]
    start = time.monotonic()
    with pytest.raises(ArithmeticError):
        ReactiveLoop(executor, [waits, breaks], objectives).run()
    assert run(executor, threads, num_cpus=2) == [2]  # both cores are free again
    assert time.monotonic() - start < _PATIENCE


#: Each with tasks that finish while others are given up. With ``ray.cancel`` in the driver all of
#: six runs ended with a driver that Ray had killed.
CANCELLATIONS = 30

CANCELS = """
import random, sys, time
import ray
from ray_runs import local_ray
from alchemi_bridge.ensembles import SchedulerHints

def run():
    hints, chance = SchedulerHints(num_cpus=1, max_retries=0), random.Random(0)
    with local_ray() as executor:
        for _ in range(int(sys.argv[1])):
            made = [executor.submit(time.sleep, [0.002], name="short", hints=hints)[0]
                    for _ in range(40)]
            made += [executor.submit(time.sleep, [60.0], name="long", hints=hints)[0]
                     for _ in range(2)]
            # returns in the midst of the arrival of results
            ray.wait(made, num_returns=chance.randrange(1, 12), fetch_local=False)
            executor.cancel(made)
            while made:  # all have ended, if only as cancelled
                made = [one for one in made if one not in executor.wait(made)]
    print("all ended")

run()
"""


@pytest.mark.slow
def test_cancelling_while_tasks_finish():
    """In a process of its own: what went wrong killed it."""
    done = subprocess.run(
        [sys.executable, "-c", CANCELS, str(CANCELLATIONS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all ended"]), done.stderr


# --- resources ----------------------------------------------------------------------------------


def threads() -> int:
    return torch.get_num_threads()


def place() -> tuple[str, float]:
    import ray

    context = ray.get_runtime_context()
    return context.get_task_name(), context.get_assigned_resources().get("licence", 0.0)


def test_torch_gets_as_many_threads_as_cores(executor):
    for cpus, expected in ((2, 2), (1, 1), (0.5, 1), (None, 1)):
        assert run(executor, threads, num_cpus=cpus) == [expected]


def test_options_go_through_and_tasks_have_names(executor):
    hints = SchedulerHints(custom={"ray": {"resources": {"licence": 0.5}}})
    (reference,) = executor.submit(place, [], name="my task", hints=hints)
    assert executor.result(reference) == ("my task", 0.5)


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        ({"num_cpus": 3}, "at most 2 CPU.*got 3 CPU"),
        ({"num_gpus": 1}, "at most 2 CPU, 0 GPU.*got 1 CPU, 1 GPU"),
        ({"mem_mb": 1e9}, "got 1 CPU, 1000000000 MB of memory"),
        ({"custom": {"ray": {"resources": {"licence": 2}}}}, "at most 2 CPU, 1 licence"),
        ({"custom": {"ray": {"resources": {"nothing": 1}}}}, "at most 2 CPU, 0 nothing"),
        ({"custom": {"ray": {"num_cpus": None, "num_gpus": 1}}}, "0 GPU.*got 1 CPU, 1 GPU"),
        ({"custom": {"ray": {"accelerator_type": "A100"}}}, "got 1 CPU, 0.001 .*:A100"),
        ({"custom": {"ray": {"label_selector": {"a": "b"}}}}, r"labels that a node has.*got a=b"),
        ({"custom": {"ray": {"label_selector": {"a": 5}}}}, "options of a Ray task"),
        ({"custom": {"ray": {"scheduling_strategy": "NOPE"}}}, "'DEFAULT', 'SPREAD'.*'NOPE'"),
        ({"custom": {"ray": {"colour": "red"}}}, "options of a Ray task"),
        ({"custom": {"ray": {"resources": 5}}}, "options of a Ray task"),
        ({"custom": {"ray": {"resources": {"licence": "many"}}}}, "options of a Ray task"),
        ({"custom": {"ray": {"num_cpus": "2"}}}, "options of a Ray task"),
        ({"custom": {"ray": {"name": "mine"}}}, "no 'name' or 'num_returns'"),
        ({"custom": {"ray": {"num_returns": 3}}}, "no 'name' or 'num_returns'"),
    ],
)
def test_what_no_node_has_is_an_error_at_once(executor, folder, hints, words):
    unit = Reads("greedy", [], folder)
    unit.hints = SchedulerHints(**hints)
    with pytest.raises(ConfigurationError, match=rf"'greedy'.*{words}"):
        ReactiveLoop(executor, [], [unit, Reads("modest", [], folder)]).run()
    assert notes(folder, "asked") == []


def test_places_that_are_there_and_places_that_are_not(executor):
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import (
        NodeAffinitySchedulingStrategy,
        PlacementGroupSchedulingStrategy,
    )

    def at(strategy, **hints):
        return SchedulerHints(custom={"ray": {"scheduling_strategy": strategy}}, **hints)

    import ray

    (node,) = ray.nodes()
    executor.check(at(NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)), "it")
    executor.check(at(NodeAffinitySchedulingStrategy("ab" * 28, soft=True)), "it")
    with pytest.raises(ConfigurationError, match="a node that is there, got node abab"):
        executor.check(at(NodeAffinitySchedulingStrategy("ab" * 28, soft=False)), "it")
    group = placement_group([{"CPU": 1}])
    executor.check(at(PlacementGroupSchedulingStrategy(group)), "it")
    with pytest.raises(ConfigurationError, match=r"bundle of its group has \(1 CPU\), got 2 CPU"):
        executor.check(at(PlacementGroupSchedulingStrategy(group), num_cpus=2), "it")
    remove_placement_group(group)
    with pytest.raises(ConfigurationError, match="a placement group that is there, got REMOVED"):
        executor.check(at(PlacementGroupSchedulingStrategy(group)), "it")
    for name, value in node["Labels"].items():
        executor.check(SchedulerHints(custom={"ray": {"label_selector": {name: value}}}), "it")


def test_an_elastic_cluster_may_still_get_it(executor):
    elastic = RayExecutor(elastic=True)
    elastic.check(SchedulerHints(num_cpus=1000), "it")
    elastic.close()


# --- sessions -----------------------------------------------------------------------------------


def test_a_ray_that_was_there_is_used_and_not_stopped(executor):
    import ray

    with RayExecutor() as second:
        assert run(second, threads) == [1]
    assert ray.is_initialized()
    with RayExecutor(ray.get_runtime_context().gcs_address) as third:
        assert run(third, threads) == [1]
    assert ray.is_initialized()
    assert run(executor, threads) == [1]


def variable() -> str | None:
    return os.environ.get("ALCHEMI_TEST_VARIABLE")


def test_runtime_env_reaches_the_workers_of_a_ray_that_was_there(executor):
    with RayExecutor(runtime_env={"env_vars": {"ALCHEMI_TEST_VARIABLE": "yes"}}) as second:
        assert run(second, variable) == ["yes"]
    assert run(executor, variable) == [None]


def test_a_session_takes_no_other_options_or_address(executor):
    with pytest.raises(ConfigurationError, match=r"init_options.*num_cpus"):
        RayExecutor(init_options={"num_cpus": 1}).start()
    for address in ("192.0.2.1:6379", "local"):
        with pytest.raises(ConfigurationError, match="connected already"):
            RayExecutor(address).start()


def test_one_runtime_env_only():
    with pytest.raises(ConfigurationError, match="runtime_env"):
        RayExecutor(runtime_env={"a": 1}, init_options={"runtime_env": {}})
