"""What a check is, what it finds, and what becomes of that.

A check is a function of a :class:`~alchemi_bridge.verify.subject.Subject` that measures something
and returns a :class:`Finding` (or :class:`NotApplicable`). The status follows from the numbers and
from the check's severity; a check never decides by itself that it passed.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alchemi_bridge.verify.subject import Subject


class Status(enum.StrEnum):
    """What came out of a check. Only ``FAIL`` and ``ERROR`` make a verification fail."""

    PASS = "pass"
    FAIL = "fail"
    WARNING = "warning"
    REPORTED = "reported"
    NOT_APPLICABLE = "not applicable"
    ERROR = "error"


class Severity(enum.Enum):
    """What a number beyond its tolerance means; the value is the status it leads to."""

    #: The model, or the way it is evaluated, is wrong.
    FAIL = Status.FAIL
    #: Published models do this, and it limits what they can be used for.
    WARNING = Status.WARNING
    #: A property that a model may lack by design; its size is worth knowing.
    REPORT = Status.REPORTED


@dataclass(frozen=True)
class Measure:
    """One measured number with its limit.

    Attributes
    ----------
    quantity
        What was measured, e.g. ``"force"``.
    value
        The deviation, never negative; NaN counts as beyond any tolerance.
    unit
        Unit of value and tolerance; ``"relative"`` where it is a ratio.
    tolerance
        Largest value that is fine; None for a number that is only shown.
    """

    quantity: str
    value: float
    unit: str
    tolerance: float | None

    @property
    def exceeded(self) -> bool:
        """Whether the value is beyond the tolerance."""
        return self.tolerance is not None and not self.value <= self.tolerance

    @property
    def excess(self) -> float:
        """Value in units of the tolerance, to find the worst of several measures."""
        if self.tolerance is None:
            return -1.0
        if not math.isfinite(self.value):
            return math.inf
        if self.value <= 0.0:
            return 0.0
        return self.value / self.tolerance if self.tolerance > 0.0 else math.inf

    def as_dict(self) -> dict[str, Any]:
        """For JSON; numbers that are not finite become None."""
        return {
            "quantity": self.quantity,
            "value": finite_or_none(self.value),
            "unit": self.unit,
            "tolerance": self.tolerance,
        }


@dataclass(frozen=True)
class Finding:
    """What a check measured.

    Attributes
    ----------
    measures
        At least one; the one farthest beyond (or closest to) its tolerance speaks for the check.
    message
        What was done, and what the numbers mean.
    severity
        Takes the place of the check's own where the circumstances call for it.
    """

    measures: tuple[Measure, ...]
    message: str
    severity: Severity | None = None


@dataclass(frozen=True)
class NotApplicable:
    """The check has no meaning for this model or structure."""

    reason: str


@dataclass(frozen=True)
class Check:
    """A registered check.

    Attributes
    ----------
    name
        Identifier for ``--check`` and JSON.
    title
        What is checked, in a line.
    severity
        What it means if the numbers are beyond their tolerances.
    function
        Measures.
    """

    name: str
    title: str
    severity: Severity
    function: Callable[[Subject], Finding | NotApplicable]


@dataclass(frozen=True)
class Outcome:
    """What a check came to; attributes as in the JSON report.

    Attributes
    ----------
    name, title
        Of the check.
    status
        See :class:`Status`.
    value, unit, tolerance
        Of the measure that decided; None where nothing was measured.
    message
        What was done or found, or why not.
    measures
        All that was measured.
    seconds
        Time the check took.
    """

    name: str
    title: str
    status: Status
    message: str
    value: float | None = None
    unit: str | None = None
    tolerance: float | None = None
    measures: tuple[Measure, ...] = field(default=())
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether this makes the verification fail."""
        return self.status in (Status.FAIL, Status.ERROR)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "status": str(self.status),
            "value": finite_or_none(self.value),
            "unit": self.unit,
            "tolerance": self.tolerance,
            "message": self.message,
            "measures": [measure.as_dict() for measure in self.measures],
            "seconds": round(self.seconds, 3),
        }


def finite_or_none(value: float | None) -> float | None:
    """A number that JSON can hold."""
    return value if value is not None and math.isfinite(value) else None


def conclude(check: Check, found: Finding | NotApplicable, seconds: float) -> Outcome:
    """Turn what a check found into its outcome."""
    if isinstance(found, NotApplicable):
        return Outcome(
            check.name, check.title, Status.NOT_APPLICABLE, found.reason, seconds=seconds
        )
    worst = max(found.measures, key=lambda measure: measure.excess)
    severity = found.severity or check.severity
    return Outcome(
        name=check.name,
        title=check.title,
        status=severity.value if worst.exceeded else Status.PASS,
        message=found.message,
        value=worst.value,
        unit=worst.unit,
        tolerance=worst.tolerance,
        measures=found.measures,
        seconds=seconds,
    )


#: All checks by name, in the order in which they run.
CHECKS: dict[str, Check] = {}


def register(
    name: str, title: str, severity: Severity = Severity.FAIL
) -> Callable[[Callable[[Subject], Finding | NotApplicable]], Callable]:
    """Decorator that adds a function to :data:`CHECKS`."""

    def add(function: Callable[[Subject], Finding | NotApplicable]) -> Callable:
        CHECKS[name] = Check(name, title, severity, function)
        return function

    return add
