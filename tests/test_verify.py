"""Verification of sound models on all kinds of structures, and the parts that it is made of."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zoo
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms
from ase.data import reference_states
from metatomic.torch import AtomisticModel

from alchemi_bridge.errors import (
    ConfigurationError,
    InputError,
    OverlapError,
    SpeciesError,
    UnsupportedOutputError,
)
from alchemi_bridge.potentials import build
from alchemi_bridge.verify import CHECKS, Report, Severity, Status, verify
from alchemi_bridge.verify.check import Check, Finding, Measure, NotApplicable, conclude
from alchemi_bridge.verify.differences import derivative
from alchemi_bridge.verify.footprint import heap_in_use
from alchemi_bridge.verify.generate import (
    SANE_FORCE,
    choose_types,
    cluster_of,
    crystal,
    expanded_until_sane,
    neighbor_distance,
    pair_distances,
)
from alchemi_bridge.verify.gradients import STEPS_F64

#: Finite differences of a float64 energy, relative; the check itself allows 1e-6.
DIFFERENCES = 1e-8

#: Extrapolated central differences of a smooth function of order 1.
EXTRAPOLATED = 1e-10


def with_status(report: Report, *statuses: Status) -> set[str]:
    return {outcome.name for outcome in report.outcomes if outcome.status in statuses}


@pytest.fixture(scope="module")
def silicon() -> Atoms:
    """Eight atoms without symmetry."""
    atoms = bulk("Si", "diamond", a=5.2, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * np.tri(3)), scale_atoms=True)
    atoms.positions += np.random.default_rng(7).normal(scale=0.08, size=(8, 3))
    return atoms


# --- sound models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lennard-jones", "stillinger-weber", "message-passing"])
def test_potentials_pass_every_check(name: str) -> None:
    checks = [check for check in CHECKS if check != "memory"]
    report = verify(build(name), checks=checks)
    assert {outcome.name: str(outcome.status) for outcome in report.outcomes} == dict.fromkeys(
        checks, "pass"
    )
    assert report.passed
    assert report.outcome("forces").value < DIFFERENCES
    assert report.outcome("stress").value < DIFFERENCES
    assert "the same bits" in report.outcome("repeatability").message


MEMORY = """
import sys
import torch
from alchemi_bridge.potentials import build
from alchemi_bridge.verify import verify
torch.set_num_threads(1)
print(verify(build(sys.argv[1], dtype=sys.argv[2]), checks=["memory"]).outcomes[0])
"""


@pytest.mark.parametrize("name", ["lennard-jones", "stillinger-weber", "message-passing"])
def test_memory_of_the_potentials_does_not_grow(name: str) -> None:
    """In a process of its own: this one holds what thousands of tests have left behind."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, name, "float64"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "status=<Status.PASS" in done.stdout, done.stdout


def test_float32_passes_with_its_own_tolerances() -> None:
    checks = [check for check in CHECKS if check != "memory"]
    report = verify(build("stillinger-weber", dtype="float32"), checks=checks)
    assert report.passed
    assert with_status(report, Status.WARNING, Status.NOT_APPLICABLE) == set()
    forces = report.outcome("forces")
    assert 1e-6 < forces.tolerance < 1e-2
    assert "float32" in forces.message


@pytest.mark.parametrize(
    "make_model",
    [zoo.several_cutoffs, zoo.half_list, zoo.not_strict, zoo.nm_units, zoo.reads_cell],
    ids=lambda make_model: make_model.__name__,
)
def test_peculiar_but_sound_models_pass(
    make_model: Callable[[], AtomisticModel], silicon: Atoms
) -> None:
    checks = [name for name in CHECKS if name != "memory"]
    report = verify(make_model(), silicon, checks=checks)
    assert with_status(report, Status.PASS) == set(checks)


def test_all_cutoffs_are_scanned() -> None:
    message = verify(zoo.several_cutoffs(), checks=["cutoff-energy"]).outcomes[0].message
    assert "3, 4, 4.5 Å" in message
    assert (
        "scanned through 4 Å"
        in verify(zoo.nm_units(), checks=["cutoff-energy"]).outcomes[0].message
    )


