"""The models for tests themselves: they pass metatomic's own checks and have the energies they say.

Evaluated with metatomic-ase, the peer, so that nothing here depends on the bridge.
"""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import ase
import numpy as np
import pytest
import torch
import zoo
import zoo_parts
from ase.build import bulk
from metatensor.torch import Labels, TensorBlock
from metatomic.torch import (
    AtomisticModel,
    ModelEvaluationOptions,
    ModelOutput,
    NeighborListOptions,
    System,
    load_atomistic_model,
)

metatomic_ase = pytest.importorskip("metatomic_ase", reason="the peer runs the models here")

# Sums of a few hundred terms of order one in float64: rounding stays below 1e-13 of the sum.
RELATIVE = 1e-12
# The same in float32, whose rounding is 6e-8.
RELATIVE_FLOAT32 = 1e-5
# Central differences of step h = 1e-4 A: h^2 times third derivatives of order one.
FINITE_DIFFERENCE = 1e-7

ASE_ONLY = ("ase_array", "ase_info")

WHOLE = [
    "pair",
    "several_cutoffs",
    "half_list",
    "not_strict",
    "jump_at_cutoff",
    "variants",
    "non_conservative",
    "ensemble",
    "extra_outputs",
    "reads_positions",
    "reads_cell",
    "not_invariant",
    "infinite_range",
    "internal_gradient",
    "internal_pair_gradient",
    "constant_energy",
    "float32",
    "nan_energy",
    "random",
]


def crystal() -> ase.Atoms:
    """A rattled fcc cell that is smaller than the cutoffs, triclinic and periodic."""
    atoms = bulk("Ar", "fcc", a=3.6, cubic=True)
    tilt = np.array([[0, 0.3, 0], [0.1, 0, 0], [0, 0, 0.2]])
    atoms.set_cell(atoms.cell.array + tilt, scale_atoms=True)
    atoms.rattle(0.1, seed=3)
    return atoms


def molecule() -> ase.Atoms:
    positions = [[0.0, 0.0, 0.0], [1.1, 0.1, 0.0], [-0.3, 1.2, 0.4], [2.9, 2.1, -0.2]]
    return ase.Atoms("OH2C", positions=positions)


def vectors(atoms: ase.Atoms, cutoff: float) -> list[tuple[int, np.ndarray]]:
    """All (i, r_j - r_i) shorter than the cutoff, by brute force over images."""
    positions, cell = atoms.positions, atoms.cell.array
    images = [0]
    shifts = np.zeros((1, 3))
    if atoms.pbc.all():
        reach = int(np.ceil(cutoff * np.linalg.norm(np.linalg.inv(cell), axis=0).max())) + 1
        images = list(range(-reach, reach + 1))
        shifts = np.array(list(itertools.product(images, repeat=3))) @ cell
    found = []
    for i, j in itertools.product(range(len(atoms)), repeat=2):
        for shift in shifts:
            vector = positions[j] - positions[i] + shift
            if 0 < np.linalg.norm(vector) < cutoff:
                found.append((i, vector))
    return found


def half_sums(atoms: ase.Atoms, cutoff: float) -> np.ndarray:
    """sum_j s(r_ij) / 2 for each atom."""
    total = np.zeros(len(atoms))
    for i, vector in vectors(atoms, cutoff):
        total[i] += 0.5 * (1 - vector @ vector / cutoff**2) ** 3
    return total


