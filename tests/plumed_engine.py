"""An engine that speaks PLUMED's interface, played by ctypes: it knows nothing of the bridge."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: What an engine is to be told that PLUMED's wrapper turns into an exception of PLUMED's.
FAILURE = 20000

#: Kinds of numbers and pointers in the flags of a typed pointer.
INTEGER, FLOATING, TEXT = 3 << 16, 4 << 16, 3 << 16
POINTER = 2 << 25

HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class NoThrow(ctypes.Structure):
    _fields_ = [("user", ctypes.c_void_p), ("handler", HANDLER)]


class SafePointer(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("n_elements", ctypes.c_size_t),
        ("shape", ctypes.c_void_p),
        ("flags", ctypes.c_size_t),
        ("optional", ctypes.c_void_p),
    ]


class Table(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int),
        ("create", ctypes.CFUNCTYPE(ctypes.c_void_p)),
        ("cmd", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)),
        ("finalize", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        (
            "cmd_nothrow",
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, NoThrow),
        ),
        (
            "cmd_safe",
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, SafePointer),
        ),
        (
            "cmd_safe_nothrow",
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, SafePointer, NoThrow),
        ),
    ]


class PlumedError(Exception):
    """What came through the handler."""


class Engine:
    """One simulation.

    Parameters
    ----------
    library
        What ``PLUMED_KERNEL`` would name.
    n_atoms
        Atoms of the whole system.
    precision
        4 or 8 bytes.
    units
        Of energy (kJ/mol), length (nm) and time (ps).
    typed
        Whether types are told, as by wrappers of PLUMED 2.8 and later.
    name
        Of the engine.
    """

    def __init__(
        self,
        library: Path,
        n_atoms: int,
        *,
        precision: int = 8,
        units: tuple[float, float, float] = (1.0, 1.0, 1.0),
        timestep: float = 0.002,
        typed: bool = True,
        name: str = "a test",
    ) -> None:
        self._table = Table.in_dll(ctypes.CDLL(str(library)), "plumed_symbol_table")
        self._session = self._table.create()
        self._typed = typed
        self._kept: list[Any] = []
        self._problems: list[tuple[int, str]] = []
        self._handler = HANDLER(self._hear)
        self.real = {4: np.float32, 8: np.float64}[precision]
        self.whole("setRealPrecision", precision)
        for kind, value in zip(("Energy", "Length", "Time"), units, strict=True):
            self.number(f"setMD{kind}Units", value)
        self.whole("setNatoms", n_atoms)
        self.number("setTimestep", timestep)
        self.text("setMDEngine", name)

    def _hear(self, user: int, code: int, message: bytes, optional: int) -> None:
        self._problems.append((code, message.decode()))

    def cmd(self, name: str, value: np.ndarray | bytes | None = None, flags: int = 0) -> None:
        """One command; memory that was handed over stays."""
        address = None
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous
            address = value.ctypes.data
            kind = FLOATING if value.dtype.kind == "f" else INTEGER
            flags = flags or POINTER | kind | value.itemsize
        elif value is not None:
            buffer = ctypes.create_string_buffer(value)
            address, flags = ctypes.addressof(buffer), POINTER | TEXT | 1
            value = buffer
        self._kept.append(value)
        to = NoThrow(None, self._handler)
        if self._typed:
            typed = SafePointer(address, 0, None, flags, None)
            self._table.cmd_safe_nothrow(self._session, name.encode(), typed, to)
        else:
            self._table.cmd_nothrow(self._session, name.encode(), address, to)
        if self._problems:
            code, message = self._problems.pop()
            assert code == FAILURE
            raise PlumedError(message)

    def number(self, name: str, value: float) -> None:
        self.cmd(name, np.array([value], dtype=self.real))

    def whole(self, name: str, value: int) -> None:
        self.cmd(name, np.array([value], dtype=np.int32))

    def text(self, name: str, value: str | Path) -> None:
        self.cmd(name, str(value).encode())

    def start(self, setup: Path) -> Engine:
        """Read the setup file."""
        self.text("setPlumedDat", setup)
        self.text("setLogFile", setup.with_suffix(".log"))
        self.cmd("init")
        return self

    def reals(self, values: Any) -> np.ndarray:
        """As the engine has them."""
        return np.ascontiguousarray(values, dtype=self.real)

    def step(
        self, number: int, positions: np.ndarray, box: np.ndarray | None, *, fill: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forces and virial of a step, in buffers that hold `fill` before."""
        forces = np.full(positions.shape, fill, dtype=self.real)
        virial = np.full((3, 3), fill, dtype=self.real)
        self.cmd("setStepLong", np.array([number], dtype=np.int64))
        self.cmd("setPositions", self.reals(positions))
        self.cmd("setMasses", self.reals(np.ones(len(positions))))
        self.cmd("setCharges", self.reals(np.zeros(len(positions))))
        self.cmd("setBox", None if box is None else self.reals(box))
        self.cmd("prepareCalc")
        self.cmd("setStopFlag", np.zeros(1, dtype=np.int32))
        self.cmd("setForces", forces)
        self.cmd("setVirial", virial)
        self.cmd("performCalc")
        return forces, virial

    def bias(self) -> float:
        """Energy of the last step, in the engine's unit."""
        found = np.zeros(1, dtype=self.real)
        self.cmd("getBias", found)
        return float(found[0])

    def close(self) -> None:
        if self._session:
            self._table.finalize(self._session)
        self._session = None


@contextmanager
def engine(library: Path, n_atoms: int, **options: Any) -> Iterator[Engine]:
    """An engine that ends."""
    found = Engine(library, n_atoms, **options)
    try:
        yield found
    finally:
        found.close()


@contextmanager
def told(*parts: str) -> Iterator[None]:
    """The engine must be told of a problem, in these words."""
    with pytest.raises(PlumedError) as caught:
        yield
    for part in parts:
        assert part in str(caught.value)


def energies_in(path: Path) -> np.ndarray:
    """``(n, 3)`` steps, times and energies."""
    lines = path.read_text().splitlines()
    assert lines[0] == "#! FIELDS step time energy"
    return np.array([line.split() for line in lines if line[0] != "#"], dtype=float).reshape(-1, 3)
