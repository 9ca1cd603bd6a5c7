"""Broken models are caught by the checks that should catch them, and by no others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import verify_models as models
import zoo
from ase import Atoms
from ase.build import bulk
from metatomic.torch import AtomisticModel
from verify_models import broken

from alchemi_bridge.delivery import Delivery
from alchemi_bridge.provider import MetatomicForceProvider
from alchemi_bridge.units import conversion_factor
from alchemi_bridge.verify import CHECKS, Measure, Report, Status, verify
from alchemi_bridge.verify.check import conclude
from alchemi_bridge.verify.machine import judge_repetitions

#: Jumps are bisected down to 1e-10 Å, over which the potential changes by less than 1e-9.
JUMP_ACCURACY = 1e-8

#: The check of the memory takes longest, and looks at the whole process: it runs where it matters.
WITHOUT_MEMORY = [name for name in CHECKS if name != "memory"]


@pytest.fixture(scope="module")
def silicon() -> Atoms:
    """Eight atoms without symmetry, in a cell that is smaller than twice the cutoff."""
    atoms = bulk("Si", "diamond", a=5.2, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * np.tri(3)), scale_atoms=True)
    atoms.positions += np.random.default_rng(7).normal(scale=0.08, size=(8, 3))
    return atoms


def with_status(report: Report, *statuses: Status) -> set[str]:
    return {outcome.name for outcome in report.outcomes if outcome.status in statuses}


def failed(report: Report) -> set[str]:
    return with_status(report, Status.FAIL, Status.ERROR)


#: The fault, and the checks that fail because of it.
FAULTS: dict[str, tuple[Callable[[], AtomisticModel], set[str]]] = {
    "energy term without gradient": (
        lambda: broken(models.Detached()),
        {"forces", "stress"},
    ),
    "cell without gradient": (lambda: broken(models.DetachedVolume()), {"stress"}),
    "reads the number of an atom": (lambda: broken(models.Numbered()), {"permutation"}),
    "reads unwrapped positions": (zoo.reads_positions, {"wrapping"}),
    "energy of N squared": (
        lambda: broken(models.MeanField()),
        {"extensivity", "far-apart"},
    ),
    "range is longer than declared": (
        lambda: broken(models.AllDistances()),
        {"wrapping", "extensivity", "far-apart"},
    ),
    "no neighbours, no number": (
        lambda: broken(models.PerNeighbor()),
        {"isolated-atom", "far-apart", "cutoff-energy", "cutoff-force"},
    ),
    "per-atom energies of another scale": (
        lambda: broken(models.Faulty("per-atom")),
        {"per-atom-energies"},
    ),
    "jump at the cutoff": (zoo.jump_at_cutoff, {"cutoff-energy"}),
    "jump inside the cutoff": (
        lambda: broken(models.Shapes("inner jump")),
        {"cutoff-energy"},
    ),
    "batch changes the numbers": (lambda: broken(models.Faulty("batch")), {"batch"}),
    "leaks tensors": (lambda: broken(models.Leaking("tensors")), {"memory"}),
    "leaks bytes": (lambda: broken(models.Leaking("bytes")), {"memory"}),
    "nothing but the truth": (zoo.pair, set()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_caught_by_its_checks(fault: str, silicon: Atoms) -> None:
    make_model, expected = FAULTS[fault]
    checks = list(CHECKS) if expected == {"memory"} else WITHOUT_MEMORY
    report = verify(make_model(), silicon, checks=checks)
    assert failed(report) == expected
    assert report.passed is not bool(expected)
    assert [outcome.name for outcome in report.outcomes] == checks


#: The property that a model lacks by design, and the checks that report it without failing.
BY_DESIGN: dict[str, tuple[Callable[[], AtomisticModel], set[str]]] = {
    "external field": (
        zoo.not_invariant,
        {
            "translation",
            "rotation",
            "inversion",
            "wrapping",
            "extensivity",
            "isolated-atom",
            "net-force",
        },
    ),
    "anisotropic": (lambda: broken(models.Shapes("anisotropic")), {"rotation", "net-torque"}),
    "chiral": (lambda: broken(models.Chiral()), {"inversion"}),
}


@pytest.mark.parametrize("design", BY_DESIGN)
def test_what_a_model_lacks_by_design_is_reported(design: str, silicon: Atoms) -> None:
    make_model, expected = BY_DESIGN[design]
    report = verify(make_model(), silicon, checks=WITHOUT_MEMORY)
    assert with_status(report, Status.REPORTED) == expected
    assert report.passed
    for name in expected:
        outcome = report.outcome(name)
        assert outcome.value is not None
        assert outcome.value > outcome.tolerance


def test_numbers_are_the_size_of_the_fault(silicon: Atoms) -> None:
    jump = verify(zoo.jump_at_cutoff(), silicon, checks=["cutoff-energy"]).outcomes[0]
    assert jump.value == pytest.approx(0.1, abs=JUMP_ACCURACY)
    assert "the pair Si2 is 3 Å long" in jump.message

    inner = verify(broken(models.Shapes("inner jump")), silicon, checks=["cutoff-energy"])
    assert inner.outcomes[0].value == pytest.approx(models.JUMP, abs=JUMP_ACCURACY)
    assert f"the pair Si2 is {models.INNER_RADIUS} Å long" in inner.outcomes[0].message

    # 10 % of the energy has no gradient: the derivative is 1.1 times the force that is given
    detached = verify(broken(models.Detached()), silicon, checks=["forces"]).outcomes[0]
    assert 0.05 < detached.value < 0.5

    surplus = verify(broken(models.Faulty("per-atom")), silicon, checks=["per-atom-energies"])
    total = verify(zoo.pair(), silicon, checks=["extensivity"])
    assert total.passed
    assert 1e-3 < surplus.outcomes[0].value < 1.0

    leak = verify(broken(models.Leaking("tensors")), silicon, checks=["memory"]).outcomes[0]
    by_name = {measure.quantity: measure.value for measure in leak.measures}
    assert by_name["tensors alive"] == 1.0
    assert by_name.get("heap in use", 8 * models.LEAKED) >= 8 * models.LEAKED


def test_a_force_that_jumps_is_a_warning_with_its_number(silicon: Atoms) -> None:
    report = verify(broken(models.Shapes("linear")), silicon, checks=WITHOUT_MEMORY)
    assert report.passed
    assert with_status(report, Status.WARNING) == {"cutoff-force"}
    # the slope of 1 - r / rc, all of it at the cutoff
    jump = report.outcome("cutoff-force").value
    assert jump == pytest.approx(1.0 / zoo.CUTOFF, abs=JUMP_ACCURACY)
    assert with_status(report, Status.REPORTED, Status.FAIL) == set()


@pytest.mark.parametrize(
    "make_model",
    [
        zoo.random,
        lambda: broken(models.Flickering(1e-3)),
        # on a CPU nothing excuses even the last bit
        lambda: broken(models.Flickering(1e-14)),
    ],
    ids=["random", "flickers", "last-bits"],
)
def test_other_numbers_each_time_fail(
    make_model: Callable[[], AtomisticModel], silicon: Atoms
) -> None:
    report = verify(make_model(), silicon, checks=["repeatability"])
    assert failed(report) == {"repeatability"}
    outcome = report.outcome("repeatability")
    assert outcome.value > 0.0
    assert outcome.value > outcome.tolerance


def test_rounding_between_repetitions_is_excused_on_a_gpu_only() -> None:
    def status(value: float, device: str) -> tuple[Status, float | None]:
        measures = (Measure("force", value, "eV/Å", 1e-12), Measure("virial", 0.0, "eV", 1e-12))
        found = judge_repetitions(measures, device == "cpu")
        outcome = conclude(CHECKS["repeatability"], found, 0.0)
        return outcome.status, outcome.tolerance

    assert status(0.0, "cpu") == status(0.0, "cuda") == (Status.PASS, 0.0)
    assert status(1e-15, "cpu") == (Status.FAIL, 0.0)
    assert status(1e-15, "cuda") == (Status.REPORTED, 0.0)
    assert status(1e-3, "cpu") == status(1e-3, "cuda") == (Status.FAIL, 1e-12)


def test_wrong_conversion_of_units_is_caught(
    silicon: Atoms, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(MetatomicForceProvider):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            if self.units.energy != "eV":
                energy = conversion_factor(self.loaded.energy_unit, self.units.energy)
                length = conversion_factor(self.units.length, self.loaded.length_unit)
                self._delivery = Delivery(energy * (1.0 + 1e-6), length)  # another calorie

    monkeypatch.setattr("alchemi_bridge.verify.route.MetatomicForceProvider", Wrong)
    report = verify(zoo.pair(), silicon, checks=WITHOUT_MEMORY)
    assert failed(report) == {"units"}


def test_forces_that_are_no_gradient_are_reported(silicon: Atoms) -> None:
    report = verify(
        zoo.non_conservative(), silicon, checks=["forces", "stress"], non_conservative=True
    )
    assert with_status(report, Status.REPORTED) == {"forces", "stress"}
    assert report.outcome("forces").value > 0.1
    assert "own output" in report.outcome("forces").message
    assert verify(zoo.non_conservative(), silicon, checks=["forces", "stress"]).passed


def test_an_error_in_one_check_does_not_stop_the_others(silicon: Atoms) -> None:
    # only the supercell is too large for this model
    report = verify(zoo.raises(limit=len(silicon)), silicon, checks=WITHOUT_MEMORY)
    errors = with_status(report, Status.ERROR)
    assert errors == {"extensivity"}
    assert "zoo: too many atoms" in report.outcome("extensivity").message
    assert not report.passed
    assert len(report.outcomes) == len(WITHOUT_MEMORY)


def test_a_model_of_nan_is_an_error_everywhere_and_no_crash(silicon: Atoms) -> None:
    report = verify(zoo.nan_energy(threshold=2.9), silicon)
    assert not report.passed
    assert {"forces", "stress", "rotation", "memory", "units"} <= with_status(report, Status.ERROR)
    assert "NonFiniteResultError" in report.outcome("forces").message
