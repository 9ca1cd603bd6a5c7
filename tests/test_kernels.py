"""The compiled kernels of a step (coordinates, cut, forces) against their torch references."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from kernel_parts import (
    CASES,
    DEVICES,
    LAYOUTS,
    PRECISIONS,
    SYSTEMS,
    System,
    both_ways,
    plain,
    same_bits,
    threads,
)

from alchemi_bridge.cell import Cell
from alchemi_bridge.native import launcher_for, using
from alchemi_bridge.native.host import HostLauncher
from alchemi_bridge.neighbors import (
    Moved,
    Reference,
    RequestedPairs,
    add_rows,
    advance,
    fill,
    gather_forces,
    mark,
    refresh,
    shift_vectors,
)

#: Two sums of the same terms in another order: each rounds a few times more than the other, by eps
#: of what it has reached, and the last conversion to float32 by one.
SUM_EPS = 4.0

FLOATS = (torch.float32, torch.float64)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=CASES, ids=str)
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    name, number = request.param
    with threads(number):
        yield SYSTEMS[name]()


def test_both_ways_are_taken(device: str) -> None:
    """What follows would compare nothing if both ways were the same."""
    native, reference = both_ways(lambda: launcher_for(torch.device(device)))
    assert native is not None
    assert native.device_type == device
    assert reference is None


# --- coordinates of a step ------------------------------------------------------------------------


def rest(positions: np.ndarray, cell: Cell, rng: np.random.Generator) -> np.ndarray:
    return positions


def jitter(positions: np.ndarray, cell: Cell, rng: np.random.Generator) -> np.ndarray:
    return positions + rng.normal(0.0, 0.2, positions.shape)


def drift(positions: np.ndarray, cell: Cell, rng: np.random.Generator) -> np.ndarray:
    return jitter(positions, cell, rng) + np.array([0.31, -0.23, 0.11])


def wrap(positions: np.ndarray, cell: Cell, rng: np.random.Generator) -> np.ndarray:
    cells = rng.integers(-4, 5, positions.shape) * np.array(cell.pbc)
    return jitter(positions, cell, rng) + cells @ cell.vectors


def lose(positions: np.ndarray, cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Some atoms are thousands of cells away."""
    moved = jitter(positions, cell, rng)
    moved[::3] += 1e5
    return moved