def test_model_without_per_atom_energies(silicon: Atoms) -> None:
    report = verify(zoo.per_system_only(), silicon, checks=["forces", "batch", "per-atom-energies"])
    assert with_status(report, Status.PASS) == {"forces", "batch"}
    assert with_status(report, Status.NOT_APPLICABLE) == {"per-atom-energies"}


def test_model_without_neighbours_and_gradient(silicon: Atoms) -> None:
    report = verify(
        zoo.constant_energy(), silicon, checks=["cutoff-energy", "extensivity", "permutation"]
    )
    assert with_status(report, Status.NOT_APPLICABLE) == {"cutoff-energy"}
    assert with_status(report, Status.PASS) == {"extensivity", "permutation"}


# --- structures -----------------------------------------------------------------------------------


def test_slab_has_in_plane_stress() -> None:
    slab = fcc111("Al", (3, 3, 3), a=4.05, vacuum=None)
    slab.numbers[:] = 14
    slab.pbc = (True, True, False)
    slab.positions += np.random.default_rng(3).normal(scale=0.1, size=slab.positions.shape)
    slab.rotate(30, (1, 2, 3), rotate_cell=True)
    report = verify(build("stillinger-weber"), slab, checks=["stress", "wrapping", "extensivity"])
    assert with_status(report, Status.PASS) == {"stress", "wrapping", "extensivity"}
    stress = report.outcome("stress")
    assert stress.value < DIFFERENCES
    assert "3 strains in the periodic directions" in stress.message
    assert "2x2x1" in report.outcome("extensivity").message


def test_molecule() -> None:
    molecule = cluster_of(bulk("Si", "diamond", a=5.3, cubic=True))
    molecule.positions += np.random.default_rng(5).normal(scale=0.1, size=molecule.positions.shape)
    checks = [name for name in CHECKS if name != "memory"]
    report = verify(build("stillinger-weber"), molecule, checks=checks)
    assert with_status(report, Status.NOT_APPLICABLE) == {"stress", "wrapping"}
    assert with_status(report, Status.PASS) == set(checks) - {"stress", "wrapping"}
    assert "no stress" in report.outcome("stress").message
    assert "two copies" in report.outcome("extensivity").message


def test_wire_has_one_strain() -> None:
    wire = bulk("Si", "diamond", a=5.3, cubic=True)
    wire.positions += np.random.default_rng(6).normal(scale=0.1, size=wire.positions.shape)
    wire.pbc = (False, True, False)
    wire.cell[[0, 2]] = 0.0
    stress = verify(build("stillinger-weber"), wire, checks=["stress"]).outcomes[0]
    assert stress.status is Status.PASS
    assert stress.value < DIFFERENCES
    assert "1 strains in" in stress.message


def test_single_atom() -> None:
    report = verify(build("stillinger-weber"), Atoms("Si"), checks=["forces", "permutation"])
    assert with_status(report, Status.PASS) == {"forces"}
    assert with_status(report, Status.NOT_APPLICABLE) == {"permutation"}


def test_perfect_crystal_is_rattled_and_said_so() -> None:
    # one atom in its primitive cell never feels a force
    argon = bulk("Ar", "fcc", a=5.3)
    report = verify(build("lennard-jones"), argon, checks=["forces", "inversion"])
    assert report.passed
    assert "rattled" in report.structure
    assert report.structure.startswith("8 atoms, Ar, pbc TTT")
    assert len(argon) == 1


def test_users_structure_stays_as_it_is() -> None:
    silicon = bulk("Si", "diamond", a=5.43, cubic=True)
    silicon.positions[0] += 0.1
    silicon.set_constraint(FixAtoms([0]))
    before = silicon.positions.copy()
    report = verify(build("stillinger-weber"), silicon, checks=["forces", "wrapping"])
    assert report.passed
    np.testing.assert_array_equal(silicon.positions, before)
    assert silicon.constraints
    assert silicon.calc is None


