"""Hints as Ray understands them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.errors import ConfigurationError

#: The executor's name in :attr:`SchedulerHints.custom`.
RAY = "ray"

#: What Ray gives a node of each kind of accelerator, and a task takes of it.
_ACCELERATOR, _SHARE = "accelerator_type:", 0.001

#: Options of a Ray task that follow from the task itself.
_RESERVED = ("name", "num_returns")


def ray_options(hints: SchedulerHints) -> dict[str, Any]:
    """Options of a Ray task."""
    options: dict[str, Any] = {
        "num_cpus": 1 if hints.num_cpus is None else hints.num_cpus,
        "retry_exceptions": False,
    }
    if hints.num_gpus is not None:
        options["num_gpus"] = hints.num_gpus
    if hints.mem_mb is not None:
        options["memory"] = int(hints.mem_mb * 10**6)
    if hints.max_retries is not None:
        options["max_retries"] = hints.max_retries
    options.update(hints.custom.get(RAY, {}))
    if options["num_cpus"] is None:
        options["num_cpus"] = 1  # what Ray makes of it
    return options


def check_options(options: Mapping[str, Any], what: str) -> None:
    """Raise for options that Ray would not refuse before it is too late.

    Raises
    ------
    ConfigurationError
        If one is not the user's to set, or has no meaning.
    """
    reserved = [name for name in _RESERVED if name in options]
    if reserved:
        raise _wrong(what, "no 'name' or 'num_returns': tasks have theirs", ", ".join(reserved))
    strategy = options.get("scheduling_strategy")
    if isinstance(strategy, str) and strategy not in ("DEFAULT", "SPREAD"):
        raise _wrong(
            what,
            "a scheduling_strategy of 'DEFAULT', 'SPREAD', or an object of "
            "ray.util.scheduling_strategies",
            f"'{strategy}'",
        )


def _wrong(what: str, expected: str, got: str) -> ConfigurationError:
    return ConfigurationError(
        f"hints of {what}", expected=expected, got=got, fix='look at custom["ray"]'
    )


def needed_resources(options: Mapping[str, Any]) -> dict[str, float]:
    """What a task takes of a node, under the names that Ray gives resources."""
    needed = {
        name: float(options.get(option) or 0.0)
        for name, option in (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory"))
    }
    needed.update({name: float(value) for name, value in (options.get("resources") or {}).items()})
    if options.get("accelerator_type"):
        needed[_ACCELERATOR + options["accelerator_type"]] = _SHARE
    return {name: value for name, value in needed.items() if value > 0}
