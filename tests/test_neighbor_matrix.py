"""Counts and padded matrices, with shifts, ghosts or the nearest image, against brute force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import brute_force
import ghost_lists
import numpy as np
import pytest
import torch
from ghost_lists import (
    CPU,
    GRIDS,
    KINDS,
    SYSTEMS,
    Ghosted,
    padded,
    random_atoms,
    ranks,
    require_equal,
    system_of,
)
from pairs_parts import refused

from alchemi_bridge import Cell
from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    DeviceMismatchError,
    DtypeError,
    NonFiniteError,
    PairListError,
    ShapeError,
)
from alchemi_bridge.native import using
from alchemi_bridge.pairs import Candidates
from alchemi_bridge.pairs.ghosts import LAMMPS_NEIGHMASK, decode_ghosts
from alchemi_bridge.pairs.matrix import NeighborMatrix, decode_matrix


def decoded(pairs: NeighborMatrix, n_atoms: int, cell: Cell, **options: Any) -> Candidates:
    """Both ways of running give the same bits."""
    settings: dict[str, Any] = {
        "n_atoms": n_atoms,
        "device": CPU,
        "reach": pairs.reach,
        "cell": cell,
    }
    settings |= options
    with using("native"):
        found = decode_matrix(pairs, **settings)
    with using("torch"):
        require_equal(found, decode_matrix(pairs, **settings))
    return found


def laid_out(array: np.ndarray, order: str) -> np.ndarray:
    """The same numbers in another order of memory, seen with the same axes."""
    if order == "row":
        return np.ascontiguousarray(array)
    if order == "column":
        return np.asfortranarray(array)
    wider = np.zeros((*array.shape, 2), dtype=array.dtype)  # every second word
    wider[..., 0] = array
    return wider[..., 0]


def with_shifts(
    samples: np.ndarray, n: int, rng: np.random.Generator, *, dtype: type = np.int32, room: int = 3
) -> dict[str, Any]:
    """A matrix of (first, second, shift) rows, in any order within its rows, and rubbish beyond."""
    samples = rng.permutation(samples)
    rows = [samples[samples[:, 0] == i] for i in range(n)]
    width = max((len(row) for row in rows), default=0) + room
    counts, matrix = padded([row[:, 1] for row in rows], width, rng, dtype)
    shifts = rng.integers(-(2**31), 2**31 - 1, (n, width, 3)).astype(dtype)
    for target, row in zip(shifts, rows, strict=True):
        target[: len(row)] = row[:, 2:]
    return {"matrix": matrix, "counts": counts, "shifts": shifts}


def searched(name: str, seed: int = 0) -> tuple[np.ndarray, Cell, np.ndarray, float]:
    """Positions, cell, pairs in both directions, and reach of a system."""
    _, cell, pbc, reach = SYSTEMS[name]
    positions = random_atoms(name, np.random.default_rng([3, seed]), spread=1.7)
    return (
        positions,
        Cell.of(cell, pbc),
        brute_force.find(positions, cell, pbc, reach).samples,
        reach,
    )


def one_way(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the two directions of each pair, by chance."""
    forward = [tuple(s) < brute_force.backward(tuple(s)) for s in samples.tolist()]
    kept = samples[np.array(forward, dtype=bool)]
    flip = rng.integers(0, 2, len(kept)).astype(bool)
    backward = np.column_stack([kept[:, 1], kept[:, 0], -kept[:, 2:]])
    return np.where(flip[:, None], backward, kept)


# --- with shifts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["row", "column", "strided"])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", SYSTEMS)
def test_shifts(name: str, full: bool, order: str) -> None:
    positions, cell, samples, reach = searched(name)
    rng = np.random.default_rng(1)
    arrays = with_shifts(samples if full else one_way(samples, rng), len(positions), rng)
    arrays = {key: laid_out(array, order) for key, array in arrays.items()}
    pairs = NeighborMatrix(**arrays, full=full, reach=reach)
    found = decoded(pairs, len(positions), cell)
    np.testing.assert_array_equal(found.samples.numpy(), samples)


