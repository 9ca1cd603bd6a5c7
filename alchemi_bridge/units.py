"""Unit expressions and their conversion factors.

Parsing and dimensional analysis are metatomic's own
(:py:func:`metatomic.torch.unit_conversion_factor`); this module adds typed errors, and the pair of
units that an engine speaks.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from metatomic.torch import unit_conversion_factor

from alchemi_bridge.errors import UnitError, first_line


def conversion_factor(from_unit: str, to_unit: str) -> float:
    """Factor that turns a number in ``from_unit`` into one in ``to_unit``.

    Parameters
    ----------
    from_unit, to_unit
        Unit expressions that metatomic understands, e.g. ``"angstrom"``, ``"kJ/mol/nm"``.

    Returns
    -------
    float
        ``x [to_unit] = factor * x [from_unit]``; exactly 1.0 for equal expressions.

    Raises
    ------
    UnitError
        If an expression is empty, can not be parsed, or the dimensions differ.
    """
    for unit in (from_unit, to_unit):
        if not isinstance(unit, str) or not unit.strip():
            raise UnitError(
                "unit expression",
                expected="a unit such as 'angstrom' or 'eV'",
                got="an empty string" if isinstance(unit, str) else type(unit).__name__,
                fix="name the unit",
            )
    return 1.0 if from_unit == to_unit else _parsed_factor(from_unit, to_unit)


@functools.lru_cache(maxsize=256)
def _parsed_factor(from_unit: str, to_unit: str) -> float:
    try:
        factor = float(unit_conversion_factor(from_unit, to_unit))
    except Exception as error:  # metatomic raises bare RuntimeError/ValueError from C++
        raise UnitError(
            f"conversion from '{from_unit}' to '{to_unit}'",
            expected="two units of the same dimension, known to metatomic",
            got=first_line(error),
            fix="check the spelling and the dimension of both units",
        ) from error
    if not (math.isfinite(factor) and factor > 0.0):  # metatomic takes '0 * eV' for a unit
        raise UnitError(
            f"conversion from '{from_unit}' to '{to_unit}'",
            expected="a finite factor above zero",
            got=str(factor),
            fix="leave zeros out of unit expressions",
        )
    return factor


@dataclass(frozen=True)
class Units:
    """Length and energy units of an engine; force and virial follow from them.

    Attributes
    ----------
    length
        Unit of positions, cell vectors and cutoffs.
    energy
        Unit of energies and of the virial (dE/d(strain) is an energy).
    """

    length: str = "angstrom"
    energy: str = "eV"

    def __post_init__(self) -> None:
        conversion_factor(self.length, "angstrom")
        conversion_factor(self.energy, "eV")

    @property
    def force(self) -> str:
        """Unit of forces, energy per length."""
        return f"({self.energy})/({self.length})"

    @property
    def pressure(self) -> str:
        """Unit of stress, energy per volume."""
        return f"({self.energy})/({self.length})^3"
