"""Sub-domains: every atom has one owner, owners have equal numbers, and all ranks agree on them."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi_runs import needs_mpi, require_success, run_ranks
from scipy.spatial import cKDTree

from alchemi_bridge.cell import Cell
from alchemi_bridge.domain.cuts import GAP_SHARE, select
from alchemi_bridge.domain.decomposition import (
    TILT,
    VACUUM_SHARE,
    Decomposition,
    choose_grid,
    decompose,
    wrap,
)
from alchemi_bridge.errors import ConfigurationError, NonFiniteError, ShapeError

#: Fractional coordinates of cells that are not nearly singular.
ROUNDING = 1e-12

#: The most that a rank may have, in units of the mean, wherever atoms can be told apart.
MOST_ATOMS = 1.2

#: Noise of rounding in the coordinates of a perfect crystal, Å.
NOISE = 1e-14

RANKS = (1, 2, 3, 4, 5, 7, 8, 12)


# --- systems ------------------------------------------------------------------------------------


def _lattice(basis: list[list[float]], repeats: tuple[int, int, int], a: float) -> np.ndarray:
    corners = np.array(list(itertools.product(*map(range, repeats))))
    rng = np.random.default_rng(5)
    positions = (corners[:, None] + np.array(basis)).reshape(-1, 3) * a
    return positions + rng.normal(size=positions.shape) * NOISE


FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
DIAMOND = FCC + [[x + 0.25 for x in row] for row in FCC]
SKEW = np.array([[20.0, 0.0, 0.0], [7.0, 19.0, 0.0], [-4.0, 6.0, 23.0]])


def _system(name: str) -> tuple[np.ndarray, Cell]:
    rng = np.random.default_rng(11)
    cube = Cell.of([20.0, 20.0, 20.0])
    cluster = rng.normal(size=(900, 3))
    return {
        "random": lambda: (rng.uniform(-40, 40, (1500, 3)), cube),
        "triclinic": lambda: (rng.uniform(size=(1500, 3)) @ SKEW + 3.0, Cell.of(SKEW)),
        "left-handed": lambda: (rng.uniform(size=(1500, 3)) @ SKEW[::-1], Cell.of(SKEW[::-1])),
        "fcc": lambda: (_lattice(FCC, (5, 5, 5), 4.0), cube),
        "diamond": lambda: (_lattice(DIAMOND, (5, 4, 3), 4.0), Cell.of([20.0, 16.0, 12.0])),
        "layer": lambda: (_lattice([[0, 0, 0]], (30, 30, 1), 2.0), Cell.of([60, 60, 9.0])),
        "droplet": lambda: (2.0 * cluster + 1.0, cube),
        "molecule": lambda: (2.0 * cluster, Cell.open()),
        "slab": lambda: (rng.uniform(size=(1200, 3)) * [20, 20, 5], Cell.of(SKEW, (1, 1, 0))),
        "clusters": lambda: (
            np.concatenate([cluster, rng.normal((30.0, 4.0, 0.0), size=(400, 3))]),
            Cell.open(),
        ),
        "wire": lambda: (rng.uniform(size=(700, 3)) * [0.0, 0.0, 20], Cell.of(SKEW, (0, 0, 1))),
    }[name]()


SYSTEMS = (
    *("random", "triclinic", "left-handed", "fcc", "diamond", "layer"),
    *("droplet", "molecule", "slab", "clusters", "wire"),
)


def _counts(found: Decomposition, fractional: np.ndarray) -> np.ndarray:
    return np.bincount(found.owner(fractional), minlength=found.n_ranks)


def _oracle(found: Decomposition, fractional: np.ndarray) -> list[int]:
    """Owners, atom by atom, from the definition of the planes."""
    nx, ny, nz = found.grid
    owners = []
    for row in fractional.tolist():
        u = []
        for k in range(3):
            share = (row[k] - float(found.origin[k])) / float(found.scale[k])
            u.append(min(max(share - math.floor(share) if found.pbc[k] else share, 0.0), 1.0))
        x, y, z = (u[k] + TILT * u[(k + 1) % 3] + TILT**2 * u[(k + 2) % 3] for k in range(3))
        unit = 2.0**49
        x, y, z = (math.floor(v * unit) / unit for v in (x, y, z))
        ix = sum(x >= p for p in found.x_planes)
        iy = sum(y >= p for p in found.y_planes[ix])
        iz = sum(z >= p for p in found.z_planes[ix, iy])
        assert ix < nx
        owners.append((ix * ny + iy) * nz + iz)
    return owners


# --- coordinates --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    reach=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_wrapped_coordinates_are_in_the_cell(
    seed: int, pbc: tuple[bool, bool, bool], reach: float
) -> None:
    rng = np.random.default_rng(seed)
    cell = Cell.of(np.diag([5.0, 8.0, -6.0]) + rng.uniform(-2, 2, (3, 3)), pbc)
    positions = rng.uniform(-reach, reach, (40, 3))
    fractional, wraps = wrap(positions, cell)
    periodic = fractional[:, np.array(pbc)]
    assert ((periodic >= 0.0) & (periodic < 1.0)).all()
    assert wraps.dtype == np.int64
    assert not wraps[:, ~np.array(pbc)].any()
    back = np.linalg.solve(cell.completed.T, (positions - wraps @ cell.vectors).T).T
    np.testing.assert_allclose(back, fractional, rtol=0, atol=ROUNDING * max(1.0, reach))
    alone = np.concatenate([wrap(row[None], cell)[0] for row in positions])
    np.testing.assert_array_equal(alone, fractional)  # in its last bit


def test_a_hair_below_zero_is_zero() -> None:
    cell = Cell.of([1.0, 1.0, 1.0], (True, True, False))
    fractional, wraps = wrap(np.array([[-1e-18, -0.25, -1e-18]]), cell)
    assert fractional.tolist() == [[0.0, 0.75, -1e-18]]
    assert wraps.tolist() == [[0, -1, 0]]


def test_positions_without_a_place_are_refused() -> None:
    cell = Cell.of([1.0, 1.0, 1.0], (True, True, False))
    for row in ([np.nan, 0, 0], [0, np.inf, 0], [1e300, 0, 0], [0, 0, -np.inf]):
        with pytest.raises(NonFiniteError, match="for atom 1"):
            wrap(np.array([[0.0, 0.0, 0.0], row]), cell)
    wrap(np.array([[0.0, 0.0, 1e300]]), cell)  # far out in an open direction is a place
    with pytest.raises(ShapeError, match="positions"):
        wrap(np.zeros(3), cell)


# --- the grid -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_ranks", "extents", "halo", "grid"),
    [
        (1, (3, 4, 5), 1.0, (1, 1, 1)),
        (2, (10, 10, 10), 0.0, (2, 1, 1)),
        (2, (10, 10, 11), 0.0, (1, 1, 2)),
        (27, (10, 10, 10), 0.0, (3, 3, 3)),
        (64, (10, 10, 10), 1.0, (4, 4, 4)),
        (7, (10, 20, 10), 1.0, (1, 7, 1)),
        (8, (10, 10, 1e-9), 1.0, (4, 2, 1)),
        (6, (0, 10, 0), 1.0, (1, 6, 1)),
        (6, (0, 0, 0), 1.0, (6, 1, 1)),
        # as many faces as (2, 2, 2), but fewer edges
        (8, (40, 40, 40), 1.0, (4, 2, 1)),
        # a halo that reaches through the cell makes slabs the better choice
        (8, (40, 40, 40), 12.0, (8, 1, 1)),
    ],
)
def test_the_grid_suits_the_cell(
    n_ranks: int, extents: tuple, halo: float, grid: tuple[int, int, int]
) -> None:
    assert choose_grid(n_ranks, extents, True, halo) == grid


@pytest.mark.parametrize("n_ranks", [2, 4, 6, 8, 12])
@pytest.mark.parametrize("halo", [1.5, 4.0, 7.0])
def test_no_other_grid_has_much_smaller_halos(n_ranks: int, halo: float) -> None:
    # counted, for every grid, with atoms; the estimate knows nothing of these
    lengths = np.array([14.0, 18.0, 26.0])
    positions = np.random.default_rng(3).uniform(size=(2500, 3)) * lengths
    cell = Cell.of(lengths)
    fractional, _ = wrap(positions, cell)
    halos = {}
    for grid in itertools.product(range(1, n_ranks + 1), repeat=3):
        if math.prod(grid) != n_ranks:
            continue
        owner = decompose(fractional, grid, cell.pbc).owner(fractional)
        halos[grid] = 0
        for rank in range(n_ranks):
            mine = cKDTree(positions[owner == rank], boxsize=lengths)
            near, _ = mine.query(positions[owner != rank], distance_upper_bound=halo)
            halos[grid] = max(halos[grid], int(np.isfinite(near).sum()))
    chosen = choose_grid(n_ranks, lengths, True, halo)
    assert halos[chosen] <= 1.1 * min(halos.values()), halos


def test_outermost_domains_of_an_open_direction_have_one_neighbor() -> None:
    assert choose_grid(4, (10, 10, 10), True, 1.0) == (4, 1, 1)
    assert choose_grid(4, (10, 10, 10), False, 1.0) == (2, 2, 1)
    assert choose_grid(4, (10, 10, 10), (True, True, False), 1.0) == (2, 1, 2)


def test_no_ranks_and_no_lengths_are_refused() -> None:
    for arguments in ((0, (1, 1, 1)), (2, (1, 1, 1), True, -1.0), (2, (1, 1, 1), True, np.inf)):
        with pytest.raises(ConfigurationError, match="grid of sub-domains"):
            choose_grid(*arguments)
    for extents in ((1, 1), (1, np.inf, 1), (1, -1, 1)):
        with pytest.raises(ShapeError, match="extents"):
            choose_grid(2, extents)
    with pytest.raises(ConfigurationError, match="grid of sub-domains"):
        decompose(np.zeros((1, 3)), (2, 0, 1), (True, True, True))


# --- balance ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_ranks_have_equal_numbers_of_atoms(name: str) -> None:
    positions, cell = _system(name)
    fractional, _ = wrap(positions, cell)
    for n_ranks in RANKS:
        found = decompose(fractional, n_ranks, cell.pbc, heights=cell.heights, halo=3.0)
        counts = _counts(found, fractional)
        assert found.n_ranks == n_ranks
        assert counts.sum() == len(positions)
        assert counts.max() <= MOST_ATOMS * counts.mean(), (found.grid, counts)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("grid", [(1, 1, 1), (3, 2, 1), (1, 2, 3), (2, 2, 2)])
def test_owners_follow_from_the_planes_and_are_within_the_bounds(
    name: str, grid: tuple[int, int, int]
) -> None:
    positions, cell = _system(name)
    fractional, _ = wrap(positions[:300], cell)
    found = decompose(fractional, grid, cell.pbc)
    owner = found.owner(fractional)
    assert owner.tolist() == _oracle(found, fractional)
    assert found.divided.tolist() == [n > 1 for n in grid]
    assert found.bounds.shape == (found.n_ranks, 3, 2)
    low, high = found.bounds[owner, :, 0], found.bounds[owner, :, 1]
    images = [np.where(cell.pbc, fractional + image, fractional) for image in (-1, 0, 1)]
    within = np.any([(low <= f) & (f <= high) for f in images], axis=0)
    assert within.all()
    for k, (periodic, parts) in enumerate(zip(cell.pbc, grid, strict=True)):
        if parts == 1:
            ends = (0.0, 1.0) if periodic else (-np.inf, np.inf)
            assert (found.bounds[:, k] == ends).all()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_atoms=st.integers(0, 60),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_few_atoms_are_divided_as_equally_as_numbers_allow(
    seed: int, n_atoms: int, grid: tuple[int, int, int], pbc: tuple[bool, bool, bool]
) -> None:
    fractional = np.random.default_rng(seed).uniform(size=(n_atoms, 3))
    found = decompose(fractional, grid, pbc)
    assert _counts(found, fractional).max() <= math.ceil(n_atoms / found.n_ranks)
    assert found.owner(fractional).tolist() == _oracle(found, fractional)
    for planes in (found.x_planes, found.y_planes, found.z_planes):
        assert (np.diff(planes, axis=-1) >= 0.0).all()


def test_without_atoms_the_cell_is_cut_evenly() -> None:
    found = decompose(np.empty((0, 3)), (4, 1, 2), (True, False, True))
    assert found.x_planes.tolist() == [0.25, 0.5, 0.75]
    assert found.z_planes.tolist() == [[[0.5]]] * 4
    assert found.owner(np.empty((0, 3))).shape == (0,)
    everywhere = np.random.default_rng(0).uniform(size=(200, 3))
    assert set(found.owner(everywhere).tolist()) == set(range(8))
    assert decompose(np.empty((0, 3)), 5, (False, False, False)).n_ranks == 5


@pytest.mark.parametrize("pbc", [(True, True, True), (False, False, False)])
def test_atoms_on_one_point_can_not_be_divided(pbc: tuple[bool, bool, bool]) -> None:
    # the one case in which a rank may have more than its share
    fractional = np.full((40, 3), 0.3)
    for n_ranks in (2, 3, 8):
        found = decompose(fractional, n_ranks, pbc)
        assert sorted(_counts(found, fractional)) == [0] * (n_ranks - 1) + [40]
    mixed = np.concatenate([fractional, np.random.default_rng(1).uniform(size=(40, 3))])
    counts = _counts(decompose(mixed, (4, 1, 1), pbc), mixed)
    assert 40 <= counts.max() <= 40 + 20  # with its point a rank has at most one share of others


@pytest.mark.parametrize(("point", "counts"), [(0.1, [6, 4]), (0.9, [4, 6])])
def test_a_point_goes_where_it_is_least_too_many(point: float, counts: list[int]) -> None:
    fractional = np.full((10, 3), point)
    fractional[:4] = np.random.default_rng(1).uniform(0.3, 0.6, (4, 3))
    assert _counts(decompose(fractional, (2, 1, 1), (True,) * 3), fractional).tolist() == counts


def test_a_gap_beside_a_point_is_used() -> None:
    # 20 atoms on the point where half of the atoms are in front; 15 of them may be too many
    fractional = np.random.default_rng(1).uniform(size=(1500, 3))
    fractional[:, 0] = np.r_[0.2 * fractional[:740, 0], [0.2] * 20, 0.6 + fractional[760:, 0] / 5]
    fractional[740:760, 1:] = 0.5
    found = decompose(fractional, (2, 1, 1), (False,) * 3)
    assert _counts(found, fractional).tolist() == [760, 740]
    assert 0.3 < float(found.x_planes[0]) * 0.8 < 0.5


def test_a_cut_goes_into_a_gap_that_is_near() -> None:
    rng = np.random.default_rng(4)
    inside = GAP_SHARE * 0.9
    for extra, in_gap in ((inside, True), (4 * GAP_SHARE, False)):
        left = rng.uniform(0.0, 0.2, 1000)
        right = rng.uniform(0.6, 0.8, round(1000 * (1.0 + 2 * extra)))
        fractional = rng.uniform(size=(len(left) + len(right), 3))
        fractional[:, 0] = np.concatenate([left, right])
        plane = float(decompose(fractional, (2, 1, 1), (False,) * 3).x_planes[0]) * 0.8
        assert (0.3 < plane < 0.5) == in_gap


def test_layers_of_a_crystal_stay_whole_where_that_is_equal() -> None:
    positions, cell = _system("fcc")  # ten layers, the first of them at zero
    fractional, _ = wrap(positions, cell)
    for n_ranks in (2, 5):
        owner = decompose(fractional, (n_ranks, 1, 1), cell.pbc).owner(fractional)
        layer = np.round(positions[:, 0] / 2.0).astype(int) % 10
        assert owner.tolist() == (layer * n_ranks // 10).tolist()


def test_layers_are_cut_where_they_must_be() -> None:
    positions, cell = _system("fcc")
    fractional, _ = wrap(positions, cell)
    found = decompose(fractional, (4, 1, 1), cell.pbc)  # two and a half layers each
    assert _counts(found, fractional).tolist() == [125] * 4


# --- vacuum and open ends -----------------------------------------------------------------------


def test_a_droplet_is_divided_alike_wherever_it_is() -> None:
    drop = np.random.default_rng(8).uniform(0.05, 0.45, (500, 3))
    reference = decompose(drop, 4, (True, True, True)).owner(drop)
    for move in ([0.5, 0.5, 0.5], [0.75, 0.0, 0.75], [0.0, 0.625, 0.75]):
        moved = (drop + move) % 1.0
        assert decompose(moved, 4, (True, True, True)).owner(moved).tolist() == reference.tolist()


def test_vacuum_of_a_periodic_slab_is_not_counted_as_extent() -> None:
    fractional = np.random.default_rng(2).uniform(size=(600, 3)) * [1.0, 1.0, 0.1]
    assert fractional[:, 2].max() < 1.0 - VACUUM_SHARE
    pbc, heights = (True, True, True), (30.0, 30.0, 100.0)
    found = decompose(fractional, 4, pbc, heights=heights, halo=3.0)
    assert found.grid[2] == 1
    assert choose_grid(4, heights, pbc, 3.0)[2] == 4  # what the cell alone suggests


def test_atoms_beyond_the_ends_belong_to_the_outermost() -> None:
    fractional = np.random.default_rng(6).uniform(size=(100, 3))
    found = decompose(fractional, (3, 1, 1), (False, True, True))
    far = np.array([[-50.0, 0.5, 0.5], [50.0, 0.5, 0.5]])
    assert found.owner(far).tolist() == [0, 2]


def test_coordinates_that_are_no_numbers_stop_no_rank() -> None:
    fractional = np.random.default_rng(6).uniform(size=(100, 3))
    fractional[3] = np.nan
    fractional[4] = np.inf
    for pbc in ((True, True, True), (False, False, False)):
        found = decompose(fractional, 4, pbc)
        owner = found.owner(fractional)
        assert ((owner >= 0) & (owner < 4)).all()
        assert found.owner(np.zeros((1, 3)))[0] == owner[3] == owner[4]


# --- all ranks agree ----------------------------------------------------------------------------


def _in_lockstep(n_ranks: int, work: Callable[[int, Callable], object]) -> list:
    """Results of ``work(rank, total)`` on threads that stand for ranks."""
    given: list = [None] * n_ranks
    results: list = [None] * n_ranks
    barrier = threading.Barrier(n_ranks, timeout=30)

    def run(rank: int) -> None:
        def total(counts: np.ndarray) -> np.ndarray:
            assert counts.dtype == np.int64
            given[rank] = counts
            barrier.wait()
            found = np.sum(given, axis=0)
            barrier.wait()
            return found

        try:
            results[rank] = work(rank, total)
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def _arrays(found: Decomposition) -> list[np.ndarray]:
    planes = [found.x_planes, found.y_planes, found.z_planes]
    return [np.array(found.grid), found.origin, found.scale, *planes]


@pytest.mark.parametrize("name", ["random", "fcc", "droplet", "molecule", "slab", "clusters"])
def test_atoms_of_all_ranks_give_the_planes_of_one(name: str) -> None:
    positions, cell = _system(name)
    fractional, _ = wrap(positions, cell)
    whole = decompose(fractional, 6, cell.pbc, heights=cell.heights, halo=2.0)
    owner = np.random.default_rng(9).choice([0, 2, 3], size=len(positions))  # rank 1 has none

    def work(rank: int, total: Callable) -> Decomposition:
        mine, _ = wrap(positions[owner == rank], cell)
        return decompose(mine, 6, cell.pbc, heights=cell.heights, halo=2.0, total=total)

    for found in _in_lockstep(4, work):
        for mine, all_of_them in zip(_arrays(found), _arrays(whole), strict=True):
            np.testing.assert_array_equal(mine, all_of_them)


@settings(max_examples=30, deadline=None)
@given(
    keys=st.lists(
        st.lists(st.one_of(st.integers(0, 9), st.integers(0, 2**50 - 1)), max_size=20),
        min_size=1,
        max_size=3,
    )
)
def test_the_key_of_a_rank_is_that_of_the_sorted_list(keys: list[list[int]]) -> None:
    groups = [np.sort(np.array(part, dtype=np.int64)) for part in keys]
    ranks = np.tile(np.arange(23), (len(groups), 1))
    found = select(groups, ranks, lambda counts: counts)
    for part, row in zip(groups, found.tolist(), strict=True):
        padded = [0, *part.tolist(), *[2**50 - 1] * 23]
        assert row == padded[:23]


MPI_PROGRAM = """
import numpy as np
from mpi4py import MPI
from alchemi_bridge.cell import Cell
from alchemi_bridge.domain.decomposition import decompose, wrap

comm = MPI.COMM_WORLD

def total(counts):
    found = np.empty_like(counts)
    comm.Allreduce(counts, found)
    return found

rng = np.random.default_rng(1)
cell = Cell.of([[20, 0, 0], [7, 19, 0], [0, 0, 1]], (True, True, False))
everything, _ = wrap(rng.normal(size=(800, 3)) * 8, cell)
mine = everything[rng.integers(0, comm.size, 800) == comm.rank]
found = decompose(mine, 4, cell.pbc, heights=cell.heights, total=total)
whole = decompose(everything, 4, cell.pbc, heights=cell.heights)
for name in ("origin", "scale", "x_planes", "y_planes", "z_planes"):
    np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
counts = total(np.bincount(found.owner(mine), minlength=4))
assert found.grid == whole.grid and counts.sum() == 800 and counts.max() <= 210, counts
"""


@needs_mpi
def test_ranks_of_mpi_agree() -> None:
    require_success(run_ranks(3, MPI_PROGRAM))
