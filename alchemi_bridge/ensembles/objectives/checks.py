"""Checks that objectives have in common."""

from __future__ import annotations

from alchemi_bridge.ensembles.kinds import is_number
from alchemi_bridge.errors import ConfigurationError


def require_weight(what: str, value: float) -> float:
    """A finite number that is not negative.

    Raises
    ------
    ConfigurationError
        If it is something else.
    """
    if not is_number(value) or value < 0.0:
        raise ConfigurationError(
            what,
            expected="a finite number that is not negative",
            got=repr(value),
            fix="leave it out, or correct it",
        )
    return float(value)


def require_positive(what: str, value: float) -> float:
    """A finite number above zero.

    Raises
    ------
    ConfigurationError
        If it is something else.
    """
    if require_weight(what, value) == 0.0:
        raise ConfigurationError(
            what, expected="a number above zero", got="0", fix="leave it out, or correct it"
        )
    return float(value)
