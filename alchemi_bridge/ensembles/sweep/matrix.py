"""The matrix as plain data: rows, counts, the JSON document, the CSV file."""

from __future__ import annotations

import csv
import datetime
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alchemi_bridge.ensembles.sweep.comparison import STATUSES
from alchemi_bridge.ensembles.sweep.plan import Cell, Plan
from alchemi_bridge.model.files import write_atomically
from alchemi_bridge.parity.document import ERRORS
from alchemi_bridge.parity.machine import versions

#: Version of the JSON document's layout.
SCHEMA = 1

#: Errors of a cell by name; each has a limit but the first.
ERROR_NAMES = ("energy_error_per_atom", *ERRORS)

CSV_COLUMNS = (
    "model",
    "structure",
    "engine",
    "reference",
    "status",
    "frames",
    "atoms",
    "dtype",
    *ERROR_NAMES,
    *(f"{name}_limit" for name in ERRORS),
    "severity",
    "worst",
    "energy_per_atom",
    "reference_energy_per_atom",
    "seconds",
    "error_type",
    "reason",
)

_NOT_RUN: dict[str, Any] = {"status": "error", "reason": "not run"}


@dataclass(frozen=True)
class Row:
    """A cell and what came of it.

    Attributes
    ----------
    cell
        The cell.
    record
        Its outcome; see :mod:`~alchemi_bridge.ensembles.sweep.comparison`.
    """

    cell: Cell
    record: Mapping[str, Any]

    @property
    def status(self) -> str:
        """One of :data:`~alchemi_bridge.ensembles.sweep.comparison.STATUSES`."""
        return str(self.record["status"])

    @property
    def bad(self) -> bool:
        """Whether it is off."""
        return self.status in ("failed", "error")

    @property
    def severity(self) -> float | None:
        """Worst error over its limit; None where there is no number."""
        return self.record.get("severity")


@dataclass(frozen=True)
class Matrix:
    """All cells of a sweep with their outcomes.

    Attributes
    ----------
    plan
        What it is about.
    rows
        In the plan's order.
    run
        How many cells were run.
    kept
        How many were there before; others are the same as one that was run.
    seconds
        Wall time of this run.
    """

    plan: Plan
    rows: list[Row]
    run: int = 0
    kept: int = 0
    seconds: float = 0.0

    @classmethod
    def of(
        cls,
        plan: Plan,
        outcome: Callable[[Cell], Mapping[str, Any] | None],
        *,
        run: Collection[str] = (),
        seconds: float = 0.0,
    ) -> Matrix:
        """The matrix of a plan with outcomes of its cells; ``run`` are keys of those now run."""
        rows = [Row(cell, outcome(cell) or _NOT_RUN) for cell in plan.cells]
        kept = sum(cell.key not in run for cell in plan.cells)
        return cls(plan, rows, len(run), kept, seconds)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of cells by status."""
        return counted(self.rows)

    @property
    def passed(self) -> bool:
        """Whether something was compared, and nothing is off."""
        return self.counts["passed"] > 0 and not any(row.bad for row in self.rows)

    def bad(self) -> list[Row]:
        """What is off, worst first: errors, numbers that are missing, large errors."""
        return sorted((row for row in self.rows if row.bad), key=_badness)

    def by(self, what: str) -> dict[str, list[Row]]:
        """Rows by the name of their ``model``, ``structure`` or ``engine``."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(getattr(row.cell, what).name, []).append(row)
        return groups

    def summary(self) -> str:
        """The outcome in one line."""
        plan, counts = self.plan, self.counts
        text = (
            f"{_number(len(plan.models), 'model')}, {_number(len(plan.structures), 'structure')}, "
            f"{_number(len(plan.engines), 'engine')} against {plan.reference.name}: "
        )
        text += ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        if not counts["passed"] and not counts["failed"]:
            text += "; nothing was compared"
        same = len(self.rows) - self.run - self.kept
        notes = [f"{self.kept} of them kept from before"] if self.kept else []
        notes += [f"{same} of them the same as others"] if same else []
        return text + (f" ({', '.join(notes)})" if notes else "")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _badness(row: Row) -> tuple[int, float]:
    if row.status == "error":
        return 0, 0.0
    return (1, 0.0) if row.severity is None else (2, -row.severity)


def counted(rows: Iterable[Row]) -> dict[str, int]:
    """Number of rows by status."""
    found = Counter(row.status for row in rows)
    return {status: found[status] for status in STATUSES}


def worst(rows: Iterable[Row]) -> float | None:
    """Largest severity of rows; None where none has a number."""
    return max((row.severity for row in rows if row.severity is not None), default=None)


def document(matrix: Matrix) -> dict[str, Any]:
    """The matrix as a JSON object.

    Errors are in eV and Å; ``severity`` is the worst error over its limit, null where a number is
    missing or not finite, and ``worst`` the check it comes from.
    """
    plan = matrix.plan
    models, structures, engines = (matrix.by(what) for what in ("model", "structure", "engine"))
    return {
        "schema": SCHEMA,
        "passed": matrix.passed,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(matrix.seconds, 3),
        "cells_run": matrix.run,
        "counts": matrix.counts,
        "units": {"energy": "eV", "force": "eV/angstrom", "virial": "eV", "time": "s"},
        "versions": versions(),
        "options": dict(plan.options),
        "reference": _engine(plan.reference),
        "engines": [{**_engine(one), **_group(engines[one.name])} for one in plan.engines],
        "models": [
            {
                "name": one.name,
                "file": str(one.path),
                "sha256": one.sha256,
                **_group(models[one.name]),
            }
            for one in plan.models
        ],
        "structures": [
            {
                "name": one.name,
                "file": str(one.path),
                "index": one.index,
                "frames": one.frames,
                "atoms": one.atoms,
                "formula": one.formula,
                **_group(structures[one.name]),
            }
            for one in plan.structures
        ],
        "cells": [
            {
                "model": row.cell.model.name,
                "structure": row.cell.structure.name,
                "engine": row.cell.engine.name,
                **row.record,
            }
            for row in matrix.rows
        ],
    }


def _engine(engine: Any) -> dict[str, Any]:
    return {
        "name": engine.name,
        "path": engine.path.name,
        "description": engine.path.description,
        "version": engine.version,
    }


def _group(rows: list[Row]) -> dict[str, Any]:
    return {"counts": counted(rows), "worst_severity": worst(rows)}


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Write a document with a line for each cell; whole, or not at all."""
    head = json.dumps({**data, "cells": []}, indent=2, allow_nan=False)
    cells = ",\n    ".join(json.dumps(cell, allow_nan=False) for cell in data["cells"])
    before, _, after = head.rpartition("[]")
    text = f"{before}[\n    {cells}\n  ]{after}\n"
    write_atomically(path, text.encode())


def csv_rows(matrix: Matrix) -> Iterator[dict[str, Any]]:
    """A row for each cell; empty where there is no number."""
    for row in matrix.rows:
        record, cell = row.record, row.cell
        known = {name: value for name, value in record.items() if name in CSV_COLUMNS}
        yield {
            **{name: "" if value is None else value for name, value in known.items()},
            "model": cell.model.name,
            "structure": cell.structure.name,
            "engine": cell.engine.name,
            "reference": matrix.plan.reference.name,
            "frames": cell.structure.frames,
            "atoms": cell.structure.atoms,
            **{f"{name}_limit": limit for name, limit in record.get("limits", {}).items()},
            "error_type": record.get("error", {}).get("type", ""),
        }


def write_csv(matrix: Matrix, path: Path) -> None:
    """Write the rows as a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(csv_rows(matrix))
