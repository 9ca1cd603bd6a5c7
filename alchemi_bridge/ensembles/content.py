"""What a result depends on, as hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from alchemi_bridge.model.archive import sha256_of


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return sha256_of(stream)


def hash_of_frames(frames: Sequence[Atoms]) -> str:
    """SHA-256 of structures: cell, periodicity, and all that there is for each atom.

    Models may request any of an atom's arrays (charges, momenta, ...), and values of ``info``.
    """
    found = hashlib.sha256()
    for atoms in frames:
        found.update(b"frame")
        for name in sorted(atoms.arrays):
            _add(found, name, atoms.arrays[name])
        _add(found, "cell", atoms.cell.array)
        _add(found, "pbc", atoms.pbc)
        for name in sorted(atoms.info, key=str):
            _add(found, f"info {name}", atoms.info[name])
    return found.hexdigest()


def _add(found: Any, name: str, value: Any) -> None:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        array = np.asarray(repr(value))
    if array.dtype.hasobject:
        array = np.asarray(repr(value))
    found.update(f"{name} {array.dtype.str} {array.shape}".encode())
    found.update(np.ascontiguousarray(array).tobytes())


def hash_of_settings(settings: Mapping[str, Any]) -> str:
    """SHA-256 of values that JSON knows, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
