"""The ASE calculator: ASE's rules, metatomic-ase's keywords, and when results are computed anew."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase
import ase.build
import ase.io
import numpy as np
import pytest
import torch
import zoo
import zoo_broken
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from metatensor.torch import Labels
from metatomic.torch import ModelOutput, load_atomistic_model
from metatomic_ase import MetatomicCalculator

from alchemi_bridge import Atoms, BridgeCalculator, Cell, ForceBuffers, Search, Step
from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    NonFiniteResultError,
    ProtocolError,
)
from alchemi_bridge.uncertainty import UncertaintyWarning

#: Both calculators evaluate the same model in float64: what differs is the order of sums.
SAME_ENERGY = 1e-10  # relative
SAME_FORCE = 1e-9  # eV/Å
#: Central differences with a step of 1e-4 Å: truncation and rounding are both below this.
DIFFERENCE_FORCE = 1e-6
DIFFERENCE_STRESS = 1e-7

ModelFile = Callable[..., Path]


def silicon(n: int = 2, seed: int = 0) -> ase.Atoms:
    atoms = ase.build.bulk("Si", cubic=True) * (n, n, n)
    atoms.rattle(0.1, seed=seed)
    return atoms


def slab() -> ase.Atoms:
    atoms = ase.build.fcc111("Ar", (3, 3, 3), a=5.3, vacuum=8.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.1, seed=3)
    return atoms


def zoo_atoms() -> ase.Atoms:
    """Twelve atoms of a kind that the zoo's models know, each with neighbours."""
    atoms = ase.build.bulk("Cu", "fcc", a=3.6, cubic=True) * (3, 1, 1)
    atoms.numbers[:] = min(zoo.pair().capabilities().atomic_types)
    atoms.rattle(0.05, seed=6)
    return atoms


@pytest.fixture
def calculator(model_file: ModelFile) -> BridgeCalculator:
    return BridgeCalculator(model_file("stillinger_weber"))


def test_implemented_properties_are_honest(calculator: BridgeCalculator) -> None:
    assert calculator.implemented_properties == [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]
    atoms = silicon()
    atoms.calc = calculator
    for name in calculator.implemented_properties:
        assert calculator.get_property(name, atoms) is not None
    for name in ("dipole", "magmom", "charges", "stresses"):
        with pytest.raises(PropertyNotImplementedError):
            calculator.get_property(name, atoms)


@pytest.mark.parametrize("name", ["stillinger_weber", "message_passing", "lennard_jones"])
def test_equals_metatomic_ase(model_file: ModelFile, name: str) -> None:
    path = model_file(name)
    atoms = slab() if name == "lennard_jones" else silicon()
    results = []
    for kind in (BridgeCalculator, MetatomicCalculator):
        copy = atoms.copy()
        copy.calc = kind(str(path))
        found = [copy.get_potential_energy(), copy.get_forces()]
        if all(atoms.pbc):
            found.append(copy.get_stress())
        results.append(found)
    ours, theirs = results
    assert ours[0] == pytest.approx(theirs[0], rel=SAME_ENERGY)
    assert np.abs(ours[1] - theirs[1]).max() < SAME_FORCE
    if len(ours) == 3:
        assert np.abs(ours[2] - theirs[2]).max() < SAME_FORCE


def test_finite_differences(calculator: BridgeCalculator) -> None:
    atoms = silicon(1)
    atoms.calc = calculator
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    assert np.abs(atoms.get_forces() - numerical).max() < DIFFERENCE_FORCE
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    assert np.abs(atoms.get_stress() - numerical).max() < DIFFERENCE_STRESS


def test_stress_of_a_slab_is_refused(model_file: ModelFile) -> None:
    atoms = slab()
    atoms.calc = BridgeCalculator(model_file("lennard_jones"))
    atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match="periodic in all three"):
        atoms.get_stress()


