"""An engine in C, played by ctypes: structures over NumPy memory, and the table's functions."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alchemi_bridge import (
    Cell,
    ClusterPairs,
    ForceBuffers,
    FullPairs,
    GhostPairs,
    HalfPairs,
    MetatomicForceProvider,
    NeighborMatrix,
    Search,
    Step,
)
from alchemi_bridge.engines import interface
from alchemi_bridge.engines.interface import structs
from alchemi_bridge.pairs.row_pointers import RowPointers

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "uint32": 3, "int64": 4}

#: A cell, and a number of atoms in it.
BOX = np.diag([9.0, 8.0, 7.0])
N = 8

#: All results.
NAMES = ("forces", "energy", "virial", "energies", "virials")

#: Codes of ``ab_status``.
INPUT, PAIRS, STALE, MODEL, CONFIGURATION, PROTOCOL, VERSION, INTERNAL = range(1, 9)

KINDS = {
    HalfPairs: structs.HALF,
    FullPairs: structs.FULL,
    GhostPairs: structs.GHOSTS,
    NeighborMatrix: structs.MATRIX,
    ClusterPairs: structs.CLUSTERS,
}

#: Where the fields of a class have another name in ``ab_pairs``.
RENAMED = {"x": "positions", "matrix": "neighbors"}


class Failure(Exception):
    """A function did not return ``AB_OK``."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def table() -> structs.Functions:
    """The functions, from their address as a host in Python gets it."""
    return structs.Functions.from_address(interface.address())


def message() -> str:
    """What the last failure of this thread said."""
    return ctypes.string_at(table().message()).decode()


def check(code: int) -> None:
    """Raise what an engine would print."""
    if code:
        raise Failure(code, message())


def array(values: np.ndarray | None) -> structs.Array:
    """``ab_array`` of NumPy memory, which must be kept."""
    found = structs.Array()
    if values is None:
        return found
    found.data = values.ctypes.data
    found.dtype = DTYPES[values.dtype.name]
    found.ndim = values.ndim
    for k in range(values.ndim):
        found.extent[k] = values.shape[k]
        found.stride[k] = values.strides[k] // values.itemsize
    return found


def sized(kind: type, /, **fields: Any) -> Any:
    """A structure with its size; arrays are described, and kept with it."""
    found = kind(struct_size=ctypes.sizeof(kind))
    found.kept = fields
    for name, value in fields.items():
        if value is None:
            continue
        if name in ("cell", "periodic"):
            setattr(found, name, getattr(found, name).__class__(*np.ravel(value).tolist()))
        elif isinstance(value, np.ndarray):
            setattr(found, name, array(value))
        else:
            setattr(found, name, value)
    return found


def inputs(values: Mapping[str, tuple[np.ndarray, str]]) -> dict[str, Any]:
    """Fields ``inputs`` and ``n_inputs``."""
    items = [
        structs.Input(name.encode(), unit.encode(), array(data))
        for name, (data, unit) in values.items()
    ]
    given = (structs.Input * len(items))(*items)
    given.kept = values
    return {"inputs": given, "n_inputs": len(items)}


def pairs_like(source: Any, cell: np.ndarray, pbc: Sequence[bool] = (True,) * 3) -> structs.Pairs:
    """``ab_pairs`` of what the Python class holds, from the same memory."""
    where: dict[str, Any] = {"cell": cell, "periodic": [int(p) for p in pbc]}
    if isinstance(source, Search):
        return sized(structs.Pairs, kind=structs.SEARCH, reach=source.skin, **where)
    if isinstance(source, list):
        first, *rest = source
        found = pairs_like(first, cell, pbc)
        if rest:
            found.following = pairs_like(rest, cell, pbc)
            found.next = ctypes.addressof(found.following)
        return found
    fields = {RENAMED.get(name, name): value for name, value in vars(source).items()}
    fields["non_local"] = int(fields.pop("locality", "local") == "non-local")
    if isinstance(fields.get("neighbors"), RowPointers):
        fields["row_pointers"] = fields.pop("neighbors").address
    fields = {name: value for name, value in fields.items() if value is not None}
    return sized(structs.Pairs, kind=KINDS[type(source)], **fields, **where)


