"""Boxes of LAMMPS for any cell, without LAMMPS."""

from __future__ import annotations

import numpy as np
import pytest

from alchemi_bridge.cell import Cell
from alchemi_bridge.engines.lammps_frame import Frame
from alchemi_bridge.errors import CellError, InputError, NonFiniteError


def cells(seed: int) -> np.ndarray:
    """A cell that is skewed a lot, of either hand."""
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.normal(0.0, 6.0, (3, 3))
        if abs(np.linalg.det(rows)) > 20.0:
            return rows


def vectors_within(rows: np.ndarray, flags: np.ndarray, reach: float) -> np.ndarray:
    """Lengths of all vectors of a lattice that are shorter than ``reach``, sorted."""
    counts = np.where(flags, np.ceil(reach * np.linalg.norm(np.linalg.inv(rows), axis=0)), 0)
    axes = [np.arange(-n, n + 1) for n in counts.astype(int)]
    steps = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = np.linalg.norm(steps @ rows, axis=1)
    return np.sort(lengths[lengths < reach])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 0), (0, 0, 0)])
def test_a_frame_is_what_lammps_wants_and_the_same_crystal(
    pbc: tuple[int, int, int], seed: int
) -> None:
    rows = cells(seed)
    positions = np.random.default_rng(seed).normal(0.0, 20.0, (30, 3))
    cell = Cell.of(rows, pbc)
    frame = Frame.of(positions, cell, room=5.0)
    flags = frame.periodic

    # lower triangular, small tilts, none along directions that are not periodic
    assert not np.triu(frame.lattice, 1).any()
    assert (np.diagonal(frame.lattice) > 0.0).all()
    for row, other in ((1, 0), (2, 0), (2, 1)):
        tilt = frame.lattice[row, other] / frame.lattice[other, other]
        assert abs(tilt) <= (0.5 + 1e-9 if flags[row] and flags[other] else 0.0)
    assert flags.sum() == sum(pbc)

    # a rotation, into which the vectors of the crystal go
    np.testing.assert_allclose(frame.rotation @ frame.rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame.rotation) == pytest.approx(1.0, abs=1e-12)
    periodic = rows[np.array(pbc, dtype=bool)] @ frame.rotation
    steps = periodic @ np.linalg.inv(frame.lattice)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
    np.testing.assert_allclose(
        vectors_within(cell.completed, np.array(pbc, dtype=bool), 14.0),
        vectors_within(frame.lattice, flags, 14.0),
        atol=1e-9,
    )

    # atoms are brought into the box by whole vectors, and back
    inside = frame.into(positions)
    wrapped = inside - frame.wraps(inside) @ frame.lattice
    assert frame.holds(wrapped, beyond=1e-9)
    assert not frame.wraps(inside)[:, ~flags].any()
    np.testing.assert_allclose(frame.back(inside), positions, atol=1e-12)
    free = ~flags
    if free.any():
        assert wrapped[:, free].min() >= frame.origin[free].min() + 5.0 - 1e-9


def test_a_frame_that_lammps_has_anyway_keeps_every_bit() -> None:
    rows = np.array([[9.1, 0.0, 0.0], [2.3, 8.7, 0.0], [-1.1, 0.4, 10.3]])
    frame = Frame.of(np.ones((1, 3)), Cell.of(rows, True), room=1.0)
    assert np.array_equal(frame.lattice, rows)
    assert np.array_equal(frame.rotation, np.eye(3))
    assert frame.same_box(Frame.of(np.zeros((1, 3)), Cell.of(rows, True), room=1.0))
    assert not frame.same_box(Frame.of(np.zeros((1, 3)), Cell.of(rows * 1.01, True), room=1.0))


def test_a_tensor_turns_with_the_frame() -> None:
    rng = np.random.default_rng(4)
    frame = Frame.of(rng.normal(size=(2, 3)), Cell.of(cells(4), True), room=1.0)
    x, f = rng.normal(size=(2, 3))
    turned = np.outer(x @ frame.rotation, f @ frame.rotation)
    np.testing.assert_allclose(frame.tensor_back(turned), np.outer(x, f), atol=1e-12)


def test_what_is_no_structure_is_refused() -> None:
    with pytest.raises(InputError, match="at least one atom"):
        Frame.of(np.empty((0, 3)), Cell.open(), room=1.0)
    with pytest.raises(NonFiniteError, match="positions"):
        Frame.of(np.full((1, 3), np.nan), Cell.open(), room=1.0)
    with pytest.raises(CellError):
        Frame.of(np.ones((1, 3)), Cell.of([[1, 0, 0], [1, 1e-9, 0], [0, 0, 1]], True), room=1.0)
