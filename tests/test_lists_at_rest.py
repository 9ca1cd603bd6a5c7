"""Lists of an engine under a box that changes while the atoms do not follow it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import brute_force
import echo
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_parts import KERNEL_WAYS
from pairs_parts import refused
from worlds import CUTOFF, MARGIN, SKIN, geometry, listed, named

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import StalePairsError
from alchemi_bridge.geometry import Geometry
from alchemi_bridge.native import using
from alchemi_bridge.neighbors import Reference

REACH = CUTOFF + SKIN

#: Relative; LAMMPS' criterion and the bridge's are sums of the same numbers in another order.
EDGE = 1e-9

SHAPES = {
    "cube": Cell.of([30.0, 30.0, 30.0]),
    "triclinic": Cell.of([[30.0, 0.0, 0.0], [9.0, 28.0, 0.0], [-7.0, 5.0, 31.0]]),
    "slab": Cell.of([30.0, 30.0, 9.0], (True, True, False)),
    "left-handed": Cell.of([[0.0, 30.0, 0.0], [30.0, 0.0, 0.0], [0.0, 0.0, 30.0]]),
}


def gas(cell: Cell, n_atoms: int, seed: int) -> np.ndarray:
    """(n_atoms, 3) anywhere in the cell, as LAMMPS wraps them when it builds a list.

    The first eight are in the corners, as some always are in a large system: to them the box does
    most. The last of these is opposite to the origin.
    """
    rows = np.where(np.array(cell.pbc)[:, None], cell.vectors, 9.0 * np.eye(3))
    fractions = np.random.default_rng(seed).random((n_atoms, 3))
    corners = np.array(list(itertools.product((0.0005, 0.9995), repeat=3)))
    fractions[: len(corners)] = corners[:n_atoms]
    return fractions @ rows


def handed(positions: np.ndarray, cell: Cell, *, uncut: bool = False, dtype: str = "float64"):
    """The list of these positions after its first step."""
    strict = not uncut
    pairs = geometry((CUTOFF, True, strict), n_atoms=len(positions), dtype=dtype)
    pairs.uncut = uncut
    found = brute_force.find(positions, cell.vectors, cell.pbc, REACH)
    pairs.set_pairs(echo.full_pairs(found, REACH), cell)
    pairs.step(torch.from_numpy(positions), cell)
    return pairs


def accepts(pairs: Geometry, positions: np.ndarray, cell: Cell) -> bool:
    """Whether the list holds; then also that the model gets the pairs of brute force."""
    try:
        step = pairs.step(torch.from_numpy(positions), cell)
    except StalePairsError:
        return False
    table = named(step, positions)
    if pairs.uncut:
        lengths = torch.linalg.vector_norm(step.pairs[0].vectors.double(), dim=1).numpy()
        table = table[lengths < CUTOFF]
    found = brute_force.find(positions, cell.vectors, cell.pbc, CUTOFF + MARGIN)
    if not np.any(found.distances > CUTOFF - MARGIN):
        assert brute_force.keys(table) == found.keys()
    return True


@pytest.fixture
def only_the_first(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without the criterion for atoms at rest."""
    monkeypatch.setattr(Geometry, "_may_be_at_rest", lambda self, cell: False)
    return monkeypatch


# --- what the other criterion refuses -------------------------------------------------------------


def shrunk(cell: Cell, amount: float) -> Cell:
    """Its longest diagonal is shorter by so much (angstrom)."""
    diagonals = np.array(list(itertools.product((-1.0, 1.0), repeat=3))) @ cell.vectors
    longest = np.linalg.norm(diagonals, axis=1).max()
    return Cell.of(cell.vectors * (1.0 - amount / longest), cell.pbc)