def test_numbers_depend_on_the_seed_only() -> None:
    model = build("stillinger-weber")
    alone = verify(model, checks=["forces"], seed=3).outcomes[0]
    among_others = verify(model, checks=["rotation", "forces", "stress"], seed=3)
    assert among_others.outcome("forces").value == alone.value
    assert verify(model, checks=["forces"], seed=4).outcomes[0].value != alone.value


def test_bad_input_is_refused() -> None:
    model = build("stillinger-weber")
    with pytest.raises(SpeciesError, match="types \\[79\\]"):
        verify(model, bulk("Au"))
    with pytest.raises(OverlapError):
        verify(model, Atoms("Si2", positions=np.zeros((2, 3))))
    with pytest.raises(InputError):
        verify(model, Atoms())
    with pytest.raises(InputError):
        verify(model, Atoms("Si", positions=[[np.nan, 0.0, 0.0]]))
    with pytest.raises(ConfigurationError, match="'friction'"):
        verify(model, checks=["forces", "friction"])
    with pytest.raises(UnsupportedOutputError, match="energy"):
        verify(zoo.no_energy())
    with pytest.raises(ConfigurationError):
        verify(model, checks=["rotation"]).outcome("forces")


# --- made structures ------------------------------------------------------------------------------


@pytest.mark.parametrize(("types", "cutoff"), [((14,), 5.0), ((1, 6, 8), 5.0), ((29,), 3.0)])
def test_made_structures_have_neighbours_and_no_overlap(
    types: tuple[int, ...], cutoff: float
) -> None:
    atoms = crystal(types, cutoff, np.random.default_rng(0))
    assert set(atoms.numbers.tolist()) == set(types)
    first, distance = pair_distances(atoms, cutoff)
    assert distance.min() > 0.6 * min(neighbor_distance(a, a) for a in types)
    assert (np.bincount(first, minlength=len(atoms)) >= 4).all()
    # no symmetry: every component of the strain from a cubic cell is there
    metric = atoms.cell.array @ atoms.cell.array.T
    off_diagonal = metric[np.triu_indices(3, 1)]
    assert np.abs(off_diagonal).min() > 1e-3


def test_made_structure_is_larger_than_two_cutoffs_where_affordable() -> None:
    atoms = crystal((14,), 4.0, np.random.default_rng(0))
    assert atoms.cell.lengths().min() > 8.0
    assert len(crystal((14,), 50.0, np.random.default_rng(0))) <= 110


def test_distances_of_neighbours() -> None:
    assert neighbor_distance(18, 18) == pytest.approx(reference_states[18]["a"] / math.sqrt(2.0))
    assert neighbor_distance(14, 14) == pytest.approx(2.35, abs=0.01)
    # no elements at all
    assert neighbor_distance(0, 200) > 1.0


def test_types_are_chosen_among_many() -> None:
    random = np.random.default_rng(0)
    assert choose_types([2, 1], random) == [1, 2]
    assert choose_types(range(1, 90), random) == [14, 8, 6]
    rare = choose_types(range(60, 90), random)
    assert len(set(rare)) == 3


def test_structures_are_expanded_until_forces_are_sane() -> None:
    atoms = crystal((14,), 6.0, np.random.default_rng(0))

    def steep(trial: Atoms) -> float:
        return 3.0 * SANE_FORCE * (atoms.get_volume() / trial.get_volume()) ** 4

    wide = expanded_until_sane(atoms, steep, 6.0)
    assert steep(wide) <= SANE_FORCE
    # a model that is never sane gets the structure as it was made
    assert expanded_until_sane(atoms, lambda _: math.inf, 6.0) is atoms


# --- parts ----------------------------------------------------------------------------------------


def test_derivative_is_extrapolated() -> None:
    found = derivative(lambda x: np.sin(1.0 + 2.0 * x), STEPS_F64)
    assert found.value == pytest.approx(2.0 * math.cos(1.0), rel=EXTRAPOLATED)
    assert found.uncertainty < EXTRAPOLATED


