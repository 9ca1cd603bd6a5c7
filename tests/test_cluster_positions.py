"""Cluster lists say where the atoms were at the search: displacements are counted from there."""

from __future__ import annotations

from typing import Any

import brute_force
import echo
import numpy as np
import pytest
import torch
from cluster_parts import Golden, golden
from gromacs_engine import NM, RANKS
from kernel_parts import KERNEL_WAYS
from pairs_parts import CPU, refused
from worlds import listed

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import StalePairsError
from alchemi_bridge.geometry import Geometry
from alchemi_bridge.native import using
from alchemi_bridge.pairs.clusters import searched_at

CUTOFF, BUFFER = 8.0, 1.0


def geometry(file: Golden, subset: torch.Tensor | None = None) -> Geometry:
    """For a model in float64 and Å, and an engine in nm."""
    loaded = echo.loaded((CUTOFF, True, True))
    return Geometry(loaded, n_atoms=file.n_atoms, subset=subset, length=NM)


def prepared(reach: float, **changes: Any) -> tuple[Golden, Geometry]:
    """A list up to a reach in Å, handed over."""
    file = golden("argon216")
    pairs = geometry(file, changes.pop("subset", None))
    pairs.set_pairs(file.pairs(reach / NM, **changes), Cell.of(file.box))
    return file, pairs


def pairs_within(positions: np.ndarray, box: np.ndarray) -> set[brute_force.Key]:
    return brute_force.find(positions, box, (True,) * 3, CUTOFF / NM).keys()


@pytest.mark.parametrize("way", KERNEL_WAYS)
def test_the_first_step_is_one_like_others(way: str) -> None:
    """Up to half of the buffer from there, and no farther, as in all later steps."""
    with using(way):
        file, pairs = prepared(CUTOFF + BUFFER)
        positions = file.positions
        # in opposite directions: what all have in common does not count
        way_of = np.zeros_like(positions)
        way_of[[7, 150], 0] = 0.5 * BUFFER / NM, -0.5 * BUFFER / NM
        far = torch.from_numpy(positions + 1.002 * way_of)
        error = refused(StalePairsError, lambda: pairs.step(far, None))
        assert "0.501 angstrom" in error.got
        near = positions + 0.998 * way_of
        step = pairs.step(torch.from_numpy(near), None)
        assert brute_force.keys(listed(step)) == pairs_within(near, file.box)


def test_wrapped_since_the_search() -> None:
    """Before any step; the rows of the list stay in the frame of the search."""
    file, pairs = prepared(CUTOFF + BUFFER)
    cells = np.random.default_rng(3).integers(-2, 3, (file.n_atoms, 3))
    step = pairs.step(torch.from_numpy(file.positions + cells @ file.box), None)
    assert brute_force.keys(listed(step)) == pairs_within(file.positions, file.box)
    np.testing.assert_allclose(step.wide.numpy(), NM * file.positions, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [0.97, 1.02])
def test_a_box_that_has_changed_since_the_search(scale: float) -> None:
    """A barostat between the search and the first step takes the atoms along: nothing is stale."""
    file, pairs = prepared(CUTOFF + BUFFER)
    positions, box = scale * file.positions, scale * file.box
    step = pairs.step(torch.from_numpy(positions), Cell.of(box))
    assert brute_force.keys(listed(step)) == pairs_within(positions, box)


@pytest.mark.parametrize("precise", ["list", "step", "neither"])
def test_precision_of_a_list_is_no_displacement(precise: str) -> None:
    """Without a buffer atoms must not move; coordinates may be rounded once, on either side."""
    file = golden("argon216")
    rng = np.random.default_rng(8)
    exact = file.positions + rng.uniform(-1e-5, 1e-5, file.positions.shape)
    rounded = exact.astype(np.float32)
    assert np.abs(rounded - exact).max() > 1e-9
    index = file.arrays["atom_index"]
    x = np.full((len(index), 3), -1e6, np.float64 if precise == "list" else np.float32)
    x[index >= 0] = (exact if precise == "list" else rounded)[index[index >= 0]]
    pairs = geometry(file)
    pairs.set_pairs(file.pairs(CUTOFF / NM, x=x), Cell.of(file.box))
    positions = torch.from_numpy(exact if precise == "step" else rounded)
    found = brute_force.keys(listed(pairs.step(positions, None)))
    assert len(found ^ pairs_within(exact, file.box)) <= 2  # those at the cutoff, if any
    moved = positions.clone()
    moved[7, 0] += 1e-3
    moved[150, 0] -= 1e-3
    refused(StalePairsError, lambda: pairs.step(moved, None))


def test_atoms_that_the_model_sees() -> None:
    """In their order; the others may be anywhere."""
    file = golden("argon216")
    subset = torch.from_numpy(np.random.default_rng(5).permutation(216)[:90])
    file, pairs = prepared(CUTOFF + BUFFER, subset=subset)
    positions = np.full((216, 3), 1e3)
    positions[subset] = file.positions[subset] + file.box[2]
    step = pairs.step(torch.from_numpy(positions), None)
    wanted = pairs_within(file.positions[subset], file.box)
    assert brute_force.keys(listed(step)) == wanted
    positions[subset] = file.positions[subset.flip(0)]
    refused(StalePairsError, lambda: pairs.step(torch.from_numpy(positions), None))


def test_several_lists_of_one_rank() -> None:
    """Home and halo atoms, in two files with the same slots."""
    files = [golden(name) for name in RANKS[:2]]
    lists = [file.pairs(0.9) for file in files]
    found = searched_at(lists, n_atoms=files[0].n_atoms, device=CPU)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), files[0].positions.astype(np.float32))
    # in memory of its own: the engine goes on with its
    lists[0].x[:] = 0.0
    assert float(found.abs().amax()) > 0.5
