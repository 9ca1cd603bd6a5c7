"""Lists that an engine hands over: when they hold, and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase
import ase.build
import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from alchemi_bridge import (
    Atoms,
    Cell,
    ForceBuffers,
    FullPairs,
    HalfPairs,
    MetatomicForceProvider,
    Search,
    Step,
)
from alchemi_bridge.errors import (
    BridgeError,
    InputError,
    NonFiniteError,
    OverlapError,
    PairListError,
    StalePairsError,
)

#: The same model on the same pairs in float64: only the order of sums may differ.
SAME = 1e-10

#: The same for forces and virial, which are small sums of numbers of order 1 to 100.
SAME_VALUES = 1e-9

ModelFile = Callable[..., Path]


def silicon() -> ase.Atoms:
    atoms = ase.build.bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    return atoms


def full_list(atoms: ase.Atoms, reach: float) -> FullPairs:
    return FullPairs(*neighbor_list("ijS", atoms, reach), reach=reach)


def energy_of(provider: MetatomicForceProvider, positions: np.ndarray, cell: Cell) -> float:
    energy = np.zeros(1)
    out = ForceBuffers(np.zeros_like(positions), energy)
    provider.compute(Step(positions, cell=cell), out).synchronize()
    return float(energy[0])


class Outputs:
    """Buffers of an engine."""

    def __init__(self, n_atoms: int) -> None:
        self.arrays = np.zeros((n_atoms, 3)), np.zeros(1), np.zeros((3, 3))

    def of(
        self, provider: MetatomicForceProvider, positions: np.ndarray, cell: Cell
    ) -> list[np.ndarray]:
        """Forces, energy and virial of a step."""
        for array in self.arrays:
            array[:] = 0.0
        out = ForceBuffers(*self.arrays)
        provider.compute(Step(positions, cell=cell, virial=True), out).synchronize()
        return [array.copy() for array in self.arrays]


@pytest.fixture
def provider(model_file: ModelFile) -> MetatomicForceProvider:
    provider = MetatomicForceProvider(model_file("stillinger_weber"))
    provider.set_atoms(Atoms(silicon().numbers))
    return provider


def searched(provider: MetatomicForceProvider, atoms: ase.Atoms) -> float:
    """The same energy, with the provider's own search at these very positions."""
    other = MetatomicForceProvider(provider.loaded)
    other.set_atoms(Atoms(atoms.numbers))
    cell = Cell.of(atoms.cell.array)
    other.set_pairs(Search(0.0), cell)
    return energy_of(other, atoms.positions, cell)


@pytest.mark.parametrize("scale", [0.85, 0.97, 1.03])
@pytest.mark.parametrize("skin", [0.0, 0.5])
def test_a_barostat_between_list_and_first_step(
    provider: MetatomicForceProvider, scale: float, skin: float
) -> None:
    """The cell of the list is the one that came with it: too short a list is never used."""
    atoms = silicon()
    reach = provider.requirements.pair_range + skin
    provider.set_pairs(full_list(atoms, reach), Cell.of(atoms.cell.array))
    atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
    cell = Cell.of(atoms.cell.array)
    try:
        found = energy_of(provider, atoms.positions, cell)
    except StalePairsError:
        assert (scale, skin) != (1.03, 0.5), "stretched, with skin enough: there was no reason"
    else:
        assert scale > 0.9, "even with the skin this list is too short"
        assert found == pytest.approx(searched(provider, atoms), rel=SAME)


def test_compression_without_a_skin_is_stale(provider: MetatomicForceProvider) -> None:
    atoms = silicon()
    reach = provider.requirements.pair_range
    provider.set_pairs(full_list(atoms, reach), Cell.of(atoms.cell.array))
    energy_of(provider, atoms.positions, Cell.of(atoms.cell.array))
    atoms.set_cell(atoms.cell.array * 0.99, scale_atoms=True)
    with pytest.raises(StalePairsError, match="compressed"):
        energy_of(provider, atoms.positions, Cell.of(atoms.cell.array))


