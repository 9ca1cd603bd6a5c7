"""Whether costly checks are wanted."""

from __future__ import annotations

import os

from alchemi_bridge.errors import ConfigurationError

#: Set to 1: coordinates, results and pair lists are checked in every step, which takes much longer.
VARIABLE = "ALCHEMI_BRIDGE_DEBUG"


def debug_enabled() -> bool:
    """Whether the user asked for debug mode.

    Raises
    ------
    ConfigurationError
        If the variable is neither 0 nor 1.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if value in ("", "0", "1"):
        return value == "1"
    raise ConfigurationError(
        VARIABLE,
        expected="0 or 1",
        got=repr(value),
        fix="correct the environment variable, or unset it",
    )