def test_derivative_keeps_to_one_side_of_a_kink() -> None:
    kink = 0.003  # between the steps: only the small ones are useful

    def function(x: np.ndarray) -> np.ndarray:
        return np.exp(x) + np.where(x > kink, 5.0 * (x - kink), 0.0)

    found = derivative(function, STEPS_F64)
    assert found.value == pytest.approx(1.0, rel=EXTRAPOLATED)
    assert found.step < kink


def test_derivative_avoids_noise() -> None:
    noise = np.random.default_rng(0).normal(scale=1e-9, size=2 * len(STEPS_F64))
    found = derivative(lambda x: np.sin(x) + noise, STEPS_F64)
    # the smallest step alone would be off by noise / step = 5e-6
    assert found.value == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("severity", "value", "status"),
    [
        (Severity.FAIL, 1.0, Status.PASS),
        (Severity.FAIL, 1.1, Status.FAIL),
        (Severity.WARNING, 1.1, Status.WARNING),
        (Severity.REPORT, 1.1, Status.REPORTED),
        (Severity.FAIL, math.nan, Status.FAIL),
        (Severity.FAIL, math.inf, Status.FAIL),
    ],
)
def test_status_follows_from_number_and_severity(
    severity: Severity, value: float, status: Status
) -> None:
    finding = Finding((Measure("x", value, "eV", 1.0),), "measured")
    check = Check("some", "some check", severity, lambda _: finding)
    outcome = conclude(check, finding, 0.0)
    assert outcome.status is status
    assert outcome.failed is (status is Status.FAIL)
    assert outcome.as_dict()["value"] == (value if math.isfinite(value) else None)


def test_worst_measure_speaks_for_the_check() -> None:
    measures = (
        Measure("large but fine", 5.0, "eV", 10.0),
        Measure("small but bad", 2e-9, "eV/Å", 1e-9),
        Measure("only shown", 1e9, "", None),
    )
    check = Check("some", "some check", Severity.FAIL, lambda _: NotApplicable("why not"))
    outcome = conclude(check, Finding(measures, "measured"), 0.0)
    assert (outcome.value, outcome.unit, outcome.tolerance) == (2e-9, "eV/Å", 1e-9)
    outcome = conclude(check, NotApplicable("why not"), 0.0)
    assert (outcome.status, outcome.value) == (Status.NOT_APPLICABLE, None)
    assert not outcome.failed


def test_memory_that_is_held_is_counted() -> None:
    program = Path(__file__).with_name("held_memory_run.py")
    done = subprocess.run([sys.executable, program], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    held_bytes, before, after = found["bytes"], found["before"], found["after"]
    assert after["tensors alive"] - before["tensors alive"] == found["number"]
    assert after["resident memory"] - before["resident memory"] > 0.8 * held_bytes
    if heap_in_use() is not None:
        growth = after["heap in use"] - before["heap in use"]
        assert growth == pytest.approx(held_bytes, rel=0.05)
    assert found["resident"] > held_bytes


def test_report_as_json() -> None:
    report = verify(build("stillinger-weber"), checks=["rotation", "forces"])
    document = report.as_dict()
    assert document["passed"] is True
    assert document["dtype"] == "float64"
    # in the order of the registry
    assert [check["name"] for check in document["checks"]] == ["forces", "rotation"]
    keys = {"name", "status", "value", "unit", "tolerance", "message"}
    assert all(keys <= check.keys() for check in document["checks"])


def test_every_check_is_named_once_and_described() -> None:
    assert len(CHECKS) == 19
    for name, check in CHECKS.items():
        assert name == check.name
        assert check.title
    for one, other in itertools.combinations(CHECKS.values(), 2):
        assert one.title != other.title


def test_saved_model_carries_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "sw.pt"
    build("stillinger-weber").save(str(path))
    report = verify(path, checks=["net-force"])
    assert report.model == str(path)
    assert report.sha256 is not None
    assert len(report.sha256) == 64
    assert verify(path, checks=["net-force"], sha256=report.sha256).passed
