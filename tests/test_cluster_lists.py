"""Cluster pair lists of any atoms and box, from the generator, against brute force."""

from __future__ import annotations

from functools import cache

import brute_force
import numpy as np
import pytest
from cluster_parts import decoded, expected, golden, require_equal, require_same
from kernel_parts import DEVICES, both_ways

from alchemi_bridge.bench import cluster_lists

LAYOUT_NAMES = ("cluster_size", "clusters_per_super", "split")
OTHER_LAYOUTS = [(8, 8, 1), (4, 8, 2), (4, 8, 1), (8, 4, 2), (8, 4, 1), (4, 4, 2), (4, 4, 1)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pairs_at_the_reach(dtype: type) -> None:
    """Strictly closer, in float64 whatever the coordinates are kept in."""
    positions = np.array([[1.0, 1.0, 1.0], [3.0, 1.0, 1.0]])
    built = cluster_lists.build(positions, np.diag([9.0, 9.0, 9.0]), 3.0)
    for found in both_ways(lambda: decoded(built, reach=2.0, dtype=dtype)):
        assert len(found) == 0
    beyond = float(np.nextafter(2.0, 3.0))
    for found in both_ways(lambda: decoded(built, reach=beyond, dtype=dtype)):
        assert len(found) == 2


def random_box(rng: np.random.Generator, rlist: float) -> np.ndarray:
    """A box of GROMACS' that is wide enough for its 45 shifts."""
    kind = rng.integers(3)
    if kind == 2:  # narrow: atoms see their own images along x
        return np.diag([rng.uniform(0.55, 1.0), *rng.uniform(1.05, 2.0, 2)]) * rlist
    box = np.diag(rng.uniform(2.05, 4.0, 3) * rlist)
    if kind == 1:
        box[1, 0], box[2, 0] = rng.uniform(-0.49, 0.49, 2) * box[0, 0]
        box[2, 1] = rng.uniform(-0.49, 0.49) * box[1, 1]
    return box


@pytest.mark.parametrize("seed", range(24))
def test_generated_lists(device: str, seed: int) -> None:
    rng = np.random.default_rng([seed, 11])
    rlist = rng.uniform(2.0, 5.0)
    box, n_atoms = random_box(rng, rlist), int(rng.integers(1, 260))
    positions = rng.uniform(-1.5, 2.5, (n_atoms, 3)) @ box
    layout = dict(zip(LAYOUT_NAMES, [(8, 8, 2), *OTHER_LAYOUTS][seed % 8], strict=True))
    built = cluster_lists.build(
        positions, box, rlist, longest_entry=int(rng.integers(1, 5)), **layout
    )
    reach = rlist * rng.uniform(0.5, 1.0)
    native, reference = both_ways(lambda: decoded(built, device, reach=reach))
    wanted = brute_force.find(built.positions, box, (True, True, True), reach).keys()
    require_same(native, wanted)
    require_equal(native, reference)


def test_generated_lists_see_images() -> None:
    """The narrow boxes of the test above do what they are for."""
    box = np.diag([2.0, 4.0, 4.0])
    built = cluster_lists.build(np.random.default_rng(0).random((30, 3)) @ box, box, 3.5)
    found = decoded(built)
    itself = found.first == found.second
    assert itself.sum() == 60
    assert found.shifts[:, 0].abs().max() == 2


def test_long_entries_are_split() -> None:
    rng = np.random.default_rng(5)
    box = np.diag([14.0, 15.0, 16.0])
    built = cluster_lists.build(rng.random((700, 3)) @ box, box, 6.0, longest_entry=2)
    kinds = built.sci[:, :2].tolist()
    assert len(kinds) > len({tuple(k) for k in kinds})
    whole = cluster_lists.build(rng.random((0, 3)), box, 6.0)
    assert len(whole.sci) == 0


SKEWED = np.array([[11.0, 0, 0], [3.0, 12.0, 0], [-2.0, 4.0, 10.5]])


@cache
def skewed_pairs() -> tuple[np.ndarray, set[brute_force.Key]]:
    """Atoms in a skewed box, and their pairs within 4.5."""
    positions = np.random.default_rng(7).random((150, 3)) @ SKEWED
    wrapped = cluster_lists.wrap(positions, SKEWED)
    return positions, brute_force.find(wrapped, SKEWED, (True, True, True), 4.5).keys()


@pytest.mark.parametrize("layout", [(8, 8, 2), *OTHER_LAYOUTS], ids=str)
def test_other_layouts(device: str, layout: tuple[int, int, int]) -> None:
    positions, wanted = skewed_pairs()
    excluded = np.random.default_rng(8).integers(0, len(positions), (400, 2))
    excluded = excluded[excluded[:, 0] != excluded[:, 1]]
    sizes = dict(zip(LAYOUT_NAMES, layout, strict=True))
    built = cluster_lists.build(positions, SKEWED, 4.5, excluded=excluded, **sizes)
    for found in both_ways(lambda: decoded(built, device)):
        require_same(found, wanted)
    left_out = {frozenset(pair) for pair in excluded.tolist()}
    kept = {k for k in wanted if frozenset(k[:2]) not in left_out}
    assert len(kept) < len(wanted)
    for found in both_ways(lambda: decoded(built, device, honour_exclusions=True)):
        require_same(found, kept)


def test_generator_agrees_with_gromacs() -> None:
    """The same atoms and radius: other clusters, the same pairs."""
    file = golden("argon216-triclinic")
    built = cluster_lists.build(file.positions, file.box, file.rlist)
    images = np.rint((built.positions - file.positions) @ np.linalg.inv(file.box)).astype(int)
    found = decoded(built)
    i, j = found.first.numpy(), found.second.numpy()
    shifts = found.shifts.numpy() + images[j] - images[i]
    in_frame = np.column_stack([i, j, shifts])
    assert brute_force.keys(in_frame) == expected("argon216-triclinic").keys()
