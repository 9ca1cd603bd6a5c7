"""Comparison of one path with the reference: errors, limits, and what is wrong.

Nothing passes by accident: a number that is missing, of the wrong shape, or not finite fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from alchemi_bridge.errors import InputError
from alchemi_bridge.parity.results import QUANTITIES, PathResult, rms
from alchemi_bridge.parity.tolerances import ENERGY_FLOOR, Tolerances, tolerances


@dataclass(frozen=True)
class Check:
    """One number against its limit.

    Attributes
    ----------
    name
        ``energy_relative``, ``force_max``, ``force_rms``, ``virial_per_atom`` or ``energies_max``.
    quantity
        What it is about: ``energy``, ``forces``, ``virial`` or ``energies``.
    error
        The error in ``unit``; None where it can not be computed, see ``problem``.
    tolerance
        Its limit.
    unit
        Unit of both.
    problem
        Why there is no error: the number is missing, not finite, or of the wrong shape.
    """

    name: str
    quantity: str
    error: float | None
    tolerance: float
    unit: str
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether there is an error and it is within its limit."""
        if self.problem is not None or self.error is None:
            return False
        return math.isfinite(self.error) and self.error <= self.tolerance

    @property
    def severity(self) -> float:
        """Error over limit; infinite where there is a problem."""
        if self.problem is not None or self.error is None or not math.isfinite(self.error):
            return math.inf
        return self.error / self.tolerance if self.tolerance > 0 else math.inf

    def describe(self) -> str:
        """The check as one line."""
        if self.problem is not None:
            return f"{self.quantity}: {self.problem}"
        return f"{self.name} {self.error:.2e} {self.unit} > {self.tolerance:.2e}".replace("  ", " ")


@dataclass(frozen=True)
class Comparison:
    """All checks of one path in one case; the worst of all frames for each.

    Attributes
    ----------
    checks
        One for each compared number.
    energy_error_per_atom
        Largest absolute error of the energy over the number of atoms, eV; None with a problem.
    """

    checks: tuple[Check, ...]
    energy_error_per_atom: float | None

    @property
    def passed(self) -> bool:
        """Whether at least one number was compared and all are within their limits."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def error(self, name: str) -> float | None:
        """Error of a check by name; None where it was not compared or could not be."""
        return next((check.error for check in self.checks if check.name == name), None)


_Measure = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class _Rule:
    """How a named check is measured."""

    name: str
    quantity: str
    unit: str
    measure: _Measure


def _max_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(found - expected), initial=0.0))


def _rules(n_atoms: int) -> tuple[_Rule, ...]:
    def energy_relative(found: np.ndarray, expected: np.ndarray) -> float:
        scale = max(abs(float(expected)), n_atoms * ENERGY_FLOOR)
        return abs(float(found) - float(expected)) / scale

    def virial_per_atom(found: np.ndarray, expected: np.ndarray) -> float:
        return _max_error(found, expected) / n_atoms

    return (
        _Rule("energy_relative", "energy", "", energy_relative),
        _Rule("force_max", "forces", "eV/Å", _max_error),
        _Rule("force_rms", "forces", "eV/Å", lambda a, b: rms(a - b)),
        _Rule("virial_per_atom", "virial", "eV", virial_per_atom),
        _Rule("energies_max", "energies", "eV", _max_error),
    )


@dataclass(frozen=True)
class Precision:
    """What roundoff depends on, besides the numbers themselves.

    Attributes
    ----------
    dtype
        ``"float64"`` or ``"float32"``: the precision that the model computes in.
    extent
        Largest coordinate or length of a cell vector, Å.
    exact_reference
        Whether the reference computes in float64.
    """

    dtype: str
    extent: float = 0.0
    exact_reference: bool = True


def limits(reference: PathResult, precision: Precision) -> Tolerances:
    """Tolerances of one frame, scaled by the reference's numbers."""
    n_atoms = max(len(reference.forces), 1)
    virial = np.zeros(1) if reference.virial is None else reference.virial
    energies = reference.energy / n_atoms if reference.energies is None else reference.energies
    return tolerances(
        precision.dtype,
        rms_force=rms(reference.forces),
        virial_per_atom=float(np.max(np.abs(virial))) / n_atoms,
        largest_energy=float(np.max(np.abs(energies), initial=0.0)),
        extent=precision.extent,
        exact_reference=precision.exact_reference,
    )


def compare(
    found: Sequence[PathResult],
    reference: Sequence[PathResult],
    *,
    precision: Precision,
    expected: Collection[str] = QUANTITIES,
) -> Comparison:
    """Compare one path with the reference over all frames of a case.

    Parameters
    ----------
    found, reference
        Results for the same frames in the same order.
    precision
        What the tolerances depend on.
    expected
        Quantities that the path promised. A promised quantity that the reference has and the path
        lacks is a failure; one that the reference lacks can not be compared and gives no check.

    Returns
    -------
    Comparison
        The worst frame of each check.

    Raises
    ------
    InputError
        If there is no frame, or the numbers of frames differ.
    """
    if not reference or len(found) != len(reference):
        raise InputError(
            "results to compare",
            expected=f"one for each of the {len(reference)} frames (at least one)",
            got=f"{len(found)}",
            fix="evaluate the same frames on both paths",
        )
    frames = [
        _compare_frame(a, b, precision, expected) for a, b in zip(found, reference, strict=True)
    ]
    names = dict.fromkeys(check.name for checks in frames for check in checks)
    worst = tuple(
        max(
            (check for checks in frames for check in checks if check.name == name),
            key=lambda check: check.severity,
        )
        for name in names
    )
    return Comparison(checks=worst, energy_error_per_atom=_energy_per_atom(found, reference))


def _compare_frame(
    found: PathResult, reference: PathResult, precision: Precision, expected: Collection[str]
) -> list[Check]:
    limit = limits(reference, precision)
    checks = []
    for rule in _rules(max(len(reference.forces), 1)):
        right = reference.value(rule.quantity)
        if rule.quantity not in expected or right is None:
            continue
        left = found.value(rule.quantity)
        problem = _problem(left, right)
        error = None
        if problem is None and left is not None:
            error = rule.measure(left, right)
        tolerance = getattr(limit, rule.name)
        checks.append(Check(rule.name, rule.quantity, error, tolerance, rule.unit, problem))
    return checks


def _problem(found: np.ndarray | None, reference: np.ndarray) -> str | None:
    """Why two arrays can not be compared, or None if they can."""
    if not np.all(np.isfinite(reference)):
        return "the reference is not finite"
    if found is None:
        return "missing"
    if found.shape != reference.shape:
        return f"shape {found.shape} instead of {reference.shape}"
    if not np.all(np.isfinite(found)):
        return "not finite"
    return None


def _energy_per_atom(found: Sequence[PathResult], reference: Sequence[PathResult]) -> float | None:
    errors = [
        abs(a.energy - b.energy) / max(len(b.forces), 1)
        for a, b in zip(found, reference, strict=True)
    ]
    # max() would drop a NaN, depending on where it stands
    return max(errors) if all(math.isfinite(error) for error in errors) else None
