"""Every step: the neighbours that a model gets, when a list must be renewed, and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import brute_force
import echo
import numpy as np
import pytest
import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import (
    BridgeError,
    CellError,
    NonFiniteError,
    OverlapError,
    PairListError,
    StalePairsError,
)
from alchemi_bridge.geometry import Geometry, StepGeometry
from alchemi_bridge.neighbors import (
    Reference,
    RequestedPairs,
    pair_offsets,
    pair_vectors,
    squared_lengths,
    sum_over_pairs,
    virial_of_pairs,
)
from alchemi_bridge.pairs import FullPairs, HalfPairs, Search

CPU = torch.device("cpu")
PERIODIC = (True, True, True)

#: Brute force and bridge may disagree about pairs that are this close to the cutoff, in float64:
#: vectors are good to 1e-14, squares of lengths to 1e-14 of 25.
MARGIN = 1e-9

#: A float32 model leaves out pairs in a shell below the cutoff: 6 eps of the square, that is
#: 3 eps = 3.6e-7 of the length; a rounded vector moves a pair by up to 1e-7 more.
FLOAT32_SHELL = 6e-7

#: Central differences of a smooth function of order 1 with step 1e-5: truncation about 1e-10,
#: rounding 1e-16 / 1e-5.
DIFFERENCE_STEP = 1e-5
DIFFERENCE_TOLERANCE = 1e-8

#: Two ways to the same float64 sum of some hundred terms of order 1.
SUM_TOLERANCE = 1e-12


def refused(kind: type[BridgeError], call: Callable[[], object]) -> BridgeError:
    """The error that ``call`` raises, after a check that it says all that it should."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    for part in (caught.value.what, caught.value.expected, caught.value.got, caught.value.fix):
        assert part
        assert part in str(caught.value)
    return caught.value


def geometry(*requests: echo.Request, n_atoms: int, **options: object) -> Geometry:
    """For a model that is loaded once per set of requests."""
    loaded = echo.loaded(*requests, **options)
    return Geometry(loaded, n_atoms=n_atoms, subset=None, length=1.0)


def listed(step: StepGeometry, request: int = 0) -> np.ndarray:
    """(n_pairs, 5) of one request."""
    pairs = step.pairs[request]
    table = torch.cat([pairs.first[:, None], pairs.second[:, None], pairs.shifts], dim=1)
    return table.cpu().numpy()


# --- several requests at once ---------------------------------------------------------------------

REQUESTS = ((3.0, True, True), (4.5, False, True), (4.0, True, False), (3.0, False, False))

CELL = Cell.of([[4.1, 0.3, -0.2], [1.3, 3.9, 0.4], [-0.8, 0.7, 5.2]])


def liquid(seed: int, n_atoms: int, cell: Cell, apart: float = 0.7) -> np.ndarray:
    """Random positions, not on top of each other."""
    rng = np.random.default_rng(seed)
    while True:
        positions = rng.random((n_atoms, 3)) @ np.where(
            np.array(cell.pbc)[:, None], cell.vectors, 6.0 * np.eye(3)
        )
        if len(brute_force.find(positions, cell.vectors, cell.pbc, apart).samples) == 0:
            return positions


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


# --- own search: when to search again -------------------------------------------------------------

CUTOFF, SKIN = 3.2, 0.8

WORLDS = {
    "bulk": Cell.of(CELL.vectors),
    "left-handed": Cell.of(CELL.vectors[[1, 0, 2]]),
    "slab": Cell.of(CELL.vectors, (True, True, False)),
    "layer": Cell.of(CELL.vectors, (True, False, True)),
    "chain": Cell.of(CELL.vectors, (False, False, True)),
    "molecule": Cell.open(),
}


