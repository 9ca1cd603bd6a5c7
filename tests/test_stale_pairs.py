"""When a pair list must be renewed: by the bridge's own search, or by the engine that owns it."""

from __future__ import annotations

import math
from collections.abc import Callable

import brute_force
import echo
import numpy as np
import pytest
import torch
from kernel_parts import KERNEL_WAYS
from pairs_parts import refused
from worlds import (
    CELL,
    CUTOFF,
    FLOAT32_SHELL,
    MARGIN,
    SKIN,
    WORLDS,
    World,
    geometry,
    liquid,
    listed,
    named,
)

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import PairListError, StalePairsError
from alchemi_bridge.geometry import Geometry
from alchemi_bridge.native import using
from alchemi_bridge.neighbors import Reference, advance, read_facts
from alchemi_bridge.pairs import Search

# --- own search: when to search again -------------------------------------------------------------


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
        step = pairs.step(positions, world.cell)
        assert brute_force.keys(named(step, world.positions)) == expected
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
    reference = Reference(torch.zeros((2, 3), dtype=torch.float64), cell)
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


def displacement(reference: Reference, positions: torch.Tensor, cell: Cell) -> float:
    """As the guard sees it: the second step at the same positions knows the drift of the first."""
    for _ in range(2):
        moved = advance(positions, None, 1.0, cell, reference, positions.dtype)
        facts = read_facts(moved, reference)
    return facts.displacement


@pytest.mark.parametrize("way", KERNEL_WAYS)
def test_displacement_without_drift_and_deformation(way: str) -> None:
    start = torch.tensor(liquid(3, 9, CELL))
    reference = Reference(start, CELL)
    with using(way):
        assert displacement(reference, start, CELL) == 0.0
        drift = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
        assert displacement(reference, start + drift, CELL) < 1e-14
        strain = np.eye(3) + 0.04 * np.array([[-1, 0.5, 0], [0.3, 0.8, -0.6], [0.1, 0, 0.2]])
        strained = Cell.of(CELL.vectors @ strain)
        moved = start @ torch.from_numpy(strain)
        assert displacement(reference, moved, strained) < 1e-13
        moved[4] += torch.tensor([0.0, 0.3, 0.4], dtype=torch.float64)
        # the middle of the range takes half of it: never less than half of any relative one
        assert 0.25 - 1e-9 < displacement(reference, moved, strained) <= 0.5 + 1e-9


@pytest.mark.parametrize("way", KERNEL_WAYS)
@pytest.mark.parametrize("model", ["float64", "float32"])
@pytest.mark.parametrize("handed_over", [False, True])
@pytest.mark.parametrize("uncut", [False, True])
def test_an_engine_may_change_its_precision(
    way: str, model: str, handed_over: bool, uncut: bool
) -> None:
    """From one step to the next, with the same pair list."""
    world = World(WORLDS["slab"], seed=10)
    pairs = geometry((CUTOFF, True, False), n_atoms=len(world.positions), dtype=model)
    pairs.uncut = uncut
    found = brute_force.find(world.positions, world.cell.vectors, world.cell.pbc, CUTOFF + SKIN)
    listing = echo.full_pairs(found, CUTOFF + SKIN) if handed_over else Search(SKIN)
    pairs.set_pairs(listing, world.cell)
    positions = torch.from_numpy(world.positions)
    with using(way):
        for dtype in (torch.float64, torch.float32, torch.float64):
            step = pairs.step(positions.to(dtype), None)
            table = named(step, positions.to(dtype).double().numpy())
            lengths = torch.linalg.vector_norm(step.pairs[0].vectors, dim=1).numpy()
            assert brute_force.keys(table[lengths < CUTOFF]) == world.expected(CUTOFF)
    assert pairs.searches == 1


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
            assert brute_force.keys(named(step, world.positions)) == expected
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


@pytest.mark.parametrize("kind", HANDED)
@pytest.mark.parametrize("name", [name for name in WORLDS if name != "molecule"])
def test_wrapping_is_undone(kind: Callable, name: str) -> None:
    """Each atom by its own whole cells, along the periodic vectors: the list still holds."""
    world = World(WORLDS[name], seed=14)
    pairs = handed(world, kind, CUTOFF + SKIN)
    start = torch.from_numpy(world.positions.copy())
    before = pairs.step(start, None)
    cells = world.rng.integers(-3, 4, start.shape) * np.array(world.cell.pbc)
    assert len(np.unique(cells, axis=0)) > 3
    world.positions = world.positions + cells @ world.cell.vectors
    step = pairs.step(torch.from_numpy(world.positions), None)
    np.testing.assert_array_equal(listed(step), listed(before))
    assert brute_force.keys(named(step, world.positions)) == world.expected(CUTOFF)


@pytest.mark.parametrize("kind", HANDED)
def test_wrapping_and_moving_too_far_is_stale(kind: Callable) -> None:
    """Whole cells are taken out, what is left counts."""
    world = World(WORLDS["slab"], seed=12)
    pairs = handed(world, kind, CUTOFF + SKIN)
    start = torch.from_numpy(world.positions)
    pairs.step(start, None)
    way = torch.zeros_like(start)
    way[0, 0], way[1, 0] = 1.0, -1.0
    wrapped = start.clone()
    wrapped[[0, 3]] += torch.from_numpy(2.0 * world.cell.vectors[1] - world.cell.vectors[0])
    pairs.step(wrapped + way * 0.999 * SKIN / 2.0, None)
    error = refused(StalePairsError, lambda: pairs.step(wrapped + way * 1.001 * SKIN / 2.0, None))
    assert error.got == f"{1.001 * SKIN / 2.0:.4g} angstrom"


def test_a_jump_along_an_open_direction_is_stale() -> None:
    """There is no cell by which the atom could have been wrapped."""
    world = World(WORLDS["slab"], seed=14)
    pairs = handed(world, echo.full_pairs, CUTOFF + SKIN)
    positions = torch.from_numpy(world.positions)
    pairs.step(positions, None)
    positions[3] += torch.from_numpy(5.0 * world.cell.completed[2])
    refused(StalePairsError, lambda: pairs.step(positions, None))


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


# --- on a GPU -------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_pair_is_ever_missed_on_cuda(name: str, dtype: str) -> None:
    world = World(WORLDS[name], seed=sum(map(ord, name)))
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
        assert brute_force.keys(named(step, world.positions)) == found.keys()
        compared += 1
    assert compared > 40
    assert pairs.searches < 35


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kind", HANDED)
def test_stale_lists_on_cuda(kind: Callable) -> None:
    world = World(WORLDS["slab"], seed=12)
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
