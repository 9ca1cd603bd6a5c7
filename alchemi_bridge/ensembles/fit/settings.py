"""Parameters, optimiser, executor and resources of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch

from alchemi_bridge.ensembles.executors.base import Executor
from alchemi_bridge.ensembles.executors.in_process import InProcessExecutor
from alchemi_bridge.ensembles.fit.table import Table
from alchemi_bridge.ensembles.fit.update import METHODS, UpdateSettings
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.models import WorkerModel
from alchemi_bridge.ensembles.objectives.checks import require_positive
from alchemi_bridge.ensembles.variables import Bounds, Scale
from alchemi_bridge.errors import ConfigurationError

EXECUTORS = ("in-process", "ray")
SCALES = ("linear", "log")


@dataclass(frozen=True, eq=False)
class Fitted:
    """What is fitted, from where, within which limits.

    Attributes
    ----------
    start
        Values by name.
    bounds
        Lowest and highest value by name, of all that have them.
    scales
        ``"linear"`` or ``"log"`` by name.
    """

    start: dict[str, torch.Tensor]
    bounds: dict[str, Bounds]
    scales: dict[str, Scale]


@dataclass(frozen=True)
class ExecutorSettings:
    """Where the work is done.

    Attributes
    ----------
    kind
        ``"in-process"`` or ``"ray"``.
    address
        Of a running Ray; a local one is started if it is None.
    init_options, runtime_env
        Of ``ray.init``.
    """

    kind: str = "in-process"
    address: str | None = None
    init_options: Mapping[str, Any] = field(default_factory=dict)
    runtime_env: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Executor:
        """The executor, which has not started yet."""
        if self.kind == "in-process":
            return InProcessExecutor()
        from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor

        return RayExecutor(
            address=self.address,
            init_options=dict(self.init_options),
            runtime_env=dict(self.runtime_env),
        )


def read_hints(root: Table, key: str) -> SchedulerHints | None:
    """Resources, ``None`` if the table is not there."""
    if not root.has(key):
        return None
    table = root.section(key)
    found = table.rest(["num_cpus", "num_gpus", "mem_mb", "max_retries", "custom"])
    table.done()
    return SchedulerHints(**found)


def read_executor(root: Table, address: str | None) -> ExecutorSettings:
    """The table ``executor``; an address that is given here goes before its own."""
    table = root.table("executor")
    kind = table.one_of("kind", EXECUTORS, "in-process" if address is None else "ray")
    own = table.text("address") if table.has("address") else None
    found = ExecutorSettings(
        kind="ray" if address is not None else kind,
        address=own if address is None else address,
        init_options=dict(table.table("init_options").values),
        runtime_env=dict(table.table("runtime_env").values),
    )
    table.done()
    if found.kind != "ray" and (found.address or found.init_options or found.runtime_env):
        raise table.refuse(
            "kind", '"ray", if there are options of Ray', f'"{kind}"', 'write kind = "ray"'
        )
    return found


def read_fitted(root: Table, model: WorkerModel) -> Fitted:
    """The table ``parameters``.

    Raises
    ------
    ConfigurationError
        If a key is unknown, or a name or pattern fits nothing; values, bounds and scales are
        checked by :class:`Variables`.
    """
    table = root.section("parameters")
    names = model.names(table.named("names"))
    start = model.values(names)
    for name, value in _by_name(table.table("start"), names).items():
        number = _numbers(value, 1, f"{table.where}.start.{name}")[0]
        start[name] = torch.full_like(start[name], number)
    bounds: dict[str, Bounds] = {}
    for name, value in _by_name(table.table("bounds"), names).items():
        low, high = _numbers(value, 2, f"{table.where}.bounds.{name}")
        bounds[name] = (low, high)
    scales: dict[str, Any] = {}
    if isinstance(table.values.get("scale"), Mapping):
        scales = _by_name(table.section("scale"), names)
    else:
        scales = dict.fromkeys(names, table.one_of("scale", SCALES, "linear"))
    table.done()
    return Fitted(start, bounds, scales)


def read_update(root: Table, names: list[str]) -> UpdateSettings:
    """The table ``optimizer``, for parameters of these names."""
    table = root.table("optimizer")
    rate = _positive(table, "rate", 0.01)
    rates = _by_name(table.table("rates"), names)
    method = table.one_of("method", METHODS, "adam")
    for key, of in (("momentum", "sgd"), ("betas", "adam")):
        if table.has(key) and method != of:
            raise table.refuse(key, f'none, unless method = "{of}"', f'"{method}"', "remove it")
    betas = tuple(table.numbers("betas", 2)) if table.has("betas") else (0.9, 0.999)
    found = UpdateSettings(
        method=method,
        rates=tuple(
            require_positive(
                f"{table.where}.rates.{name}",
                _numbers(rates.get(name, rate), 1, f"{table.where}.rates.{name}")[0],
            )
            for name in names
        ),
        decay=_positive(table, "decay", 1.0),
        momentum=table.number("momentum", 0.0),
        betas=(betas[0], betas[1]),
    )
    if not 0.0 <= found.momentum < 1.0:
        got = f"{found.momentum:g}"
        raise table.refuse("momentum", "a number from 0 to below 1", got, "correct it")
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise table.refuse("betas", "two numbers from 0 to below 1", repr(betas), "correct them")
    table.done()
    return found


def _positive(table: Table, key: str, default: float) -> float:
    return table.number(key, default, above=0.0)


def _by_name(table: Table, names: list[str]) -> dict[str, Any]:
    """Values by the names that their keys, which are patterns, fit; later keys go before."""
    found = {}
    for pattern in table.values:
        value = table.get(pattern)
        fits = [name for name in names if fnmatchcase(name, pattern)]
        if not fits:
            raise table.refuse(
                f"'{pattern}'",
                f"names or patterns of fitted parameters ({', '.join(names)})",
                "one that fits none",
                "correct it",
            )
        found.update(dict.fromkeys(fits, value))
    return found


def _numbers(value: Any, length: int, where: str) -> list[float]:
    entries = [value] if length == 1 else value
    good = isinstance(entries, list) and len(entries) == length
    if not good or not all(type(entry) in (int, float) for entry in entries):
        raise ConfigurationError(
            where,
            expected="a number" if length == 1 else f"{length} numbers",
            got=repr(value),
            fix="correct it",
        )
    return [float(entry) for entry in entries]
