"""Atomic numbers of DeePMD's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ase.data import atomic_numbers as _NUMBERS

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.potentials import _options


def atomic_numbers(type_map: Sequence[str], numbers: Mapping[str, int]) -> list[int]:
    """Atomic number of each type.

    Parameters
    ----------
    type_map
        Names of the types, usually chemical symbols.
    numbers
        Numbers of those that are none, or of any.

    Raises
    ------
    ConfigurationError
        If a type is no element and has no number, if two types have one number, or if ``numbers``
        names a type that is not there.
    """
    strange = sorted(set(numbers) - set(type_map))
    if strange:
        raise ConfigurationError(
            "atomic numbers of types",
            expected=f"types of the model, {', '.join(type_map)}",
            got=", ".join(strange),
            fix="name types as the model does",
        )
    found: list[int] = []
    for name in type_map:
        if name in numbers:
            found.append(numbers[name])
            continue
        # ASE counts 'X', no element, as 0
        number = _NUMBERS.get(name, 0)
        if number == 0:
            raise ConfigurationError(
                f"type '{name}'",
                expected="a chemical symbol, or an atomic number for it",
                got="neither",
                fix=f"say which element it stands for (--types {name}=NUMBER)",
            )
        found.append(number)
    return _options.atomic_types(found)
