"""Every step: the neighbours that a model gets, and geometries that are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import brute_force
import echo
import numpy as np
import pytest
import torch
from pairs_parts import refused
from worlds import CELL, CUTOFF, FLOAT32_SHELL, SKIN, geometry, liquid, listed

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import CellError, NonFiniteError, OverlapError, PairListError
from alchemi_bridge.geometry import Geometry
from alchemi_bridge.pairs import FullPairs, HalfPairs, Search

# --- several requests at once ---------------------------------------------------------------------

REQUESTS = ((3.0, True, True), (4.5, False, True), (4.0, True, False), (3.0, False, False))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("way", ["search", "full", "half"])
def test_several_requests(way: str, dtype: str) -> None:
    positions = liquid(1, 8, CELL)
    wide = brute_force.find(positions, CELL.vectors, CELL.pbc, 5.2)
    pairs = {
        "search": Search(0.7),
        "full": echo.full_pairs(wide, 5.2),
        "half": echo.half_pairs(wide, 5.2),
    }[way]
    model = echo.loaded(*REQUESTS, dtype=dtype)
    blocks = echo.received(model, positions, pairs, CELL)
    assert len(blocks) == len(REQUESTS)
    for (cutoff, full_list, _), block in zip(REQUESTS, blocks, strict=True):
        assert not np.any(np.abs(wide.distances - cutoff) < 1e-5)
        expected = wide.within(cutoff).samples
        found = echo.samples_of(block)
        if full_list:
            assert brute_force.keys(found) == brute_force.keys(expected)
        else:
            both = [brute_force.backward(key) for key in brute_force.keys(found)]
            assert brute_force.keys([*found.tolist(), *both]) == brute_force.keys(expected)


def around(cutoff: float, n_pairs: int) -> np.ndarray:
    """(n_pairs, 3) vectors in all directions, with lengths on both sides of the cutoff."""
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(n_pairs, 3))
    lengths = cutoff * (1.0 + rng.uniform(-2e-6, 2e-6, n_pairs))
    return vectors / np.linalg.norm(vectors, axis=1)[:, None] * lengths[:, None]


def pairs_apart(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, first and second: every pair far from all others."""
    n_pairs = len(vectors)
    start = np.zeros((n_pairs, 3))
    start[:, 0] = 20.0 * np.arange(n_pairs)
    first = np.arange(n_pairs)
    return np.concatenate([start, start + vectors]), first, first + n_pairs