def calculator(model: AtomisticModel, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated.*")
        return metatomic_ase.MetatomicCalculator(
            model, check_consistency=True, device="cpu", neighbor_skin=0.0, **options
        )


def energies(model: AtomisticModel, atoms: ase.Atoms, **options: Any) -> np.ndarray:
    atoms = atoms.copy()
    atoms.calc = calculator(model, do_gradients_with_energy=False, **options)
    return atoms.get_potential_energies()


def extra(model: AtomisticModel, atoms: ase.Atoms, name: str, kind: str) -> np.ndarray:
    request = ModelOutput(sample_kind=kind)
    calc = calculator(model, additional_outputs={name: request})
    atoms = atoms.copy()
    atoms.calc = calc
    atoms.get_forces()
    return calc.additional_outputs[name].block().values.detach().numpy()


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("make_atoms", [crystal, molecule])
def test_all_models_pass_the_checks_of_metatomic(name, make_atoms, tmp_path):
    path = zoo.save(getattr(zoo, name)(), tmp_path, name)
    atoms = make_atoms()
    # without it metatomic-ase divides the stress of a molecule by its volume of zero
    calc = calculator(load_atomistic_model(str(path)), do_gradients_with_energy=False)
    atoms.calc = calc
    assert np.isfinite(atoms.get_potential_energy())
    assert atoms.get_potential_energies().shape == (len(atoms),)
    if name != "constant_energy":
        assert np.isfinite(atoms.get_forces()).all()


@pytest.mark.parametrize("name", ["pair", "half_list", "not_strict", "non_conservative"])
@pytest.mark.parametrize("make_atoms", [crystal, molecule])
def test_pair_energies(name, make_atoms):
    atoms = make_atoms()
    expected = half_sums(atoms, zoo.CUTOFF)
    assert expected.min() > 0
    np.testing.assert_allclose(energies(getattr(zoo, name)(), atoms), expected, rtol=RELATIVE)


def test_lists_that_are_not_strict_are_cut_by_the_model():
    atoms = crystal()
    atoms.calc = metatomic_ase.MetatomicCalculator(zoo.not_strict(), neighbor_skin=1.5)
    expected = half_sums(atoms, zoo.CUTOFF).sum()
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=RELATIVE)


def test_several_cutoffs():
    atoms = crystal()
    expected = sum(half_sums(atoms, cutoff) for cutoff, _, _ in zoo.SEVERAL)
    np.testing.assert_allclose(energies(zoo.several_cutoffs(), atoms), expected, rtol=RELATIVE)
    requests = zoo.several_cutoffs().requested_neighbor_lists()
    assert [(r.cutoff, r.full_list, r.strict) for r in requests] == list(zoo.SEVERAL)


def test_jump_at_cutoff():
    atoms = crystal()
    expected = half_sums(atoms, zoo.CUTOFF).sum() + 0.05 * len(vectors(atoms, zoo.CUTOFF))
    assert energies(zoo.jump_at_cutoff(), atoms).sum() == pytest.approx(expected, rel=RELATIVE)


@pytest.mark.parametrize(("variant", "factor"), [(None, 1.0), ("pbe", 2.0), ("scan", 3.0)])
def test_variants(variant, factor):
    atoms = crystal()
    tail = "" if variant is None else f"/{variant}"
    options = {"variants": {"energy": variant}, "uncertainty_threshold": None}
    expected = factor * half_sums(atoms, zoo.CUTOFF)
    np.testing.assert_allclose(energies(zoo.variants(), atoms, **options), expected, rtol=RELATIVE)
    uncertainty = extra(zoo.variants(), atoms, f"energy_uncertainty{tail}", "atom")
    np.testing.assert_allclose(uncertainty, zoo_parts.UNCERTAINTY * factor, rtol=RELATIVE)


def test_only_variants():
    atoms = crystal()
    expected = 2 * half_sums(atoms, zoo.CUTOFF)
    got = energies(zoo.only_variants(), atoms, variants={"energy": "b"})
    np.testing.assert_allclose(got, expected, rtol=RELATIVE)
    with pytest.raises(Exception, match="variant"):
        calculator(zoo.only_variants())


def test_non_conservative():
    atoms = crystal()
    forces = np.tile(np.array(zoo_parts.DRIFT), (len(atoms), 1))
    stress = np.zeros((3, 3))
    for i, vector in vectors(atoms, zoo.CUTOFF):
        s = (1 - vector @ vector / zoo.CUTOFF**2) ** 3
        forces[i] += zoo_parts.FORCE_SCALE * s * vector
        stress += zoo_parts.STRESS_SCALE * s * np.outer(vector, vector)
    model = zoo.non_conservative()
    got = extra(model, atoms, "non_conservative_force", "atom")[..., 0]
    np.testing.assert_allclose(got, forces, rtol=RELATIVE, atol=RELATIVE)
    got = extra(model, atoms, "non_conservative_stress", "system")[0, ..., 0]
    np.testing.assert_allclose(got, stress, rtol=RELATIVE)
    atoms.calc = calculator(model)
    assert np.abs(atoms.get_forces() - forces).max() > 0.1
    assert np.abs(atoms.get_stress(voigt=False) - stress).max() > 0.01
    assert np.abs(forces.sum(axis=0)).max() > 0.1


