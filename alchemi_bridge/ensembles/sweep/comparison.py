"""A cell of the matrix: an engine's numbers against the reference's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.sweep.evaluation import Evaluation, Numbers, Problem
from alchemi_bridge.ensembles.sweep.plan import Cell
from alchemi_bridge.ensembles.work import Objective, Outcome, Parameters
from alchemi_bridge.parity.compare import Comparison, compare
from alchemi_bridge.parity.document import errors, finite, limits

#: What can come of a cell.
STATUSES = ("passed", "failed", "skipped", "error")


class CellComparison(Objective):
    """Compares an engine with the reference. What it hands back is small; see :func:`record`.

    Parameters
    ----------
    cell
        The cell.
    found, reference
        Evaluations by the cell's engine, and by the reference.
    hints
        Resources.
    """

    def __init__(
        self,
        cell: Cell,
        found: Evaluation,
        reference: Evaluation,
        hints: SchedulerHints | None = None,
    ) -> None:
        self.name = cell.name
        self.needs = (found.observable(), reference.observable())
        self.reference = reference.engine.name
        self.hints = hints

    def compute(self, observables: Mapping[str, Any], parameters: Parameters) -> Outcome:
        """See :meth:`Objective.compute`; the values are the cell's record."""
        del parameters
        found, reference = (observables[name] for name in self.needs)
        return Outcome(values=record(found, reference, self.reference))


def record(found: Numbers, reference: Numbers, name: str) -> dict[str, Any]:
    """The outcome of a cell, as JSON knows it.

    Parameters
    ----------
    found, reference
        What came of the two evaluations.
    name
        Name of the reference, for reasons.
    """
    if found.skipped is not None:
        return _without_numbers("skipped", found.skipped)
    if found.problem is not None:
        return problem_record(found.problem)
    if reference.skipped is not None:
        return _without_numbers("skipped", f"no reference: {name}: {reference.skipped}")
    if reference.problem is not None:
        why = f"no reference: {name} failed: {reference.problem.message}"
        return problem_record(
            Problem(reference.problem.type, why, reference.problem.traceback),
        )
    assert reference.precision is not None  # it has results
    comparison = compare(
        found.results,
        reference.results,
        precision=reference.precision,
        expected=found.expected,
    )
    return _compared(comparison, found, reference)


def problem_record(problem: Problem) -> dict[str, Any]:
    """The outcome of a cell that failed to give numbers."""
    return {
        **_without_numbers("error", problem.message),
        "error": {
            "type": problem.type,
            "message": problem.message,
            "traceback": problem.traceback,
        },
    }


def _without_numbers(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "reason": reason}


def _compared(comparison: Comparison, found: Numbers, reference: Numbers) -> dict[str, Any]:
    worst = max(comparison.checks, key=lambda check: check.severity, default=None)
    # two checks of one quantity have the same problem: say it once
    failures = list(dict.fromkeys(check.describe() for check in comparison.failures))
    if worst is None:
        failures = ["nothing was compared"]
    assert reference.precision is not None  # it has results
    return {
        "status": "passed" if comparison.passed else "failed",
        "reason": "; ".join(failures),
        "dtype": reference.precision.dtype,
        **errors(comparison),
        "limits": limits(comparison),
        "severity": finite(worst.severity) if worst else None,
        "worst": worst.name if worst else None,
        "energy_per_atom": _energy_per_atom(found),
        "reference_energy_per_atom": _energy_per_atom(reference),
        "seconds": round(found.seconds, 6),
    }


def _energy_per_atom(numbers: Numbers) -> float | None:
    """Of the first frame, eV; None where it is not finite."""
    first = numbers.results[0]
    energy = first.energy / max(len(first.forces), 1)
    return energy if math.isfinite(energy) else None
