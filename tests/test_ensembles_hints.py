"""What hints say, how they are merged, and what they become on Ray."""

from __future__ import annotations

import math
import pickle

import pytest

from alchemi_bridge.ensembles import SchedulerHints
from alchemi_bridge.ensembles.executors.in_process import InProcessExecutor
from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor
from alchemi_bridge.ensembles.executors.ray_placement import selects
from alchemi_bridge.ensembles.executors.ray_resources import needed_resources, ray_options
from alchemi_bridge.ensembles.hints import EXECUTORS
from alchemi_bridge.errors import ConfigurationError


def test_a_unit_overrides_the_default_where_it_says_something():
    default = SchedulerHints(
        num_cpus=4, mem_mb=100, custom={"ray": {"a": 1, "b": 2}, "other": {"c": 3}}
    )
    unit = SchedulerHints(num_cpus=0, num_gpus=0.5, custom={"ray": {"b": 5}})
    assert unit.over(default) == SchedulerHints(
        num_cpus=0,
        num_gpus=0.5,
        mem_mb=100,
        max_retries=None,
        custom={"ray": {"a": 1, "b": 5}, "other": {"c": 3}},
    )
    # neither was changed
    assert default.custom["ray"] == {"a": 1, "b": 2}
    assert unit.custom == {"ray": {"b": 5}}


def test_they_can_be_sent():
    hints = SchedulerHints(num_cpus=2, custom={"ray": {"resources": {"licence": 1}}})
    assert pickle.loads(pickle.dumps(hints)) == hints


@pytest.mark.parametrize("name", ["num_cpus", "num_gpus", "mem_mb", "max_retries"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "2", True, [1]])
def test_wrong_numbers_are_named(name, value):
    with pytest.raises(ConfigurationError, match=f"hint '{name}'"):
        SchedulerHints(**{name: value})


def test_retries_are_whole():
    with pytest.raises(ConfigurationError, match="whole number"):
        SchedulerHints(max_retries=1.5)


@pytest.mark.parametrize(
    "custom", [5, [], None, {"ray": 5}, {"ray": None}, {"ray": {1: 2}}, {3: {}}, {"ray": "CPU"}]
)
def test_custom_options_are_by_executor(custom):
    with pytest.raises(ConfigurationError, match=r"hint 'custom'.*by the name of an executor"):
        SchedulerHints(custom=custom)


@pytest.mark.parametrize(
    ("name", "meant"), [("Ray", "ray"), ("RAY", "ray"), ("in_process", "in-process")]
)
def test_executors_of_another_spelling_are_named(name, meant):
    with pytest.raises(ConfigurationError, match=f"'{name}'; did you mean '{meant}'"):
        SchedulerHints(custom={name: {"num_cpus": 50}})


def test_the_executors_are_those_that_hints_know():
    assert (RayExecutor.name, InProcessExecutor.name) == EXECUTORS


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ({}, True),
        ({"a": "b"}, True),
        ({"a": "c"}, False),
        ({"x": "b"}, False),
        ({"a": "!c"}, True),
        ({"a": "!b"}, False),
        ({"x": "!b"}, True),
        ({"a": "in(c, b)"}, True),
        ({"a": "in(c,d)"}, False),
        ({"a": "!in(c,d)", "e": "f"}, True),
        ({"a": "!in(c,b)"}, False),
    ],
)
def test_label_selectors(selector, fits):
    assert selects(selector, {"a": "b", "e": "f"}) == fits


def test_options_of_ray():
    assert ray_options(SchedulerHints()) == {"num_cpus": 1, "retry_exceptions": False}
    hints = SchedulerHints(num_cpus=2, num_gpus=0.5, mem_mb=1.5, max_retries=0)
    assert ray_options(hints) == {
        "num_cpus": 2,
        "num_gpus": 0.5,
        "memory": 1_500_000,  # bytes
        "max_retries": 0,
        "retry_exceptions": False,
    }


def test_custom_options_win():
    hints = SchedulerHints(
        num_cpus=2,
        max_retries=1,
        custom={
            "ray": {"num_cpus": 3, "scheduling_strategy": "SPREAD"},
            "other": {"num_cpus": 9},
        },
    )
    options = ray_options(hints)
    assert options["num_cpus"] == 3
    assert options["scheduling_strategy"] == "SPREAD"
    assert options["max_retries"] == 1


def test_needed_resources_are_those_of_the_options_that_win():
    hints = SchedulerHints(
        num_gpus=2, mem_mb=10, custom={"ray": {"num_gpus": 1, "resources": {"licence": 0.5}}}
    )
    assert needed_resources(ray_options(hints)) == {
        "CPU": 1.0,
        "GPU": 1.0,
        "memory": 1e7,
        "licence": 0.5,
    }
    assert needed_resources(ray_options(SchedulerHints(num_cpus=0, num_gpus=0))) == {}
