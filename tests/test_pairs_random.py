"""Pair searches and lists of random systems, against brute force."""

from __future__ import annotations

from collections.abc import Callable

import brute_force
import echo
import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pairs_parts import MARGIN, decoded, require_invariants, rows

from alchemi_bridge.cell import Cell
from alchemi_bridge.pairs import find_pairs
from alchemi_bridge.pairs.tree import find_pairs_by_tree


@st.composite
def systems(draw: st.DrawFn) -> tuple[np.ndarray, Cell, float]:
    """Positions in and around a skewed, turned, left- or right-handed cell, and a reach."""
    lengths = [draw(st.floats(1.8, 7.0)) for _ in range(3)]
    tilts = [draw(st.floats(-1.5, 1.5)) for _ in range(3)]
    lower = np.diag(lengths)
    lower[1, 0], lower[2, 0], lower[2, 1] = (t * x for t, x in zip(tilts, lengths, strict=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # a rotation, or one with a mirror
    cell = (lower @ turn)[list(draw(st.permutations(range(3))))]
    n_atoms = draw(st.integers(1, 6))
    spread = draw(st.sampled_from([1.0, 1.0, 7.0]))
    positions = (rng.random((n_atoms, 3)) - 0.3) * spread @ cell
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    return positions, Cell.of(cell, pbc), draw(st.floats(0.5, 5.5))


def oracle(positions: np.ndarray, cell: Cell, reach: float) -> brute_force.PairSet:
    """The pairs, unless one is too close to the reach to be sure of."""
    found = brute_force.find(positions, cell.vectors, cell.pbc, reach + MARGIN)
    assume(not np.any(found.distances > reach - MARGIN))
    return found


@settings(max_examples=250, deadline=None, derandomize=True)
@given(systems())
def test_search_of_random_systems(system: tuple[np.ndarray, Cell, float]) -> None:
    positions, cell, reach = system
    expected = oracle(positions, cell, reach)
    found = find_pairs(torch.from_numpy(positions), cell, reach)
    require_invariants(found)
    assert found.n_atoms == len(positions)
    assert found.reach == reach
    assert brute_force.keys(rows(found)) == expected.keys()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(systems())
def test_tree_search_of_random_systems(system: tuple[np.ndarray, Cell, float]) -> None:
    """The second way to search finds the same."""
    positions, cell, reach = system
    expected = oracle(positions, cell, reach)
    first, second, shifts = find_pairs_by_tree(positions, cell, reach)
    assert (first <= second).all()
    found = np.column_stack([first, second, shifts])
    assert brute_force.one_direction(found) == brute_force.one_direction(expected.half().samples)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(systems(), st.sampled_from([echo.full_pairs, echo.half_pairs]), st.data())
def test_lists_of_random_systems(
    system: tuple[np.ndarray, Cell, float], kind: Callable, data: st.DataObject
) -> None:
    positions, cell, reach = system
    n_atoms = len(positions)
    expected = oracle(positions, cell, reach)
    found = decoded(kind(expected, reach), n_atoms)
    require_invariants(found)
    assert brute_force.keys(rows(found)) == expected.keys()

    subset = data.draw(st.permutations(range(n_atoms)))[: data.draw(st.integers(0, n_atoms))]
    part = decoded(kind(expected, reach), n_atoms, subset=torch.tensor(subset, dtype=torch.int64))
    require_invariants(part)
    assert part.n_atoms == len(subset)
    named = rows(part)
    named[:, :2] = np.array(subset, dtype=np.int64)[named[:, :2]]
    inside = {key for key in expected.keys() if key[0] in subset and key[1] in subset}  # noqa: SIM118
    assert brute_force.keys(named) == inside


@settings(max_examples=60, deadline=None, derandomize=True)
@given(systems())
def test_search_and_list_are_the_same(system: tuple[np.ndarray, Cell, float]) -> None:
    """Row by row."""
    positions, cell, reach = system
    expected = oracle(positions, cell, reach)
    searched = find_pairs(torch.from_numpy(positions), cell, reach)
    handed = decoded(echo.half_pairs(expected, reach), len(positions))
    # in the same order, too: sums over pairs have the same bits whoever found them
    assert torch.equal(searched.samples, handed.samples)
