"""Hints as Ray understands them, and what nodes have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.errors import ConfigurationError

#: The executor's name in :attr:`SchedulerHints.custom`.
RAY = "ray"


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
    return options


def needed_resources(options: Mapping[str, Any]) -> dict[str, float]:
    """What a task takes of a node, under the names that Ray gives resources."""
    needed = {
        name: float(options.get(option) or 0.0)
        for name, option in (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory"))
    }
    needed.update({name: float(value) for name, value in (options.get("resources") or {}).items()})
    return {name: value for name, value in needed.items() if value > 0}


def fits(needed: Mapping[str, float], node: Mapping[str, float]) -> bool:
    """Whether a node has as much."""
    return all(node.get(name, 0.0) >= value for name, value in needed.items())


def impossible(
    what: str, needed: Mapping[str, float], nodes: Sequence[Mapping[str, float]]
) -> ConfigurationError:
    """What to say where no node has it."""
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in needed}
    return ConfigurationError(
        f"resources of {what}",
        expected=f"what one of {len(nodes)} nodes has (at most {_listed(most)})",
        got=_listed(needed),
        fix="ask for less, or tell the executor that the cluster is elastic if it will grow",
    )


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(
        f"{value / 1e6:.0f} MB of memory" if name == "memory" else f"{value:g} {name}"
        for name, value in resources.items()
    )
