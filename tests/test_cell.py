"""Cells: what is taken, what is refused, and the frame that the pair list is built on."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import BridgeError, CellError, NonFiniteError, ShapeError

#: A few operations on numbers of order 1 to 10.
ROUNDING = 1e-12

SKEWED = np.array([[4.0, 0.3, -0.2], [1.5, 3.5, 0.4], [-0.7, 0.9, 5.0]])
ALL_PBC = list(itertools.product((False, True), repeat=3))


def refused(kind: type[BridgeError], *arguments: object) -> BridgeError:
    with pytest.raises(kind) as caught:
        Cell.of(*arguments)
    assert type(caught.value) is kind
    for part in (caught.value.expected, caught.value.got, caught.value.fix):
        assert part
        assert part in str(caught.value)
    return caught.value


# --- what is taken --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vectors",
    [
        SKEWED,
        SKEWED.tolist(),
        np.asfortranarray(SKEWED),
        torch.tensor(SKEWED),
        torch.tensor(SKEWED, requires_grad=True),
    ],
    ids=["array", "lists", "fortran", "tensor", "tensor with gradient"],
)
def test_kinds_of_vectors(vectors: object) -> None:
    cell = Cell.of(vectors)
    assert cell.vectors.dtype == np.float64
    np.testing.assert_array_equal(cell.vectors, SKEWED)
    assert cell.pbc == (True, True, True)


def test_lengths_make_an_orthogonal_cell() -> None:
    np.testing.assert_array_equal(Cell.of([3, 4, 5]).vectors, np.diag([3.0, 4.0, 5.0]))


@pytest.mark.parametrize(
    ("pbc", "flags"),
    [
        (True, (True, True, True)),
        (np.bool_(False), (False, False, False)),
        ((True, False, True), (True, False, True)),
        (np.array([1, 0, 0]), (True, False, False)),
        (torch.tensor([False, True, False]), (False, True, False)),
    ],
)
def test_kinds_of_flags(pbc: object, flags: tuple[bool, ...]) -> None:
    cell = Cell.of(SKEWED, pbc)
    assert cell.pbc == flags
    assert all(type(flag) is bool for flag in cell.pbc)


def test_a_copy_that_nobody_changes() -> None:
    vectors = SKEWED.copy()
    cell = Cell.of(vectors)
    vectors[:] = 0.0
    np.testing.assert_array_equal(cell.vectors, SKEWED)
    with pytest.raises(ValueError, match="read-only"):
        cell.vectors[0, 0] = 1.0


def test_rows_that_are_not_periodic_are_ignored() -> None:
    vectors = SKEWED.copy()
    vectors[1] = np.nan
    cell = Cell.of(vectors, (True, False, True))
    np.testing.assert_array_equal(cell.vectors, [SKEWED[0], np.zeros(3), SKEWED[2]])


def test_open() -> None:
    cell = Cell.open()
    assert cell.pbc == (False, False, False)
    np.testing.assert_array_equal(cell.vectors, np.zeros((3, 3)))
    np.testing.assert_array_equal(cell.completed, np.eye(3))
    assert np.isinf(cell.heights).all()


def test_left_handed() -> None:
    cell = Cell.of(SKEWED[[1, 0, 2]])
    assert np.linalg.det(cell.vectors) < 0
    assert cell.volume == pytest.approx(Cell.of(SKEWED).volume, rel=ROUNDING)


# --- the frame ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pbc", ALL_PBC)
def test_completed_frame(pbc: tuple[bool, bool, bool]) -> None:
    cell = Cell.of(SKEWED, pbc)
    periodic = np.array(pbc)
    np.testing.assert_array_equal(cell.completed[periodic], SKEWED[periodic])
    others = cell.completed[~periodic]
    np.testing.assert_allclose(others @ SKEWED[periodic].T, 0.0, atol=ROUNDING)
    np.testing.assert_allclose(others @ others.T, np.eye(len(others)), atol=ROUNDING)
    np.testing.assert_allclose(cell.completed @ cell.inverse, np.eye(3), atol=ROUNDING)


def test_heights() -> None:
    volume = abs(np.linalg.det(SKEWED))
    areas = [np.linalg.norm(np.cross(SKEWED[k - 2], SKEWED[k - 1])) for k in range(3)]
    np.testing.assert_allclose(Cell.of(SKEWED).heights, volume / areas, rtol=ROUNDING)


def test_heights_of_a_slab() -> None:
    slab = Cell.of(SKEWED, (True, True, False))
    a, b = np.linalg.norm(SKEWED[0]), np.linalg.norm(SKEWED[1])
    sine = np.linalg.norm(np.cross(SKEWED[0], SKEWED[1])) / (a * b)
    np.testing.assert_allclose(slab.heights[:2], [a * sine, b * sine], rtol=ROUNDING)
    assert slab.heights[2] == np.inf


def test_volume() -> None:
    assert Cell.of([2.0, 3.0, 4.0]).volume == pytest.approx(24.0, rel=ROUNDING)


@pytest.mark.parametrize("pbc", ALL_PBC[:-1])
def test_no_volume_without_full_periodicity(pbc: tuple[bool, bool, bool]) -> None:
    with pytest.raises(CellError, match=re.escape(f"got pbc {pbc}; ask for the virial")):
        _ = Cell.of(SKEWED, pbc).volume


def test_scaled() -> None:
    cell = Cell.of(SKEWED, (True, False, True))
    assert cell.scaled(1.0) is cell
    smaller = cell.scaled(0.1)
    np.testing.assert_array_equal(smaller.vectors, cell.vectors * 0.1)
    assert smaller.pbc == cell.pbc
    with pytest.raises(ValueError, match="read-only"):
        smaller.vectors[0, 0] = 1.0


def test_same_as() -> None:
    cell = Cell.of(SKEWED)
    assert cell.same_as(Cell.of(SKEWED.copy()))
    assert not cell.same_as(Cell.of(SKEWED, (True, True, False)))
    nudged = SKEWED.copy()
    nudged[0, 0] = np.nextafter(nudged[0, 0], 9.0)
    assert not cell.same_as(Cell.of(nudged))


@pytest.mark.parametrize("pbc", ALL_PBC)
def test_deformation(pbc: tuple[bool, bool, bool]) -> None:
    strain = np.eye(3) + 0.05 * np.array([[-1, 0.4, 0], [0.2, 0.7, -0.5], [0.1, 0, 0.3]])
    before, after = Cell.of(SKEWED, pbc), Cell.of(SKEWED @ strain, pbc)
    deformation = after.deformation_from(before)
    np.testing.assert_allclose(before.vectors @ deformation, after.vectors, atol=ROUNDING)
    np.testing.assert_allclose(before.deformation_from(before), np.eye(3), atol=ROUNDING)


def test_tensor() -> None:
    tensor = Cell.of(SKEWED, (True, True, False)).tensor(torch.float32, torch.device("cpu"))
    assert tensor.dtype == torch.float32
    assert tensor[2].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(tensor[:2].numpy(), SKEWED[:2].astype(np.float32))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-6, 6), min_size=9, max_size=9),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_any_nine_numbers(numbers: list[float], pbc: tuple[bool, bool, bool]) -> None:
    """Either a typed error, or a frame that can be inverted."""
    try:
        cell = Cell.of(np.reshape(numbers, (3, 3)), pbc)
    except CellError:
        return
    np.testing.assert_allclose(cell.completed @ cell.inverse, np.eye(3), atol=1e-8)
    assert (cell.heights > 0).all()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vectors",
    [
        np.eye(2),
        np.ones(4),
        np.ones((3, 3, 1)),
        5.0,
        None,
        "cubic",
        [[1, 0, 0], [0, 1]],
        torch.eye(3, dtype=torch.bfloat16),
    ],
    ids=["2x2", "four", "3d", "number", "none", "text", "ragged", "bfloat16"],
)
def test_shape(vectors: object) -> None:
    error = refused(ShapeError, vectors)
    assert error.what == "cell"
    assert "(3, 3)" in error.expected


@pytest.mark.parametrize(
    "pbc",
    [(True, False), [True] * 4, "TTF", None, [1, 0, 2], [0.5, 0, 1], [True, [False]], {}],
    ids=["two", "four", "text", "none", "number", "fraction", "ragged", "dict"],
)
def test_flags(pbc: object) -> None:
    assert refused(ShapeError, SKEWED, pbc).what == "pbc"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value: float) -> None:
    vectors = SKEWED.copy()
    vectors[1, 2] = value
    assert str(value) in refused(NonFiniteError, vectors).got


@pytest.mark.parametrize(("row", "name"), [(0, "a"), (1, "b"), (2, "c")])
def test_zero_vector_in_a_periodic_direction(row: int, name: str) -> None:
    vectors = SKEWED.copy()
    vectors[row] = 0.0
    error = refused(CellError, vectors)
    assert error.what == f"cell vector {name}"
    assert f"pbc=False along {name}" in error.fix
    pbc = [True] * 3
    pbc[row] = False
    assert Cell.of(vectors, pbc).pbc == tuple(pbc)


@pytest.mark.parametrize(
    ("vectors", "pbc"),
    [
        ([[1, 0, 0], [0, 1, 0], [1, 1, 0]], True),
        ([[1, 0, 0], [2, 0, 0], [0, 0, 1]], True),
        ([[1, 0, 0], [1, 1e-8, 0], [0, 0, 1]], True),
        ([[1, 2, 3], [-2, -4, -6], [0, 0, 0]], (True, True, False)),
        (np.ones((3, 3)), True),
    ],
    ids=["in a plane", "parallel", "nearly parallel", "parallel in a slab", "all the same"],
)
def test_singular(vectors: object, pbc: object) -> None:
    error = refused(CellError, vectors, pbc)
    assert "linearly independent" in error.expected


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_absurd_lengths(factor: float) -> None:
    """A typed error and no overflow: warnings are errors here."""
    assert refused(CellError, SKEWED * factor).what == "cell vector a"


def test_small_and_flat_cells_are_fine() -> None:
    """Singular is a matter of angles, not of lengths."""
    for vectors in (SKEWED * 1e-6, np.diag([1.0, 1.0, 1e-7]), np.diag([1e5, 1e-3, 1.0])):
        assert Cell.of(vectors).volume > 0