class World:
    """A system to which random things happen."""

    def __init__(self, cell: Cell, seed: int, n_atoms: int = 9) -> None:
        self.rng = np.random.default_rng(seed)
        self.start = self.cell = cell
        self.positions = liquid(seed, n_atoms, cell)

    def happen(self) -> str:
        """One event; returns its name."""
        name = str(
            self.rng.choice(
                ["jitter", "kick", "drift", "wrap", "strain", "strain with atoms", "rest", "turn"],
                p=[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05],
            )
        )
        getattr(self, "_" + name.replace(" ", "_"))()
        return name

    def _rest(self) -> None:
        pass

    def _jitter(self) -> None:
        self.positions = self.positions + self.rng.normal(0.0, 0.03, self.positions.shape)

    def _kick(self) -> None:
        k = self.rng.integers(len(self.positions))
        self.positions = self.positions.copy()
        self.positions[k] += self.rng.normal(0.0, 0.5, 3)

    def _drift(self) -> None:
        self.positions = self.positions + self.rng.uniform(-5.0, 5.0, 3)

    def _wrap(self) -> None:
        periodic = np.array(self.cell.pbc)
        cells = np.floor(self.positions @ self.cell.inverse) * periodic
        self.positions = self.positions - cells @ self.cell.vectors

    def _deformation(self) -> np.ndarray:
        """From the first cell: up to 5% of compression and of shear, in any direction."""
        return np.eye(3) + self.rng.uniform(-0.05, 0.05, (3, 3))

    def _strain(self) -> None:
        self.cell = Cell.of(self.start.vectors @ self._deformation(), self.cell.pbc)

    def _strain_with_atoms(self) -> None:
        before = self.cell
        self._strain()
        self.positions = self.positions @ self.cell.deformation_from(before)

    def _turn(self) -> None:
        turn, _ = np.linalg.qr(np.eye(3) + self.rng.normal(0.0, 0.02, (3, 3)))
        turn *= np.sign(np.diag(turn))
        self.cell = Cell.of(self.cell.vectors @ turn, self.cell.pbc)
        self.positions = self.positions @ turn

    def expected(self, cutoff: float) -> set[brute_force.Key] | None:
        """Brute force; ``None`` if a pair is at the very cutoff, or atoms overlap."""
        found = brute_force.find(self.positions, self.cell.vectors, self.cell.pbc, cutoff + MARGIN)
        if np.any(found.distances > cutoff - MARGIN) or np.any(found.distances < 0.01):
            return None
        return found.keys()


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_pair_is_ever_missed(name: str, dtype: torch.dtype) -> None:
    """1200 random events in all, each compared with brute force."""
    world = World(WORLDS[name], seed=sum(map(ord, name)))
    pairs = geometry((CUTOFF, True, True), n_atoms=len(world.positions))
    pairs.set_pairs(Search(SKIN), world.cell)
    compared = 0
    for _ in range(100):
        world.happen()
        # what the engine knows; in its precision
        positions = torch.from_numpy(world.positions).to(dtype)
        world.positions = positions.double().numpy()
        expected = world.expected(CUTOFF)
        if expected is None:
            continue
        assert brute_force.keys(listed(pairs.step(positions, world.cell))) == expected
        compared += 1
    assert compared > 90
    # and not by searching every time
    assert pairs.searches < 60


@pytest.mark.parametrize("name", WORLDS)
def test_small_moves_reuse_the_list(name: str) -> None:
    world = World(WORLDS[name], seed=5)
    pairs = geometry((CUTOFF, True, True), n_atoms=len(world.positions))
    pairs.set_pairs(Search(SKIN), world.cell)
    start = world.positions
    for _ in range(100):
        step = world.rng.uniform(-0.1, 0.1, start.shape)  # at most 0.18 < skin / 2
        positions = torch.from_numpy(start + step)
        world.positions = positions.numpy()
        expected = world.expected(CUTOFF)
        found = brute_force.keys(listed(pairs.step(positions, None)))
        assert expected is None or found == expected
    assert pairs.searches == 1


