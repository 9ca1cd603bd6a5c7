"""What models may offer: lists, variants, direct outputs, uncertainty, ensembles, extra inputs.

Against closed forms, brute force, and metatomic-ase on the same model.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import ase
import numpy as np
import pytest
import torch
import zoo
import zoo_parts
from ase.units import fs
from feature_parts import (
    Buffers,
    crystal,
    exact,
    molecule,
    pair_tensor,
    pair_vector_sums,
    prepare,
    run,
    slab,
    step,
    zoo_file,
)
from metatomic.torch import ModelOutput

from alchemi_bridge import BridgeCalculator, MetatomicForceProvider
from alchemi_bridge.contract import Quantity
from alchemi_bridge.errors import MissingInputError
from alchemi_bridge.uncertainty import UncertaintyWarning

# float64: the order of sums is all that differs
ENERGY = 1e-10  # relative
FORCE = 1e-9  # eV/A
# float32 models: 6e-8 for each of some ten operations, relative to forces of order one
SINGLE = 1e-5

STRUCTURES = {"crystal": crystal, "larger crystal": lambda: crystal(2), "slab": slab}
STRUCTURES["molecule"] = molecule


def peer(path: str, **options: Any) -> Any:
    metatomic_ase = pytest.importorskip("metatomic_ase", reason="the peer is not installed")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated.*")
        return metatomic_ase.MetatomicCalculator(
            path, device="cpu", check_consistency=True, neighbor_skin=0.0, **options
        )


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = FORCE) -> None:
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerance)


def forces_of(calculator: Any, atoms: ase.Atoms) -> np.ndarray:
    copy = atoms.copy()
    copy.calc = calculator
    return copy.get_forces()


def agree_with_the_peer(atoms: ase.Atoms, path: str, **options: Any) -> None:
    """Energy, forces, stress and energies of the calculator, against metatomic-ase."""
    ours, theirs = atoms.copy(), atoms.copy()
    ours.calc, theirs.calc = BridgeCalculator(path, **options), peer(path, **options)
    assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), rel=ENERGY)
    close(ours.get_forces(), theirs.get_forces())
    close(ours.get_potential_energies(), theirs.get_potential_energies())
    if atoms.pbc.all():
        close(ours.get_stress(), theirs.get_stress())


# --- neighbour lists ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", STRUCTURES)
@pytest.mark.parametrize("name", ["pair", "half_list", "not_strict"])
@pytest.mark.parametrize("gradient", ["leaves", "strain"])
def test_pair_potential(shape: str, name: str, gradient: Any) -> None:
    atoms = STRUCTURES[shape]()
    found = run(MetatomicForceProvider(zoo_file(name), gradient=gradient), atoms)
    expected = exact(atoms)
    assert found.energy[0] == pytest.approx(expected.energy, rel=ENERGY)
    close(found.forces, expected.forces)
    close(found.virial, expected.virial)
    close(found.energies, expected.energies)
    assert abs(found.forces).max() > 0.01


@pytest.mark.parametrize("shape", STRUCTURES)
def test_several_cutoffs(shape: str) -> None:
    atoms = STRUCTURES[shape]()
    provider = MetatomicForceProvider(zoo_file("several_cutoffs"))
    requested = {(r.cutoff, r.full_list, r.strict) for r in provider.requirements.requests}
    assert requested == set(zoo.SEVERAL)
    assert provider.requirements.pair_range == 4.5
    found = run(provider, atoms)
    parts = [exact(atoms, cutoff) for cutoff, _, _ in zoo.SEVERAL]
    assert found.energy[0] == pytest.approx(sum(p.energy for p in parts), rel=ENERGY)
    close(found.forces, sum(p.forces for p in parts))
    close(found.virial, sum(p.virial for p in parts))
    close(found.energies, sum(p.energies for p in parts))


@pytest.mark.parametrize("name", ["pair", "several_cutoffs", "half_list", "reads_positions"])
@pytest.mark.parametrize("shape", ["crystal", "molecule"])
def test_calculator_equals_metatomic_ase(name: str, shape: str) -> None:
    agree_with_the_peer(STRUCTURES[shape](), zoo_file(name))


def test_model_without_pairs_or_gradient() -> None:
    atoms = molecule()
    provider = MetatomicForceProvider(zoo_file("constant_energy"))
    assert provider.requirements.pair_range == 0.0
    found = run(provider, atoms)
    assert found.energy[0] == atoms.numbers.sum()
    close(found.energies, atoms.numbers, 0.0)
    close(found.forces, np.zeros((4, 3)), 0.0)
    close(found.virial, np.zeros((3, 3)), 0.0)
    atoms.calc = BridgeCalculator(zoo_file("constant_energy"))
    assert atoms.get_potential_energy() == atoms.numbers.sum()


# --- variants -----------------------------------------------------------------------------------

PREFACTORS = {"": 1.0, "pbe": 2.0, "scan": 3.0}


def direct_forces(atoms: ase.Atoms, prefactor: float) -> np.ndarray:
    """Non-conservative forces of the zoo, without what would push the whole system."""
    forces = prefactor * zoo_parts.FORCE_SCALE * pair_vector_sums(atoms)
    return forces - forces.mean(axis=0)


@pytest.mark.filterwarnings("ignore::alchemi_bridge.uncertainty.UncertaintyWarning")
@pytest.mark.parametrize("variant", PREFACTORS)
def test_variant_of_the_energy_carries_over(variant: str) -> None:
    atoms, prefactor = crystal(), PREFACTORS[variant]
    variants = {"energy": variant} if variant else None
    provider = MetatomicForceProvider(zoo_file("variants"), variants=variants)
    found = run(provider, atoms)
    expected = exact(atoms, prefactor=prefactor)
    assert found.energy[0] == pytest.approx(expected.energy, rel=ENERGY)
    close(found.forces, expected.forces)
    uncertainty = provider.results.uncertainty
    assert uncertainty is not None
    close(uncertainty.numpy(), np.full(4, prefactor * zoo_parts.UNCERTAINTY), 1e-12)

    direct = MetatomicForceProvider(
        zoo_file("variants"), variants=variants, non_conservative=True, uncertainty_threshold=None
    )
    found = run(direct, atoms)
    assert found.energy[0] == pytest.approx(expected.energy, rel=ENERGY)
    close(found.forces, direct_forces(atoms, prefactor))
    stress = prefactor * zoo_parts.STRESS_SCALE * pair_tensor(atoms)
    close(found.virial, stress * atoms.get_volume())
    assert direct.results.uncertainty is None


@pytest.mark.parametrize(
    ("variants", "energy", "force", "stress", "uncertainty"),
    [
        ({"energy": "pbe", "non_conservative_force": None}, 2, 1, 2, 2),
        ({"energy": "pbe", "non_conservative_forces": None}, 2, 1, 2, 2),
        ({"energy": "pbe", "non_conservative_stress": "scan"}, 2, 2, 3, 2),
        ({"energy": "pbe", "energy_uncertainty": "scan"}, 2, 2, 2, 3),
        ({"energy": "pbe", "energy_uncertainty": None}, 2, 2, 2, 1),
        ({"energy": None, "non_conservative_force": "scan"}, 1, 3, 1, 1),
        ({"non_conservative_force": "pbe"}, 1, 2, 1, 1),
        (
            {"non_conservative_forces": "pbe", "non_conservative_force": "pbe"},
            *(1, 2, 1, 1),
        ),
        ({}, 1, 1, 1, 1),
        (None, 1, 1, 1, 1),
    ],
)
def test_variants_by_name(
    variants: dict[str, str | None] | None,
    energy: float,
    force: float,
    stress: float,
    uncertainty: float,
) -> None:
    atoms = crystal()
    provider = MetatomicForceProvider(
        zoo_file("variants"), variants=variants, non_conservative=True, uncertainty_threshold=10.0
    )
    found = run(provider, atoms)
    assert found.energy[0] == pytest.approx(exact(atoms).energy * energy, rel=ENERGY)
    close(found.forces, direct_forces(atoms, force))
    expected = stress * zoo_parts.STRESS_SCALE * pair_tensor(atoms) * atoms.get_volume()
    close(found.virial, expected)
    assert provider.results.uncertainty is not None
    close(provider.results.uncertainty.numpy(), np.full(4, uncertainty * 0.05), 1e-12)


def test_only_variants() -> None:
    atoms = crystal()
    for variant, prefactor in {"a": 1.0, "b": 2.0}.items():
        provider = MetatomicForceProvider(zoo_file("only_variants"), variants={"energy": variant})
        found = run(provider, atoms)
        close(found.forces, exact(atoms, prefactor=prefactor).forces)


# --- non-conservative outputs -------------------------------------------------------------------


@pytest.mark.parametrize("which", [True, "forces", "stress", False])
def test_non_conservative(which: Any) -> None:
    atoms = crystal()
    found = run(MetatomicForceProvider(zoo_file("non_conservative"), non_conservative=which), atoms)
    expected = exact(atoms)
    forces = direct_forces(atoms, 1.0) if which in (True, "forces") else expected.forces
    virial = expected.virial
    if which in (True, "stress"):
        virial = zoo_parts.STRESS_SCALE * pair_tensor(atoms) * atoms.get_volume()
    assert found.energy[0] == pytest.approx(expected.energy, rel=ENERGY)
    close(found.forces, forces)
    close(found.virial, virial)
    close(found.forces.sum(axis=0), np.zeros(3), 1e-12)
    agree_with_the_peer(atoms, zoo_file("non_conservative"), non_conservative=which)


def test_non_conservative_forces_of_a_slab() -> None:
    atoms = slab()
    options = {"non_conservative": "forces", "do_gradients_with_energy": False}
    close(
        forces_of(BridgeCalculator(zoo_file("non_conservative"), **options), atoms),
        direct_forces(atoms, 1.0),
    )


def test_old_plural_names() -> None:
    atoms = crystal()
    atoms.set_initial_charges([0.1, -0.2, 0.3, 0.4])
    atoms.set_momenta(np.arange(12.0).reshape(4, 3))
    path = zoo_file("old_plural_names")
    provider = MetatomicForceProvider(path)
    assert set(provider.requirements.inputs) == {"charge", "momentum"}
    agree_with_the_peer(atoms, path)
    # 0.1 eV/A along x on every atom: nothing is left without the net force
    close(forces_of(BridgeCalculator(path, non_conservative="forces"), atoms), np.zeros((4, 3)))
    calculator = BridgeCalculator(path, additional_outputs=["non_conservative_forces"])
    atoms.calc = calculator
    atoms.get_potential_energy()
    [(name, extra)] = calculator.additional_outputs.items()
    assert name == "non_conservative_forces"
    close(extra.block().values[:, 0, 0].numpy(), np.full(4, np.float32(0.1)), 0.0)


# --- uncertainty, ensembles, further outputs ----------------------------------------------------


def test_uncertainty_warns_and_names_atoms() -> None:
    atoms = crystal()
    provider = MetatomicForceProvider(zoo_file("uncertain"))
    prepare(provider, atoms, subset=np.array([3, 1]))
    with pytest.warns(UncertaintyWarning, match=r"2 atoms.*0.1 eV.*0.2 eV.*atoms 3, 1"):
        step(provider, atoms)
    many = crystal(2)
    prepare(provider, many)
    with pytest.warns(UncertaintyWarning, match=r"32 atoms.*atoms 0, 1,.* 19 and 12 more"):
        step(provider, many)
    calculator = BridgeCalculator(zoo_file("uncertain"))
    atoms.calc = calculator
    with pytest.warns(UncertaintyWarning, match="atoms 0, 1, 2, 3"):
        atoms.get_potential_energy()
    assert calculator.uncertainty is not None
    close(calculator.uncertainty, np.full(4, 0.2), 1e-12)
    with pytest.warns(UncertaintyWarning):
        [found] = calculator.evaluate([atoms])
    close(found["uncertainty"], np.full(4, 0.2), 1e-12)


@pytest.mark.parametrize("threshold", [0.21, None])
def test_uncertainty_below_the_threshold_is_silent(threshold: float | None) -> None:
    atoms = crystal()
    calculator = BridgeCalculator(zoo_file("uncertain"), uncertainty_threshold=threshold)
    atoms.calc = calculator
    atoms.get_forces()
    assert (calculator.uncertainty is None) == (threshold is None)


def test_missing_uncertainty_of_a_variant_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    # no uncertainty at all, and nobody asked for one
    with caplog.at_level(logging.WARNING):
        provider = MetatomicForceProvider(zoo_file("only_variants"), variants={"energy": "a"})
    assert provider.plan.uncertainty is None
    assert not caplog.records


def test_ensemble() -> None:
    atoms = crystal()
    calculator = BridgeCalculator(
        zoo_file("ensemble"),
        additional_outputs={"energy_ensemble": ModelOutput(unit="meV", sample_kind="system")},
    )
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    members = calculator.additional_outputs["energy_ensemble"].block().values.numpy()
    # TorchScript makes tensors of lists in float32
    prefactors = np.array([zoo_parts.MEMBERS], dtype=np.float32).astype(np.float64)
    close(members, 1000.0 * energy * prefactors, 1e-7)


def test_extra_outputs() -> None:
    atoms = crystal()
    names = ["zoo::coordination", "zoo::dipole", "feature"]
    sums = 2.0 * exact(atoms).energies
    provider = MetatomicForceProvider(zoo_file("extra_outputs"), extra_outputs=names)
    run(provider, atoms)
    calculator = BridgeCalculator(zoo_file("extra_outputs"), additional_outputs=names)
    atoms.calc = calculator
    atoms.get_forces()
    for extra in (provider.results.extra, calculator.additional_outputs):
        assert list(extra) == names
        values = {name: extra[name].block().values for name in names}
        assert not any(v.requires_grad for v in values.values())
        close(values["zoo::coordination"][:, 0].numpy(), sums)
        close(values["feature"].numpy(), np.stack([sums, (sums / 2) ** 2], axis=1))
        close(values["zoo::dipole"][:, :, 0].numpy(), pair_vector_sums(atoms))
    dipole = {"zoo::dipole": ModelOutput(sample_kind="system")}
    provider = MetatomicForceProvider(zoo_file("extra_outputs"), extra_outputs=dipole)
    run(provider, atoms)
    values = provider.results.extra["zoo::dipole"].block().values
    close(values[0, :, 0].numpy(), pair_vector_sums(atoms).sum(axis=0))


def test_model_without_energy() -> None:
    atoms = crystal()
    provider = MetatomicForceProvider(zoo_file("no_energy"), extra_outputs=["features"])
    prepare(provider, atoms)
    step(provider, atoms, energy=False, forces=False, virial=False, energies=False)
    assert list(provider.results.extra) == ["features"]
    sums = 2.0 * exact(atoms).energies
    close(provider.results.extra["features"].block().values[:, 0].numpy(), sums)


# --- extra inputs -------------------------------------------------------------------------------


def dressed(name: str) -> ase.Atoms:
    """A crystal with values for all inputs that the zoo requests."""
    atoms = crystal()
    rng = np.random.default_rng(len(name))
    atoms.set_initial_charges(rng.normal(size=4))
    atoms.set_initial_magnetic_moments(rng.normal(size=4))
    atoms.set_masses(rng.uniform(1, 40, 4))
    atoms.set_momenta(rng.normal(size=(4, 3)))
    atoms.set_tags([3, 0, 1, 2])
    atoms.set_array("foo", rng.normal(size=4))
    atoms.info.update(charge=-2.0, spin_multiplicity=3, field=0.7)
    return atoms


@pytest.mark.parametrize("name", zoo.INPUTS)
def test_inputs_from_ase(name: str) -> None:
    atoms, path = dressed(name), zoo_file("extra_inputs", name)
    bare = exact(atoms).energy
    atoms.calc = BridgeCalculator(path)
    assert atoms.get_potential_energy() != pytest.approx(bare, abs=1e-3)
    if name not in ("ase_array", "ase_info"):  # which the peer's version does not hand over
        agree_with_the_peer(atoms, path)
    close(atoms.get_forces(), exact(atoms).forces)


def squares(*values: Any) -> float:
    return zoo.COUPLING * sum(float(np.square(v).sum()) for v in values)


def test_values_of_inputs() -> None:
    atoms = dressed("values")
    velocities = atoms.get_velocities() * fs  # A/fs
    momenta = atoms.get_masses()[:, None] * velocities  # u A/fs
    expected = {
        "charge": squares(atoms.get_initial_charges()),
        "mass_velocity": squares(atoms.get_masses(), velocities),
        "momentum": squares(momenta),
        "charge_and_spin": 4 * squares(-2.0, 3.0),
        "ase_array": squares(atoms.arrays["foo"]),
        "ase_info": 4 * squares(0.7),
        "ase_tags": squares(atoms.get_tags(), atoms.get_initial_magnetic_moments()),
    }
    assert set(expected) == set(zoo.INPUTS)
    for name, extra in expected.items():
        atoms.calc = BridgeCalculator(zoo_file("extra_inputs", name))
        total = exact(atoms).energy + extra
        # ASE's and metatomic's constants of nature are of different years
        assert atoms.get_potential_energy() == pytest.approx(total, rel=1e-7), name


CHANGES: dict[str, Any] = {
    "charge": lambda a: a.set_initial_charges([1.0, 0, 0, 0]),
    "mass_velocity": lambda a: a.set_masses([1.0, 2.0, 3.0, 4.0]),
    "momentum": lambda a: a.set_momenta(np.ones((4, 3))),
    "charge_and_spin": lambda a: a.info.update(charge=1.0),
    "ase_array": lambda a: a.arrays["foo"].__setitem__(2, 5.0),
    "ase_info": lambda a: a.info.update(field=0.1),
    "ase_tags": lambda a: a.set_tags([0, 0, 0, 1]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_inputs_are_noticed(name: str) -> None:
    atoms, path = dressed(name), zoo_file("extra_inputs", name)
    atoms.calc = BridgeCalculator(path)
    before = atoms.get_potential_energy()
    CHANGES[name](atoms)
    after = atoms.get_potential_energy()
    assert after != pytest.approx(before, abs=1e-4)
    fresh = atoms.copy()
    fresh.calc = BridgeCalculator(path)
    assert after == pytest.approx(fresh.get_potential_energy(), rel=ENERGY)
    # and what the model does not read is not
    atoms.info["comment"] = "new"
    assert atoms.calc.check_state(atoms) == []


def test_info_that_is_not_there_has_a_default() -> None:
    atoms = crystal()
    atoms.calc = BridgeCalculator(zoo_file("extra_inputs", "charge_and_spin"))
    expected = exact(atoms).energy + 4 * squares(0.0, 1.0)
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=ENERGY)
    atoms.info["spin"] = 2
    expected = exact(atoms).energy + 4 * squares(0.0, 2.0)
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=ENERGY)


def test_inputs_of_the_provider() -> None:
    provider = MetatomicForceProvider(zoo_file("extra_inputs", "momentum"))
    atoms, rng = crystal(), np.random.default_rng(4)
    momenta = rng.normal(size=(4, 3))
    given = {"momentum": Quantity(momenta, "u*nm/fs")}
    bare = exact(atoms).energy
    # with the atoms, or with the step, which counts where both have it; in any unit
    prepare(provider, atoms, inputs=given)
    total = bare + squares(10.0 * momenta)
    assert step(provider, atoms).energy[0] == pytest.approx(total, rel=ENERGY)
    now = {"momentum": Quantity(torch.from_numpy(2.0 * momenta).float(), "u*A/fs")}
    total = bare + squares((2.0 * momenta).astype(np.float32).astype(np.float64))
    assert step(provider, atoms, inputs=now).energy[0] == pytest.approx(total, rel=ENERGY)
    # the model sees those of its own atoms, in their order
    chosen = np.array([2, 0])
    prepare(provider, atoms, inputs=given, subset=chosen)
    found = step(provider, atoms)
    expected = exact(atoms[chosen]).energies + [squares(10.0 * m) for m in momenta[chosen]]
    close(found.energies[chosen], expected)
    prepare(provider, atoms)
    with pytest.raises(MissingInputError):
        step(provider, atoms, Buffers(4))
