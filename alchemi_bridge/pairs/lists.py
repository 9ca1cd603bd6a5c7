"""Pair lists as engines hold them.

In all of them a pair is ``(first, second, shift)`` with the vector
``r = positions[second] - positions[first] + shift @ cell``; shifts are integers and refer to the
positions at the pair search, which nobody wraps until the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from alchemi_bridge.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class HalfPairs:
    """Every pair once, in either direction.

    Attributes
    ----------
    first, second
        (n_pairs,) int32 or int64 indices of atoms; any array that
        :meth:`DeviceBuffer.of <alchemi_bridge.device.DeviceBuffer.of>` reads, on the provider's
        device.
    shifts
        (n_pairs, 3) int32 or int64 cell shifts, or ``None`` where all are zero.
    reach
        Distance in the engine's length unit up to which the list is complete at the search. What
        it has beyond the model's cutoff is the skin.
    """

    first: Any
    second: Any
    shifts: Any
    reach: float

    def __post_init__(self) -> None:
        check_reach(self.reach)


@dataclass(frozen=True, eq=False)
class FullPairs:
    """Every pair in both directions: with (i, j, S) there is (j, i, -S).

    Attributes are those of :class:`HalfPairs`.
    """

    first: Any
    second: Any
    shifts: Any
    reach: float

    def __post_init__(self) -> None:
        check_reach(self.reach)


@dataclass(frozen=True)
class Search:
    """No list: the provider searches by itself, and again when atoms moved too far.

    Attributes
    ----------
    skin
        How far the list reaches beyond the model's cutoff, in the engine's length unit. A new
        search is made when half of it may have been used up.
    """

    skin: float

    def __post_init__(self) -> None:
        if not _is_length(self.skin):
            raise ConfigurationError(
                "skin",
                expected="a length of zero or more",
                got=repr(self.skin),
                fix="choose for example 1.0 angstrom",
            )


def _is_length(value: object) -> bool:
    try:
        return isinstance(value, Real) and 0.0 <= float(value) < float("inf")
    except OverflowError:  # an integer beyond the range of floats
        return False


def check_reach(reach: float) -> None:
    """Raise :class:`ConfigurationError` unless this can be the reach of a list."""
    if not _is_length(reach):
        raise ConfigurationError(
            "reach of a pair list",
            expected="the finite distance up to which the list is complete",
            got=repr(reach),
            fix="pass the radius with which the engine built the list",
        )