def test_ensemble():
    atoms = crystal()
    got = extra(zoo.ensemble(), atoms, "energy_ensemble", "atom")
    expected = np.outer(half_sums(atoms, zoo.CUTOFF), zoo_parts.MEMBERS)
    np.testing.assert_allclose(got, expected, rtol=RELATIVE)


def test_uncertain_is_above_the_threshold():
    atoms = molecule()
    atoms.calc = calculator(zoo.uncertain(), do_gradients_with_energy=False)
    with pytest.warns(UserWarning, match="atomic energy uncertainties are larger"):
        atoms.get_potential_energy()


def test_extra_outputs():
    atoms = crystal()
    model = zoo.extra_outputs()
    sums = half_sums(atoms, zoo.CUTOFF)
    got = extra(model, atoms, "zoo::coordination", "atom")[:, 0]
    np.testing.assert_allclose(got, 2 * sums, rtol=RELATIVE)
    got = extra(model, atoms, "feature", "atom")
    np.testing.assert_allclose(got, np.stack([2 * sums, sums**2], axis=1), rtol=RELATIVE)
    dipole = np.zeros((len(atoms), 3))
    for i, vector in vectors(atoms, zoo.CUTOFF):
        dipole[i] += (1 - vector @ vector / zoo.CUTOFF**2) ** 3 * vector
    got = extra(model, atoms, "zoo::dipole", "atom")[..., 0]
    np.testing.assert_allclose(got, dipole, rtol=RELATIVE, atol=RELATIVE)


def test_no_energy():
    atoms = crystal()
    outputs = {"feature": ModelOutput(sample_kind="atom")}
    calc = calculator(zoo.no_energy(), uncertainty_threshold=None)
    got = calc.run_model(atoms, outputs)["feature"].block().values.numpy()
    np.testing.assert_allclose(got[:, 0], 2 * half_sums(atoms, zoo.CUTOFF), rtol=RELATIVE)
    assert set(zoo.no_energy().capabilities().outputs) == {"feature", "features"}


def test_per_system_only():
    atoms = crystal()
    atoms.calc = calculator(zoo.per_system_only())
    expected = half_sums(atoms, zoo.CUTOFF).sum()
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=RELATIVE)
    with pytest.raises(Exception, match="per atom, only globally"):
        energies(zoo.per_system_only(), atoms)


def squares(which: str, atoms: ase.Atoms) -> np.ndarray:
    """What the inputs add for each atom, before the coupling; numbers in ASE's units."""
    per_atom = {
        "charge": atoms.get_initial_charges() ** 2,
        # metatomic converts to the units that the model asks for: u, A/fs
        "mass_velocity": atoms.get_masses() ** 2
        + ((atoms.get_velocities() * ase.units.fs) ** 2).sum(axis=1),
        "momentum": ((atoms.get_momenta() * ase.units.fs) ** 2).sum(axis=1),
        "charge_and_spin": np.full(len(atoms), 2.0**2 + 3.0**2),
        "ase_array": atoms.arrays["foo"] ** 2,
        "ase_info": np.full(len(atoms), 1.5**2),
        "ase_tags": atoms.get_tags() ** 2 + atoms.get_initial_magnetic_moments() ** 2,
    }
    return per_atom[which].astype(float)


def decorated() -> ase.Atoms:
    atoms = molecule()
    n = np.arange(len(atoms))
    atoms.set_initial_charges(0.1 * n - 0.2)
    atoms.set_velocities(np.outer(0.01 * (n + 1), [1.0, -2.0, 3.0]))
    atoms.set_array("foo", 0.5 * n)
    atoms.set_tags(n)
    atoms.set_initial_magnetic_moments(0.3 * n)
    atoms.info.update(charge=2, spin_multiplicity=3, field=1.5)
    return atoms


# metatomic-ase 0.1.4 says that it provides "ase::arrays::" and "ase::info::", but refuses them
@pytest.mark.parametrize("which", [key for key in zoo.INPUTS if key not in ASE_ONLY])
def test_extra_inputs(which):
    atoms = decorated()
    expected = half_sums(atoms, zoo.CUTOFF) + zoo.COUPLING * squares(which, atoms)
    got = energies(zoo.extra_inputs(which), atoms)
    # the constants in ASE's and metatomic's unit systems differ in the tenth digit
    np.testing.assert_allclose(got, expected, rtol=1e-7)
    assert np.abs(expected - half_sums(atoms, zoo.CUTOFF)).max() > 1e-4