class Engine:
    """One provider of a C program.

    Parameters
    ----------
    model
        Path of the file.
    settings
        Keywords by name.
    **fields
        Further fields of ``ab_options``.
    """

    def __init__(
        self, model: Path | str | None, settings: Mapping[str, str] | None = None, **fields: Any
    ) -> None:
        words = [word.encode() for item in (settings or {}).items() for word in item]
        options = {
            "version": structs.VERSION,
            "model": None if model is None else os.fsencode(model),
            "keywords": (ctypes.c_char_p * len(words))(*words),
            "n_keywords": len(words) // 2,
            "local_rank": -1,
            "local_size": -1,
        }
        self.functions = table()
        self.handle = ctypes.c_void_p()
        given = sized(structs.Options, **{**options, **fields})
        check(self.functions.open(ctypes.byref(given), ctypes.byref(self.handle)))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.functions.close(self.handle)

    def requirements(self) -> structs.Requirements:
        found = sized(structs.Requirements)
        check(self.functions.requirements(self.handle, ctypes.byref(found)))
        return found

    def finish(self) -> None:
        check(self.functions.finish(self.handle))

    def set_atoms(self, types: np.ndarray, **fields: Any) -> None:
        given = sized(structs.Atoms, types=types, **fields)
        check(self.functions.set_atoms(self.handle, ctypes.byref(given)))

    def set_pairs(self, source: Any, cell: np.ndarray, pbc: Sequence[bool] = (True,) * 3) -> None:
        found = source if isinstance(source, structs.Pairs) else pairs_like(source, cell, pbc)
        check(self.functions.set_pairs(self.handle, ctypes.byref(found)))

    def compute(
        self,
        positions: np.ndarray,
        cell: np.ndarray,
        buffers: Mapping[str, np.ndarray],
        pbc: Sequence[bool] = (True,) * 3,
        **fields: Any,
    ) -> None:
        periodic = [int(p) for p in pbc]
        step = sized(structs.Step, positions=positions, cell=cell, periodic=periodic, **fields)
        out = sized(structs.Buffers, **buffers)
        check(self.functions.compute(self.handle, ctypes.byref(step), ctypes.byref(out)))


def buffers(n: int, *names: str, dtype: type = np.float64) -> dict[str, np.ndarray]:
    """Zeroed results; without names forces, energy and virial."""
    shapes = {
        "forces": (n, 3),
        "energy": (1,),
        "virial": (3, 3),
        "energies": (n,),
        "virials": (n, 3, 3),
    }
    return {
        name: np.zeros(shapes[name], dtype=dtype)
        for name in names or ("forces", "energy", "virial")
    }


def places() -> np.ndarray:
    return np.random.default_rng(4).random((N, 3)) @ BOX


@contextmanager
def refused(code: int, *words: str) -> Iterator[None]:
    """A failure with this code; what is expected and what came is in its message."""
    with pytest.raises(Failure) as caught:
        yield
    assert caught.value.code == code, caught.value
    for word in words:
        assert word in caught.value.message, caught.value.message


def opened(model: Path | str, settings: Mapping[str, str] | None = None, **fields: Any) -> None:
    Engine(model, {"device": "cpu"} | dict(settings or {}), **fields).close()


def cluster() -> np.ndarray:
    return np.random.default_rng(4).random((12, 3)) @ BOX


def evaluated(engine: Engine, positions: np.ndarray, *names: str, **fields: Any) -> Any:
    """A search and a step."""
    engine.set_pairs(Search(0.5), BOX)
    out = buffers(len(positions), *names)
    engine.compute(positions, BOX, out, **fields)
    return out


def in_python(
    provider: MetatomicForceProvider, positions: np.ndarray, cell: np.ndarray, **fields: Any
) -> dict[str, np.ndarray]:
    out = buffers(len(positions), *NAMES)
    step = Step(positions, Cell.of(cell), virial=True, energies=True, virials=True, **fields)
    provider.compute(step, ForceBuffers(**out)).synchronize()
    return out