@pytest.mark.parametrize("name", WORLDS)
def test_common_drift_is_no_reason_to_search(name: str) -> None:
    world = World(WORLDS[name], seed=6)
    pairs = geometry((CUTOFF, True, True), n_atoms=len(world.positions))
    pairs.set_pairs(Search(SKIN), world.cell)
    start = torch.from_numpy(world.positions)
    first = listed(pairs.step(start, None))
    for k in range(20):
        step = pairs.step(start + torch.tensor([0.7, -1.3, 2.9]) * k, None)
        np.testing.assert_array_equal(listed(step), first)
    assert pairs.searches == 1


def test_rotation_is_no_reason_to_search() -> None:
    """Nor is any other deformation that leaves enough of the skin."""
    world = World(WORLDS["slab"], seed=7)
    pairs = geometry((CUTOFF, True, True), n_atoms=len(world.positions))
    pairs.set_pairs(Search(SKIN), world.cell)
    pairs.step(torch.from_numpy(world.positions), world.cell)
    for _ in range(10):
        world._turn()
        expected = world.expected(CUTOFF)
        found = brute_force.keys(listed(pairs.step(torch.from_numpy(world.positions), world.cell)))
        assert expected is None or found == expected
    assert pairs.searches == 1


@pytest.mark.parametrize(("move", "searches"), [(0.999, 1), (1.001, 2)])
def test_the_criterion_is_tight(move: float, searches: int) -> None:
    """Two atoms just out of reach that approach each other: half the skin each, and no more."""
    reach = CUTOFF + SKIN
    pairs = geometry((CUTOFF, True, True), n_atoms=2)
    pairs.set_pairs(Search(SKIN), Cell.open())
    start = torch.tensor([[0.0, 0.0, 0.0], [reach + 1e-9, 0.0, 0.0]], dtype=torch.float64)
    assert len(listed(pairs.step(start, None))) == 0
    way = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    found = listed(pairs.step(start + way * move * SKIN / 2.0, None))
    assert len(found) == (0 if move < 1.0 else 2)
    assert pairs.searches == searches


@pytest.mark.parametrize("steps", [1, 7])
def test_a_pair_that_comes_from_outside_is_found(steps: int) -> None:
    """One atom flies past another, through both sides of the skin."""
    pairs = geometry((CUTOFF, True, True), n_atoms=3)
    pairs.set_pairs(Search(SKIN), Cell.open())
    for x in np.linspace(-8.0, 8.0, 40 * steps + 1):
        positions = torch.tensor([[0, 0, 0], [x, 0.5, 0], [0, 9, 9]], dtype=torch.float64)
        near = math.hypot(x, 0.5) < CUTOFF
        assert len(listed(pairs.step(positions, None))) == (2 if near else 0), x


def test_compression_brings_pairs_in() -> None:
    """Atoms at rest relative to the cell: the allowance is that of the smallest stretch."""
    reach = CUTOFF + SKIN
    cell = Cell.of(np.diag([reach + 1e-6, 20.0, 20.0]))
    pairs = geometry((CUTOFF, True, True), n_atoms=1)
    pairs.set_pairs(Search(SKIN), cell)
    assert len(listed(pairs.step(torch.zeros((1, 3)), cell))) == 0
    for factor in np.linspace(1.0, 0.7, 31):
        smaller = Cell.of(cell.vectors * factor)
        found = listed(pairs.step(torch.zeros((1, 3)), smaller))
        assert len(found) == (2 if factor * (reach + 1e-6) < CUTOFF else 0), factor
    assert 1 < pairs.searches < 31


