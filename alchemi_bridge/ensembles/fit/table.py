"""Tables of a TOML file, which notice keys that nobody asked for."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from alchemi_bridge.errors import ConfigurationError, first_line
from alchemi_bridge.potentials.deepmd.section import Section


class Table(Section):
    """A table of a configuration; see :class:`Section` for what a key may be asked for."""

    advice = "write it as in 'alchemi-bridge fit --help' or examples/fit_lj.toml"

    def __init__(self, values: Any, where: str) -> None:
        super().__init__(values, where)
        self.known: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the key is there; that alone does not allow it."""
        self.known.add(key)
        return key in self.values

    def table(self, key: str) -> Table:
        """The table under a key, an empty one if it is not there."""
        if key not in self.values:
            self.used.add(key)
            return Table({}, f"{self.where}.{key}")
        return self.section(key)

    def tables(self, key: str) -> list[Table]:
        """An array of tables; each is named by its ``name`` or its number."""
        entry = self.get(key, [])
        if not isinstance(entry, list):
            raise self.refuse(key, f"an array of tables [[{key}]]", repr(entry)[:60], self.advice)
        found = []
        for number, values in enumerate(entry):
            name = values.get("name", number) if isinstance(values, dict) else number
            found.append(Table(values, f"{self.where}.{key}[{name!r}]"))
        return found

    def text(self, key: str, default: str | None = None) -> str:
        """A text; one without a default must be there."""
        value = self.get(key, default)
        if not isinstance(value, str) or not value.strip():
            raise self.refuse(key, "a text", _said(value), f'write {key} = "..."')
        return value

    def named(self, key: str) -> list[str]:
        """One text or an array of different ones."""
        value = self.get(key)
        entries = [value] if isinstance(value, str) else value
        good = isinstance(entries, list) and entries and all(isinstance(e, str) for e in entries)
        if not good or len(set(entries)) < len(entries):
            raise self.refuse(
                key, "a name or an array of different names", _said(value), "correct it"
            )
        return list(entries)

    def numbers(self, key: str, length: int | None = None) -> list[float]:
        """An array of numbers."""
        value = self.get(key)
        good = isinstance(value, list) and value and all(type(v) in (int, float) for v in value)
        if not good or (length is not None and len(value) != length):
            how_many = "" if length is None else f"{length} "
            raise self.refuse(key, f"an array of {how_many}numbers", _said(value), "correct it")
        return [float(v) for v in value]

    def one_of(self, key: str, known: Sequence[str], default: str | None = None) -> str:
        """One of some words."""
        value = self.get(key, default)
        if value not in known:
            raise self.refuse(key, f"one of {', '.join(known)}", _said(value), "choose one of them")
        return str(value)

    def path(self, key: str, beside: Path) -> Path:
        """A file, relative to the folder of the configuration."""
        return beside / Path(self.text(key))

    def rest(self, known: Sequence[str]) -> dict[str, Any]:
        """Keys among ``known`` with their values, as they are."""
        self.used.update(known)
        return {key: self.get(key) for key in known if key in self.values}

    def done(self) -> None:
        """Refuse keys that nobody asked for; say which there are, and which one may be meant."""
        for key in self.values:
            if key not in self.used and not key.startswith("_"):
                known = sorted(self.used | self.known)
                near = get_close_matches(key, known, n=1)
                raise self.refuse(
                    key,
                    f"one of {', '.join(known)}",
                    "an unknown key",
                    f"did you mean '{near[0]}'?" if near else "remove it, or check its spelling",
                )


def read_toml(path: str | Path) -> Table:
    """The whole of a file.

    Raises
    ------
    ConfigurationError
        If it can not be read.
    """
    try:
        return Table(tomllib.loads(Path(path).read_text(encoding="utf-8")), f"'{path}'")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"configuration '{path}'",
            expected="a TOML file",
            got=first_line(error),
            fix="correct the file, or its path",
        ) from error


def _said(value: Any) -> str:
    return "nothing" if value is None else repr(value)