def _evaluations(calculator: BridgeCalculator, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counter: list[int] = []
    compute = calculator.provider.compute

    def counted(*args: object) -> object:
        counter.append(1)
        return compute(*args)

    monkeypatch.setattr(calculator.provider, "compute", counted)
    return counter


def test_results_are_cached_and_renewed(
    calculator: BridgeCalculator, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = _evaluations(calculator, monkeypatch)
    atoms = silicon()
    atoms.calc = calculator
    atoms.get_potential_energy()
    atoms.get_forces()
    atoms.get_stress()
    assert len(count) == 1, "forces and stress come with the energy"

    def changed(action: Callable[[], object]) -> None:
        before, energy = len(count), atoms.get_potential_energy()
        action()
        assert atoms.get_potential_energy() != energy
        assert len(count) == before + 1

    changed(lambda: atoms.positions.__setitem__((0, 0), atoms.positions[0, 0] + 0.05))
    changed(lambda: atoms.set_cell(atoms.cell.array * 1.01))
    changed(lambda: atoms.set_pbc((True, True, False)))
    changed(lambda: atoms.pop())
    # data that this model does not ask for changes nothing
    before = len(count)
    atoms.set_initial_charges(np.ones(len(atoms)))
    atoms.info["charge"] = 3
    atoms.get_potential_energy()
    assert len(count) == before


def test_numbers_renew(model_file: ModelFile) -> None:
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.calc = BridgeCalculator(model_file("message_passing"))
    before = atoms.get_potential_energy()
    atoms.numbers[1] = 7
    after = atoms.get_potential_energy()
    fresh = atoms.copy()
    fresh.calc = BridgeCalculator(model_file("message_passing"))
    assert before != after
    assert after == fresh.get_potential_energy()


def test_no_gradients_when_not_wanted(model_file: ModelFile) -> None:
    calculator = BridgeCalculator(model_file("stillinger_weber"), do_gradients_with_energy=False)
    atoms = silicon()
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    assert "forces" not in calculator.results
    atoms.get_forces()
    assert calculator.results["energy"] == pytest.approx(energy, rel=SAME_ENERGY)


def test_an_error_leaves_no_old_results(calculator: BridgeCalculator) -> None:
    atoms = silicon()
    atoms.calc = calculator
    good = atoms.get_potential_energy()
    old = atoms.positions[0].copy()
    atoms.positions[0] = np.nan
    for _ in range(2):
        with pytest.raises(BridgeError, match="finite coordinates"):
            atoms.get_potential_energy()
    atoms.positions[0] = old
    assert atoms.get_potential_energy() == good


def test_a_change_that_overflows_is_a_change(calculator: BridgeCalculator) -> None:
    atoms = silicon()
    atoms.pbc = (True, False, True)
    atoms.calc = calculator
    atoms.positions[:, 1] = -1e300
    with pytest.raises(BridgeError):
        atoms.get_potential_energy()
    calculator.atoms = atoms.copy()  # what a calculation that came to its end leaves
    atoms.positions[0, 1] = np.finfo(float).max
    assert "positions" in calculator.check_state(atoms)


def test_wrapping_and_supercell(calculator: BridgeCalculator) -> None:
    atoms = silicon()
    atoms.calc = calculator
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.positions += 3.3
    atoms.wrap()
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=SAME_ENERGY)
    assert np.abs(atoms.get_forces() - forces).max() < SAME_FORCE
    double = atoms * (2, 1, 1)
    double.calc = calculator
    assert double.get_potential_energy() == pytest.approx(2 * energy, rel=SAME_ENERGY)


def test_todict_round_trip(model_file: ModelFile) -> None:
    path = model_file("stillinger_weber")
    calculator = BridgeCalculator(
        path,
        neighbor_skin=1.0,
        additional_outputs={"energy": ModelOutput(unit="meV", sample_kind="atom")},
    )
    plain = json.loads(json.dumps(calculator.todict()))
    again = BridgeCalculator.fromdict(plain)
    assert again.todict() == calculator.todict()
    atoms = silicon()
    atoms.calc = again
    energy = atoms.get_potential_energy()
    per_atom = again.additional_outputs["energy"].block().values
    assert float(per_atom.sum()) / 1000 == pytest.approx(energy, rel=SAME_ENERGY)


def test_a_model_in_memory_is_described_but_not_restored(
    model_file: ModelFile, tmp_path: Path
) -> None:
    calculator = BridgeCalculator(load_atomistic_model(str(model_file("stillinger_weber"))))
    assert calculator.todict()["model"] is None
    atoms = silicon(1)
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    for suffix in ("traj", "db", "json"):
        ase.io.write(tmp_path / f"a.{suffix}", atoms)
        assert ase.io.read(tmp_path / f"a.{suffix}").get_potential_energy() == energy
    with pytest.raises(ProtocolError, match="made from a model file"):
        BridgeCalculator.fromdict(calculator.todict())
    with pytest.raises(ProtocolError, match="made from a model file"):
        pickle.loads(pickle.dumps(calculator))


def test_pickle_and_copy(model_file: ModelFile) -> None:
    options = {"neighbor_skin": 0.7, "do_gradients_with_energy": False}
    calculator = BridgeCalculator(model_file("stillinger_weber"), **options)
    atoms = silicon(1)
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    copied = copy.deepcopy(calculator)
    assert copied.loaded is calculator.loaded, "the model is not loaded twice"
    assert copied.provider is not calculator.provider
    for made in (pickle.loads(pickle.dumps(calculator)), copied):
        assert made.todict() == calculator.todict()
        fresh = silicon(1)
        fresh.calc = made
        assert fresh.get_potential_energy() == pytest.approx(energy, rel=SAME_ENERGY)
        assert "forces" not in made.results


def test_set_is_refused(calculator: BridgeCalculator) -> None:
    assert calculator.set() == {}
    with pytest.raises(ConfigurationError, match="make a new BridgeCalculator"):
        calculator.set(neighbor_skin=1.0)


def test_results_survive_a_file(calculator: BridgeCalculator, tmp_path: Path) -> None:
    atoms = silicon()
    atoms.calc = calculator
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    ase.io.write(tmp_path / "a.extxyz", atoms)
    back = ase.io.read(tmp_path / "a.extxyz")
    assert back.get_potential_energy() == pytest.approx(energy)
    assert np.abs(back.get_forces() - forces).max() < 1e-7  # eight digits in the file
    assert np.abs(back.get_stress() - stress).max() < 1e-7


def test_batch_equals_single(model_file: ModelFile) -> None:
    calculator = BridgeCalculator(model_file("message_passing"))
    frames = [silicon(1), ase.build.molecule("CH3CH2OH"), slab(), silicon(2, seed=5)]
    names = ("energy", "free_energy", "forces", "stress", "energies")
    together = calculator.evaluate(frames, names)
    for atoms, result in zip(frames, together, strict=True):
        atoms.calc = calculator
        assert result["energy"] == pytest.approx(atoms.get_potential_energy(), rel=SAME_ENERGY)
        assert result["free_energy"] == result["energy"]
        assert np.abs(result["forces"] - atoms.get_forces()).max() < SAME_FORCE
        assert result["energies"].sum() == pytest.approx(result["energy"], rel=SAME_ENERGY)
        assert ("stress" in result) == all(atoms.pbc)
        if "stress" in result:
            assert np.abs(result["stress"] - atoms.get_stress()).max() < SAME_FORCE
    assert calculator.evaluate([]) == []
    # any iterables, a name alone, and one structure alone
    again = calculator.evaluate(iter(frames), (name for name in names))
    assert [set(a) for a in again] == [set(b) for b in together]
    (alone,) = calculator.evaluate(frames[0], "energy")
    assert alone["energy"] == pytest.approx(together[0]["energy"], rel=SAME_ENERGY)


def no_atoms(atoms: ase.Atoms) -> None:
    del atoms[:]


def nan_position(atoms: ase.Atoms) -> None:
    atoms.positions[1, 2] = np.nan


def nan_cell(atoms: ase.Atoms) -> None:
    atoms.cell[0, 0] = np.nan


def flat_cell(atoms: ase.Atoms) -> None:
    atoms.cell[1] = atoms.cell[0]


def unknown_type(atoms: ase.Atoms) -> None:
    atoms.numbers[0] = 92


@pytest.mark.parametrize("spoil", [no_atoms, nan_position, nan_cell, flat_cell, unknown_type])
def test_batch_names_the_structure_at_fault(
    spoil: Callable[[ase.Atoms], None], model_file: ModelFile
) -> None:
    """By its place among all, though those of one periodicity are evaluated together."""
    calculator = BridgeCalculator(model_file("stillinger_weber"))
    frames = [silicon(1), slab(), silicon(1), silicon(1)]
    frames[1].numbers[:] = 14
    spoil(frames[2])
    with pytest.raises(BridgeError, match="system 2"):
        calculator.evaluate(frames)
    frames.pop(1)
    with pytest.raises(BridgeError, match="system 1"):
        calculator.compute_energy(frames)
    with pytest.raises(BridgeError, match="system 1"):
        calculator.run_model(frames, ["energy"])


def test_batch_names_the_structure_without_results(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    zoo.nan_energy(threshold=0.8).save(str(path))
    kind = min(zoo.pair().capabilities().atomic_types)
    dimers = [ase.Atoms([kind] * 2, positions=[[0.0] * 3, [d, 0.0, 0.0]]) for d in (2.0, 0.5)]
    with pytest.raises(NonFiniteResultError, match="of the model of system 2: "):
        BridgeCalculator(path).evaluate([zoo_atoms(), *dimers])


def test_positions_of_integers(calculator: BridgeCalculator) -> None:
    atoms = ase.Atoms("Si2", positions=np.array([[0, 0, 0], [0, 0, 3]]))
    atoms.arrays["positions"] = atoms.positions.astype(int)
    atoms.calc = calculator
    assert np.isfinite(atoms.get_potential_energy())


@pytest.mark.parametrize("per_atom", [False, True])
def test_compute_energy_as_metatomic_ase(model_file: ModelFile, per_atom: bool) -> None:
    path = str(model_file("stillinger_weber"))
    frames = [silicon(1), silicon(1, seed=2)]
    ours = BridgeCalculator(path).compute_energy(frames, True, per_atom=per_atom)
    theirs = MetatomicCalculator(path).compute_energy(frames, True, per_atom=per_atom)
    assert set(ours) == set(theirs)
    for name, values in theirs.items():
        for a, b in zip(ours[name], values, strict=True):
            assert np.abs(np.asarray(a) - np.asarray(b)).max() < SAME_FORCE
    single = BridgeCalculator(path).compute_energy(frames[0], True)
    assert single["energy"] == pytest.approx(ours["energy"][0], rel=SAME_ENERGY)
    assert single["stress"].shape == (3, 3)


def test_run_model(calculator: BridgeCalculator) -> None:
    atoms = silicon(1)
    outputs = {"energy": ModelOutput(unit="eV", sample_kind="atom")}
    everything = calculator.run_model(atoms, outputs)["energy"].block()
    some = Labels(["system", "atom"], everything.samples.values[2:5])
    block = calculator.run_model(atoms, outputs, selected_atoms=some)["energy"].block()
    assert len(block.samples) == 3
    assert np.allclose(block.values, everything.values[2:5], rtol=SAME_ENERGY, atol=0)
    with pytest.raises(BridgeError, match="one of the model's outputs"):
        calculator.run_model(atoms, ["dipole"])


def test_nve_drift(calculator: BridgeCalculator) -> None:
    """A short run here; the whole picosecond of the README is in the slow tests."""
    atoms = silicon(2)
    atoms.calc = calculator
    thermalize_momenta(atoms, 300.0, rng=np.random.default_rng(7))
    Stationary(atoms)
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    before = atoms.get_total_energy()
    dynamics.run(100)
    # velocity Verlet wobbles by (omega dt)^2 of the kinetic energy: about 1e-4 of 40 meV/atom
    assert abs(atoms.get_total_energy() - before) / len(atoms) < 1e-4
    assert calculator.provider.searches < 5, "a skin of 2 Å serves for many steps"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_for_callers_without(model_file: ModelFile, mode: Callable) -> None:
    """Whole simulations run under these; the forces must be there all the same."""
    atoms = silicon(1)
    atoms.calc = BridgeCalculator(model_file("stillinger_weber"))
    expected = atoms.get_forces()
    with mode():
        fresh = silicon(1)
        fresh.calc = BridgeCalculator(model_file("stillinger_weber"))
        assert np.array_equal(fresh.get_forces(), expected)
        fresh.rattle(0.01)
        fresh.get_forces()
        (result,) = fresh.calc.evaluate([fresh])
    assert np.abs(result["forces"] - fresh.get_forces()).max() < SAME_FORCE


def test_same_bits_whatever_the_history(calculator: BridgeCalculator) -> None:
    atoms = silicon(2)
    atoms.calc = calculator
    for _ in range(3):  # TorchScript compiles the model anew in its first calls
        calculator.reset()
        first = atoms.get_forces(), atoms.get_stress()
    for seed in range(5):
        moved = atoms.copy()
        moved.rattle(0.4, seed=seed)  # far enough for a new search
        moved.calc = calculator
        moved.get_forces()
        calculator.reset()
        assert np.array_equal(atoms.get_forces(), first[0])
        assert np.array_equal(atoms.get_stress(), first[1])


def test_info_that_is_changed_in_place(tmp_path: Path) -> None:
    path = zoo.save(zoo.extra_inputs("charge_and_spin"), tmp_path, "charge")
    atoms = zoo_atoms()
    atoms.info["charge"] = np.array(1.0)
    atoms.calc = BridgeCalculator(path)
    before = atoms.get_potential_energy()
    atoms.info["charge"] += 1
    after = atoms.get_potential_energy()
    fresh = atoms.copy()
    fresh.calc = BridgeCalculator(path)
    assert after != before
    assert after == pytest.approx(fresh.get_potential_energy(), rel=SAME_ENERGY)


def test_energy_alone_of_a_model_without_gradient(tmp_path: Path) -> None:
    calculator = BridgeCalculator(zoo.save(zoo_broken.no_gradient(), tmp_path, "detached"))
    atoms = zoo_atoms()
    (alone,) = calculator.evaluate(atoms, "energy")
    with pytest.raises(BridgeError, match="without a gradient"):
        calculator.evaluate(atoms, ("energy", "forces"))
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(alone["energy"], rel=SAME_ENERGY)


def test_uncertainty_in_ev_whatever_the_unit(tmp_path: Path) -> None:
    calculator = BridgeCalculator(
        zoo.save(zoo.uncertain(), tmp_path, "uncertain"), uncertainty_threshold=100.0
    )
    atoms = zoo_atoms()
    atoms.calc = calculator
    atoms.get_potential_energy()
    (batch,) = calculator.evaluate(atoms, "energy")
    assert np.abs(calculator.uncertainty - batch["uncertainty"]).max() < SAME_ENERGY
    # forces alone are watched, too: an engine need not ask for the energy in every step
    calculator.reset()
    assert calculator.uncertainty is None
    provider = BridgeCalculator(calculator.loaded, uncertainty_threshold=0.01).provider
    provider.set_atoms(Atoms(atoms.numbers))
    provider.set_pairs(Search(0.0), Cell.of(atoms.cell.array, atoms.pbc))
    step = Step(atoms.positions, energy=False)
    out = ForceBuffers(torch.zeros((len(atoms), 3), dtype=torch.float64))
    with pytest.warns(UncertaintyWarning, match="atoms 0, 1") as caught:
        provider.compute(step, out)
    assert caught[0].filename == __file__, "the warning points to who asked"


def test_shallow_copy_and_subclass(model_file: ModelFile) -> None:
    class Mine(BridgeCalculator):
        pass

    calculator = Mine(load_atomistic_model(str(model_file("stillinger_weber"))))
    for made in (copy.copy(calculator), copy.deepcopy(calculator)):
        assert type(made) is Mine
        assert made.provider is not calculator.provider
    restored = pickle.loads(pickle.dumps(BridgeCalculator(model_file("stillinger_weber"))))
    assert type(restored) is BridgeCalculator


def test_one_output_under_two_names(tmp_path: Path) -> None:
    path = zoo.save(zoo.extra_outputs(), tmp_path, "extra")
    with pytest.raises(ConfigurationError, match="old and its new name"):
        BridgeCalculator(path, additional_outputs=["feature", "features"])


def test_models_are_loaded_in_threads(model_file: ModelFile) -> None:
    path, atoms = model_file("stillinger_weber"), silicon(1)
    expected = BridgeCalculator(path).evaluate(atoms, "energy")[0]["energy"]
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda _: BridgeCalculator(path).evaluate(atoms, "energy"), range(12))
        )
    assert all(r["energy"] == pytest.approx(expected, rel=SAME_ENERGY) for (r,) in found)


def test_run_model_without_structures(model_file: ModelFile) -> None:
    """As with metatomic-ase: the output without samples."""
    found = BridgeCalculator(model_file("lennard-jones")).run_model([], ["energy"])
    assert found["energy"].block().values.shape == (0, 1)
