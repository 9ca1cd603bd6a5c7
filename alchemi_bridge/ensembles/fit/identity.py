"""What makes two fits the same, so that one may go on where the other ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alchemi_bridge.ensembles.content import hash_of_file

#: Keys of the configuration that do not change what is fitted, or how. The model counts by its
#: hash.
FREE = ("steps", "executor", "hints", "model", "sha256", "extensions")

#: Keys with names of files, of which the contents count.
_FILES = ("structure", "file")


def identity_of(values: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """What counts in a configuration, by the places of the keys.

    Parameters
    ----------
    values
        The whole document.
    beside
        The folder that its files are relative to.

    Returns
    -------
    dict
        Plain values; hashes in place of files.

    Raises
    ------
    OSError
        If a file can not be read.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in FREE:
            _collect(found, key, key, value, beside)
    return found


def _collect(found: dict[str, Any], where: str, key: str, value: Any, beside: Path) -> None:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if not (name == "hints" and isinstance(entry, Mapping)):
                _collect(found, f"{where}.{name}", name, entry, beside)
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        for number, entry in enumerate(value):
            _collect(found, f"{where}[{entry.get('name', number)!r}]", key, entry, beside)
    elif key in _FILES and isinstance(value, str):
        found[where] = hash_of_file(beside / value)
    else:
        found[where] = value


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys of which the values differ, or that only one has."""
    missing = object()
    keys = dict.fromkeys([*one, *other])
    return [key for key in keys if one.get(key, missing) != other.get(key, missing)]
