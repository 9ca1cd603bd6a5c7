"""The NumPy oracles against finite differences of their own energy and against known answers."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from known_potentials import POTENTIALS, SHAPES, SPECIES, structure

from alchemi_bridge.errors import CellError, ConfigurationError, SpeciesError
from alchemi_bridge.parity import oracles
from alchemi_bridge.parity.oracles.images import find_pairs

STEP = 2e-4  # Å, and strain
# differences of fourth order: their error, h^4 f^(5) / 30, is far below the round-off of the energy
# (1e-13 eV over 1e-4 Å), which leaves a factor of ten
FORCE_TOLERANCE = 1e-8  # eV/Å
VIRIAL_TOLERANCE = 1e-7  # eV; the sum over all pairs, times distances up to the cutoff


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cutoff", [2.7, 3.9, 8.1])
def test_pairs_are_those_of_ase(shape: str, cutoff: float) -> None:
    atoms = structure(shape, "stillinger-weber")
    found = find_pairs(atoms, cutoff)
    i, j, vectors = neighbor_list("ijD", atoms, cutoff)

    def key(first, second, vector):
        return sorted(
            (int(a), int(b), *np.round(v, 6) + 0.0)
            for a, b, v in zip(first, second, vector, strict=True)
        )

    assert len(i) > 0
    assert key(found.first, found.second, found.vectors) == key(i, j, vectors)
    assert (np.diff(found.first) >= 0).all()
    np.testing.assert_allclose(found.lengths, np.linalg.norm(found.vectors, axis=1))


def test_pair_at_the_cutoff_is_out() -> None:
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [3.0, 0, 0]])
    assert len(find_pairs(atoms, 3.0).first) == 0
    assert len(find_pairs(atoms, np.nextafter(3.0, 4.0)).first) == 2


def test_fcc_shells() -> None:
    # 12, 6, 24, 12 neighbours at a/sqrt(2), a, ...; one atom per cell, all pairs are own images
    atoms = bulk("Ar", "fcc", a=4.0)
    for cutoff, expected in ((2.9, 12), (4.1, 18), (5.0, 42), (5.7, 54)):
        assert len(find_pairs(atoms, cutoff).first) == expected


def test_vectors_without_periodicity_do_not_matter() -> None:
    slab = structure("slab", "stillinger-weber")
    other = slab.copy()
    other.set_cell(np.vstack([slab.cell.array[:2], [1.0, 2.0, 3.0]]), scale_atoms=False)
    oracle = oracles.build("stillinger-weber")
    a, b = oracle.evaluate(slab), oracle.evaluate(other)
    assert a.energy == pytest.approx(b.energy, rel=1e-14)
    np.testing.assert_allclose(a.forces, b.forces, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", POTENTIALS)
def test_forces_are_the_derivative_of_the_energy(name: str, shape: str) -> None:
    atoms = structure(shape, name)
    oracle = oracles.build(name)
    result = oracle.evaluate(atoms)
    assert result.energies.shape == (len(atoms),)
    assert result.energy == pytest.approx(result.energies.sum(), rel=1e-14)
    np.testing.assert_allclose(result.forces.sum(axis=0), 0.0, atol=1e-10)
    for atom in range(0, len(atoms), max(1, len(atoms) // 4)):
        for axis in range(3):
            expected = -_difference(oracle, atoms, lambda a, h, n=atom, k=axis: _move(a, n, k, h))
            assert result.forces[atom, axis] == pytest.approx(expected, abs=FORCE_TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", POTENTIALS)
def test_virial_is_the_derivative_with_respect_to_strain(name: str, shape: str) -> None:
    atoms = structure(shape, name)
    oracle = oracles.build(name)
    virial = oracle.evaluate(atoms).virial
    assert np.abs(virial).max() > 1e-3
    for a in range(3):
        for b in range(3):
            expected = _difference(oracle, atoms, lambda s, h, i=a, j=b: _strain(s, i, j, h))
            assert virial[a, b] == pytest.approx(expected, abs=VIRIAL_TOLERANCE)


def _difference(oracle, atoms: Atoms, change) -> float:
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    return sum(
        weight * oracle.evaluate(change(atoms.copy(), k * STEP)).energy / STEP
        for k, weight in weights.items()
    )


def _move(atoms: Atoms, atom: int, axis: int, by: float) -> Atoms:
    atoms.positions[atom, axis] += by
    return atoms


def _strain(atoms: Atoms, a: int, b: int, by: float) -> Atoms:
    matrix = np.eye(3)
    matrix[a, b] += by
    atoms.set_cell(atoms.cell.array @ matrix, scale_atoms=False)
    atoms.positions = atoms.positions @ matrix
    return atoms


@pytest.mark.parametrize("truncation", ["none", "energy-shift", "force-shift"])
def test_lennard_jones_truncations(truncation: str) -> None:
    atoms = structure("small", "lennard-jones")
    oracle = oracles.build("lennard-jones", truncation=truncation, cutoff=6.0)
    forces = oracle.evaluate(atoms).forces
    expected = -_difference(oracle, atoms, lambda a, h: _move(a, 0, 1, h))
    assert forces[0, 1] == pytest.approx(expected, abs=FORCE_TOLERANCE)


def test_lennard_jones_pair() -> None:
    oracle = oracles.build("lennard-jones", truncation="none")
    for numbers, epsilon, sigma in (
        ((18, 18), 0.01042332, 3.40),
        ((18, 36), (0.01042332 * 0.01404340) ** 0.5, 3.525),
    ):
        r = 2 ** (1 / 6) * sigma
        result = oracle.evaluate(Atoms(numbers, positions=[[0, 0, 0], [0, r, 0]]))
        assert result.energy == pytest.approx(-epsilon, rel=1e-13)
        np.testing.assert_allclose(result.forces, 0.0, atol=1e-14)


def test_silicon_crystal_has_the_published_energy() -> None:
    # two bonds of -epsilon per atom, Phys. Rev. B 31, 5262 (1985)
    crystal = bulk("Si", "diamond", a=5.431)
    result = oracles.build("stillinger-weber").evaluate(crystal)
    assert result.energy / 2 == pytest.approx(-2 * 2.1683, abs=1e-4)
    np.testing.assert_allclose(result.forces, 0.0, atol=1e-12)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-8, 1e-15])
def test_stillinger_weber_is_finite_just_inside_the_cutoff(gap: float) -> None:
    oracle = oracles.build("stillinger-weber")
    r = oracle.cutoff - gap
    atoms = Atoms("Si3", positions=[[0, 0, 0], [r, 0, 0], [0, r, 0]])
    result = oracle.evaluate(atoms)
    assert abs(result.energy) < 1e-12
    assert np.isfinite(result.forces).all()


@pytest.mark.parametrize("name", POTENTIALS)
def test_nothing_to_sum(name: str) -> None:
    number, _ = SPECIES[name]
    oracle = oracles.build(name)
    none = oracle.evaluate(Atoms())
    assert none.energy == 0.0
    assert none.forces.shape == (0, 3)
    apart = oracle.evaluate(Atoms([number] * 2, positions=[[0, 0, 0], [50, 0, 0]]))
    np.testing.assert_array_equal(apart.forces, np.zeros((2, 3)))
    np.testing.assert_array_equal(apart.virial, np.zeros((3, 3)))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ConfigurationError, match="one of lennard-jones"):
        oracles.build("morse")
    with pytest.raises(ConfigurationError, match="depth"):
        oracles.build("lennard-jones", depth=1.0)
    for name in POTENTIALS:
        with pytest.raises(SpeciesError, match="79"):
            oracles.build(name).evaluate(Atoms("Au"))
    flat = Atoms("Ar", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True)
    with pytest.raises(CellError, match="independent"):
        oracles.build("lennard-jones").evaluate(flat)
    empty = Atoms("Ar", cell=[[1, 0, 0], [0, 0, 0], [0, 0, 1]], pbc=True)
    with pytest.raises(CellError, match="independent"):
        oracles.build("lennard-jones").evaluate(empty)
