"""Simulators and objectives of a configuration."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from alchemi_bridge.ensembles.fit.settings import read_hints
from alchemi_bridge.ensembles.fit.table import Table
from alchemi_bridge.ensembles.models import ModelFile
from alchemi_bridge.ensembles.objectives import (
    EnergyForceObjective,
    ReweightedObjective,
    Target,
)
from alchemi_bridge.ensembles.objectives.reweighted import THRESHOLD
from alchemi_bridge.ensembles.observables import Density, PotentialEnergy, RadialDistribution
from alchemi_bridge.ensembles.simulators import ENGINES, DynamicsSimulator, multi_temperature
from alchemi_bridge.ensembles.work import Objective
from alchemi_bridge.errors import ConfigurationError, first_line

#: Kinds of averages; ``reweighted`` has several of them, in ``targets``.
AVERAGES = ("rdf", "density", "mean-energy")
KINDS = (*AVERAGES, "reweighted", "energy-force")

#: Options of simulators that are not their keys here, or not by the same name.
_NOT_KEYS = ("name", "model", "structure", "temperature", "hints", "file")


def read_simulators(
    root: Table, model: ModelFile, beside: Path
) -> dict[str, list[DynamicsSimulator]]:
    """Simulators by the name of their table, of which there may be several each.

    Raises
    ------
    ConfigurationError
        If a key is missing, unknown or out of its range, or two tables have one name.
    BridgeError
        Everything that may be wrong with a structure.
    """
    found: dict[str, list[DynamicsSimulator]] = {}
    for table in root.tables("simulators"):
        name = table.text("name")
        if name in found:
            raise table.refuse("name", "different names", f"'{name}' twice", "rename one")
        kind = ENGINES[table.one_of("engine", sorted(ENGINES), "ase")]
        known = [f.name for f in fields(kind) if f.init and f.name not in _NOT_KEYS]
        options: dict[str, Any] = {
            "model": model,
            "structure": table.path("structure", beside),
            "hints": read_hints(table, "hints"),
            **table.rest(known),
        }
        count = table.count("count", 1)
        if table.has("temperatures"):
            temperatures = table.numbers("temperatures")
            table.done()
            made = multi_temperature(kind, temperatures, name, n=count, **options)
        else:
            options["temperature"] = table.number("temperature", 300.0)
            table.done()
            one = count == 1
            made = [kind(name=name, **options)] if one else kind.create_n(count, name, **options)
        found[name] = list(made)
    return found


def read_objectives(
    root: Table, model: ModelFile, simulators: Mapping[str, list[DynamicsSimulator]], beside: Path
) -> list[Objective]:
    """Objectives, which read the simulators by the names of their tables.

    Raises
    ------
    ConfigurationError
        If a key is missing, unknown or out of its range, there is no such simulator, or no
        objective at all.
    BridgeError
        Everything that may be wrong with a file.
    """
    found: list[Objective] = []
    for table in root.tables("objectives"):
        kind = table.one_of("kind", KINDS)
        if kind == "energy-force":
            found.append(_matching(table, model, beside))
        else:
            found.append(_reweighted(table, kind, model, simulators, beside))
        table.done()
    if not found:
        raise root.refuse("objectives", "at least one", "none", "add a table [[objectives]]")
    return found


def _matching(table: Table, model: ModelFile, beside: Path) -> EnergyForceObjective:
    return EnergyForceObjective(
        table.text("name"),
        model,
        table.path("file", beside),
        energy_weight=table.number("energy_weight", 1.0),
        force_weight=table.number("force_weight", 1.0),
        any_zero=table.flag("any_zero", False),
        chunk=_chunk(table),
        hints=read_hints(table, "hints"),
    )


def _reweighted(
    table: Table,
    kind: str,
    model: ModelFile,
    simulators: Mapping[str, list[DynamicsSimulator]],
    beside: Path,
) -> ReweightedObjective:
    read = [one for name in _names(table, simulators) for one in simulators[name]]
    if kind == "reweighted":
        targets = []
        for entry in table.tables("targets"):
            targets.append(_target(entry, entry.one_of("kind", AVERAGES), read, beside))
            entry.done()
    else:
        targets = [_target(table, kind, read, beside)]
    return ReweightedObjective(
        table.text("name"),
        model,
        read,
        targets,
        threshold=table.number("threshold", THRESHOLD),
        equilibration=table.number("equilibration", 0.0),
        chunk=_chunk(table),
        hints=read_hints(table, "hints"),
    )


def _names(table: Table, simulators: Mapping[str, Any]) -> list[str]:
    names = table.named("simulators")
    for name in names:
        if name not in simulators:
            there = ", ".join(simulators) or "none"
            raise table.refuse(
                "simulators", f"names of [[simulators]]: {there}", f"'{name}'", "correct it"
            )
    return names


def _chunk(table: Table) -> int | None:
    return table.count("chunk", 1) if table.has("chunk") else None


def _target(
    table: Table, kind: str, simulators: Sequence[DynamicsSimulator], beside: Path
) -> Target:
    observable: Any
    if kind == "rdf":
        pair = tuple(table.named("pair")) if table.has("pair") else None
        if pair is not None and len(pair) == 1:
            pair = (pair[0], pair[0])
        observable, value = read_rdf(table.path("file", beside), pair)
    else:
        if not table.has("value"):
            raise table.refuse("value", "a number", "nothing", "write value = 1.0, for example")
        value = np.array(table.number("value", 0.0))
        observable = Density()
        if kind == "mean-energy":
            observable = PotentialEnergy(per_atom=table.flag("per_atom", True))
    temperature = table.number("temperature", 0.0) if table.has("temperature") else None
    there = sorted({one.temperature for one in simulators})
    if temperature not in there and (temperature is not None or len(there) > 1):
        raise table.refuse(
            "temperature",
            f"that of one of the simulators: {', '.join(f'{t:g}' for t in there)}",
            "nothing" if temperature is None else f"{temperature:g}",
            "name one of them",
        )
    # the table of an objective with one target is called what the objective is called
    called = f"{kind}-{temperature:g}" if temperature is not None else kind
    return Target(
        called if not table.has("name") or table.has("simulators") else table.text("name"),
        observable,
        value,
        weight=table.number("weight", 1.0),
        scale=table.number("scale", 1.0),
        temperature=temperature,
    )


def read_rdf(
    path: Path, pair: tuple[str, ...] | None = None
) -> tuple[RadialDistribution, np.ndarray]:
    """A radial distribution function, and its target, from a table with columns ``r`` and ``g``.

    Parameters
    ----------
    path
        CSV with a header; ``r`` in Å are the centres of equal bins that begin at zero.
    pair
        Two chemical symbols; all atoms by default.

    Raises
    ------
    ConfigurationError
        If the file can not be read, or is something else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(float(row["r"]), float(row["g"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _bad_rdf(path, first_line(error)) from error
    r, g = np.array(rows).reshape(-1, 2).T
    if len(r) < 2:
        raise _bad_rdf(path, f"{len(r)} rows")
    width = 2.0 * float(r[0])
    expected = width * (np.arange(len(r)) + 0.5)
    # as many digits as people write
    if not (math.isfinite(width) and width > 0.0) or np.abs(r - expected).max() > 0.02 * width:
        raise _bad_rdf(path, f"r = {r[0]:g}, {r[1]:g}, ..., {r[-1]:g}")
    chosen: Any = pair
    return RadialDistribution(len(r) * width, len(r), chosen), g


def _bad_rdf(path: Path, got: str) -> ConfigurationError:
    return ConfigurationError(
        f"radial distribution function '{path}'",
        expected="a CSV table with columns r and g, where r (Å) are the centres of equal bins that "
        "begin at zero",
        got=got,
        fix="write it like that (as many bins as you like)",
    )
