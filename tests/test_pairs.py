"""Pair lists decoded into candidates: nothing lost, nothing twice, and typed errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import brute_force
import echo
import numpy as np
import pytest
import torch
from pairs_parts import MARGIN, decoded, numpy_pairs, refused, require_invariants, rows

from alchemi_bridge.cell import Cell
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import (
    BridgeError,
    CellError,
    ConfigurationError,
    DeviceMismatchError,
    DtypeError,
    InputError,
    PairListError,
    ShapeError,
)
from alchemi_bridge.pairs import FullPairs, HalfPairs, Search, find_pairs
from alchemi_bridge.pairs.candidates import require_reach
from alchemi_bridge.pairs.tree import find_pairs_by_tree


@pytest.mark.parametrize("pbc", list(itertools.product((False, True), repeat=3)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_periodicity(pbc: tuple[bool, bool, bool], dtype: torch.dtype) -> None:
    rng = np.random.default_rng(17)
    cell = Cell.of([[3.1, 0.4, -0.2], [-1.1, 0.3, 4.2], [0.7, 3.6, 0.9]], pbc)
    positions = torch.tensor(6.0 * rng.random((5, 3)), dtype=dtype)
    expected = brute_force.find(positions.double().numpy(), cell.vectors, pbc, 4.0)
    assert not np.any(np.abs(expected.distances - 4.0) < MARGIN)
    found = find_pairs(positions, cell, 4.0)
    require_invariants(found)
    assert brute_force.keys(rows(found)) == expected.keys()


# --- the search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pbc", [(True,) * 3, (True, False, True), (False,) * 3])
def test_search_of_a_larger_system(pbc: tuple[bool, bool, bool]) -> None:
    """Cells several times the reach: small systems alone would not reach the cell lists."""
    rng = np.random.default_rng(41)
    vectors = np.array([[20.0, 0, 0], [6.0, 19.0, 0], [-3.0, 5.0, 21.0]])
    cell = Cell.of(vectors, pbc)
    positions = (3.0 * rng.random((400, 3)) - 1.0) @ vectors
    expected = brute_force.find(positions, cell.vectors, pbc, 4.0)
    assert not np.any(np.abs(expected.distances - 4.0) < MARGIN)
    found = find_pairs(torch.from_numpy(positions), cell, 4.0)
    require_invariants(found)
    assert brute_force.keys(rows(found)) == expected.keys()
    assert found.n_pairs > 50


def test_search_far_from_the_origin() -> None:
    """A molecule whose frame is elsewhere, and atoms that crossed many cells."""
    cell = Cell.of(np.diag([5.0, 6.0, 7.0]))
    start = np.array([[0.1, 0.2, 0.3], [4.9, 5.8, 6.9], [2.0, 3.0, 3.0]])
    shifts = np.array([[1000, -2000, 3], [0, 0, 0], [-70, 5, 100000]])
    positions = torch.from_numpy(start + shifts @ cell.vectors)
    expected = brute_force.find(positions.numpy(), cell.vectors, cell.pbc, 4.0)
    assert len(expected.samples) > 0
    found = find_pairs(positions, cell, 4.0)
    assert brute_force.keys(rows(found)) == expected.keys()


@pytest.mark.parametrize(
    ("extent", "pbc", "reach"),
    [
        ((2000.0, 2000.0, 5.0), (True,) * 3, 4.0),
        ((9000.0, 6.0, 5.0), (True, True, False), 3.0),
        ((1500.0, 1500.0, 1500.0), (False,) * 3, 5.0),
        ((3.0, 4.0, 5.0), (False,) * 3, 800.0),
        ((3.0, 4.0, 5.0), (False, False, True), 60.0),
    ],
    ids=["sheet", "rod", "dilute", "reach beyond a molecule", "reach beyond a chain"],
)
def test_search_in_extreme_shapes(
    extent: tuple[float, ...], pbc: tuple[bool, bool, bool], reach: float
) -> None:
    """Shapes in which the numbers of cells are very unequal, or in which most cells are empty."""
    rng = np.random.default_rng(43)
    cell = Cell.of(np.diag(extent), pbc)
    centres = rng.random((12, 3)) * extent
    positions = (centres[:, None] + rng.uniform(-2.5, 2.5, (12, 4, 3))).reshape(-1, 3)
    expected = brute_force.find(positions, cell.vectors, pbc, reach)
    assert len(expected.samples) > 20
    assert not np.any(np.abs(expected.distances - reach) < MARGIN)
    found = find_pairs(torch.from_numpy(positions), cell, reach)
    require_invariants(found)
    assert brute_force.keys(rows(found)) == expected.keys()


@pytest.mark.parametrize("reach", [1e-4, 0.5, 3.0])
def test_atoms_on_top_of_each_other_are_a_pair(reach: float) -> None:
    """Else nobody would say that they overlap; also through the faces of the cell."""
    cell = Cell.of([5.0, 5.0, 5.0])
    positions = torch.tensor([[1.0, 1, 1], [1.0, 1, 1], [0.0, 4, 4], [5.0, 4, -1]])
    found = find_pairs(positions, cell, reach)
    expected = {(0, 1, 0, 0, 0), (2, 3, -1, 0, 1)}
    assert expected <= brute_force.keys(rows(found))
    first, second, shifts = find_pairs_by_tree(positions.double().numpy(), cell, reach)
    assert expected <= brute_force.keys(np.column_stack([first, second, shifts]))


def test_search_leaves_positions_alone() -> None:
    positions = torch.tensor([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]], requires_grad=True)
    before = positions.detach().clone()
    found = find_pairs(positions, Cell.of(np.diag([4.0, 4.0, 4.0])), 2.0)
    assert torch.equal(positions.detach(), before)
    assert found.n_pairs == 1


@pytest.mark.parametrize(
    ("positions", "reach"),
    [(torch.zeros((0, 3)), 3.0), (torch.rand((4, 3)), 0.0), (torch.rand((1, 3)), 5.0)],
    ids=["no atoms", "no reach", "one atom in vacuum"],
)
def test_search_that_finds_nothing(positions: torch.Tensor, reach: float) -> None:
    found = find_pairs(positions, Cell.open(), reach)
    require_invariants(found)
    assert (len(found), found.n_pairs, found.n_atoms) == (0, 0, len(positions))


def test_search_with_strided_positions() -> None:
    memory = torch.rand((20, 4), dtype=torch.float64)
    cell = Cell.of([3.0, 3.0, 3.0])
    strided, plain = (find_pairs(p, cell, 2.0) for p in (memory[:, :3], memory[:, :3].clone()))
    assert brute_force.keys(rows(strided)) == brute_force.keys(rows(plain))


@pytest.mark.parametrize("value", [1e8, -1e300])
def test_search_of_lost_atoms(value: float) -> None:
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.0, value, 0.0]], dtype=torch.float64)
    error = refused(InputError, lambda: find_pairs(positions, Cell.open(), 3.0))
    assert f"{abs(value):g}" in error.got


@pytest.mark.parametrize("edge", [1e-3, 1e-9])
def test_search_in_a_cell_that_is_too_small(edge: float) -> None:
    """Refused before memory runs out."""
    positions = torch.zeros((2, 3), dtype=torch.float64)
    error = refused(CellError, lambda: find_pairs(positions, Cell.of([edge] * 3), 5.0))
    assert "unit" in error.fix


def test_search_in_a_small_cell_that_is_not() -> None:
    """An estimate that refuses too early would show here: 4 atoms with 4,000 neighbours each."""
    positions = torch.tensor(np.random.default_rng(0).random((4, 3)))
    found = find_pairs(positions, Cell.of([1.0, 1.0, 1.0]), 6.2)
    assert len(found) / 16 == pytest.approx(4 / 3 * np.pi * 6.2**3, rel=0.02)


# --- lists ----------------------------------------------------------------------------------------


TRIANGLE = [[0, 1, 0, 0, 0], [1, 2, 0, 0, 1], [2, 0, 0, -1, 0], [1, 1, 1, 0, 0]]
BOTH = [*TRIANGLE, *(brute_force.backward(tuple(row)) for row in TRIANGLE)]


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("shift", [np.int32, np.int64])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_index_dtypes(index: type, shift: type, as_tensor: bool) -> None:
    table = np.array(TRIANGLE)
    arrays = [table[:, 0].astype(index), table[:, 1].astype(index), table[:, 2:].astype(shift)]
    if as_tensor:
        arrays = [torch.from_numpy(a) for a in arrays]
    found = decoded(HalfPairs(*arrays, 3.0), 3)
    require_invariants(found)
    assert brute_force.keys(rows(found)) == {tuple(row) for row in BOTH}


def test_views_with_strides() -> None:
    """Columns of one table, as many engines keep them."""
    table = np.array(TRIANGLE)
    found = decoded(HalfPairs(table[:, 0], table[:, 1], table[:, 2:], 3.0), 3)
    assert brute_force.keys(rows(found)) == {tuple(row) for row in BOTH}


def test_without_shifts() -> None:
    found = decoded(HalfPairs(np.array([2, 0]), np.array([0, 1]), None, 3.0), 3)
    require_invariants(found)
    expected = [[0, 1, 0, 0, 0], [0, 2, 0, 0, 0], [1, 0, 0, 0, 0], [2, 0, 0, 0, 0]]
    assert found.samples.tolist() == expected
    assert found.canonical.tolist() == [True, True, False, False]


@pytest.mark.parametrize("kind", [HalfPairs, FullPairs])
@pytest.mark.parametrize("n_atoms", [0, 3])
def test_empty_list(kind: type, n_atoms: int) -> None:
    found = decoded(numpy_pairs(kind, []), n_atoms)
    require_invariants(found)
    assert (len(found), found.n_atoms) == (0, n_atoms)


def test_the_list_is_not_kept() -> None:
    """The engine may reuse its arrays when the call returns."""
    pairs = numpy_pairs(FullPairs, BOTH)
    found = decoded(pairs, 3)
    before = rows(found).copy()
    for array in (pairs.first, pairs.second, pairs.shifts):
        array[:] = 99
    np.testing.assert_array_equal(rows(found), before)


def test_pairs_of_other_atoms_are_left_out() -> None:
    """Indices refer to places in the subset, whatever its order."""
    found = decoded(numpy_pairs(FullPairs, BOTH), 3, subset=torch.tensor([2, 1]))
    require_invariants(found)
    expected = {(1, 0, 0, 0, 1), (0, 1, 0, 0, -1), (1, 1, 1, 0, 0), (1, 1, -1, 0, 0)}
    assert brute_force.keys(rows(found)) == expected


# --- lists that are refused -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [HalfPairs, FullPairs])
@pytest.mark.parametrize(
    ("row", "got"),
    [([0, 3, 0, 0, 0], "0 to 3"), ([-1, 1, 0, 0, 0], "-1 to 1"), ([5, 0, 0, 0, 0], "0 to 5")],
)
def test_index_out_of_range(kind: type, row: list[int], got: str) -> None:
    error = refused(PairListError, lambda: decoded(numpy_pairs(kind, [row]), 3))
    assert error.expected == "indices from 0 to 2"
    assert got in error.got


def test_atom_paired_with_itself() -> None:
    samples = [*TRIANGLE, [2, 2, 0, 0, 0]]
    error = refused(PairListError, lambda: decoded(numpy_pairs(HalfPairs, samples), 3))
    assert "first == second" in error.got


@pytest.mark.parametrize("shift", [2**30, -(2**30), 2**63 - 1, -(2**63)])
def test_absurd_shifts(shift: int) -> None:
    samples = [[0, 1, 0, shift, 0]]
    error = refused(PairListError, lambda: decoded(numpy_pairs(HalfPairs, samples), 2))
    assert str(abs(shift)) in error.got


@pytest.mark.parametrize(
    "samples",
    [BOTH[:-1], BOTH[1:], TRIANGLE, [[0, 1, 0, 0, 1], [1, 0, 0, 0, 1]]],
    ids=["the last is missing", "the first is missing", "a half list", "wrong sign"],
)
def test_full_list_without_a_reverse(samples: list) -> None:
    error = refused(PairListError, lambda: decoded(numpy_pairs(FullPairs, samples), 3))
    assert "(j, i, -S)" in error.expected
    assert "HalfPairs" in error.fix


@pytest.mark.parametrize(
    ("kind", "samples"),
    [
        (HalfPairs, [*TRIANGLE, TRIANGLE[1]]),
        (HalfPairs, [*TRIANGLE, brute_force.backward(tuple(TRIANGLE[1]))]),
        (HalfPairs, BOTH),
        (FullPairs, [*BOTH, *BOTH]),
        (FullPairs, [*BOTH, BOTH[0]]),
    ],
    ids=["repeated", "repeated backwards", "a full list", "all twice", "one twice"],
)
def test_repeated_pairs(kind: type, samples: list) -> None:
    pairs = numpy_pairs(kind, samples)
    error = refused(PairListError, lambda: decoded(pairs, 3))
    assert "more than once" in error.got


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"first": np.zeros((4, 1), dtype=np.int64)}, ShapeError),
        ({"second": np.zeros(3, dtype=np.int64)}, ShapeError),
        ({"shifts": np.zeros((4, 2), dtype=np.int64)}, ShapeError),
        ({"shifts": np.zeros((3, 3), dtype=np.int64)}, ShapeError),
        ({"first": np.zeros(4)}, DtypeError),
        ({"second": np.zeros(4, dtype=np.uint32)}, DtypeError),
        ({"shifts": np.zeros((4, 3))}, DtypeError),
        ({"first": [0, 1, 2, 1]}, DtypeError),
        ({"first": torch.zeros(4, dtype=torch.int64, device="meta")}, DeviceMismatchError),
        ({"shifts": torch.zeros((4, 3), dtype=torch.int32, device="meta")}, DeviceMismatchError),
    ],
)
@pytest.mark.parametrize("pairs", [HalfPairs, FullPairs])
def test_arrays_that_do_not_fit(pairs: type, change: dict, kind: type[BridgeError]) -> None:
    table = np.array(TRIANGLE)
    fields = {"first": table[:, 0], "second": table[:, 1], "shifts": table[:, 2:], **change}
    error = refused(kind, lambda: decoded(pairs(**fields, reach=3.0), 3))
    names = {"first": "first atoms", "second": "second atoms", "shifts": "cell shifts"}
    assert error.what == f"{names[next(iter(change))]} of the pair list"


@pytest.mark.parametrize("reach", [-1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("kind", [HalfPairs, FullPairs])
def test_reach_of_a_list(kind: type, reach: float) -> None:
    error = refused(ConfigurationError, lambda: numpy_pairs(kind, TRIANGLE, reach))
    assert error.got == str(reach)


@pytest.mark.parametrize("skin", [-0.1, float("inf"), float("nan")])
def test_skin_of_a_search(skin: float) -> None:
    assert refused(ConfigurationError, lambda: Search(skin)).got == str(skin)


def test_skin_may_be_zero() -> None:
    assert Search(0.0).skin == 0.0


def test_reach_and_cutoff() -> None:
    require_reach(5.0, 5.0, "nm")
    require_reach(float(np.float32(4.9999999)), 5.0, "nm")
    error = refused(PairListError, lambda: require_reach(4.99, 5.0, "nm"))
    assert error.expected == "at least the model's cutoff, 5 nm"
    assert error.got == "4.99 nm"


# --- on a GPU -------------------------------------------------------------------------------------


def cuda_system() -> tuple[np.ndarray, Cell, brute_force.PairSet]:
    rng = np.random.default_rng(23)
    cell = Cell.of([[6.0, 0.4, -0.2], [-1.1, 5.3, 1.2], [0.7, 1.6, 6.9]], (True, True, False))
    positions = 9.0 * rng.random((40, 3))
    found = brute_force.find(positions, cell.vectors, cell.pbc, 4.0)
    assert not np.any(np.abs(found.distances - 4.0) < MARGIN)
    return positions, cell, found


def to_cuda(pairs: HalfPairs | FullPairs) -> HalfPairs | FullPairs:
    arrays = (torch.from_numpy(a).cuda() for a in (pairs.first, pairs.second, pairs.shifts))
    return type(pairs)(*arrays, pairs.reach)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
def test_search_on_cuda() -> None:
    positions, cell, expected = cuda_system()
    found = find_pairs(torch.from_numpy(positions).cuda(), cell, 4.0)
    assert {t.device.type for t in (found.first, found.shifts, found.samples)} == {"cuda"}
    require_invariants(found)
    assert brute_force.keys(rows(found)) == expected.keys()
    # the same order as on the host, too
    host = find_pairs(torch.from_numpy(positions), cell, 4.0)
    for name in ("starts", "first", "second", "shifts", "code", "reverse"):
        assert torch.equal(getattr(found, name).cpu(), getattr(host, name)), name


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kind", [echo.full_pairs, echo.half_pairs])
@pytest.mark.parametrize("subset", [None, [7, 3, 5, 30, 1, 2, 0, 39]])
def test_decode_on_cuda(kind: Callable, subset: list[int] | None) -> None:
    positions, _, expected = cuda_system()
    device = torch.device("cuda", torch.cuda.current_device())
    pairs = kind(expected, 4.0)
    chosen = None if subset is None else torch.tensor(subset)
    host = decoded(pairs, len(positions), subset=chosen)
    found = decoded(
        to_cuda(pairs),
        len(positions),
        device=device,
        subset=None if chosen is None else chosen.to(device),
    )
    require_invariants(found)
    for name in ("starts", "first", "second", "shifts", "code", "reverse"):
        assert getattr(found, name).device == device
        assert torch.equal(getattr(found, name).cpu(), getattr(host, name)), name


@pytest.mark.gpu
@needs_cuda
def test_decode_raw_cuda_pointers() -> None:
    """An engine that hands over addresses: int32 indices, shifts as int4 with padding."""
    positions, _, expected = cuda_system()
    device = torch.device("cuda", torch.cuda.current_device())
    table = torch.from_numpy(expected.half().samples.astype(np.int32)).cuda()
    n_pairs = len(table)
    first, second = table[:, 0].contiguous(), table[:, 1].contiguous()
    shifts = torch.zeros((n_pairs, 4), dtype=torch.int32, device=device)
    shifts[:, :3] = table[:, 2:]

    def view(
        memory: torch.Tensor, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> DeviceBuffer:
        return DeviceBuffer.from_pointer(
            memory.data_ptr(), shape, torch.int32, strides=strides, device=device, owner=memory
        )

    pairs = HalfPairs(
        view(first, (n_pairs,), (1,)),
        view(second, (n_pairs,), (1,)),
        view(shifts, (n_pairs, 3), (4, 1)),
        4.0,
    )
    found = decoded(pairs, len(positions), device=device)
    require_invariants(found)
    assert brute_force.keys(rows(found)) == expected.keys()


@pytest.mark.gpu
@needs_cuda
def test_lists_on_the_wrong_device() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    host = numpy_pairs(HalfPairs, TRIANGLE)
    error = refused(DeviceMismatchError, lambda: decoded(host, 3, device=device))
    assert error.got == "memory on cpu"
    error = refused(DeviceMismatchError, lambda: decoded(to_cuda(host), 3))
    assert error.got == f"memory on {device}"
    mixed = HalfPairs(torch.from_numpy(host.first).to(device), host.second, host.shifts, 3.0)
    error = refused(DeviceMismatchError, lambda: decoded(mixed, 3, device=device))
    assert error.what == "second atoms of the pair list"
