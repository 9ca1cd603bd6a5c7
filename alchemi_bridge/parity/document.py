"""A report as plain data: the JSON document and the rows of table and CSV file."""

from __future__ import annotations

import csv
import datetime
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alchemi_bridge.parity.compare import Comparison
from alchemi_bridge.parity.machine import machine, versions
from alchemi_bridge.parity.run import CaseReport, PathReport, Report

#: Version of the JSON document's layout; it changes when a key changes its meaning or goes away.
SCHEMA = 1

#: Name in the document, name of the check.
ERRORS = {
    "relative_energy_error": "energy_relative",
    "max_force_error": "force_max",
    "rms_force_error": "force_rms",
    "virial_error_per_atom": "virial_per_atom",
    "max_energies_error": "energies_max",
}

CSV_COLUMNS = (
    "case",
    "atoms",
    "frames",
    "dtype",
    "path",
    "reference",
    "status",
    "energy_error_per_atom",
    *ERRORS,
    "ms_per_step",
    "passed",
    "reason",
)


def document(report: Report) -> dict[str, Any]:
    """The report as a JSON object.

    Errors are in eV and Å (see ``units``); null where a number was not compared or is not finite,
    with the reason in ``failures``. ``paths`` lists every path of the run with the reason why it is
    not available, if it is not; ``cases[].paths`` those that ran, ``cases[].skipped`` the others.
    ``cpu_share`` well below 1 says that the machine was busy with something else while timing.
    """
    return {
        "schema": SCHEMA,
        "passed": report.passed,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(report.seconds, 3),
        "cpu_share": finite(report.cpu_share),
        "units": {
            "energy": "eV",
            "force": "eV/angstrom",
            "virial": "eV",
            "time": "ms",
        },
        "versions": versions(),
        "machine": machine(report.settings.threads),
        "paths": [
            {
                "name": path.name,
                "description": path.description,
                "available": path.unavailable() is None,
                "reason": path.unavailable(),
            }
            for path in report.paths
        ],
        "cases": [_case(case) for case in report.cases],
    }


def _case(case: CaseReport) -> dict[str, Any]:
    atoms = case.frames[0]
    return {
        "name": case.case.name,
        "description": case.case.description,
        "atoms": max(len(frame) for frame in case.frames),
        "frames": len(case.frames),
        "formula": atoms.get_chemical_formula(),
        "pbc": [bool(p) for p in atoms.pbc],
        "dtype": case.dtype,
        "reference": case.reference,
        "passed": case.passed,
        "paths": [_path(path) for path in case.ran],
        "skipped": [
            {"name": path.name, "reason": path.skipped}
            for path in case.paths
            if path.skipped is not None
        ],
    }


def _path(path: PathReport) -> dict[str, Any]:
    return {
        "name": path.name,
        "passed": path.passed,
        **errors(path.comparison),
        "ms_per_step": finite(path.ms_per_step),
        "tolerances": limits(path.comparison),
        "failures": path.failures,
    }


def errors(comparison: Comparison | None) -> dict[str, float | None]:
    """Errors by :data:`ERRORS`' names, and that of the energy over the number of atoms."""
    return {
        "energy_error_per_atom": finite(comparison.energy_error_per_atom if comparison else None),
        **{
            name: finite(comparison.error(check) if comparison else None)
            for name, check in ERRORS.items()
        },
    }


def limits(comparison: Comparison | None) -> dict[str, float]:
    """Limits of those errors that have one."""
    return {
        name: check.tolerance
        for name, wanted in ERRORS.items()
        for check in (comparison.checks if comparison else ())
        if check.name == wanted and math.isfinite(check.tolerance)
    }


def finite(value: float | None) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if value is not None and math.isfinite(value) else None


def csv_rows(report: Report) -> Iterator[dict[str, Any]]:
    """One row for each path of each case, also for those that did not run."""
    for case in report.cases:
        data = _case(case)
        for path in case.paths:
            row: dict[str, Any] = {
                "case": data["name"],
                "atoms": data["atoms"],
                "frames": data["frames"],
                "dtype": data["dtype"],
                "path": path.name,
                "reference": data["reference"],
            }
            if path.skipped is not None:
                yield {**row, "status": "skipped", "reason": path.skipped}
                continue
            numbers = _path(path)
            yield {
                **row,
                "status": "reference" if path.name == case.reference else "compared",
                **{name: numbers[name] for name in ("energy_error_per_atom", *ERRORS)},
                "ms_per_step": numbers["ms_per_step"],
                "passed": numbers["passed"],
                "reason": "; ".join(path.failures),
            }


def write_csv(report: Report, path: Path) -> None:
    """Write the rows as a CSV file; empty fields where there is no number."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(csv_rows(report))