def test_old_plural_names(tmp_path):
    atoms = decorated()
    path = zoo.save(zoo.old_plural_names(), tmp_path, "old")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated.*")
        model = load_atomistic_model(str(path))
    assert set(model.requested_inputs(use_new_names=True)) == {"charge", "momentum"}
    per_atom = squares("charge", atoms) + squares("momentum", atoms)
    expected = half_sums(atoms, zoo.CUTOFF) + zoo.COUPLING * per_atom
    np.testing.assert_allclose(energies(model, atoms), expected, rtol=1e-7)
    atoms.calc = calculator(model, non_conservative="forces", do_gradients_with_energy=False)
    # the same force on every atom: metatomic-ase takes the mean away
    np.testing.assert_allclose(atoms.get_forces(), 0.0, atol=RELATIVE)


def test_reads_positions():
    atoms = molecule()
    arms = atoms.positions - atoms.positions.mean(axis=0)
    expected = half_sums(atoms, zoo.CUTOFF) + zoo.CENTROID_K * (arms**2).sum(axis=1)
    np.testing.assert_allclose(energies(zoo.reads_positions(), atoms), expected, rtol=RELATIVE)


def test_reads_cell():
    atoms = crystal()
    expected = half_sums(atoms, zoo.CUTOFF).sum() + zoo.PRESSURE * atoms.get_volume()
    assert energies(zoo.reads_cell(), atoms).sum() == pytest.approx(expected, rel=RELATIVE)
    plain, with_cell = atoms.copy(), atoms.copy()
    plain.calc, with_cell.calc = calculator(zoo.pair()), calculator(zoo.reads_cell())
    difference = with_cell.get_stress(voigt=False) - plain.get_stress(voigt=False)
    np.testing.assert_allclose(difference, zoo.PRESSURE * np.eye(3), atol=RELATIVE)


def test_not_invariant():
    atoms = molecule()
    expected = half_sums(atoms, zoo.CUTOFF) + atoms.positions @ np.array(zoo.FIELD)
    np.testing.assert_allclose(energies(zoo.not_invariant(), atoms), expected, rtol=RELATIVE)


def test_infinite_range():
    atoms = molecule()
    arms = atoms.positions[:, None] - atoms.positions[None]
    expected = 0.5 / np.sqrt(1 + (arms**2).sum(axis=2)).sum(axis=1)
    expected += half_sums(atoms, zoo.CUTOFF)
    np.testing.assert_allclose(energies(zoo.infinite_range(), atoms), expected, rtol=RELATIVE)
    assert math.isinf(zoo.infinite_range().capabilities().interaction_range)


@pytest.mark.parametrize("make_model", [zoo.internal_gradient, zoo.internal_pair_gradient])
def test_internal_gradient(make_model):
    atoms = crystal()
    inner = extra(make_model(), atoms, "zoo::inner_force", "atom")[..., 0]
    atoms.calc = calculator(zoo.pair())
    np.testing.assert_allclose(inner, atoms.get_forces(), rtol=RELATIVE, atol=RELATIVE)
    step = 1e-4
    atoms.positions[1, 2] += step
    plus = half_sums(atoms, zoo.CUTOFF).sum()
    atoms.positions[1, 2] -= 2 * step
    minus = half_sums(atoms, zoo.CUTOFF).sum()
    assert inner[1, 2] == pytest.approx(-(plus - minus) / (2 * step), abs=FINITE_DIFFERENCE)


def test_constant_energy():
    atoms = molecule()
    np.testing.assert_array_equal(energies(zoo.constant_energy(), atoms), atoms.numbers)
    assert zoo.constant_energy().requested_neighbor_lists() == []


def test_float32():
    atoms = crystal()
    got = energies(zoo.float32(), atoms)
    np.testing.assert_allclose(got, half_sums(atoms, zoo.CUTOFF), rtol=RELATIVE_FLOAT32)
    assert zoo.float32().capabilities().dtype == "float32"


def test_nm_units():
    atoms = crystal()
    kj_per_mol = ase.units.kJ / ase.units.mol
    expected = 50.0 * kj_per_mol * half_sums(atoms, 4.0)
    # see test_extra_inputs
    np.testing.assert_allclose(energies(zoo.nm_units(), atoms), expected, rtol=1e-7)


