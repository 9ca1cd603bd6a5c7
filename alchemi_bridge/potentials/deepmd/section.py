"""A section of DeePMD-kit's input format; keys that nobody asked for are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.potentials import _options


class Section:
    """One section of the document, which notices what nobody asked for.

    Parameters
    ----------
    values
        The section, as JSON gives it. Keys that begin with ``_`` are comments.
    where
        How messages name it.

    Raises
    ------
    ConfigurationError
        Here and in all methods, if a key is missing, unknown, or out of its range.
    """

    #: What to do about a section that is none, and about a key that is unknown.
    advice = "write it as in DeePMD-kit's input files"
    unknown_advice = "remove it, or check its spelling and the version of DeePMD-kit (3.2 is known)"

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                where,
                expected="a section with keys and values",
                got=f"{type(values).__name__} {str(values)[:40]!r}",
                fix=self.advice,
            )
        self.values, self.where = values, where
        self.used: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, which is known from now on."""
        self.used.add(key)
        return self.values.get(key, default)

    def refuse(self, key: str, expected: str, got: str, fix: str) -> ConfigurationError:
        """An error about a key, to be raised."""
        return ConfigurationError(f"{self.where}.{key}", expected=expected, got=got, fix=fix)

    def section(self, key: str) -> Self:
        """The section under a key."""
        return type(self)(self.get(key), f"{self.where}.{key}")

    def finish(self, ignored: tuple[str, ...], neutral: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuse keys that are neither used nor ignored, nor neutral with a neutral value."""
        for key, value in self.values.items():
            if key in self.used or key in ignored or key.startswith("_"):
                continue
            if key not in neutral:
                known = sorted({*self.used, *ignored, *neutral})
                raise self.refuse(
                    key,
                    f"only keys that are known here ({', '.join(known)})",
                    "an unknown key",
                    self.unknown_advice,
                )
            if value not in neutral[key]:
                raise self.refuse(
                    key,
                    f"none, or {neutral[key][0]!r}",
                    repr(value),
                    "this part of DeePMD-kit is not supported; use a model without it",
                )

    def number(self, key: str, default: float, above: float | None = None) -> float:
        """A finite number."""
        limits = {} if above is None else {"above": above}
        value = self.get(key, default)
        if isinstance(value, (bool, str)):
            raise self.refuse(key, "a finite number", repr(value), "write a plain number")
        return _options.number(f"{self.where}.{key}", value, **limits)

    def count(self, key: str, default: int) -> int:
        """A positive integer."""
        return _options.count(f"{self.where}.{key}", self.get(key, default))

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false", repr(value), "choose one of the two")
        return value

    def choice(self, key: str, known: tuple[str, ...], default: str) -> str:
        """One of some names, in lower case."""
        value = self.get(key, default)
        name = value.lower() if isinstance(value, str) else value
        if name not in known:
            raise self.refuse(
                key, f"one of {', '.join(known)}", repr(value), "others are not supported yet"
            )
        return str(name)

    def counts(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A list of positive integers."""
        value = self.get(key, default)
        good = isinstance(value, (list, tuple)) and len(value) > 0
        if not good or not all(type(one) is int and one > 0 for one in value):
            raise self.refuse(
                key, "a list of positive integers", repr(value), "write [10, 20, 40], for example"
            )
        return tuple(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of different names."""
        value = self.get(key)
        good = isinstance(value, list) and len(value) > 0
        if not good or not all(isinstance(one, str) for one in value):
            raise self.refuse(key, "a list of names of types", repr(value), 'write ["O", "H"]')
        if len(set(value)) != len(value):
            raise self.refuse(key, "different names", repr(value), "name every type once")
        return tuple(value)