@pytest.mark.parametrize("seed", range(10))
def test_random_matrices(seed: int) -> None:
    rng = np.random.default_rng([41, seed])
    n, full = int(rng.integers(1, 30)), bool(rng.integers(0, 2))
    dtype = [np.int32, np.int64][rng.integers(0, 2)]
    cell = np.diag(rng.uniform(2.5, 8.0, 3)) + np.tril(rng.uniform(-1.5, 1.5, (3, 3)), -1)
    pbc = tuple(bool(p) for p in rng.integers(0, 2, 3))
    positions = rng.uniform(-9.0, 9.0, (n, 3))
    reach = float(rng.uniform(1.0, 4.0))
    samples = brute_force.find(positions, cell, pbc, reach).samples  # type: ignore[arg-type]
    listed = samples if full else one_way(samples, rng)
    arrays = with_shifts(listed, n, rng, dtype=dtype, room=int(rng.integers(0, 4)))
    order = ["row", "column", "strided"][rng.integers(0, 3)]
    arrays = {key: laid_out(array, order) for key, array in arrays.items()}
    found = decoded(NeighborMatrix(**arrays, full=full, reach=reach), n, Cell.of(cell, pbc))
    np.testing.assert_array_equal(found.samples.numpy(), samples)
    subset = rng.permutation(n)[: int(rng.integers(0, n + 1))]
    found = decoded(
        NeighborMatrix(**arrays, full=full, reach=reach), n, Cell.of(cell, pbc),
        subset=torch.from_numpy(subset),
    )  # fmt: skip
    wanted = brute_force.find(positions[subset], cell, pbc, reach).samples  # type: ignore[arg-type]
    seen = found.samples.numpy()
    assert len(seen) == len(wanted)
    # far atoms may be paired through other cells than brute force starts from: compare in one frame
    assert brute_force.keys(seen) == brute_force.keys(wanted)


def test_shifts_of_many_cells() -> None:
    """Atoms that were never wrapped: more shifts than a grid would hold."""
    positions, cell, _, reach = searched("small")
    away = np.random.default_rng(0).integers(-(10**5), 10**5, positions.shape)
    samples = brute_force.find(positions, cell.vectors, cell.pbc, reach).samples
    samples[:, 2:] += away[samples[:, 0]] - away[samples[:, 1]]
    rng = np.random.default_rng(2)
    for full in (True, False):
        arrays = with_shifts(samples if full else one_way(samples, rng), len(positions), rng)
        found = decoded(NeighborMatrix(**arrays, full=full, reach=reach), len(positions), cell)
        assert brute_force.keys(found.samples.numpy()) == brute_force.keys(samples)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_padding_instead_of_counts(dtype: type) -> None:
    """nvalchemi pads with the number of atoms."""
    positions, cell, samples, reach = searched("triclinic")
    n = len(positions)
    arrays = with_shifts(samples, n, np.random.default_rng(1), dtype=dtype, room=1)
    matrix = np.full_like(arrays["matrix"], n)
    for row, source, count in zip(matrix, arrays["matrix"], arrays["counts"], strict=True):
        row[:count] = source[:count]
    pairs = NeighborMatrix(matrix, None, True, reach, shifts=arrays["shifts"], fill_value=n)
    found = decoded(pairs, n, cell)
    np.testing.assert_array_equal(found.samples.numpy(), samples)
    narrow = replace(pairs, matrix=matrix[:, :-1], shifts=arrays["shifts"][:, :-1])
    error = refused(PairListError, lambda: decoded(narrow, n, cell))
    assert "may be cut off" in str(error)
    counted = replace(narrow, counts=arrays["counts"])
    require_equal(decoded(counted, n, cell), found)


