"""Ghost lists of one rank among several: what belongs to it, each pair once."""

from __future__ import annotations

import brute_force
import numpy as np
import pytest
import torch
from ghost_lists import (
    GRIDS,
    SYSTEMS,
    Ghosted,
    csr,
    decoded,
    one_of_several,
    ranks,
    require_equal,
)
from pairs_parts import refused

from alchemi_bridge.errors import PairListError
from alchemi_bridge.pairs.ghosts import GhostPairs


def physical(samples: np.ndarray, rank: Ghosted) -> np.ndarray:
    """Rows in the atoms of the whole system: tags, and shifts between their first images."""
    atoms = rank.atoms[samples[:, :2]]
    shifts = samples[:, 2:] + rank.images[atoms[:, 1]] - rank.images[atoms[:, 0]]
    return np.column_stack([rank.tags[atoms], shifts])


def whole(rank: Ghosted, reach: float, positions: np.ndarray) -> np.ndarray:
    return brute_force.find(positions, rank.cell, rank.pbc, reach).samples


def base_positions(rank_list: list[Ghosted], name: str) -> np.ndarray:
    positions = np.zeros((SYSTEMS[name][0], 3))
    for rank in rank_list:
        positions[rank.tags[: rank.n_local]] = rank.positions[: rank.n_local]
    return positions


@pytest.mark.parametrize("closest", [True, False])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["cubic", "triclinic", "small", "slab"])
def test_home_atoms_of_several_ranks(name: str, grid: str, closest: bool) -> None:
    """Local rows alone: what the home atoms see, with the way back from the halo."""
    reach = SYSTEMS[name][3]
    everyone = ranks(name, GRIDS[grid], reach, seed=1, closest=closest)
    positions = base_positions(everyone, name)
    for rank in everyone:
        options = {"n_atoms": rank.n_all, "subset": torch.from_numpy(rank.atoms)}
        found = decoded(csr(rank, reach), rank, **options)
        home = rank.tags[: rank.n_local]
        wanted = whole(rank, reach, positions)
        touched = np.isin(wanted[:, 0], home) | np.isin(wanted[:, 1], home)
        rows = brute_force.keys(physical(found.samples.numpy(), rank))
        assert rows == brute_force.keys(wanted[touched])
        require_equal(decoded(csr(rank, reach, "newton_off"), rank, **options), found)


def named_pairs(pairs: GhostPairs, rank: Ghosted, rows: np.ndarray) -> set[brute_force.Key]:
    """Both directions of every pair that the row of some owner names."""
    named = set()
    for row, i in enumerate(rows):
        if rank.owners[i] == i:
            for j in pairs.neighbors[pairs.starts[row] : pairs.starts[row + 1]]:
                shift = rank.images[j] - rank.images[i]
                key = (int(rank.tags[i]), int(rank.tags[j]), *shift.tolist())
                named |= {key, brute_force.backward(key)}
    return named


@pytest.mark.parametrize("closest", [True, False])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["cubic", "triclinic", "small", "slab"])
def test_rows_of_ghosts(name: str, grid: str, closest: bool) -> None:
    """With rows of ghosts: every pair of owners once, and the neighbours of neighbours complete."""
    reach = SYSTEMS[name][3]
    everyone = ranks(name, GRIDS[grid], 2.0 * reach, seed=2, closest=closest)
    positions = base_positions(everyone, name)
    rng = np.random.default_rng(6)
    for rank in everyone[:4]:
        wanted = whole(rank, reach, positions)
        options = {"n_atoms": rank.n_all, "subset": torch.from_numpy(rank.atoms)}
        rows = np.arange(rank.n_all)
        pairs = csr(rank, reach, rows=rows)
        found = brute_force.keys(physical(decoded(pairs, rank, **options).samples.numpy(), rank))
        assert found <= brute_force.keys(wanted)
        assert found == named_pairs(pairs, rank, rows)
        if closest:
            near = np.unique(wanted[np.isin(wanted[:, 0], rank.tags[: rank.n_local]), 1])
            complete = np.isin(wanted[:, 0], near)
            assert brute_force.keys(wanted[complete]) <= found
        # rows of some ghosts only, in any order
        some = rng.random(rank.n_all) < 0.5
        some[: rank.n_local] = True
        rows = rng.permutation(np.flatnonzero(some))
        pairs = csr(rank, reach, rows=rows)
        found = brute_force.keys(physical(decoded(pairs, rank, **options).samples.numpy(), rank))
        assert found == named_pairs(pairs, rank, rows)


def test_missing_images_get_their_way_back() -> None:
    """The case that the rule for halo atoms is about does occur above, for any owners."""
    reach, lonely = SYSTEMS["small"][3], 0
    for rank in ranks("small", GRIDS["two along x"], 2.0 * reach, seed=2, closest=False):
        pairs = csr(rank, reach, rows=np.arange(rank.n_all))
        listed = set()
        for i in rank.atoms[rank.n_local :]:
            for j in pairs.neighbors[pairs.starts[i] : pairs.starts[i + 1]]:
                o = int(rank.owners[j])
                if o >= rank.n_local:
                    shift = rank.images[j] - rank.images[o]
                    listed.add((int(i), o, *shift.tolist()))
        lonely += len([key for key in listed if brute_force.backward(key) not in listed])
    assert lonely > 0


def test_an_empty_rank() -> None:
    """No home atoms, but halo atoms with rows."""
    positions = np.array([[0.5, 0.5, 0.5], [1.2, 0.5, 0.5], [2.5, 0.5, 0.5]])
    rank = one_of_several(
        positions, np.eye(3) * 8.0, (True, True, True), low=np.array([0.5, 0.0, 0.0]),
        high=np.ones(3), halo=3.0, rng=np.random.default_rng(0),
    )  # fmt: skip
    assert rank.n_local == 0
    assert rank.n_all > 0
    options = {"n_atoms": rank.n_all, "subset": torch.from_numpy(rank.atoms)}
    assert len(decoded(csr(rank, 1.0), rank, **options)) == 0
    found = decoded(csr(rank, 1.0, rows=np.arange(rank.n_all)), rank, **options)
    assert found.n_pairs == 1


def test_ghosts_of_other_ranks() -> None:
    """Newton on and rows of ghosts in half lists are refused; so are owners of owners."""
    rank = ranks("cubic", GRIDS["two along x"], 3.1, seed=1)[0]
    seen = {"n_atoms": rank.n_all, "subset": torch.from_numpy(rank.atoms)}
    error = refused(PairListError, lambda: decoded(csr(rank, 3.1, "newton_on"), rank, **seen))
    assert "other ranks list pairs with halo atoms" in str(error)
    half = csr(rank, 3.1, "newton_off", rows=np.arange(rank.n_all))
    error = refused(PairListError, lambda: decoded(half, rank, **seen))
    assert "rows of local atoms only" in str(error)
    owners = rank.owners.copy()
    image = int(np.flatnonzero((owners != np.arange(rank.n_all)) & (owners >= rank.n_local))[0])
    other = int(np.flatnonzero((owners != np.arange(rank.n_all)) & (owners < rank.n_local))[0])
    owners[image] = other
    error = refused(PairListError, lambda: decoded(csr(rank, 3.1, owners=owners), rank, **seen))
    assert f"owner of atom {image}" in str(error)
    assert "not another image of it" in str(error)