@pytest.mark.parametrize("name", ["stillinger_weber", "lennard_jones", "message_passing"])
@pytest.mark.parametrize("handed", [True, False])
def test_an_engine_that_wraps_keeps_its_list(
    model_file: ModelFile, name: str, handed: bool
) -> None:
    """Each step has other atoms in other cells, the box breathes, and the forces are right.

    As many steps as it takes until the provider has settled how to run the model.
    """
    atoms = silicon()
    if name == "lennard_jones":
        atoms.numbers[:] = 18
    path = model_file(name)
    provider, fresh = MetatomicForceProvider(path), MetatomicForceProvider(path, tuning=False)
    skin, rng = 1.0, np.random.default_rng(3)
    for one in (provider, fresh):
        one.set_atoms(Atoms(atoms.numbers))
    vectors = atoms.cell.array.copy()
    pairs = full_list(atoms, provider.requirements.pair_range + skin) if handed else Search(skin)
    provider.set_pairs(pairs, Cell.of(vectors))
    start, steps = atoms.get_scaled_positions(), 0
    out = Outputs(len(atoms))
    out.of(provider, atoms.positions, Cell.of(vectors))
    while not provider.tuned:
        steps += 1
        assert steps < 100
        cell = Cell.of(vectors @ (np.eye(3) + rng.uniform(-0.003, 0.003, (3, 3))))
        # a common drift over several cells, and each atom wrapped on its own
        fractional = start + 0.003 * rng.uniform(-1.0, 1.0, start.shape) + [0.07 * steps, 0, 0]
        positions = (fractional + rng.integers(-2, 3, start.shape)) @ cell.vectors
        found = out.of(provider, positions, cell)
        fresh.set_pairs(Search(0.0), cell)
        expected = out.of(fresh, positions, cell)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=SAME, atol=SAME_VALUES)
    assert steps > 10
    assert provider.searches == 1
    assert np.abs(found[0]).max() > 0.1


def test_full_list_handed_over_as_half(provider: MetatomicForceProvider) -> None:
    atoms = silicon()
    full = full_list(atoms, 4.5)
    wrong = HalfPairs(full.first, full.second, full.shifts, reach=4.5)
    with pytest.raises(PairListError, match="listed more than once"):
        provider.set_pairs(wrong, Cell.of(atoms.cell.array))


@pytest.mark.parametrize("kind", [NonFiniteError, OverlapError])
def test_a_failed_first_step_is_not_the_first(
    provider: MetatomicForceProvider, kind: type[BridgeError]
) -> None:
    atoms = silicon()
    cell = Cell.of(atoms.cell.array)
    provider.set_pairs(full_list(atoms, 4.5), cell)
    bad = atoms.positions.copy()
    bad[0] = np.nan if kind is NonFiniteError else bad[1]
    with pytest.raises(kind):
        energy_of(provider, bad, cell)
    found = energy_of(provider, atoms.positions, cell)
    assert found == pytest.approx(searched(provider, atoms), rel=SAME)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_arrays_may_be_reused(provider: MetatomicForceProvider, dtype: type) -> None:
    atoms = silicon()
    cell = Cell.of(atoms.cell.array)
    types = atoms.numbers.astype(dtype)
    subset, selected = np.arange(20, dtype=dtype), np.arange(10, dtype=dtype)
    provider.set_atoms(Atoms(types, subset=subset, selected=selected))
    full = full_list(atoms, 4.5)
    arrays = [a.astype(dtype) for a in (full.first, full.second, full.shifts)]
    provider.set_pairs(FullPairs(*arrays, reach=4.5), cell)
    before = energy_of(provider, atoms.positions, cell)
    for array in (types, subset, selected, *arrays):
        array[:] = 0
    assert energy_of(provider, atoms.positions, cell) == pytest.approx(before, rel=SAME)


def test_empty_rank_with_numpy_buffers(provider: MetatomicForceProvider) -> None:
    provider.set_atoms(Atoms(np.zeros(0, dtype=np.int64)))
    provider.set_pairs(Search(0.0), Cell.open())
    assert energy_of(provider, np.zeros((0, 3)), Cell.open()) == 0.0


def test_wrong_objects(provider: MetatomicForceProvider) -> None:
    atoms = silicon()
    cell = Cell.of(atoms.cell.array)
    provider.set_pairs(Search(0.5), cell)
    step = Step(atoms.positions)
    out = ForceBuffers(np.zeros((64, 3)), np.zeros(1))
    calls: list[Callable[[], object]] = [
        lambda: provider.set_atoms(atoms.numbers),  # type: ignore[arg-type]
        lambda: provider.set_pairs(Search(0.5), cell, ready=3),  # type: ignore[arg-type]
        lambda: provider.compute(None, out),  # type: ignore[arg-type]
        lambda: provider.compute(step, None),  # type: ignore[arg-type]
        lambda: provider.compute(Step(atoms.positions, ready=True), out),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(InputError, match="an object of alchemi_bridge's"):
            call()