# --- the nearest image, and none -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", ["cubic", "slab", "wire", "molecule", "skewed"])
def test_nearest_images(name: str, full: bool, dtype: type) -> None:
    rng = np.random.default_rng(7)
    if name == "skewed":  # cut a little below half of the smallest height
        vectors = np.array([[6.0, 0.0, 0.0], [2.9, 6.5, 0.0], [-2.9, 3.0, 7.0]])
        cell, n = Cell.of(vectors), 80
        reach = 0.499 * float(cell.heights.min())
        positions = rng.uniform(-1.0, 2.0, (n, 3)) @ vectors
    else:
        n, vectors, pbc, reach = SYSTEMS[name]
        cell = Cell.of(vectors, pbc)
        reach = min(reach, 0.49 * float(cell.heights.min()))
        positions = random_atoms(name, rng, spread=2.2)
    positions = positions.astype(dtype)
    wide = positions.astype(np.float64)
    samples = brute_force.find(wide, cell.vectors, cell.pbc, reach).samples
    listed = samples if full else one_way(samples, rng)
    arrays = with_shifts(listed, n, rng)
    memory = np.full((n, 4), np.nan, dtype=dtype)
    memory[:, :3] = positions
    pairs = NeighborMatrix(arrays["matrix"], arrays["counts"], full, reach, positions=memory[:, :3])
    found = decoded(pairs, n, cell)
    np.testing.assert_array_equal(found.samples.numpy(), samples)


def test_nearest_image_of_a_narrow_cell() -> None:
    pairs = NeighborMatrix(
        np.ones((2, 1), dtype=int), np.ones(2, dtype=int), False, 3.0, positions=np.zeros((2, 3))
    )
    call = {"n_atoms": 2, "device": CPU, "reach": 3.0, "cell": Cell.of([7.0, 5.9, 7.0])}
    error = refused(PairListError, lambda: decode_matrix(pairs, **call))
    assert "twice the reach" in str(error)


def test_no_images() -> None:
    positions, cell, samples, reach = searched("molecule")
    arrays = with_shifts(samples, len(positions), np.random.default_rng(1))
    pairs = NeighborMatrix(arrays["matrix"], arrays["counts"], True, reach)
    found = decoded(pairs, len(positions), cell)
    np.testing.assert_array_equal(found.samples.numpy(), samples)


# --- with ghosts ---------------------------------------------------------------------------------


def of_ghosts(
    system: Ghosted, reach: float, kind: str, order: str = "row", **options: Any
) -> NeighborMatrix:
    rng = np.random.default_rng(9)
    rows = options.pop("rows", None)
    listed = ghost_lists.neighbors_of(system, reach, kind=kind, rows=rows)
    width = max((len(j) for j in listed), default=0) + 2
    counts, matrix = padded(listed, width, rng)
    arrays: dict[str, Any] = {
        "matrix": laid_out(matrix, order),
        "counts": counts,
        "owners": system.owners,
        "positions": system.positions,
        "full": kind == "full",
        "newton": None if kind == "full" else kind == "newton_on",
        "reach": reach,
    }
    return NeighborMatrix(**(arrays | options))


@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_ghosts(name: str, kind: str, order: str) -> None:
    system, reach = system_of(name), SYSTEMS[name][3]
    pairs = of_ghosts(system, reach, kind, order)
    found = decoded(pairs, system.n_local, system.box())
    settings = {"n_atoms": system.n_local, "device": CPU, "reach": reach, "cell": system.box()}
    require_equal(found, decode_ghosts(ghost_lists.csr(system, reach, kind), **settings))
    bits = np.int32(-(2**31)) | np.int32(2**29)
    flagged = replace(pairs, matrix=pairs.matrix | bits, index_mask=LAMMPS_NEIGHMASK)
    require_equal(decoded(flagged, system.n_local, system.box()), found)


@pytest.mark.parametrize("order", ["row", "column"])
def test_ghost_rows_of_several_ranks(order: str) -> None:
    reach = SYSTEMS["triclinic"][3]
    for rank in ranks("triclinic", GRIDS["four"], 2.0 * reach, seed=6):
        options = {"n_atoms": rank.n_all, "subset": torch.from_numpy(rank.atoms)}
        everything = np.arange(rank.n_all)
        pairs = of_ghosts(rank, reach, "full", order, rows=everything, n_local=rank.n_local)
        found = decoded(pairs, cell=rank.box(), **options)
        settings = options | {"device": CPU, "reach": reach, "cell": rank.box()}
        csr = ghost_lists.csr(rank, reach, rows=everything)
        require_equal(found, decode_ghosts(csr, **settings))


