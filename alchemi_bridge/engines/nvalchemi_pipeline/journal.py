"""Where every system went."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass


@dataclass(frozen=True, order=True)
class Visit:
    """A system in a stage.

    Attributes
    ----------
    system
        Its number, which the field ``pipeline_id`` holds.
    entered, left
        Iterations of the pipeline in which it came and was handed on.
    rank, stage
        Where.
    steps
        That the stage did with it.
    reason
        ``"converged"``, or ``"steps"`` if it did all its steps.
    to
        ``"rank 1"``, or the sink.
    """

    system: int
    entered: int
    left: int
    rank: int
    stage: str
    steps: int
    reason: str
    to: str


def table(visits: Iterable[Visit]) -> str:
    """Visits as lines of text, in the order of systems and time."""
    heads = ("system", "entered", "left", "rank", "stage", "steps", "reason", "to")
    rows = [heads, *(tuple(map(str, astuple(visit))) for visit in sorted(visits))]
    widths = [max(len(row[k]) for row in rows) for k in range(len(heads))]
    numbers = (0, 1, 2, 3, 5)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k in numbers else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
