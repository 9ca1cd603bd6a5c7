"""A fit as its configuration describes it, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alchemi_bridge.ensembles.fit.identity import identity_of
from alchemi_bridge.ensembles.fit.settings import (
    ExecutorSettings,
    Fitted,
    read_executor,
    read_fitted,
    read_hints,
    read_update,
)
from alchemi_bridge.ensembles.fit.table import read_toml
from alchemi_bridge.ensembles.fit.units import read_objectives, read_simulators
from alchemi_bridge.ensembles.fit.update import UpdateSettings
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.models import ModelFile
from alchemi_bridge.ensembles.work import Objective, Simulator


@dataclass(frozen=True, eq=False)
class FitProblem:
    """What is to be done.

    Attributes
    ----------
    path
        The configuration.
    model
        With its hash.
    n_steps
        Steps in all.
    simulators, objectives
        Units.
    fitted, update
        Parameters, and how they are changed.
    executor, hints
        Where, and with which default resources.
    identity
        What a restart must have in common with it.
    """

    path: Path
    model: ModelFile
    n_steps: int
    simulators: Sequence[Simulator]
    objectives: Sequence[Objective]
    fitted: Fitted
    update: UpdateSettings
    executor: ExecutorSettings
    hints: SchedulerHints | None
    identity: Mapping[str, Any]


def read_fit(path: str | Path, *, ray_address: str | None = None) -> FitProblem:
    """Read a configuration.

    Parameters
    ----------
    path
        TOML; files in it are relative to its folder.
    ray_address
        Goes before what the file says about where the work is done.

    Raises
    ------
    ConfigurationError
        If the file can not be read, or a key is missing, unknown or out of its range.
    BridgeError
        Everything that may be wrong with the model, a structure, or a target's file.
    """
    path = Path(path)
    root, beside = read_toml(path), path.parent
    extensions = root.path("extensions", beside) if root.has("extensions") else None
    model = ModelFile(
        root.path("model", beside),
        sha256=root.text("sha256") if root.has("sha256") else None,
        extensions_directory=extensions,
    ).check()
    fitted = read_fitted(root, model.load())
    simulators = read_simulators(root, model, beside)
    found = FitProblem(
        path=path,
        model=model,
        n_steps=root.count("steps", 100),
        simulators=[one for group in simulators.values() for one in group],
        objectives=read_objectives(root, model, simulators, beside),
        fitted=fitted,
        update=read_update(root, list(fitted.start)),
        executor=read_executor(root, ray_address),
        hints=read_hints(root, "hints"),
        identity=identity_of(root.values, beside),
    )
    root.done()
    return found