# --- bad input -----------------------------------------------------------------------------------

POSITIONS, CELL, SAMPLES, REACH = searched("cubic")
N = len(POSITIONS)
GOOD = with_shifts(SAMPLES, N, np.random.default_rng(0))
WIDTH = GOOD["matrix"].shape[1]


def changed(name: str, place: Any, value: float) -> dict[str, Any]:
    array = GOOD[name].copy()
    array[place] = value
    return {name: array}


NEAREST = {"shifts": None, "positions": POSITIONS, "reach": 2.0}

BAD: dict[str, tuple[type[BridgeError], dict[str, Any], str]] = {
    "overflow": (PairListError, changed("counts", 4, WIDTH + 1), f"{WIDTH + 1} neighbours in a"),
    "large overflow": (
        PairListError,
        {"counts": GOOD["counts"].astype(np.int64) + 2**40},
        "wider matrix",
    ),
    "negative count": (PairListError, changed("counts", 4, -1), "-1 for atom 4"),
    "index too large": (PairListError, changed("matrix", (3, 0), N), f"from 0 to {N - 1}"),
    "index negative": (PairListError, changed("matrix", (3, 0), -1), "neighbors of atom 3"),
    "rows missing": (ShapeError, {"matrix": GOOD["matrix"][:-1]}, "shape"),
    "counts missing": (ShapeError, {"counts": GOOD["counts"][:-1]}, "counts"),
    "shifts of another width": (ShapeError, {"shifts": GOOD["shifts"][:, 1:]}, "shifts"),
    "shifts of two": (ShapeError, {"shifts": GOOD["shifts"][..., :2]}, "shifts"),
    "floating shifts": (DtypeError, {"shifts": GOOD["shifts"] * 1.0}, "int32 or int64"),
    "floating matrix": (DtypeError, {"matrix": GOOD["matrix"] * 1.0}, "int32 or int64"),
    "floating counts": (DtypeError, {"counts": GOOD["counts"] * 1.0}, "int32 or int64"),
    "vector": (ShapeError, {"matrix": GOOD["matrix"][:, 0]}, "shape"),
    "another device": (
        DeviceMismatchError,
        {"counts": torch.empty(N, dtype=torch.int32, device="meta")},
        "meta",
    ),
    "absurd shift": (PairListError, changed("shifts", (2, 0, 1), 2**30), "a few cells"),
    "most negative shift": (PairListError, changed("shifts", (2, 0, 1), -(2**31)), "a few cells"),
    "absurd shift of 64 bits": (
        PairListError,
        {"shifts": GOOD["shifts"].astype(np.int64) + 2**40},
        "a few cells",
    ),
    "wrong shift": (PairListError, changed("shifts", (2, 0, 1), 5), "without their reverse"),
    "without shifts": (PairListError, {"shifts": None}, "which image is meant"),
    "half as full": (
        PairListError,
        with_shifts(one_way(SAMPLES, np.random.default_rng(1)), N, np.random.default_rng(0)),
        "without their reverse",
    ),
    "full as half": (PairListError, {"full": False}, "more than once"),
    "nearest positions truncated": (ShapeError, NEAREST | {"positions": POSITIONS[1:]}, "shape"),
    "nearest positions not finite": (
        NonFiniteError,
        NEAREST | {"positions": np.where(np.arange(N)[:, None] == 9, np.nan, POSITIONS)},
        "for atom 9",
    ),
    "nearest positions far away": (
        NonFiniteError,
        NEAREST | {"positions": np.where(np.arange(N)[:, None] == 9, 1e12, POSITIONS)},
        "for atom 9",
    ),
}


