"""Whether there is a place on a Ray cluster for what a task asks for: Ray would wait for ever."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from alchemi_bridge.ensembles.executors.ray_resources import needed_resources
from alchemi_bridge.errors import ConfigurationError

Resources = Mapping[str, float]


def check_place(ray: ModuleType, options: Mapping[str, Any], what: str) -> None:
    """Raise unless some node that is there now can take a task with such options.

    Looked at are resources, accelerator types, label selectors, and scheduling strategies that name
    a node or a placement group. Not looked at is ``NodeLabelSchedulingStrategy``, and whether a
    placement group that is still pending will ever be made.

    Raises
    ------
    ConfigurationError
        If none can.
    """
    needed = needed_resources(options)
    strategy: Any = options.get("scheduling_strategy")
    if hasattr(strategy, "placement_group"):
        _check_group(ray, strategy, needed, what)
        return
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if hasattr(strategy, "node_id") and not strategy.soft:
        nodes = [node for node in nodes if node["NodeID"] == strategy.node_id]
        if not nodes:
            raise _impossible(what, "a node that is there", f"node {strategy.node_id}")
    selectors = _selectors(options)
    chosen = [node for node in nodes if any(selects(s, node.get("Labels", {})) for s in selectors)]
    if nodes and not chosen:
        labels = "; ".join(_named(node.get("Labels", {})) for node in nodes)
        raise _impossible(what, f"labels that a node has ({labels})", _named(selectors[0]))
    there = [node["Resources"] for node in chosen]
    if not any(_fits(needed, node) for node in there):
        number = f"{len(there)} node{'s' * (len(there) != 1)}"
        most = {name: max((node.get(name, 0.0) for node in there), default=0.0) for name in needed}
        expected = f"what one of {number} has (at most {_listed(most)})"
        raise _impossible(what, expected, _listed(needed))


def _check_group(ray: ModuleType, strategy: Any, needed: Resources, what: str) -> None:
    group, index = strategy.placement_group, strategy.placement_group_bundle_index
    if group is None:
        return
    found = ray.util.placement_group_table(group)
    state = found.get("state")
    if state not in ("CREATED", "PENDING", "RESCHEDULING", "PREPARED"):
        raise _impossible(what, "a placement group that is there", f"{state or 'an unknown one'}")
    bundles = group.bundle_specs
    if index >= len(bundles):
        raise _impossible(what, f"one of {len(bundles)} bundles", f"number {index}")
    usable = bundles if index < 0 else [bundles[index]]
    if not any(_fits(needed, bundle) for bundle in usable):
        listed = "; ".join(_listed(bundle) for bundle in usable)
        raise _impossible(what, f"what a bundle of its group has ({listed})", _listed(needed))


def _selectors(options: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Label selectors of which one has to fit."""
    first = options.get("label_selector") or {}
    others = options.get("fallback_strategy") or []
    return [first, *(other.get("label_selector") or {} for other in others)]


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether labels meet a selector: ``value``, ``!value``, ``in(a,b)`` or ``!in(a,b)`` each."""
    return all(_meets(str(wanted), labels.get(name)) for name, wanted in selector.items())


def _meets(wanted: str, value: str | None) -> bool:
    refused = wanted.startswith("!")
    wanted = wanted.removeprefix("!")
    several = re.fullmatch(r"in\((.*)\)", wanted)
    values = [word.strip() for word in several[1].split(",")] if several else [wanted]
    return (value in values) != refused


def _fits(needed: Resources, there: Resources) -> bool:
    """Whether there is as much."""
    return all(there.get(name, 0.0) >= value for name, value in needed.items())


def _impossible(what: str, expected: str, got: str) -> ConfigurationError:
    return ConfigurationError(
        f"resources of {what}",
        expected=expected,
        got=got,
        fix="ask for less, or tell the executor that the cluster is elastic if it will grow",
    )


def _named(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items()) or "none"


def _listed(resources: Resources) -> str:
    return ", ".join(
        f"{value / 1e6:.0f} MB of memory" if name == "memory" else f"{value:g} {name}"
        for name, value in resources.items()
    )
