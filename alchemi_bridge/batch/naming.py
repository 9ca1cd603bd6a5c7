"""Errors that say which system of a batch is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alchemi_bridge.errors import BridgeError, OverlapError


@contextmanager
def of_system(number: int) -> Iterator[None]:
    """Let errors inside name the system: ``positions`` become ``positions of system 3``."""
    try:
        yield
    except BridgeError as error:
        parts = {"expected": error.expected, "got": error.got, "fix": error.fix}
        named = type(error)(f"{error.what} of system {number}", **parts)
        if isinstance(error, OverlapError) and isinstance(named, OverlapError):
            named.atoms = error.atoms
        raise named from error
