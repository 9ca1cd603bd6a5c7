"""Small units of work for the tests of ensembles; importable, since workers get them by name.

They leave notes in a folder, one file for each event: tests count files and read who wrote them,
wherever the work was done.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge.ensembles import Objective, Outcome, Parameters, SchedulerHints, Simulator


def note(folder: Path | str, event: str, text: object = "") -> None:
    """Write down that something happened."""
    (Path(folder) / f"{event}-{uuid.uuid4().hex}").write_text(str(text), encoding="utf-8")


def notes(folder: Path | str, event: str) -> list[str]:
    """What was written down of an event."""
    return [path.read_text(encoding="utf-8") for path in Path(folder).glob(f"{event}-*")]


class Watched:
    """A value that notes the process in which it is unpickled, and carries enough to be sent."""

    def __init__(self, folder: Path | str, value: float, size: int = 0) -> None:
        self.folder, self.value, self.ballast = str(folder), value, bytes(size)

    def __reduce__(self) -> tuple:
        return (_arrived, (self.folder, self.value, self.ballast))


def _arrived(folder: str, value: float, ballast: bytes) -> Watched:
    note(folder, "unpickled", os.getpid())
    return Watched(folder, value, len(ballast))


@dataclass
class Counting(Simulator):
    """Hands out how often it ran (its state) and the value of the parameter ``x``."""

    name: str
    folder: str
    outputs: tuple[str, ...] = ("count", "x")
    hints: SchedulerHints | None = None
    fails_in: tuple[int, ...] = ()

    def run(self, parameters: Parameters, state: Any | None) -> tuple[tuple[Any, ...], Any]:
        count = 1 if state is None else state + 1
        note(self.folder, f"ran.{self.name}", os.getpid())
        if count in self.fails_in:
            raise ArithmeticError(f"{self.name} fails in run {count}")
        x = float(parameters["x"].sum()) if "x" in parameters else 0.0
        return tuple(float(count) if output == "count" else x for output in self.outputs), count


@dataclass
class Wanting(Objective):
    """Wants its observables ``count`` to be at least ``least``; then answers with their sum."""

    name: str
    needs: tuple[str, ...]
    folder: str
    least: float = 1.0
    refreshes: tuple[str, ...] | None = None
    hints: SchedulerHints | None = None
    fails: bool = False

    def compute(self, observables: Mapping[str, Any], parameters: Parameters) -> Outcome:
        note(self.folder, f"asked.{self.name}", os.getpid())
        if self.fails:
            raise KeyError(self.name)
        stale = tuple(name for name in self.needs if observables[name] < self.least)
        if stale:
            return Outcome(refresh=stale if self.refreshes is None else self.refreshes)
        return Outcome(loss=sum(observables.values()), values={"saw": dict(observables)})


@dataclass
class Quadratic(Objective):
    """``(x - target)^2`` of each parameter, without observables."""

    name: str
    target: float
    needs: tuple[str, ...] = ()
    hints: SchedulerHints | None = None
    spoiled_by: float | None = None
    values: dict[str, float] = field(default_factory=dict)

    def compute(self, observables: Mapping[str, Any], parameters: Parameters) -> Outcome:
        del observables
        gradient = {k: 2 * (v - self.target) for k, v in parameters.items()}
        loss = sum(float(((v - self.target) ** 2).sum()) for v in parameters.values())
        if self.spoiled_by is not None:
            gradient = {k: torch.full_like(v, self.spoiled_by) for k, v in gradient.items()}
        return Outcome(loss=loss, gradient=gradient, values=dict(self.values))