@pytest.mark.parametrize("way", KERNEL_WAYS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("uncut", [False, True])
def test_atoms_that_stay_in_a_shrinking_box(
    only_the_first: pytest.MonkeyPatch, way: str, shape: str, uncut: bool
) -> None:
    """By 1.5 % or so: legal for LAMMPS, and for the bridge only since it has this criterion."""
    cell = SHAPES[shape]
    positions = gas(cell, 120, seed=1)
    smaller = shrunk(cell, 0.99 * SKIN)
    ratio = np.linalg.norm(smaller.vectors[0]) / np.linalg.norm(cell.vectors[0])
    assert 0.975 < ratio < 0.99
    with using(way):
        assert not accepts(handed(positions, cell, uncut=uncut), positions, smaller)
        only_the_first.undo()
        pairs = handed(positions, cell, uncut=uncut)
        for now in (smaller, cell, smaller):
            assert accepts(pairs, positions, now)
    assert pairs.searches == 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_both_precisions(dtype: str) -> None:
    """Of the engine; a float32 model makes no difference to the criterion."""
    cell = SHAPES["cube"]
    positions = gas(cell, 100, seed=2).astype(dtype)
    wide = positions.astype(np.float64)
    found = brute_force.find(wide, cell.vectors, cell.pbc, REACH)
    smaller = shrunk(cell, 0.99 * SKIN)
    expected = brute_force.find(wide, smaller.vectors, cell.pbc, CUTOFF)
    for model in ("float64", "float32"):
        pairs = geometry((CUTOFF, True, True), n_atoms=100, dtype=model)
        pairs.set_pairs(echo.full_pairs(found, REACH), cell)
        pairs.step(torch.from_numpy(positions), cell)
        step = pairs.step(torch.from_numpy(positions), smaller)
        assert brute_force.keys(listed(step)) == expected.keys()


@pytest.mark.parametrize(("amount", "fine"), [(0.999, True), (1.001, False)])
def test_a_pair_with_a_shift_that_the_list_lacks(amount: float, fine: bool) -> None:
    """It holds no pair at all: no shift of its own says what the box does to others."""
    cell = Cell.of([30.0, 30.0, 30.0])
    positions = np.array([[0.0, 1.0, 1.0], [26.0 - 1e-9, 1.0, 1.0]])
    pairs = handed(positions, cell)
    smaller = Cell.of([30.0 - amount * SKIN, 30.0, 30.0])
    assert accepts(pairs, positions, smaller) == fine
    assert len(brute_force.find(positions, smaller.vectors, cell.pbc, CUTOFF).samples) == (
        0 if fine else 2
    )


def test_what_violates_both_is_refused() -> None:
    cell = SHAPES["cube"]
    positions = gas(cell, 250, seed=3)
    smaller = shrunk(cell, 0.9 * SKIN)
    pairs = handed(positions, cell)
    diagonal = np.ones(3) / np.sqrt(3.0)
    moved = positions.copy()
    moved[7] += 0.11 * SKIN * diagonal  # half of it counts, since the drift is taken out
    error = refused(StalePairsError, lambda: pairs.step(torch.from_numpy(moved), smaller))
    assert "0.04 without following the cell, where they are 0.044" in error.expected
    moved[7] -= 0.02 * SKIN * diagonal
    assert accepts(pairs, moved, smaller)  # and a step that was refused leaves nothing behind
    error = refused(
        StalePairsError, lambda: pairs.step(torch.from_numpy(moved), shrunk(cell, 1.01 * SKIN))
    )
    assert "without following" not in error.expected


def test_an_atom_that_is_lost_for_a_step() -> None:
    cell = SHAPES["cube"]
    positions, smaller = gas(cell, 250, seed=3), shrunk(cell, 0.95 * SKIN)
    pairs = handed(positions, cell)
    assert accepts(pairs, positions, smaller)
    for away in (7.0, 1500 * 30.0, 1e9):
        lost = positions.copy()
        lost[3, 0] += away
        assert not accepts(pairs, lost, smaller)
        assert accepts(pairs, positions, smaller)


@pytest.mark.parametrize("shape", SHAPES)
def test_atoms_that_the_engine_wraps_meanwhile(shape: str) -> None:
    """By whole cells of now, each by its own; and a common drift."""
    cell, rng = SHAPES[shape], np.random.default_rng(4)
    positions, smaller = gas(cell, 200, seed=4), shrunk(SHAPES[shape], 0.6 * SKIN)
    pairs = handed(positions, cell)
    drift = np.zeros(3)
    for _ in range(5):
        cells = rng.integers(-2, 3, positions.shape) * np.array(cell.pbc)
        drift = drift + np.array([0.7, -1.1, 0.4])
        assert accepts(pairs, positions + drift + cells @ smaller.vectors, smaller)


def test_not_in_the_first_step() -> None:
    """A list is for its own cell: that atoms are where they are does not say that they stayed."""
    cell = SHAPES["cube"]
    positions = gas(cell, 250, seed=1)
    found = brute_force.find(positions, cell.vectors, cell.pbc, REACH)
    pairs = geometry((CUTOFF, True, True), n_atoms=len(positions))
    pairs.set_pairs(echo.full_pairs(found, REACH), cell)
    smaller = shrunk(cell, 0.99 * SKIN)
    assert not accepts(pairs, positions, smaller)
    assert accepts(pairs, positions, cell)
    assert accepts(pairs, positions, smaller)


def test_a_list_that_is_cut_to_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of several ranks are: a deformation counts as far as the range, not the cutoff."""
    cell = SHAPES["cube"]
    positions = gas(cell, 120, seed=1)
    follow = shrunk(cell, 0.6 * SKIN)
    followed = positions @ follow.deformation_from(cell).T
    pairs = handed(positions, cell)
    assert accepts(pairs, followed, follow)
    margin = torch.full((len(positions),), 100.0, dtype=torch.float64)
    pairs._candidates = replace(pairs._candidates, margin=margin)
    monkeypatch.setattr(type(pairs.loaded), "interaction_range", 40.0 * REACH)
    assert not accepts(pairs, followed, follow)
    # atoms and ghosts that moved by half of the skin are nearer by the skin at most
    assert accepts(pairs, positions, shrunk(cell, 0.99 * SKIN))


# --- the allowance --------------------------------------------------------------------------------


def test_allowances() -> None:
    cell = Cell.of([20.0, 20.0, 20.0])
    corners = torch.tensor([[0.0, 0.0, 0.0], [19.9, 19.9, 19.9]], dtype=torch.float64)
    at_rest = Reference(corners, cell).at_rest
    assert at_rest.allowance(cell, 6.0, 5.0) == pytest.approx(0.5, rel=1e-12)
    longer = Cell.of([20.2, 20.0, 20.0])
    assert at_rest.allowance(longer, 6.0, 5.0) == pytest.approx(0.4, rel=1e-12)
    smaller = Cell.of([19.8, 19.8, 19.8])
    assert at_rest.allowance(smaller, 6.0, 5.0) == pytest.approx(0.5 - 0.03**0.5, rel=1e-12)
    # no image of a cluster in the middle of its cell is ever within the cutoff
    cluster = Reference(corners / 4.0, cell).at_rest
    assert cluster.allowance(Cell.of([15.0] * 3), 6.0, 5.0) == pytest.approx(0.5, rel=1e-12)
    assert cluster.allowance(Cell.of([10.4] * 3), 6.0, 5.0) == pytest.approx(
        (10.4 - 19.9 / 4.0 - 5.0) / 2.0, rel=1e-12
    )
    # open directions have no images
    line = Cell.of([20.0, 20.0, 20.0], (True, False, False))
    alone = Reference(corners, line).at_rest
    changed = Cell.of([[20.0, 0.3, 0.0], [0, 1, 0], [0, 0, 1]], line.pbc)
    assert alone.allowance(changed, 6.0, 5.0) == pytest.approx(0.35, rel=1e-12)
    # nobody knows of that many images
    for huge in (1e3, 1e9, 1e150, 1e306):
        far = Reference(huge * corners, cell).at_rest
        assert far.allowance(longer, 6.0, 5.0) == -np.inf
    assert Reference(corners[:0], cell).at_rest.allowance(cell, 6.0, 5.0) == pytest.approx(0.5)


# --- at random ------------------------------------------------------------------------------------


def lammps_corners(cell: Cell) -> np.ndarray:
    """(8, 3) of a box whose lower corner is the origin."""
    return np.array(list(itertools.product((0.0, 1.0), repeat=3))) @ cell.vectors


@dataclass(frozen=True)
class Case:
    """A list and a later step."""

    start: np.ndarray
    cell: Cell
    positions: np.ndarray
    changed: Cell
    lammps: float

    def scaled(self, factor: float) -> Case:
        """The same event, so many times as strong."""
        vectors = self.cell.vectors + factor * (self.changed.vectors - self.cell.vectors)
        positions = self.start + factor * (self.positions - self.start)
        changed = Cell.of(vectors, self.cell.pbc)
        return Case(self.start, self.cell, positions, changed, factor * self.lammps)


def case(seed: int, small: bool = False) -> Case:
    """What LAMMPS' criterion says of it is exactly the skin: ``neighbor.cpp``, check_distance.

    Twice the largest displacement, and how far the two corners moved that moved farthest.
    """
    rng = np.random.default_rng(seed)
    low, high = (0.5, 1.2) if small else (1.3, 5.0)
    pbc = tuple(bool(p) for p in rng.random(3) < 0.8)
    while True:
        tilt = np.tril(rng.uniform(-0.5, 0.5, (3, 3)), -1) * (rng.random() < 0.6)
        cell = Cell.of(REACH * rng.uniform(low, high, 3)[:, None] * (np.eye(3) + tilt), pbc)
        if np.where(pbc, cell.heights, np.inf).min() > low * REACH:
            break
    rows = np.where(np.array(pbc)[:, None], cell.vectors, 8.0 * np.eye(3))
    fractions = rng.random((int(rng.integers(5, 40)), 3))
    if rng.random() < 0.7:  # atoms in some corners, with which the box does most
        fractions[:8] = list(itertools.product((0.01, 0.99), repeat=3))[: len(fractions)]
        fractions[:8] += rng.uniform(-0.01, 0.01, fractions[:8].shape)
    start = fractions @ rows
    strain = rng.normal(0.0, 1.0, (3, 3))
    kind = rng.integers(5)
    if kind < 2:
        strain = -np.eye(3)
    elif kind == 2:
        strain = np.diag(rng.normal(0.0, 1.0, 3))
    # where a corner of the box is, LAMMPS knows; its lower one may move, too
    changed = Cell.of(cell.vectors @ (np.eye(3) + 1e-5 * strain), pbc)
    shift = rng.random(3) @ (changed.vectors - cell.vectors) * (rng.random() < 0.5)
    corners = lammps_corners(changed) - lammps_corners(cell) - shift
    box = np.sort(np.linalg.norm(corners, axis=1))[-2:].sum()
    away = rng.normal(0.0, 1.0, start.shape)
    away /= np.linalg.norm(away, axis=1).max()
    share = rng.random() ** 2 * (rng.random() < 0.7)  # of the skin, for displacements
    room = SKIN * (1.0 - share) if box > 0.0 else 0.0
    vectors = cell.vectors + (changed.vectors - cell.vectors) * (room / max(box, 1e-300))
    positions = start + away * (SKIN - room) / 2.0
    return Case(start, cell, positions, Cell.of(vectors, pbc), SKIN)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.0 - EDGE))
def test_what_lammps_accepts_is_accepted(seed: int, factor: float) -> None:
    """Cells from 1.3 times the reach: farther images than the next ones are none of its pairs."""
    one = case(seed).scaled(factor)
    assert one.lammps <= SKIN
    assert accepts(handed(one.start, one.cell), one.positions, one.changed)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 3.0), st.booleans(), st.booleans())
def test_no_pair_is_ever_missed(seed: int, factor: float, small: bool, wrapped: bool) -> None:
    """Whatever is accepted, also in cells smaller than the cutoff and after a wrap."""
    one = case(seed, small).scaled(factor)
    pairs, positions = handed(one.start, one.cell), one.positions
    if wrapped:
        cells = np.random.default_rng(seed).integers(-1, 2, positions.shape) * one.cell.pbc
        positions = positions + cells @ one.changed.vectors
    accepts(pairs, positions, one.changed)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_the_worst_that_can_happen(seed: int, missing: bool, small: bool) -> None:
    """Two atoms of the cell just out of reach, and all that happens brings them together."""
    rng, one = np.random.default_rng(seed), case(seed, small)
    cell, change = one.cell, one.changed.vectors - one.cell.vectors
    periodic = np.array(cell.pbc)
    way, first = rng.normal(0.0, 1.0, 3), rng.random(3) @ cell.completed
    for _ in range(4):  # to the direction in which the box does most
        beyond = (REACH + 1e-9) * way / np.linalg.norm(way)
        shift = np.floor((first + beyond) @ cell.inverse) * periodic
        if not np.any(shift @ change):
            break
        way = -shift @ change
    if beyond @ (shift @ change) > 0.0:
        change = -change
    start = np.array([first, first + beyond - shift @ cell.vectors])
    now = beyond + shift @ change
    rest = np.linalg.norm(now) - (CUTOFF - 1e-3 if missing else CUTOFF + 1e-3)
    away = np.array([[0.5], [-0.5]]) * rest * now / np.linalg.norm(now)
    changed = Cell.of(cell.vectors + change, cell.pbc)
    assert not (accepts(handed(start, cell), start + away, changed) and missing)


def test_both_ways_are_taken(only_the_first: pytest.MonkeyPatch) -> None:
    """Of the random cases some are accepted by this criterion alone, and many by none."""
    cases = [case(seed).scaled((0.99, 1.5)[seed % 2]) for seed in range(240)]
    before = [accepts(handed(c.start, c.cell), c.positions, c.changed) for c in cases]
    only_the_first.undo()
    now = [accepts(handed(c.start, c.cell), c.positions, c.changed) for c in cases]
    assert all(later or not first for first, later in zip(before, now, strict=True))
    assert sum(now) - sum(before) > 5
    assert now.count(False) > 50