def spoil(positions: np.ndarray, cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Values that are none: alone in a row, and with others."""
    moved = wrap(positions, cell, rng)
    for k, value in enumerate([np.nan, np.inf, -np.inf, np.nan]):
        moved[k : k + 1, k % 3] = value
    moved[4:5] = np.nan
    return moved


EVENTS = [rest, jitter, drift, wrap, lose, spoil]


def advanced(
    system: System,
    event: Callable,
    layout: Callable,
    device: str,
    precision: tuple[torch.dtype, torch.dtype],
    *,
    part: float = 1.0,
    deformed: bool = False,
    length: float = 1.0,
    into: bool = False,
) -> tuple[Moved, Moved]:
    """A step in both ways."""
    engine, model = precision
    rng = np.random.default_rng(91)
    n_atoms = len(system.positions)
    order = rng.permutation(n_atoms)[: math.ceil(part * n_atoms)]
    start = system.positions if part == 1.0 else system.positions[order]
    wide = torch.promote_types(engine, model)
    cell = system.cell
    reference = Reference(torch.from_numpy(start).to(device).to(wide), cell)
    reference.drift = (0.29, -0.25, 0.125)
    after = event(system.positions, cell, rng)
    if deformed:
        strain = np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))
        with np.errstate(invalid="ignore"):  # of infinite positions; whether depends on the BLAS
            cell, after = Cell.of(cell.vectors @ strain, cell.pbc), after @ strain
    with np.errstate(over="ignore"):
        source = layout((torch.from_numpy(after) / length).to(device).to(engine))
    before = source.clone()

    def step() -> Moved:
        memory = None
        if into:
            kept = torch.full((len(start), 3), -7.0, dtype=wide, device=device)
            memory = Moved(kept, kept if wide == model else kept.to(model), kept.new_zeros(8))
        subset = None if part == 1.0 else torch.from_numpy(order).to(device)
        moved = advance(source, subset, length, cell, reference, model, memory)
        if memory is not None:
            assert moved.positions is memory.positions
            assert moved.narrow is memory.narrow
        return moved

    native, torch_way = both_ways(step)
    same_bits(source, before)  # read only
    for moved in (native, torch_way):
        assert (moved.positions.dtype, moved.narrow.dtype) == (wide, model)
        assert moved.facts.dtype == torch.float64
    return native, torch_way


def require_same_step(native: Moved, reference: Moved) -> None:
    same_bits(native.positions, reference.positions)
    same_bits(native.narrow, reference.narrow)
    # not the sign of a zero: which of both is the larger is open
    assert torch.equal(native.facts, reference.facts), (native.facts, reference.facts)


@pytest.mark.parametrize("deformed", [False, True])
@pytest.mark.parametrize("event", EVENTS)
def test_advance(system: System, device: str, event: Callable, deformed: bool) -> None:
    for precision in PRECISIONS:
        native, reference = advanced(system, event, plain, device, precision, deformed=deformed)
        require_same_step(native, reference)
        finite = event is not spoil or len(system.positions) == 0
        assert bool(native.facts[1] == 0.0) is finite


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("into", [False, True])
def test_advance_from_any_memory(
    system: System, device: str, layout: Callable, part: float, into: bool
) -> None:
    """Strides, subsets, units, and results in memory of an earlier step."""
    for precision in PRECISIONS:
        found = advanced(system, wrap, layout, device, precision, part=part, length=0.1, into=into)
        require_same_step(*found)


def test_advance_without_a_reference(system: System, device: str) -> None:
    source = torch.from_numpy(system.positions).to(device)
    for model in FLOATS:
        native, reference = both_ways(
            lambda model=model: advance(source, None, 10.0, system.cell, None, model)
        )
        require_same_step(native, reference)
        same_bits(native.positions, source * 10.0)
        assert native.facts[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_advance_of_many_atoms_by_two_threads(
    device: str, precision: tuple[torch.dtype, torch.dtype]
) -> None:
    """Threads share chunks of 64 atoms, from 512 chunks on."""
    vectors = np.array([[80.0, 0.5, -1.0], [6.0, 90.0, 0.0], [-3.0, 5.0, 85.0]])
    positions = np.random.default_rng(73).random((64 * 600 + 17, 3)) @ vectors
    system = System(positions, Cell.of(vectors), 4.0)
    with threads(2):
        native, reference = advanced(system, wrap, plain, device, precision, deformed=True)
    require_same_step(native, reference)
    with threads(1):
        alone, _ = advanced(system, wrap, plain, device, precision, deformed=True)
    require_same_step(alone, native)


# --- cut ------------------------------------------------------------------------------------------

WORKING = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float32),
    (torch.float64, torch.float64),
]


@pytest.mark.parametrize("full_list", [True, False])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.0, math.inf])
@pytest.mark.parametrize(("wide", "model"), WORKING)
def test_cut(
    system: System,
    device: str,
    full_list: bool,
    share: float,
    wide: torch.dtype,
    model: torch.dtype,
) -> None:
    """Marked, filled and, after a move, refreshed."""
    candidates = system.candidates(device)
    positions = torch.from_numpy(system.positions).to(device).to(wide)
    offsets = shift_vectors(candidates.table, system.cell.tensor(wide, positions.device))
    cutoff = share * system.reach
    rng = np.random.default_rng(92)
    later = positions + torch.from_numpy(rng.normal(0, 0.1, positions.shape)).to(positions)

    def cut() -> tuple[torch.Tensor, ...]:
        marked = mark(
            candidates, positions, offsets, cutoff=cutoff, full_list=full_list, dtype=model
        )
        pairs = fill(candidates, positions, offsets, marked, int(marked.base[-1]), model)
        before = pairs.vectors.clone()
        shortest = refresh(candidates, later, offsets, pairs.place, pairs.vectors)
        return (
            *(marked.keep, marked.base, marked.shortest),
            *(pairs.samples, pairs.place, before, pairs.vectors, shortest),
        )

    native, reference = both_ways(cut)
    for found, expected in zip(native, reference, strict=True):
        same_bits(found, expected)
    keep, base, *_, vectors, _ = native
    assert len(vectors) == int(base[-1]) == int(keep.sum())
    if share == math.inf:
        assert len(vectors) == len(candidates) // (1 if full_list else 2)


# --- forces ---------------------------------------------------------------------------------------


def cut_pairs(system: System, device: str, full_list: bool, dtype: torch.dtype) -> RequestedPairs:
    candidates = system.candidates(device)
    positions = torch.from_numpy(system.positions).to(device)
    cell = system.cell.tensor(torch.float64, positions.device)
    offsets = shift_vectors(candidates.table, cell)
    cutoff = 0.9 * system.reach
    marked = mark(candidates, positions, offsets, cutoff=cutoff, full_list=full_list, dtype=dtype)
    return fill(candidates, positions, offsets, marked, int(marked.base[-1]), dtype)


Gathered = tuple[torch.Tensor, torch.Tensor]


def gathered(pairs: RequestedPairs, gradients: torch.Tensor, start: torch.Tensor) -> Gathered:
    forces = start.clone()
    virial = torch.full((len(start), 9), 0.5, dtype=torch.float64, device=start.device)
    gather_forces(pairs, gradients, forces, virial)
    return forces, virial


def require_same_sums(found: torch.Tensor, expected: torch.Tensor, size: torch.Tensor) -> None:
    assert found.dtype == expected.dtype
    allowed = SUM_EPS * torch.finfo(found.dtype).eps * size
    assert bool(((found.double() - expected.double()).abs() <= allowed).all())


@pytest.mark.parametrize("full_list", [True, False])
@pytest.mark.parametrize("dtype", FLOATS)
def test_gather_forces(system: System, device: str, full_list: bool, dtype: torch.dtype) -> None:
    pairs = cut_pairs(system, device, full_list, dtype)
    generator = torch.Generator().manual_seed(93)
    gradients = torch.randn((len(pairs.vectors), 3, 1), generator=generator, dtype=dtype)
    gradients = gradients.to(device)
    start = torch.randn((len(system.positions), 3), generator=generator, dtype=dtype).to(device)
    native, reference = both_ways(lambda: gathered(pairs, gradients, start))

    # sums of the absolute values of all that is added to each number
    size, wide = start.double().abs(), gradients.double().reshape(-1, 3)
    for index in (pairs.first, pairs.second):
        size.index_add_(0, index.long(), wide.abs())
    require_same_sums(native[0], reference[0], size)
    # of the virial only the sum over all atoms counts
    outer = pairs.vectors.double()[:, :, None] * wide[:, None, :]
    size = outer.abs().sum(dim=0).reshape(9) + 0.5 * len(start)
    require_same_sums(native[1].sum(dim=0), reference[1].sum(dim=0), size)

    # without a virial, and from memory with gaps
    with using("native"):
        alone = start.clone()
        gather_forces(pairs, gradients, alone)
        strided = torch.zeros((len(gradients), 4), dtype=dtype, device=device)
        strided[:, :3] = gradients.squeeze(-1)
        again, _ = gathered(pairs, strided[:, :3], start)
    same_bits(alone, native[0])
    same_bits(again, native[0])


@pytest.mark.parametrize("full_list", [True, False])
@pytest.mark.parametrize("dtype", FLOATS)
def test_forces_by_pairs_and_by_atoms_are_the_same_bits(
    system: System,
    device: str,
    full_list: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thread of a host goes through the pairs, several through the atoms."""
    pairs = cut_pairs(system, device, full_list, dtype)
    generator = torch.Generator().manual_seed(96)
    gradients = torch.randn((len(pairs.vectors), 3), generator=generator, dtype=dtype).to(device)
    start = torch.randn((len(system.positions), 3), generator=generator, dtype=dtype).to(device)
    with using("native"), threads(1):
        by_pairs = gathered(pairs, gradients, start)
        monkeypatch.setattr(HostLauncher, "threads", lambda *_: 2)
        by_atoms = gathered(pairs, gradients, start)
    for found, expected in zip(by_atoms, by_pairs, strict=True):
        same_bits(found, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["many", "thin"])
def test_forces_are_the_same_bits_every_time(device: str, name: str, dtype: torch.dtype) -> None:
    """In 20 repeats, with one thread and with two."""
    pairs = cut_pairs(SYSTEMS[name](), device, True, dtype)
    generator = torch.Generator().manual_seed(94)
    gradients = torch.randn((len(pairs.vectors), 3), generator=generator, dtype=dtype).to(device)
    start = torch.zeros((pairs.candidates.n_atoms, 3), dtype=dtype, device=device)
    with using("native"):
        expected = gathered(pairs, gradients, start)
        for repeat in range(20):
            with threads(1 + repeat % 2):
                found = gathered(pairs, gradients, start)
            for one, other in zip(found, expected, strict=True):
                same_bits(one, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("rows_dtype", FLOATS)
@pytest.mark.parametrize("target_dtype", FLOATS)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_add_rows(
    device: str,
    layout: Callable,
    part: float,
    rows_dtype: torch.dtype,
    target_dtype: torch.dtype,
    n_threads: int,
) -> None:
    n_atoms, factor = 700, 96.48533212331
    rng = np.random.default_rng(95)
    order = np.arange(n_atoms)
    if part < 1.0:
        order = rng.permutation(n_atoms)[: math.ceil(part * n_atoms)]
    subset = None if part == 1.0 else torch.from_numpy(order).to(device)
    rows = torch.from_numpy(rng.normal(size=(len(order), 3))).to(device).to(rows_dtype)
    start = torch.from_numpy(rng.normal(size=(n_atoms, 3))).to(device).to(target_dtype)

    def added() -> tuple[torch.Tensor, torch.Tensor]:
        target = layout(start)
        memory = torch.as_strided(
            target, (target.untyped_storage().nbytes() // target.element_size(),), (1,), 0
        )
        gaps = memory == 77.0
        add_rows(rows, subset, factor, target)
        assert bool((memory[gaps] == 77.0).all())  # what lies between stays as it was
        return target, gaps

    with threads(n_threads):
        (native, gaps), (reference, _) = both_ways(added)
    same_bits(native, reference)
    assert int(gaps.sum()) == {"padded": n_atoms, "every_second": 8 * (2 * n_atoms + 3)}.get(
        layout.__name__, 0
    ) - (3 * n_atoms if layout.__name__ == "every_second" else 0)
    expected = start.clone()
    expected[order] += (rows.double() * factor).to(target_dtype)
    same_bits(native, expected)


def test_add_no_rows(device: str) -> None:
    for way in ("native", "torch"):
        with using(way):
            add_rows(
                torch.zeros((0, 3), device=device), None, 2.0, torch.zeros((0, 3), device=device)
            )
            target = torch.ones((2, 3), device=device)
            none = torch.zeros(0, dtype=torch.int64, device=device)
            add_rows(torch.zeros((0, 3), device=device), none, 2.0, target)
            assert bool((target == 1.0).all())
