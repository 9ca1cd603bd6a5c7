"""Systems on which compiled kernels and their torch references are compared, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pytest
import torch
from worlds import WORLDS, liquid

from alchemi_bridge.cell import Cell
from alchemi_bridge.compiling import find_compiler
from alchemi_bridge.native import using
from alchemi_bridge.pairs import Candidates, find_pairs

T = TypeVar("T")

#: A broken build must fail, only a missing compiler is a reason to leave these tests out.
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

#: Both ways on a host, for tests that go through either.
KERNEL_WAYS = [pytest.param("native", marks=needs_compiler), "torch"]

DEVICES = [
    pytest.param("cpu", marks=needs_compiler),
    pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda]),
]

#: Precisions of the engine's coordinates and of the model.
PRECISIONS = [
    (engine, model)
    for engine in (torch.float32, torch.float64)
    for model in (torch.float32, torch.float64)
]


@dataclass(frozen=True, eq=False)
class System:
    """Positions, cell, and how far a pair list shall reach."""

    positions: np.ndarray
    cell: Cell
    reach: float

    def candidates(self, device: str) -> Candidates:
        """The list, on a device."""
        return find_pairs(torch.from_numpy(self.positions).to(device), self.cell, self.reach)


def _many() -> System:
    """More than two blocks of 256 atoms, so that two threads share them."""
    vectors = np.array([[24.0, 0.5, -1.0], [6.0, 22.0, 0.0], [-3.0, 5.0, 23.0]])
    cell = Cell.of(vectors)
    positions = (1.4 * np.random.default_rng(71).random((700, 3)) - 0.2) @ vectors
    return System(positions, cell, 4.2)


def _thin() -> System:
    """A long wire: pairs of the same atoms with several shifts, for two threads, too."""
    cell = Cell.of(np.array([[2.8, 0.1, -0.2], [0.4, 3.1, 0.3], [5.0, 3.0, 1400.0]]))
    positions = np.random.default_rng(74).random((700, 3)) @ cell.vectors
    return System(positions, cell, 4.5)


def _dense() -> System:
    """Rows of some 4,000 entries, nearly all of them images."""
    return System(np.random.default_rng(72).random((4, 3)), Cell.of([1.0, 1.0, 1.0]), 6.2)


def _sparse() -> System:
    """Most rows are empty, also the first and the last."""
    positions = 9.0 * np.arange(11.0)[:, None] * np.array([1.0, 0.2, -0.1])
    positions[[4, 7]] = positions[3] + [[1.0, 0.3, 0.0], [0.0, -0.7, 0.9]]
    return System(positions, Cell.open(), 3.0)


SYSTEMS: dict[str, Callable[[], System]] = {
    **{
        name: lambda cell=cell, seed=seed: System(liquid(seed, 9, cell), cell, 4.0)
        for seed, (name, cell) in enumerate(WORLDS.items(), start=60)
    },
    "images of one atom": lambda: System(np.full((1, 3), 0.3), Cell.of([2.0, 2.5, 3.0]), 6.0),
    "far from the origin": lambda: System(liquid(66, 8, WORLDS["bulk"]) + 1e3, WORLDS["bulk"], 4.0),
    "many": _many,
    "thin": _thin,
    "dense": _dense,
    "sparse": _sparse,
    "no pairs": lambda: System(np.array([[0.0, 0, 0], [9.0, 0, 0]]), Cell.open(), 3.0),
    "no atoms": lambda: System(np.zeros((0, 3)), Cell.open(), 3.0),
}

#: Systems with the numbers of threads; small ones are never shared by two.
CASES = [*((name, 1) for name in SYSTEMS), ("many", 2), ("thin", 2)]


@contextmanager
def threads(number: int) -> Iterator[None]:
    """With this many threads of torch, and so of the host shim."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def both_ways(call: Callable[[], T]) -> tuple[T, T]:
    """What the compiled kernels find, and the torch references."""
    with using("native"):
        native = call()
    with using("torch"):
        reference = call()
    return native, reference


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Require equal bits; any NaN is as good as another."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if found.dtype.is_floating_point:
        nan = torch.isnan(expected)
        assert torch.equal(torch.isnan(found), nan)
        words = torch.int32 if found.dtype == torch.float32 else torch.int64
        found = found.contiguous().view(words)[~nan]
        expected = expected.contiguous().view(words)[~nan]
    assert torch.equal(found, expected)


def plain(values: torch.Tensor) -> torch.Tensor:
    """(n, 3) as it comes."""
    return values.clone()


def padded(values: torch.Tensor) -> torch.Tensor:
    """float4: rows of four, the fourth is something else."""
    memory = values.new_full((len(values), 4), 77.0)
    memory[:, :3] = values
    return memory[:, :3]


def by_columns(values: torch.Tensor) -> torch.Tensor:
    """All x first, then all y, then all z."""
    return values.T.contiguous().T


def every_second(values: torch.Tensor) -> torch.Tensor:
    """In the middle of a larger array, with gaps between rows and between elements."""
    memory = values.new_full((2 * len(values) + 3, 8), 77.0)
    view = memory[3 : 3 + 2 * len(values) : 2, 1:6:2]
    view.copy_(values)
    return view


LAYOUTS = [plain, padded, by_columns, every_second]
