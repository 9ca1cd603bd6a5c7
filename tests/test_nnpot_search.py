"""The pair search in TorchScript, and whole numbers behind GROMACS' shifts."""

from __future__ import annotations

import brute_force
import numpy as np
import pytest
import torch
import vesin

from alchemi_bridge.engines.nnpot.search import find_pairs
from alchemi_bridge.engines.nnpot.shifts import whole_shifts

scripted = torch.jit.script(find_pairs)


def found(x: np.ndarray, cell: np.ndarray, pbc: tuple, cutoff: float) -> set:
    """Pairs in no direction; a pair that is listed twice is an error."""
    first, second, shifts = scripted(
        torch.tensor(x), torch.tensor(cell), torch.tensor(pbc), float(cutoff)
    )
    return brute_force.one_direction(np.column_stack([first, second, shifts]))


def expected(x: np.ndarray, cell: np.ndarray, pbc: tuple, cutoff: float) -> set:
    return brute_force.one_direction(brute_force.find(x, cell, pbc, cutoff).half().samples)


@pytest.mark.parametrize("seed", range(60))
def test_random_boxes(seed: int) -> None:
    """0 to 60 atoms in and out of boxes from a quarter of the cutoff to ten of them."""
    rng = np.random.default_rng(seed)
    tilts = rng.uniform(-0.5, 0.5, 3)
    cell = np.array([[1.0, 0.0, 0.0], [tilts[0], 1.0, 0.0], [tilts[1], tilts[2], 1.0]])
    cell *= rng.uniform(0.5, 10.0) * rng.uniform(0.5, 1.0, (3, 1))
    if seed % 3 == 0:  # any box at all, not only GROMACS'
        cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    pbc = tuple(bool(b) for b in rng.integers(0, 2, 3)) if seed % 2 else (True, True, True)
    x = rng.uniform(-2.0, 2.0, (rng.integers(0, 61), 3)) @ cell
    cutoff = rng.uniform(0.8, 2.5)
    assert found(x, cell, pbc, cutoff) == expected(x, cell, pbc, cutoff)


def test_more_atoms_than_are_looked_at_at_once() -> None:
    """Against vesin, which is faster than brute force."""
    rng = np.random.default_rng(1)
    cell = np.array([[9.0, 0.0, 0.0], [4.5, 9.0, 0.0], [-4.5, 4.5, 9.0]])
    x = rng.uniform(0.0, 1.0, (5000, 3)) @ cell
    search = vesin.NeighborList(cutoff=1.0, full_list=False)
    i, j, shifts = search.compute(points=x, box=cell, periodic=True, quantities="ijS")
    others = brute_force.one_direction(np.column_stack([i, j, shifts]).astype(np.int64))
    assert found(x, cell, (True, True, True), 1.0) == others


def test_a_few_atoms_in_a_large_box() -> None:
    rng = np.random.default_rng(2)
    x = 1e4 + rng.normal(0.0, 1.0, (40, 3))
    cell = np.diag([2e4, 3e4, 1e4])
    for pbc in ((True, True, True), (True, True, False), (False, False, False)):
        assert found(x, cell, pbc, 1.5) == expected(x, cell, pbc, 1.5)


@pytest.mark.parametrize("pbc", [(True, True, True), (False, False, False)])
def test_atoms_on_the_borders_of_bins(pbc: tuple) -> None:
    """A crystal whose planes are where bins end, with neighbours at exactly the cutoff."""
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3)
    cell = 4.0 * np.eye(3)
    # at the cutoff rounding may decide either way; a hair inside and outside it may not
    for cutoff in (1.0 + 1e-12, 2.0 + 1e-12, 2.0 - 1e-12):
        assert found(grid, cell, pbc, cutoff) == expected(grid, cell, pbc, cutoff)


def test_atoms_in_one_place_are_a_pair() -> None:
    x = np.zeros((3, 3))
    assert len(found(x, np.eye(3) * 5.0, (True, True, True), 1.0)) == 3


# --- shifts --------------------------------------------------------------------------------------

BOXES = {
    "cubic": np.diag([4.0, 4.0, 4.0]),
    "dodecahedron": 5.0 * np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0.5**0.5]]),
    "octahedron": 5.0
    * np.array([[1, 0, 0], [1 / 3, 8**0.5 / 3, 0], [-1 / 3, 2**0.5 / 3, 6**0.5 / 3]]),
    "hexagonal": np.array([[4.0, 0, 0], [2.0, 12**0.5, 0], [0, 0, 7.0]]),
    "slightly tilted": np.array([[4.0, 0, 0], [0.001, 4.0, 0], [0, 0.002, 4.0]]),
}


@pytest.mark.parametrize("fault", [False, True])
@pytest.mark.parametrize("name", BOXES)
def test_whole_numbers(name: str, fault: bool) -> None:
    box = BOXES[name]
    # all that GROMACS has: two boxes along the first vector, one along the others
    n = np.stack(np.meshgrid([-2, -1, 0, 1, 2], [-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 3)
    shifts = np.float32(n @ box.T if fault else n @ box).astype(np.float64)
    for chosen in (slice(None), slice(7, 8), slice(20, 31)):
        numbers, known = whole_shifts(
            torch.tensor(shifts[chosen]), torch.tensor(box), torch.tensor([True] * 3)
        )
        assert known
        assert np.array_equal(numbers, n[chosen])


def test_whole_numbers_of_a_box_that_has_changed_a_little() -> None:
    box = BOXES["octahedron"]
    n = np.array([[1, 0, -1], [0, 1, 1], [-1, 1, 0]])
    numbers, known = whole_shifts(
        torch.tensor(n @ box.T), torch.tensor(box * 1.001), torch.tensor([True] * 3)
    )
    assert known
    assert np.array_equal(numbers, n)


@pytest.mark.parametrize("shift", [[1.0, 2.0, 3.0], [0.3, 0.0, 0.0], [5.0, 5.0, 5.0]])
def test_numbers_that_are_not_whole(shift: list[float]) -> None:
    box = torch.tensor(BOXES["octahedron"])
    assert not whole_shifts(torch.tensor([shift]).double(), box, torch.tensor([True] * 3))[1]


def test_two_answers_are_none() -> None:
    """Tilts of a whole vector, which GROMACS does not have: both products have whole numbers."""
    box = torch.tensor([[2.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 2.0]]).double()
    shift = torch.tensor([[2.0, 0.0, 0.0]]).double()
    assert not whole_shifts(shift, box, torch.tensor([True] * 3))[1]


def test_shifts_without_periodicity() -> None:
    nothing, no_pbc = torch.zeros(3, 3, dtype=torch.float64), torch.tensor([False] * 3)
    numbers, known = whole_shifts(torch.zeros(5, 3, dtype=torch.float64), nothing, no_pbc)
    assert known
    assert not numbers.any()
    assert not whole_shifts(torch.ones(5, 3, dtype=torch.float64), nothing, no_pbc)[1]


def test_shifts_along_walls() -> None:
    """Periodic in x and y: no shift along z."""
    box, pbc = torch.tensor(np.diag([4.0, 5.0, 6.0])), torch.tensor([True, True, False])
    numbers, known = whole_shifts(torch.tensor([[4.0, -5.0, 0.0]]).double(), box, pbc)
    assert known
    assert numbers.tolist() == [[1, -1, 0]]
    assert not whole_shifts(torch.tensor([[4.0, 0.0, 6.0]]).double(), box, pbc)[1]
