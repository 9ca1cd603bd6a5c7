"""The pair search where a grid of cells does not work out: thin sheets, wires, lost pairs of atoms.

Left to itself, vesin 0.6.2 divides by zero for the first, and needs seconds or more for the others.
"""

from __future__ import annotations

import time
from typing import Any

import ase
import numpy as np
import pytest
import torch
from feature_parts import cell_of, exact, run, zoo_file

from alchemi_bridge import MetatomicForceProvider, Search
from alchemi_bridge.pairs import find_pairs
from alchemi_bridge.pairs.tree import find_pairs_by_tree
from alchemi_bridge.parity.oracles.images import find_pairs as oracle_pairs

# coordinates of up to 1e4 angstrom carry 1e-12
FORCE = 1e-9


def as_set(first: Any, second: Any, shifts: Any) -> set[tuple[int, ...]]:
    """Pairs once, in either direction."""
    found = set()
    for i, j, shift in zip(first.tolist(), second.tolist(), shifts.tolist(), strict=True):
        there, back = (i, j, *shift), (j, i, *(-s for s in shift))
        assert there not in found
        assert back not in found
        found.add(max(there, back))
    return found


def brute_force(atoms: ase.Atoms, reach: float) -> set[tuple[int, ...]]:
    pairs = oracle_pairs(atoms, reach)
    straight = atoms.positions[pairs.second] - atoms.positions[pairs.first]
    shifts = np.rint((pairs.vectors - straight) @ cell_of(atoms).inverse).astype(int)
    both = zip(pairs.first.tolist(), pairs.second.tolist(), shifts.tolist(), strict=True)
    return {max((i, j, *s), (j, i, *(-k for k in s))) for i, j, s in both}


@pytest.mark.parametrize("seed", range(40))
def test_tree_finds_every_pair_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_atoms = int(rng.integers(1, 20))
    cell = np.diag(rng.uniform(2.0, 9.0, 3)) + rng.uniform(-1.5, 1.5, (3, 3))
    atoms = ase.Atoms(
        f"Ar{n_atoms}",
        positions=rng.uniform(-20.0, 20.0, (n_atoms, 3)),
        cell=cell,
        pbc=rng.integers(0, 2, 3).astype(bool),
    )
    reach = float(rng.uniform(0.5, 7.0))
    found = find_pairs_by_tree(atoms.positions, cell_of(atoms), reach)
    assert as_set(*found) == brute_force(atoms, reach)


SHAPES = {
    "sheet": ((2000.0, 2000.0, 5.0), (True, True, True)),
    "sheet in vacuum": ((2000.0, 2000.0, 0.0), (True, True, False)),
    "wire": ((5.0, 0.0, 0.0), (True, False, False)),
    "needle": ((1e9, 5.0, 5.0), (True, True, True)),
    "vacuum": ((0.0, 0.0, 0.0), (False, False, False)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_that_a_grid_can_not_serve(shape: str) -> None:
    lengths, pbc = SHAPES[shape]
    positions = np.array([[0, 0, 0], [1.1, 0.2, 0], [1999.2, 1999.3, 0.9], [-1e3, 1e3, 1e3]])
    atoms = ase.Atoms("Ar4", positions=positions, cell=lengths, pbc=pbc)
    found = run(MetatomicForceProvider(zoo_file("pair")), atoms)
    expected = exact(atoms)
    assert np.abs(expected.forces).max() > 0.1
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0.0, atol=FORCE)
    np.testing.assert_allclose(found.energies, expected.energies, rtol=0.0, atol=FORCE)


def test_skin_far_beyond_the_molecule() -> None:
    atoms = ase.Atoms("Ar2", positions=[[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    start = time.monotonic()
    found = run(MetatomicForceProvider(zoo_file("pair")), atoms, pairs=Search(1e5))
    assert time.monotonic() - start < 5.0  # seconds; the grid would have 1e15 cells
    np.testing.assert_allclose(found.forces, exact(atoms).forces, rtol=0.0, atol=FORCE)


@pytest.mark.parametrize("seed", range(40))
def test_search_finds_every_pair_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_atoms = int(rng.integers(1, 30))
    atoms = ase.Atoms(
        f"Ar{n_atoms}",
        positions=rng.uniform(-30.0, 30.0, (n_atoms, 3)) * rng.choice([0.05, 0.3, 1.0]),
        cell=np.diag(rng.uniform(2.0, 20.0, 3)) + rng.uniform(-1.5, 1.5, (3, 3)),
        pbc=rng.integers(0, 2, 3).astype(bool),
    )
    reach = float(rng.uniform(0.5, 9.0))
    found = find_pairs(torch.from_numpy(atoms.positions), cell_of(atoms), reach)
    expected = brute_force(atoms, reach)
    listed = zip(found.first.tolist(), found.second.tolist(), found.shifts.tolist(), strict=True)
    assert {max((i, j, *s), (j, i, *(-k for k in s))) for i, j, s in listed} == expected


def test_wire_in_wide_vacuum_is_quick() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [1.1, 0.2, 0.0], [5.0, 800.0, 900.0]])
    atoms = ase.Atoms("Ar3", positions=positions, cell=[13.4, 0, 0], pbc=(True, False, False))
    start = time.monotonic()
    found = run(MetatomicForceProvider(zoo_file("pair")), atoms, pairs=Search(2.0))
    assert time.monotonic() - start < 2.0  # seconds; milliseconds if nothing else runs
    np.testing.assert_allclose(found.forces, exact(atoms).forces, rtol=0.0, atol=FORCE)