@pytest.mark.parametrize("way", ["native", "torch"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, way: str) -> None:
    kind, changes, words = BAD[case]
    pairs = replace(NeighborMatrix(**GOOD, full=True, reach=REACH), **changes)
    with using(way):
        error = refused(
            kind,
            lambda: decode_matrix(pairs, n_atoms=N, device=CPU, reach=REACH, cell=CELL),
        )
    assert words in str(error)


@pytest.mark.parametrize("way", ["native", "torch"])
def test_own_atom(way: str) -> None:
    """An atom is no neighbour of itself, but may be one of its image."""
    matrix, counts = np.zeros((1, 2), dtype=np.int32), np.array([2], dtype=np.int32)
    shifts = np.array([[[1, 0, 0], [-1, 0, 0]]], dtype=np.int32)
    pairs = NeighborMatrix(matrix, counts, True, 2.5, shifts=shifts)
    call = {"n_atoms": 1, "device": CPU, "reach": 2.5, "cell": Cell.of([2.0, 9.0, 9.0])}
    with using(way):
        assert len(decode_matrix(pairs, **call)) == 2
        zeroed = replace(pairs, shifts=shifts * np.array([[[0], [1]]], dtype=np.int32))
        unshifted, opened = replace(pairs, shifts=None), call | {"cell": Cell.open()}
        for wrong, where in ((zeroed, call), (unshifted, opened)):
            error = refused(PairListError, lambda w=wrong, c=where: decode_matrix(w, **c))
            assert "itself" in str(error)


@pytest.mark.parametrize(("n", "width"), [(0, 0), (0, 5), (3, 0), (3, 4)])
def test_empty(n: int, width: int) -> None:
    matrix, counts = np.full((n, width), -5, dtype=np.int32), np.zeros(n, dtype=np.int32)
    shifts = np.zeros((n, width, 3), dtype=np.int32)
    positions = np.zeros((n, 3))
    cell = Cell.of(np.eye(3) * 9.0)
    for options in ({"shifts": shifts}, {"positions": positions}, {}):
        box = cell if options else Cell.open()
        found = decoded(NeighborMatrix(matrix, counts, True, 1.0, **options), n, box)
        assert len(found) == 0
        assert found.starts.tolist() == [0] * (n + 1)
    owners = np.arange(n)
    pairs = NeighborMatrix(matrix, counts, True, 1.0, owners=owners, positions=positions)
    assert len(decoded(pairs, n, cell)) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"reach": -1.0},
        {"counts": None},
        {"counts": None, "fill_value": 2.5},
        {"counts": None, "fill_value": 2**31},
        {"positions": POSITIONS},
        {"owners": np.arange(N)},
        {"shifts": None, "owners": np.arange(N)},
        {"n_local": 3},
        {"newton": True},
        {"full": "yes"},
        {"index_mask": 2**40},
        {"shifts": None, "owners": np.arange(N), "positions": POSITIONS, "n_local": -3},
        {"shifts": None, "owners": np.arange(N), "positions": POSITIONS, "full": False},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    good = NeighborMatrix(**GOOD, full=True, reach=REACH)
    refused(ConfigurationError, lambda: replace(good, **options))


@pytest.mark.gpu
@pytest.mark.parametrize("means", ["shifts", "nearest"])
def test_on_a_gpu(means: str) -> None:
    """The same candidates as on the CPU, from arrays that stay on the GPU."""
    device = torch.device("cuda", torch.cuda.current_device())
    arrays = GOOD if means == "shifts" else GOOD | {"shifts": None, "positions": POSITIONS}
    moved = {k: None if v is None else torch.from_numpy(v).to(device) for k, v in arrays.items()}
    call = {"n_atoms": N, "reach": REACH, "cell": CELL}
    found = decode_matrix(NeighborMatrix(**moved, full=True, reach=REACH), device=device, **call)
    here = decode_matrix(NeighborMatrix(**arrays, full=True, reach=REACH), device=CPU, **call)
    for name in ("starts", "second", "code", "reverse", "table"):
        assert torch.equal(getattr(found, name).cpu(), getattr(here, name)), name