def test_nan_energy():
    atoms = ase.Atoms("O2", positions=[[0, 0, 0], [0.7, 0, 0]])
    assert np.isnan(energies(zoo.nan_energy(), atoms)).all()
    atoms.positions[1, 0] = 0.9
    expected = half_sums(atoms, zoo.CUTOFF)
    np.testing.assert_allclose(energies(zoo.nan_energy(), atoms), expected, rtol=RELATIVE)


def test_raises():
    with pytest.raises(Exception, match="zoo: too many atoms"):
        energies(zoo.raises(), molecule())
    expected = half_sums(molecule(), zoo.CUTOFF)
    np.testing.assert_allclose(energies(zoo.raises(4), molecule()), expected, rtol=RELATIVE)


def test_random():
    atoms = molecule()
    first, second = energies(zoo.random(), atoms), energies(zoo.random(), atoms)
    assert (first != second).any()
    np.testing.assert_allclose(first, half_sums(atoms, zoo.CUTOFF), atol=1e-3)


def test_cuda_only():
    assert zoo.cuda_only().capabilities().supported_devices == ["cuda"]


def as_system(atoms: ase.Atoms, cutoff: float) -> System:
    """A molecule with its full list, without any engine."""
    n = len(atoms)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    samples = torch.tensor([(i, j, 0, 0, 0) for i, j in pairs], dtype=torch.int32)
    positions = torch.tensor(atoms.positions)
    arms = torch.stack([positions[j] - positions[i] for i, j in pairs])
    keep = (arms**2).sum(dim=1) < cutoff**2
    names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
    block = TensorBlock(
        values=arms[keep].unsqueeze(-1),
        samples=Labels(names, samples[keep]),
        components=[Labels(["xyz"], torch.arange(3).reshape(-1, 1))],
        properties=Labels(["distance"], torch.tensor([[0]])),
    )
    system = System(
        torch.tensor(atoms.numbers, dtype=torch.int32),
        positions,
        torch.zeros(3, 3, dtype=torch.float64),
        torch.tensor([False, False, False]),
    )
    system.add_neighbor_list(NeighborListOptions(cutoff, True, True), block)
    return system


@pytest.mark.parametrize("kind", ["atom", "system"])
def test_selected_atoms_and_several_systems(kind):
    first, second = molecule(), molecule()
    second.positions[1] += 0.2
    systems = [as_system(atoms, zoo.CUTOFF) for atoms in (first, second)]
    selected = Labels(["system", "atom"], torch.tensor([[0, 1], [0, 3], [1, 2]], dtype=torch.int32))
    options = ModelEvaluationOptions(
        length_unit="angstrom",
        outputs={"energy": ModelOutput(unit="eV", sample_kind=kind)},
        selected_atoms=selected,
    )
    block = zoo.pair()(systems, options, check_consistency=True)["energy"].block()
    a, b = half_sums(first, zoo.CUTOFF), half_sums(second, zoo.CUTOFF)
    expected = [a[1], a[3], b[2]] if kind == "atom" else [a[1] + a[3], b[2]]
    np.testing.assert_allclose(block.values[:, 0].numpy(), expected, rtol=RELATIVE)


@pytest.mark.parametrize("which", ASE_ONLY)
def test_extra_inputs_that_the_peer_refuses(which):
    atoms = decorated()
    system = as_system(atoms, zoo.CUTOFF)
    if which == "ase_array":
        values = torch.tensor(atoms.arrays["foo"]).reshape(-1, 1)
        index = torch.tensor([(0, i) for i in range(len(atoms))], dtype=torch.int32)
        samples = Labels(["system", "atom"], index)
    else:
        values = torch.tensor([[atoms.info["field"]]], dtype=torch.float64)
        samples = Labels(["system"], torch.tensor([[0]], dtype=torch.int32))
    (name,) = zoo.INPUTS[which]
    system.add_data(name, zoo_parts.wrap(values, samples, [], "_"))
    options = ModelEvaluationOptions("angstrom", {"energy": ModelOutput("eV", sample_kind="atom")})
    result = zoo.extra_inputs(which)([system], options, check_consistency=True)
    expected = half_sums(atoms, zoo.CUTOFF) + zoo.COUPLING * squares(which, atoms)
    got = result["energy"].block().values[:, 0].numpy()
    np.testing.assert_allclose(got, expected, rtol=RELATIVE)