def test_deformation_takes_from_the_allowance() -> None:
    cell = Cell.of(np.diag([10.0, 10.0, 10.0]))
    reference = Reference.of(torch.zeros((2, 3), dtype=torch.float64), cell)
    assert reference.allowance(cell, 6.0, 5.0) == pytest.approx(0.5, rel=1e-12)
    squeezed = Cell.of(np.diag([9.0, 10.0, 11.0]))
    assert reference.allowance(squeezed, 6.0, 5.0) == pytest.approx((0.9 * 6 - 5) / 2, rel=1e-12)
    # a simple shear by g has the singular value sqrt(1 + g^2/4) - g/2
    sheared = Cell.of([[10.0, 0, 0], [0.5, 10.0, 0], [0, 0, 10.0]])
    smallest = math.sqrt(1 + 0.05**2 / 4) - 0.05 / 2
    allowed = reference.allowance(sheared, 6.0, 5.0)
    assert allowed == pytest.approx((smallest * 6 - 5) / 2, rel=1e-9)
    turned = Cell.of(cell.vectors @ np.array([[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, 1]]))
    assert reference.allowance(turned, 6.0, 5.0) == pytest.approx(0.5, rel=1e-12)


def test_displacement_without_drift_and_deformation() -> None:
    start = torch.tensor(liquid(3, 9, CELL))
    reference = Reference.of(start, CELL)
    assert float(reference.displacement(start, CELL)) == 0.0
    drift = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
    assert float(reference.displacement(start + drift, CELL)) < 1e-14
    strain = np.eye(3) + 0.04 * np.array([[-1, 0.5, 0], [0.3, 0.8, -0.6], [0.1, 0, 0.2]])
    strained = Cell.of(CELL.vectors @ strain)
    moved = start @ torch.from_numpy(strain)
    assert float(reference.displacement(moved, strained)) < 1e-13
    moved[4] += torch.tensor([0.0, 0.3, 0.4], dtype=torch.float64)
    # the middle of the range takes half of it: never less than half of any relative displacement
    assert 0.25 - 1e-9 < float(reference.displacement(moved, strained)) <= 0.5 + 1e-9


def test_a_new_order_to_search_is_followed() -> None:
    pairs = geometry((CUTOFF, True, True), n_atoms=1)
    position = torch.zeros((1, 3), dtype=torch.float64)
    for count, edge in enumerate((3.0, 5.0, 3.0), start=1):
        pairs.set_pairs(Search(SKIN), Cell.of([edge] * 3))
        assert len(listed(pairs.step(position, None))) == (6 if edge < CUTOFF else 0)
        assert pairs.searches == count


def test_no_skin_searches_whenever_something_moved() -> None:
    world = World(WORLDS["bulk"], seed=9)
    pairs = geometry((CUTOFF, True, True), n_atoms=len(world.positions))
    pairs.set_pairs(Search(0.0), world.cell)
    for _ in range(10):
        world._jitter()
        expected = world.expected(CUTOFF)
        found = brute_force.keys(listed(pairs.step(torch.from_numpy(world.positions), None)))
        assert expected is None or found == expected
    assert pairs.searches == 10


def test_the_geometry_of_the_search_is_a_copy() -> None:
    """An engine that integrates in place must not move the reference, too."""
    pairs = geometry((CUTOFF, True, True), n_atoms=2)
    pairs.set_pairs(Search(SKIN), Cell.open())
    positions = torch.tensor([[0.0, 0, 0], [5.0, 0, 0]], dtype=torch.float64)
    pairs.step(positions, None)
    positions[1, 0] = 3.0
    assert len(listed(pairs.step(positions, None))) == 2
    assert pairs.searches == 2


# --- lists of the engine: when they are stale -----------------------------------------------------

HANDED = [echo.full_pairs, echo.half_pairs]


def handed(world: World, kind: Callable, reach: float) -> Geometry:
    pairs = geometry((CUTOFF, True, True), n_atoms=len(world.positions))
    found = brute_force.find(world.positions, world.cell.vectors, world.cell.pbc, reach)
    pairs.set_pairs(kind(found, reach), world.cell)
    return pairs


