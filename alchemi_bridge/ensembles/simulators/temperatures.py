"""The same simulation at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from alchemi_bridge.ensembles.simulators.dynamics import DynamicsSimulator
from alchemi_bridge.errors import ConfigurationError

SomeSimulator = TypeVar("SomeSimulator", bound=DynamicsSimulator)


def multi_temperature(
    kind: type[SomeSimulator],
    temperatures: Sequence[float],
    name: str,
    *,
    n: int = 1,
    **options: Any,
) -> list[SomeSimulator]:
    """Simulators ``name.0``, ``name.1``, ... that differ in their temperatures.

    Parameters
    ----------
    kind
        The class.
    temperatures
        K.
    n
        How many for each temperature: more than one are called ``name.0.0``, ``name.0.1``, ...
    options
        Those of the class.

    Raises
    ------
    ConfigurationError
        If there are no temperatures, or what the class raises.
    """
    if not len(temperatures):
        raise ConfigurationError(
            f"temperatures of '{name}'",
            expected="at least one",
            got="none",
            fix="name some temperatures, K",
        )
    made: list[SomeSimulator] = []
    for k, temperature in enumerate(temperatures):
        given = {**options, "temperature": float(temperature)}
        if n == 1:
            made.append(kind(name=f"{name}.{k}", **given))
        else:
            made += kind.create_n(n, f"{name}.{k}", **given)
    return made