def pairs_of_one_atom(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs share the atom in the origin: differences of float32 coordinates are exact."""
    positions = np.concatenate([np.zeros((1, 3)), vectors]).astype(np.float32)
    second = np.arange(1, len(positions))
    return positions, np.zeros_like(second), second


@pytest.mark.parametrize("way", ["search", "handed"])
@pytest.mark.parametrize(
    ("layout", "n_pairs"), [(pairs_apart, 4000), (pairs_of_one_atom, 600)], ids=["f8", "f4"]
)
def test_edge_of_a_float32_model(way: str, layout: Callable, n_pairs: int) -> None:
    """Pairs around the cutoff: none handed over whose float32 length is not below it."""
    cutoff = 5.0
    positions, first, second = layout(around(cutoff, n_pairs))
    (block,) = echo.received(
        echo.loaded((cutoff, False, True), dtype="float32"),
        positions,
        Search(0.5) if way == "search" else HalfPairs(first, second, None, 5.5),
        Cell.open(),
        output=echo.LENGTHS,
        check_consistency=False,
    )
    assert block.values.dtype == torch.float32
    assert bool((block.values < cutoff).all())

    wide = positions.astype(np.float64)
    exact = np.sqrt(((wide[second] - wide[first]) ** 2).sum(axis=1))
    ends = map(frozenset, np.column_stack([first, second]).tolist())
    known = dict(zip(ends, exact.tolist(), strict=True))
    found = {frozenset(pair) for pair in echo.samples_of(block)[:, :2].tolist()} & known.keys()
    inside = {pair for pair, r in known.items() if r < cutoff * (1.0 - FLOAT32_SHELL)}
    assert inside <= found  # only the thin shell is left out
    # beyond the cutoff by no more than the rounding of the vector
    assert all(known[pair] < cutoff * (1.0 + 1e-7) for pair in found)
    assert n_pairs / 4 < len(inside) < 3 * n_pairs / 4


@pytest.mark.parametrize("n_ulps", range(-8, 9))
def test_edge_of_a_float64_model(n_ulps: int) -> None:
    cutoff = 4.9
    direction = np.array([0.48, -0.6, 0.64])
    vector = direction / np.linalg.norm(direction) * cutoff * (1.0 + n_ulps * 2.2e-16)
    (block,) = echo.received(
        echo.loaded((cutoff, True, True)),
        np.stack([np.zeros(3), vector]),
        Search(0.3),
        Cell.open(),
        output=echo.LENGTHS,
    )
    assert bool((block.values < cutoff).all())
    assert len(block.values) == 2 or n_ulps > -8


def test_what_an_engine_knows_in_float64_is_not_thrown_away() -> None:
    """Far from the origin float32 coordinates are coarse, differences of float64 ones are not."""
    positions = np.array([[1e5, -2e5, 3e5], [1e5 + 1.2345678, -2e5, 3e5]])
    (block,) = echo.received(
        echo.loaded((3.0, True, True), dtype="float32"),
        positions,
        Search(1.0),
        Cell.open(),
        check_consistency=False,
    )
    assert float(block.values[0].abs().max()) == pytest.approx(1.2345678, abs=1e-6)


def test_twice_the_same_pair() -> None:
    index = np.array([0, 0])
    pairs = HalfPairs(index, index + 1, None, 4.0)
    box = geometry((CUTOFF, True, True), n_atoms=2)
    error = refused(PairListError, lambda: box.set_pairs(pairs, Cell.open()))
    assert "(0, 1)" in error.got


# --- geometries that are none ---------------------------------------------------------------------

WAYS = {
    "search": Search(SKIN),
    "full": FullPairs(np.array([0, 1]), np.array([1, 0]), None, 4.0),
    "half": HalfPairs(np.array([1]), np.array([0]), None, 4.0),
}


@pytest.fixture(params=WAYS)
def two_atoms(request: pytest.FixtureRequest) -> Iterator[Geometry]:
    pairs = geometry((CUTOFF, True, True), n_atoms=2)
    pairs.set_pairs(WAYS[request.param], Cell.of([20.0, 20.0, 20.0]))
    yield pairs
    # an error does not spoil what comes next
    pairs.set_pairs(WAYS[request.param], Cell.of([20.0, 20.0, 20.0]))
    good = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]], dtype=torch.float64)
    assert len(listed(pairs.step(good, None))) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("started", [False, True])
def test_not_finite(two_atoms: Geometry, value: float, started: bool) -> None:
    positions = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]], dtype=torch.float64)
    if started:
        two_atoms.step(positions, None)
    positions[1, 2] = value
    error = refused(NonFiniteError, lambda: two_atoms.step(positions, None))
    assert "1 atoms (1)" in error.got


@pytest.mark.parametrize("distance", [0.0, 1e-4, 9e-4])
@pytest.mark.parametrize("started", [False, True])
def test_overlap(two_atoms: Geometry, distance: float, started: bool) -> None:
    positions = torch.tensor([[0.0, 0, 0], [0.2, 0, 0]], dtype=torch.float64)
    if started:
        two_atoms.step(positions, None)
    positions[1, 0] = distance
    error = refused(OverlapError, lambda: two_atoms.step(positions, None))
    assert error.what in ("atoms 0 and 1", "atoms 1 and 0")
    assert "(0, 0, 0)" in error.got


def test_overlap_names_the_atoms_of_the_engine() -> None:
    loaded = echo.loaded((CUTOFF, True, True))
    subset = torch.tensor([7, 2, 5])
    pairs = Geometry(loaded, n_atoms=9, subset=subset, length=1.0)
    cell = Cell.of([10.0, 10.0, 10.0])
    pairs.set_pairs(Search(SKIN), cell)
    positions = torch.tensor(liquid(20, 9, cell))
    positions[0] = positions[2]  # not of the subset: nobody minds
    pairs.step(positions, None)
    positions[5] = positions[2] + torch.tensor([0.0, 10.0, 0.0])
    error = refused(OverlapError, lambda: pairs.step(positions, None))
    assert error.what in ("atoms 2 and 5", "atoms 5 and 2")
    assert "(0, -1, 0)" in error.got or "(0, 1, 0)" in error.got


def test_not_finite_only_matters_where_the_model_looks() -> None:
    loaded = echo.loaded((CUTOFF, True, True))
    pairs = Geometry(loaded, n_atoms=3, subset=torch.tensor([2, 1]), length=1.0)
    pairs.set_pairs(Search(SKIN), Cell.open())
    positions = torch.tensor([[math.nan] * 3, [0.0, 0, 0], [2.0, 0, 0]])
    assert len(listed(pairs.step(positions, None))) == 2
    positions[2, 1] = math.nan
    error = refused(NonFiniteError, lambda: pairs.step(positions, None))
    assert "1 atoms (2)" in error.got


def test_other_periodic_directions(two_atoms: Geometry) -> None:
    positions = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]], dtype=torch.float64)
    slab = Cell.of([20.0, 20.0, 20.0], (True, True, False))
    error = refused(CellError, lambda: two_atoms.step(positions, slab))
    assert "(True, True, False)" in error.got


# --- on a GPU -------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
def test_edge_of_a_float32_model_on_cuda() -> None:
    cutoff, n_pairs = 5.0, 4000
    positions, _, _ = pairs_apart(around(cutoff, n_pairs))
    (block,) = echo.received(
        echo.loaded((cutoff, False, True), dtype="float32", device="cuda"),
        torch.from_numpy(positions).cuda(),
        Search(0.5),
        Cell.open(),
        output=echo.LENGTHS,
        check_consistency=False,
    )
    assert block.values.device.type == "cuda"
    assert n_pairs / 4 < len(block.values) < 3 * n_pairs / 4
    assert bool((block.values < cutoff).all())


@pytest.mark.gpu
@needs_cuda
def test_bad_geometries_on_cuda() -> None:
    pairs = geometry((CUTOFF, True, True), n_atoms=2, device="cuda")
    pairs.set_pairs(Search(SKIN), Cell.open())
    positions = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]], dtype=torch.float64, device="cuda")
    assert len(listed(pairs.step(positions, None))) == 2
    broken = positions.clone()
    broken[1, 1] = math.nan
    refused(NonFiniteError, lambda: pairs.step(broken, None))
    refused(OverlapError, lambda: pairs.step(positions * 1e-4, None))
    assert len(listed(pairs.step(positions, None))) == 2