@pytest.mark.parametrize("kind", HANDED)
@pytest.mark.parametrize("name", WORLDS)
def test_a_list_either_holds_or_is_called_stale(kind: Callable, name: str) -> None:
    """Random events; after each StalePairsError a new list is handed over."""
    world = World(WORLDS[name], seed=11)
    reach = CUTOFF + SKIN
    pairs = handed(world, kind, reach)
    held = stale = 0
    for _ in range(60):
        expected = world.expected(CUTOFF)
        if expected is not None:
            positions = torch.from_numpy(world.positions)
            try:
                step = pairs.step(positions, world.cell)
            except StalePairsError:
                stale += 1
                pairs = handed(world, kind, reach)
                step = pairs.step(positions, world.cell)
            else:
                held += 1
            assert brute_force.keys(listed(step)) == expected
        world.happen()
    assert held > 15
    assert stale > 3


@pytest.mark.parametrize("kind", HANDED)
@pytest.mark.parametrize(("move", "stale"), [(0.999, False), (1.001, True)])
def test_exactly_when_a_list_is_stale(kind: Callable, move: float, stale: bool) -> None:
    world = World(WORLDS["slab"], seed=12)
    pairs = handed(world, kind, CUTOFF + SKIN)
    start = torch.from_numpy(world.positions)
    pairs.step(start, None)
    way = torch.zeros_like(start)
    way[0, 0], way[1, 0] = 1.0, -1.0
    positions = start + way * move * SKIN / 2.0
    if stale:
        error = refused(StalePairsError, lambda: pairs.step(positions, None))
        assert error.got == f"{move * SKIN / 2.0:.4g} angstrom"
        assert f"{SKIN / 2.0:.4g}" in error.expected
    else:
        world.positions = positions.numpy()
        assert brute_force.keys(listed(pairs.step(positions, None))) == world.expected(CUTOFF)


@pytest.mark.parametrize("kind", HANDED)
def test_a_list_without_a_skin(kind: Callable) -> None:
    """It holds for its own positions, as often as wanted, and for a common drift."""
    world = World(WORLDS["bulk"], seed=13)
    pairs = handed(world, kind, CUTOFF)
    start = torch.from_numpy(world.positions)
    for _ in range(3):
        pairs.step(start, None)
    pairs.step(start + 0.125, None)
    moved = start.clone()
    moved[2] += 1e-9
    refused(StalePairsError, lambda: pairs.step(moved, None))


def test_wrapping_makes_a_list_stale() -> None:
    world = World(WORLDS["bulk"], seed=14)
    pairs = handed(world, echo.full_pairs, CUTOFF + SKIN)
    positions = torch.from_numpy(world.positions)
    pairs.step(positions, None)
    positions[3] += torch.from_numpy(world.cell.vectors[1].copy())
    error = refused(StalePairsError, lambda: pairs.step(positions, None))
    assert "wrapping" in error.fix


def test_a_list_belongs_to_the_positions_of_the_next_step() -> None:
    """Also the second list: nothing of the first is left."""
    world = World(WORLDS["bulk"], seed=15)
    pairs = handed(world, echo.full_pairs, CUTOFF + SKIN)
    pairs.step(torch.from_numpy(world.positions), None)
    world.positions = world.positions + world.rng.normal(0, 0.5, world.positions.shape)
    found = brute_force.find(world.positions, world.cell.vectors, world.cell.pbc, CUTOFF + SKIN)
    pairs.set_pairs(echo.full_pairs(found, CUTOFF + SKIN), world.cell)
    step = pairs.step(torch.from_numpy(world.positions), None)
    assert brute_force.keys(listed(step)) == world.expected(CUTOFF)
    assert pairs.searches == 2


@pytest.mark.parametrize("reach", [0.0, 3.19])
def test_a_list_that_is_too_short(reach: float) -> None:
    world = World(WORLDS["bulk"], seed=16)
    error = refused(PairListError, lambda: handed(world, echo.full_pairs, reach))
    assert "3.2 angstrom" in error.expected
    assert f"{reach:g}" in error.got


