"""Comparisons: what passes, what does not, and that nothing passes by accident."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from alchemi_bridge.errors import InputError
from alchemi_bridge.parity import tolerances as limits_of
from alchemi_bridge.parity.compare import Check, Comparison, Precision, compare, limits
from alchemi_bridge.parity.results import PathResult, rms

F64 = Precision("float64")
F32 = Precision("float32")
CHECKS = ("energy_relative", "force_max", "force_rms", "virial_per_atom", "energies_max")


def result(n_atoms: int = 4) -> PathResult:
    rng = np.random.default_rng(3)
    energies = rng.normal(-2.0, 0.1, n_atoms)
    virial = rng.normal(0.0, 1.0, (3, 3))
    return PathResult(
        energy=float(energies.sum()),
        forces=rng.normal(0.0, 1.0, (n_atoms, 3)),
        virial=virial + virial.T,
        energies=energies,
    )


def compared(found: PathResult, right: PathResult, precision: Precision = F64) -> Comparison:
    return compare([found], [right], precision=precision)


def failed(comparison: Comparison) -> set[str]:
    return {check.name for check in comparison.failures}


def test_equal_results_pass_with_every_check() -> None:
    comparison = compared(result(), result())
    assert comparison.passed
    assert tuple(check.name for check in comparison.checks) == CHECKS
    assert all(check.error == 0.0 for check in comparison.checks)
    assert comparison.energy_error_per_atom == 0.0


def test_errors_are_what_they_say() -> None:
    right = result()
    forces = right.forces.copy()
    forces[2, 0] += 3e-3
    found = PathResult(
        energy=right.energy + 4e-3,
        forces=forces,
        virial=right.virial + np.diag([0.0, 8e-3, 0.0]),
        energies=right.energies + np.array([0.0, -5e-4, 0.0, 0.0]),
    )
    comparison = compared(found, right)
    assert comparison.energy_error_per_atom == pytest.approx(1e-3)
    assert comparison.error("energy_relative") == pytest.approx(4e-3 / abs(right.energy))
    assert comparison.error("force_max") == pytest.approx(3e-3)
    assert comparison.error("force_rms") == pytest.approx(3e-3 / math.sqrt(12))
    assert comparison.error("virial_per_atom") == pytest.approx(2e-3)
    assert comparison.error("energies_max") == pytest.approx(5e-4)
    assert failed(comparison) == set(CHECKS)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"energy": 1.0 + 2e-10}, {"energy_relative"}),
        ({"forces": 2e-9}, {"force_max"}),
        ({"virial": 8e-9}, {"virial_per_atom"}),
        ({"energies": 2e-9}, {"energies_max"}),
    ],
)
def test_each_quantity_fails_by_itself_just_beyond_its_tolerance(
    change: dict[str, float], names: set[str]
) -> None:
    right = result()
    ((name, amount),) = change.items()
    value = getattr(right, name)
    if name == "energy":
        found = dataclasses.replace(right, energy=value * amount)
        close = dataclasses.replace(right, energy=value * (1.0 + (amount - 1.0) / 4))
    else:
        wrong = np.zeros_like(value)
        wrong.flat[1] = amount
        found = dataclasses.replace(right, **{name: value + wrong})
        close = dataclasses.replace(right, **{name: value + wrong / 4})
    assert failed(compared(found, right)) == names
    assert compared(close, right).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["energy", "forces", "virial", "energies"])
@pytest.mark.parametrize("side", ["path", "reference", "both"])
def test_numbers_that_are_not_finite_fail(bad: float, name: str, side: str) -> None:
    good = result()
    value = getattr(good, name)
    if name == "energy":
        spoiled = dataclasses.replace(good, energy=bad)
    else:
        array = value.copy()
        array.flat[-1] = bad
        spoiled = dataclasses.replace(good, **{name: array})
    comparison = compared(
        spoiled if side != "reference" else good, spoiled if side != "path" else good
    )
    assert not comparison.passed
    checks = [check for check in comparison.checks if check.quantity == name]
    assert checks
    for check in checks:
        assert not check.passed
        assert check.error is None
        assert "not finite" in (check.problem or "")
    if name == "energy":
        assert comparison.energy_error_per_atom is None


@pytest.mark.parametrize("bad_frame", [0, 1, 2])
def test_a_nan_in_any_frame_fails(bad_frame: int) -> None:
    right = [result()] * 3
    found = list(right)
    found[bad_frame] = dataclasses.replace(right[0], energy=math.nan)
    comparison = compare(found, right, precision=F64)
    assert failed(comparison) == {"energy_relative"}
    assert comparison.energy_error_per_atom is None


@pytest.mark.parametrize("bad_frame", [0, 1, 2])
def test_the_worst_frame_counts(bad_frame: int) -> None:
    right = [result()] * 3
    found = list(right)
    found[bad_frame] = dataclasses.replace(right[0], forces=right[0].forces + 1e-3)
    comparison = compare(found, right, precision=F64)
    assert comparison.error("force_max") == pytest.approx(1e-3)
    assert failed(comparison) == {"force_max", "force_rms"}


@pytest.mark.parametrize("name", ["virial", "energies"])
def test_a_promised_quantity_that_is_missing_fails(name: str) -> None:
    right = result()
    found = dataclasses.replace(right, **{name: None})
    comparison = compared(found, right)
    assert {check.quantity for check in comparison.failures} == {name}
    assert comparison.failures[0].describe() == f"{name}: missing"
    # where it was not promised it is not asked for, and says so by its absence
    without = compare([found], [right], precision=F64, expected={"energy", "forces"})
    assert without.passed
    assert not any(check.quantity == name for check in without.checks)


def test_what_the_reference_lacks_is_not_compared() -> None:
    right = dataclasses.replace(result(), energies=None)
    comparison = compared(result(), right)
    assert comparison.passed
    assert "energies_max" not in {check.name for check in comparison.checks}


@pytest.mark.parametrize("name", ["forces", "virial", "energies"])
def test_a_wrong_shape_fails_instead_of_broadcasting(name: str) -> None:
    right = result()
    found = dataclasses.replace(right, **{name: getattr(right, name)[:1]})
    comparison = compared(found, right)
    assert {check.quantity for check in comparison.failures} == {name}
    assert "shape" in (comparison.failures[0].problem or "")


def test_nothing_compared_is_not_a_pass() -> None:
    assert not compare([result()], [result()], precision=F64, expected=()).passed


def test_no_frames_or_unequal_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="frames"):
        compare([], [], precision=F64)
    with pytest.raises(InputError, match="frames"):
        compare([result()], [result(), result()], precision=F64)


def test_a_check_without_an_error_or_with_nan_does_not_pass() -> None:
    assert not Check("force_max", "forces", None, 1.0, "eV/Å").passed
    assert not Check("force_max", "forces", math.nan, 1.0, "eV/Å").passed
    assert not Check("force_max", "forces", 0.0, math.nan, "eV/Å").passed
    assert Check("force_max", "forces", 1.0, 1.0, "eV/Å").passed


def test_zero_energy_is_compared_on_an_absolute_scale() -> None:
    right = dataclasses.replace(result(), energy=0.0)
    floor = len(right.forces) * limits_of.ENERGY_FLOOR
    near = dataclasses.replace(right, energy=0.5 * limits_of.ENERGY_RELATIVE_F64 * floor)
    far = dataclasses.replace(right, energy=2.0 * limits_of.ENERGY_RELATIVE_F64 * floor)
    assert compared(near, right).passed
    assert failed(compared(far, right)) == {"energy_relative"}


def test_float32_forces_are_judged_by_the_rms_force() -> None:
    right = result()
    scale = rms(right.forces)
    shift = np.zeros_like(right.forces)
    shift[0, 0] = 0.9e-5 * scale
    assert compared(dataclasses.replace(right, forces=right.forces + shift), right, F32).passed
    shift[0, 0] = 1.1e-5 * scale
    found = dataclasses.replace(right, forces=right.forces + shift)
    assert failed(compared(found, right, F32)) == {"force_max"}
    # vanishing forces do not make the tolerance vanish
    none = dataclasses.replace(right, forces=np.zeros_like(right.forces))
    expected = limits_of.FORCE_RELATIVE_F32 * limits_of.FORCE_FLOOR_F32
    assert limits(none, F32).force_max == pytest.approx(expected)


def test_float32_limits_grow_with_the_coordinates_and_an_inexact_reference() -> None:
    one = limits(result(), F32).force_max
    assert limits(result(), Precision("float32", extent=30.0)).force_max == pytest.approx(one)
    assert limits(result(), Precision("float32", extent=90.0)).force_max == pytest.approx(3 * one)
    both = Precision("float32", exact_reference=False)
    assert limits(result(), both).force_max == pytest.approx(2 * one)
    # float64 has digits to spare
    assert limits(result(), Precision("float64", 90.0, False)) == limits(result(), F64)


def test_large_forces_get_a_relative_limit_in_float64() -> None:
    right = dataclasses.replace(result(), forces=np.full((4, 3), 1000.0))
    assert limits(right, F64).force_max == pytest.approx(1e-7)
    assert limits(result(), F64).force_max == limits_of.FORCE_F64
