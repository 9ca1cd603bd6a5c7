"""Which values are numbers: ``True`` is none, though Python counts it among the integers."""

from __future__ import annotations

import math
from typing import Any


def is_whole(value: Any) -> bool:
    """Whether it is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is an integer or a finite float."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))