@pytest.mark.parametrize(("move", "stale"), [(0.999, False), (1.001, True)])
def test_reach_is_in_the_unit_of_the_engine(move: float, stale: bool) -> None:
    """Å there, nm in the model."""
    world = World(WORLDS["slab"], seed=12)
    reach = CUTOFF + SKIN
    loaded = echo.loaded((CUTOFF / 10.0, True, True), length_unit="nm")
    pairs = Geometry(loaded, n_atoms=len(world.positions), subset=None, length=0.1)
    found = brute_force.find(world.positions, world.cell.vectors, world.cell.pbc, reach)
    error = refused(
        PairListError,
        lambda: pairs.set_pairs(echo.full_pairs(found, CUTOFF - 0.01), world.cell),
    )
    assert error.got == "0.319 nm"
    pairs.set_pairs(echo.full_pairs(found, reach), world.cell)
    start = torch.from_numpy(world.positions)
    pairs.step(start, None)
    way = torch.zeros_like(start)
    way[0, 0], way[1, 0] = 1.0, -1.0
    world.positions = (start + way * move * SKIN / 2.0).numpy()
    if stale:
        refused(StalePairsError, lambda: pairs.step(torch.from_numpy(world.positions), None))
    else:
        step = pairs.step(torch.from_numpy(world.positions), None)
        assert brute_force.keys(listed(step)) == world.expected(CUTOFF)


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


# --- gradients ------------------------------------------------------------------------------------


def pair_energy(vectors: torch.Tensor) -> torch.Tensor:
    """Not only of the length: every direction counts."""
    length = torch.sqrt((vectors**2).sum(dim=1))
    return (torch.exp(-length) * (1.0 + 0.3 * vectors[:, 0] * vectors[:, 2]) / 2.0).sum()


