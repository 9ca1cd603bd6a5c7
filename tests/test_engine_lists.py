"""Every kind of pair list through the provider: the same forces, energy and virial as a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from engine_lists import CUTOFF, KINDS, REACH, argon, cluster_pairs

from alchemi_bridge import (
    Atoms,
    Cell,
    ClusterPairs,
    ForceBuffers,
    MetatomicForceProvider,
    Search,
    Step,
    Units,
)
from alchemi_bridge import errors as e

NM = 0.1  # per angstrom

#: Sums of a few hundred terms of order 0.01 eV/Å in float64; coordinates of the cluster list are
#: exact, too.
FORCE_TOLERANCE = 1e-12


@pytest.fixture(scope="module")
def atoms() -> ase.Atoms:
    return argon()


def results(
    provider: MetatomicForceProvider, positions: np.ndarray, dtype: torch.dtype = torch.float64
) -> dict[str, np.ndarray]:
    n = len(positions)
    shapes = {"forces": (n, 3), "energy": (1,), "virial": (3, 3)}
    out = {name: np.zeros(shape) for name, shape in shapes.items()}
    there = torch.as_tensor(positions, dtype=dtype)
    provider.compute(Step(there, virial=True), ForceBuffers(**out)).synchronize()
    return out


@pytest.mark.parametrize("full_list", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_forces_of_a_search(
    kind: str, full_list: bool, atoms: ase.Atoms, model_file: Callable[..., Path]
) -> None:
    """Over steps in which atoms move and the engine wraps some of them."""
    model = model_file("lennard-jones", full_list=full_list, cutoff=CUTOFF)
    pairs, positions = KINDS[kind](atoms)
    cell, rng = Cell.of(atoms.cell.array), np.random.default_rng(5)
    handed, searched = (MetatomicForceProvider(model, tuning=False) for _ in range(2))
    for provider, given in ((handed, pairs), (searched, Search(1.0))):
        provider.set_atoms(Atoms(types=np.asarray(atoms.numbers)))
        provider.set_pairs(given, cell)
    first = results(handed, positions)
    assert np.abs(first["forces"]).max() > 1e-3
    for count in range(4):
        moved = positions + rng.normal(scale=0.02, size=positions.shape)
        if count > 1:
            moved[::7] += rng.integers(-2, 3, size=(len(moved[::7]), 3)) @ atoms.cell.array
        expected, found = results(searched, moved), results(handed, moved)
        for name, values in found.items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-12, atol=FORCE_TOLERANCE)
    assert handed.searches == 1


@pytest.mark.parametrize("kind", KINDS)
def test_in_units_of_the_engine(
    kind: str, atoms: ase.Atoms, model_file: Callable[..., Path]
) -> None:
    """Lists of an engine that counts in nm; the reach is in its unit, too."""
    model = model_file("lennard-jones", cutoff=CUTOFF)
    plain = MetatomicForceProvider(model)
    plain.set_atoms(Atoms(types=np.asarray(atoms.numbers)))
    plain.set_pairs(Search(1.0), Cell.of(atoms.cell.array))
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell.array * NM, scale_atoms=True)
    engine = MetatomicForceProvider(model, units=Units("nm", "eV"))
    engine.set_atoms(Atoms(types=np.asarray(atoms.numbers)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine_lists.REACH", REACH * NM)
        pairs, positions = KINDS[kind](scaled)
    engine.set_pairs(pairs, Cell.of(scaled.cell.array))
    expected, found = results(plain, positions / NM), results(engine, positions)
    np.testing.assert_allclose(found["forces"] * NM, expected["forces"], atol=1e-11)
    np.testing.assert_allclose(found["virial"], expected["virial"], atol=1e-11)


@pytest.mark.parametrize("value", [[], (), ["list"], None, 7, {"first": 1}])
def test_what_is_no_pair_list(
    value: object, atoms: ase.Atoms, model_file: Callable[..., Path]
) -> None:
    provider = MetatomicForceProvider(model_file("lennard-jones", cutoff=CUTOFF))
    provider.set_atoms(Atoms(types=np.asarray(atoms.numbers)))
    with pytest.raises(e.PairListError, match="ClusterPairs"):
        provider.set_pairs(value, Cell.of(atoms.cell.array))


def test_several_cluster_lists_of_one_rank(
    atoms: ase.Atoms, model_file: Callable[..., Path]
) -> None:
    """A sequence: here all of the entries, shared out on two lists."""
    pairs, positions = cluster_pairs(atoms)
    model = model_file("lennard-jones", cutoff=CUTOFF)
    whole, parts = (MetatomicForceProvider(model, tuning=False) for _ in range(2))
    for provider, given in ((whole, pairs), (parts, _halves(pairs))):
        provider.set_atoms(Atoms(types=np.asarray(atoms.numbers)))
        provider.set_pairs(given, Cell.of(atoms.cell.array))
    expected, found = results(whole, positions), results(parts, positions)
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])


def _halves(pairs: ClusterPairs) -> list[ClusterPairs]:
    """Two lists with the entries of one, each with its own groups."""
    lists = []
    for rows in (pairs.sci[::2], pairs.sci[1::2]):
        groups = np.concatenate([np.arange(first, last) for first, last in rows[:, 2:]])
        sizes = rows[:, 3] - rows[:, 2]
        ends = np.cumsum(sizes).astype(np.int32)
        entries = np.column_stack([rows[:, :2], ends - sizes, ends]).astype(np.int32)
        lists.append(
            ClusterPairs(
                entries,
                pairs.cj[groups],
                pairs.imask[groups],
                excl_ind=pairs.excl_ind[groups],
                excl=pairs.excl,
                atom_index=pairs.atom_index,
                x=pairs.x,
                reach=pairs.reach,
            )
        )
    return lists
