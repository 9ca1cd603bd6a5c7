"""Lists that are not cut in every step: the same memory, new vectors, and never a pair too few."""

from __future__ import annotations

import math

import brute_force
import numpy as np
import pytest
import torch
from kernel_parts import KERNEL_WAYS
from pairs_parts import refused
from worlds import CUTOFF, MARGIN, SKIN, WORLDS, World, geometry, named

from alchemi_bridge.errors import NonFiniteError, OverlapError
from alchemi_bridge.geometry import StepGeometry
from alchemi_bridge.native import using
from alchemi_bridge.pairs import Search

#: Requests that may be given more pairs than they ask for, in both directions and in one.
LOOSE = ((CUTOFF, True, False), (CUTOFF - 0.7, False, False))


def require_all_pairs(step: StepGeometry, world: World) -> None:
    """Within each cutoff those of brute force, each with its vector."""
    cell = world.cell
    for number, (cutoff, full_list, _) in enumerate(LOOSE):
        table = named(step, world.positions, number)
        lengths = np.linalg.norm(step.pairs[number].vectors.double().numpy(), axis=1)
        found = brute_force.find(world.positions, cell.vectors, cell.pbc, cutoff)
        if full_list:
            assert brute_force.keys(table[lengths < cutoff]) == found.keys()
        else:
            listed = brute_force.one_direction(table[lengths < cutoff])
            assert listed == brute_force.one_direction(found.half().samples)


@pytest.mark.parametrize("way", KERNEL_WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", WORLDS)
def test_no_pair_is_ever_missed(name: str, dtype: torch.dtype, way: str) -> None:
    """Also where cut and whole lists take turns, as while the fastest is looked for."""
    world = World(WORLDS[name], seed=sum(map(ord, name)))
    pairs = geometry(*LOOSE, n_atoms=len(world.positions))
    pairs.set_pairs(Search(SKIN), world.cell)
    compared = longer = 0
    with using(way):
        for count in range(60):
            world.happen()
            pairs.uncut = count % 20 > 4
            positions = torch.from_numpy(world.positions).to(dtype)
            world.positions = positions.double().numpy()
            near = brute_force.find(
                world.positions, world.cell.vectors, world.cell.pbc, CUTOFF + MARGIN
            ).distances
            edges = [abs(near - cutoff).min(initial=1.0) for cutoff, _, _ in LOOSE]
            if min(edges) < MARGIN or near.min(initial=1.0) < 0.01:
                continue
            step = pairs.step(positions, world.cell)
            require_all_pairs(step, world)
            lengths = torch.linalg.vector_norm(step.pairs[0].vectors, dim=1)
            longer += bool((lengths > CUTOFF).any())
            compared += 1
    assert compared > 50
    assert longer > 25
    assert pairs.searches < 40


@pytest.mark.parametrize("way", KERNEL_WAYS)
def test_memory_stays_from_one_search_to_the_next(way: str) -> None:
    world = World(WORLDS["bulk"], seed=5)
    pairs = geometry(*LOOSE, n_atoms=len(world.positions))
    pairs.set_pairs(Search(SKIN), world.cell)
    pairs.uncut = True
    start, places = world.positions, set()
    with using(way):
        for _ in range(5):
            world.positions = start + world.rng.uniform(-0.1, 0.1, start.shape)
            step = pairs.step(torch.from_numpy(world.positions), None)
            require_all_pairs(step, world)
            tensors = [step.positions, *(p.vectors for p in step.pairs)]
            places.add(tuple(tensor.data_ptr() for tensor in tensors))
            assert step.lasting is not None
    assert pairs.searches == 1
    assert len(places) == 1


@pytest.mark.parametrize("way", KERNEL_WAYS)
@pytest.mark.parametrize("kind", [NonFiniteError, OverlapError])
@pytest.mark.parametrize("first", [True, False])
def test_a_refused_step_leaves_nothing_behind(way: str, kind: type, first: bool) -> None:
    """Whether it is the first with a whole list, or a later one."""
    world = World(WORLDS["bulk"], seed=21)
    pairs = geometry(*LOOSE, n_atoms=len(world.positions))
    pairs.set_pairs(Search(SKIN), world.cell)
    good = torch.from_numpy(world.positions)
    bad = good.clone()
    bad[2] = math.nan if kind is NonFiniteError else bad[5]
    with using(way):
        pairs.uncut = not first
        pairs.step(good, None)
        pairs.uncut = True
        refused(kind, lambda: pairs.step(bad, None))
        require_all_pairs(pairs.step(good, None), world)
    # an atom that jumped onto another is found by a new search, and so is its way back
    assert pairs.searches == (1 if kind is NonFiniteError else 3)