@dataclass(frozen=True, eq=False)
class PairWorld:
    """A system with its pairs, as rows of a full list or a half list."""

    positions: torch.Tensor
    cell: torch.Tensor
    samples: torch.Tensor
    n_pairs: int

    def vectors(self, positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        offsets = pair_offsets(self.samples[:, 2:], cell)
        return pair_vectors(positions, self.samples[:, 0], self.samples[:, 1], offsets)

    def by_autograd(self) -> tuple[torch.Tensor, torch.Tensor]:
        """dE/d(position) and dE/d(strain) through positions and cell."""
        leaf = self.positions.clone().requires_grad_(True)
        strain = torch.eye(3, dtype=leaf.dtype, device=leaf.device, requires_grad=True)
        energy = pair_energy(self.vectors(leaf @ strain, self.cell @ strain))
        return torch.autograd.grad(energy, [leaf, strain])

    def by_pairs(self) -> tuple[RequestedPairs, torch.Tensor]:
        """The rows with their vectors, and dE/d(vector)."""
        vectors = self.vectors(self.positions, self.cell).requires_grad_(True)
        (gradients,) = torch.autograd.grad(pair_energy(vectors), vectors)
        return RequestedPairs(self.samples, vectors.detach(), self.n_pairs), gradients

    def on_cuda(self, dtype: torch.dtype) -> PairWorld:
        moved = (self.positions.cuda().to(dtype), self.cell.cuda().to(dtype))
        return PairWorld(*moved, self.samples.cuda(), self.n_pairs)


def half_of(samples: np.ndarray) -> np.ndarray:
    """Rows of a full list, one for each pair."""
    return np.array([row for row in samples.tolist() if row < reverse_of(row)], dtype=np.int32)


def reverse_of(row: list[int]) -> list[int]:
    first, second, *shift = row
    return [second, first, *(-s for s in shift)]


@pytest.fixture(params=[(name, full) for name in WORLDS for full in (True, False)])
def world(request: pytest.FixtureRequest) -> PairWorld:
    name, full = request.param
    cell = WORLDS[name]
    positions = liquid(31, 7, cell)
    found = brute_force.find(positions, cell.vectors, cell.pbc, 4.0)
    half = half_of(found.samples)
    assert len(found.samples) == 2 * len(half) > 10
    back = np.array([reverse_of(row) for row in half.tolist()], dtype=np.int32)
    rows = np.concatenate([half, back]) if full else half
    matrix = torch.from_numpy(cell.vectors.copy())
    return PairWorld(torch.from_numpy(positions), matrix, torch.from_numpy(rows), len(half))


def test_pair_vectors(world: PairWorld) -> None:
    vectors = world.vectors(world.positions, world.cell)
    assert vectors.dtype == torch.float64
    for k, (first, second, *shift) in enumerate(world.samples.tolist()):
        expected = world.positions[second] - world.positions[first]
        expected = expected + sum(float(s) * world.cell[a] for a, s in enumerate(shift))
        assert torch.allclose(vectors[k], expected, rtol=0, atol=1e-14)
    squared = squared_lengths(vectors)
    assert torch.allclose(squared, (vectors**2).sum(dim=1), rtol=1e-14, atol=0)
    assert squared_lengths(vectors.float()).dtype == torch.float64


def test_forces_and_virial_against_autograd(world: PairWorld) -> None:
    by_position, by_strain = world.by_autograd()
    pairs, gradients = world.by_pairs()
    before = torch.rand_like(world.positions)
    forces = before.clone()
    assert sum_over_pairs(pairs, gradients, forces) is None
    # added to what was there
    assert torch.allclose(forces - before, -by_position, rtol=0, atol=SUM_TOLERANCE)
    virial = virial_of_pairs(pairs, gradients)
    assert torch.allclose(virial, by_strain, rtol=0, atol=SUM_TOLERANCE)
    assert float(by_position.abs().max()) > 0.01
    assert float(by_strain.abs().max()) > 0.01


def test_forces_and_virial_against_differences(world: PairWorld) -> None:
    positions, cell = world.positions, world.cell

    def energy(positions: torch.Tensor, cell: torch.Tensor) -> float:
        return float(pair_energy(world.vectors(positions, cell)))

    pairs, gradients = world.by_pairs()
    forces = torch.zeros_like(positions)
    sum_over_pairs(pairs, gradients, forces)
    virial = virial_of_pairs(pairs, gradients)
    h = DIFFERENCE_STEP
    for i in (0, 4):
        for a in range(3):
            step = torch.zeros_like(positions)
            step[i, a] = h
            slope = (energy(positions + step, cell) - energy(positions - step, cell)) / (2 * h)
            assert -slope == pytest.approx(float(forces[i, a]), abs=DIFFERENCE_TOLERANCE)
    for a in range(3):
        for b in range(3):
            step = torch.zeros((3, 3), dtype=torch.float64)
            step[a, b] = h
            plus, minus = torch.eye(3) + step, torch.eye(3) - step
            slope = (
                energy(positions @ plus, cell @ plus) - energy(positions @ minus, cell @ minus)
            ) / (2 * h)
            assert slope == pytest.approx(float(virial[a, b]), abs=DIFFERENCE_TOLERANCE)


@pytest.mark.parametrize("full", [True, False])
def test_forces_of_pairs_sum_to_zero(full: bool) -> None:
    rng = np.random.default_rng(40)
    half = np.zeros((500, 5), dtype=np.int32)
    half[:, :2] = rng.integers(0, 20, (500, 2))
    rows = np.concatenate([half, half[:, [1, 0, 2, 3, 4]]]) if full else half
    gradients = rng.normal(size=(len(rows), 3))
    pairs = RequestedPairs(torch.from_numpy(rows), torch.zeros((len(rows), 3)), n_pairs=500)
    forces = torch.zeros((20, 3), dtype=torch.float64)
    sum_over_pairs(pairs, torch.from_numpy(gradients), forces)
    assert float(forces.sum(dim=0).abs().max()) < SUM_TOLERANCE
    expected = np.zeros((20, 3))
    for (i, j, *_), g in zip(rows.tolist(), gradients, strict=True):
        expected[i] += g
        expected[j] -= g
    np.testing.assert_allclose(forces.numpy(), expected, rtol=0, atol=SUM_TOLERANCE)


def test_no_pairs() -> None:
    nothing = torch.zeros((0, 3), dtype=torch.float64)
    pairs = RequestedPairs(torch.zeros((0, 5), dtype=torch.int32), nothing, n_pairs=0)
    forces = torch.ones((2, 3), dtype=torch.float64)
    sum_over_pairs(pairs, nothing, forces)
    assert bool((forces == 1.0).all())
    assert bool((virial_of_pairs(pairs, nothing) == 0.0).all())


# --- on a GPU -------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_pair_is_ever_missed_on_cuda(name: str, dtype: str) -> None:
    world = PairWorld(WORLDS[name], seed=sum(map(ord, name)))
    n_atoms = len(world.positions)
    pairs = geometry((CUTOFF, True, True), n_atoms=n_atoms, dtype=dtype, device="cuda")
    pairs.set_pairs(Search(SKIN), world.cell)
    margin = MARGIN if dtype == "float64" else 5.0 * FLOAT32_SHELL
    compared = 0
    for _ in range(50):
        world.happen()
        found = brute_force.find(
            world.positions, world.cell.vectors, world.cell.pbc, CUTOFF + margin
        )
        if np.any(found.distances > CUTOFF - margin) or np.any(found.distances < 0.01):
            continue
        step = pairs.step(torch.from_numpy(world.positions).cuda(), world.cell)
        assert step.pairs[0].vectors.device.type == "cuda"
        assert step.pairs[0].vectors.dtype == getattr(torch, dtype)
        assert brute_force.keys(listed(step)) == found.keys()
        compared += 1
    assert compared > 40
    assert pairs.searches < 35


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kind", HANDED)
def test_stale_lists_on_cuda(kind: Callable) -> None:
    world = PairWorld(WORLDS["slab"], seed=12)
    found = brute_force.find(world.positions, world.cell.vectors, world.cell.pbc, CUTOFF + SKIN)
    host = kind(found, CUTOFF + SKIN)
    arrays = (torch.from_numpy(a).cuda() for a in (host.first, host.second, host.shifts))
    pairs = geometry((CUTOFF, True, True), n_atoms=len(world.positions), device="cuda")
    pairs.set_pairs(type(host)(*arrays, host.reach), world.cell)
    start = torch.from_numpy(world.positions).cuda()
    assert brute_force.keys(listed(pairs.step(start, None))) == world.expected(CUTOFF)
    way = torch.zeros_like(start)
    way[0, 0], way[1, 0] = 1.0, -1.0
    world.positions = (start + way * 0.499 * SKIN).cpu().numpy()
    step = pairs.step(torch.from_numpy(world.positions).cuda(), None)
    assert brute_force.keys(listed(step)) == world.expected(CUTOFF)
    refused(StalePairsError, lambda: pairs.step(start + way * 0.501 * SKIN, None))


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
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_on_cuda(world: PairWorld, dtype: torch.dtype) -> None:
    world = world.on_cuda(dtype)
    by_position, by_strain = world.by_autograd()
    pairs, gradients = world.by_pairs()
    forces = torch.zeros_like(world.positions)
    sum_over_pairs(pairs, gradients, forces)
    tolerance = SUM_TOLERANCE if dtype == torch.float64 else 1e-4
    assert torch.allclose(forces, -by_position, rtol=0, atol=tolerance)
    virial = virial_of_pairs(pairs, gradients)
    assert torch.allclose(virial, by_strain, rtol=0, atol=tolerance)


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
