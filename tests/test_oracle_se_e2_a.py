"""The NumPy se_e2_a against DeePMD-kit's numbers, and against differences of its own energy."""

from __future__ import annotations

import deepmd_golden as golden
import numpy as np
import pytest
from ase import Atoms

from alchemi_bridge.errors import ConfigurationError, SpeciesError
from alchemi_bridge.parity.oracles.dense import ACTIVATIONS, Net
from alchemi_bridge.parity.oracles.se_e2_a import SeE2AOracle

#: Å and strain; differences of fourth order, as in test_oracles.py.
STEP = 2e-4
FORCE_TOLERANCE, VIRIAL_TOLERANCE = 1e-8, 1e-7
#: Derivatives of activation functions by central differences of 1e-5: h² f'''/6, and roundoff.
SLOPE_TOLERANCE = 1e-9


def read(name: str) -> SeE2AOracle:
    return SeE2AOracle.read(golden.FOLDER / f"{name}.npz")


def atoms_of(name: str, label: str) -> tuple[Atoms, dict[str, np.ndarray]]:
    coordinates, cells, types, expected = golden.frame(name, label)
    numbers = np.array(read(name).types)[types.numpy()]
    cell = None if cells is None else cells[0].numpy()
    return Atoms(numbers, coordinates[0].numpy(), cell=cell, pbc=cell is not None), expected


@pytest.mark.parametrize("label", golden.STRUCTURES)
@pytest.mark.parametrize("name", golden.MODELS)
def test_numbers_are_those_of_deepmd_kit(name: str, label: str) -> None:
    atoms, expected = atoms_of(name, label)
    found = read(name).evaluate(atoms)
    for key, limit in golden.limits(name).items():
        np.testing.assert_allclose(getattr(found, key), expected[key], rtol=0.0, atol=limit)
    assert found.energy == pytest.approx(expected["energies"].sum(), abs=1e-5)


@pytest.mark.parametrize("name", ["se_e2_a-excluded", "se_e2_a-one-side", "se_e2_a-water"])
def test_forces_and_virial_are_derivatives(name: str) -> None:
    atoms, _ = atoms_of(name, "molecule")
    atoms.rattle(0.05, seed=1)
    oracle = read(name)
    result = oracle.evaluate(atoms)
    assert np.abs(result.forces).max() > 1e-2
    for axis in range(3):
        for atom in (0, 5):
            change = np.zeros((len(atoms), 3))
            change[atom, axis] = 1.0
            expected = -_difference(oracle, atoms, lambda h, d=change: atoms.positions + h * d)
            assert result.forces[atom, axis] == pytest.approx(expected, abs=FORCE_TOLERANCE)
        strain = np.zeros((3, 3))
        strain[axis, (axis + 1) % 3] = 1.0
        expected = _difference(
            oracle, atoms, lambda h, s=strain: atoms.positions @ (np.eye(3) + h * s)
        )
        found = result.virial[axis, (axis + 1) % 3]
        assert found == pytest.approx(expected, abs=VIRIAL_TOLERANCE)


def _difference(oracle: SeE2AOracle, atoms: Atoms, moved) -> float:
    total = 0.0
    for k, weight in {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}.items():
        other = atoms.copy()
        other.positions = moved(k * STEP)
        total += weight * oracle.evaluate(other).energy / STEP
    return total


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_functions_have_the_right_slope(name: str) -> None:
    x = np.linspace(-3.0, 3.0, 25)
    _, slope = ACTIVATIONS[name](x)
    above, below = ACTIVATIONS[name](x + 1e-5)[0], ACTIVATIONS[name](x - 1e-5)[0]
    np.testing.assert_allclose(slope, (above - below) / 2e-5, atol=SLOPE_TOLERANCE)


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="relu6"):
        Net({}, "relu6", False)
    with pytest.raises(SpeciesError, match="29"):
        read("se_e2_a-water").evaluate(Atoms("Cu"))
