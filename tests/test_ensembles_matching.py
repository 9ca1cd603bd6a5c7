"""Energies and forces against references."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import zoo
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from reweighting_parts import argon_options, drawn, finite_difference

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.ensembles.models import ModelFile
from alchemi_bridge.ensembles.objectives.matching import EnergyForceObjective
from alchemi_bridge.errors import BridgeError, ConfigurationError, InputError

FD_RTOL = 1e-7


@pytest.fixture(scope="module")
def argon(model_file: Callable[..., Path]) -> Path:
    return model_file("lennard-jones", **argon_options())


@pytest.fixture(scope="module")
def zoo_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads the charge and the spin of a structure."""
    return zoo.save(zoo.extra_inputs("charge_and_spin"), tmp_path_factory.mktemp("zoo"), "inputs")


@pytest.fixture(scope="module")
def frames(argon: Path) -> list[Atoms]:
    """Labelled by other values of epsilon and sigma, so that they are off by a known amount."""
    made = []
    for seed, repeat in enumerate(((1, 1, 1), (2, 1, 1), (2, 2, 2))):
        atoms = bulk("Ar", "fcc", cubic=True, a=5.4) * repeat
        atoms.rattle(0.15, seed=seed)
        atoms.calc = BridgeCalculator(argon)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        off = np.random.default_rng(seed).normal(0.0, 0.01, forces.shape)
        atoms.calc = SinglePointCalculator(
            atoms, energy=energy + 0.02 * len(atoms) + 0.1, forces=forces + off
        )
        made.append(atoms)
    return made


def sent(objective: EnergyForceObjective) -> EnergyForceObjective:
    objective.check()
    return pickle.loads(pickle.dumps(objective))


def test_errors_are_those_that_were_put_in(argon: Path, frames: list[Atoms]) -> None:
    outcome = sent(EnergyForceObjective("match", argon, frames)).compute({}, {})
    per_atom = np.array([0.02 + 0.1 / len(one) for one in frames])
    off = np.concatenate(
        [np.random.default_rng(k).normal(0.0, 0.01, (len(one), 3)) for k, one in enumerate(frames)]
    )
    assert outcome.values["rmse_energy"] == pytest.approx(np.sqrt((per_atom**2).mean()), rel=1e-9)
    assert outcome.values["rmse_force"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-9)
    expected = (per_atom**2).mean() + (off**2).mean()
    assert outcome.loss == pytest.approx(expected, rel=1e-9)
    assert outcome.gradient is None


def test_another_zero_of_the_energy(argon: Path, frames: list[Atoms]) -> None:
    objective = EnergyForceObjective("match", argon, frames, force_weight=0.0, any_zero=True)
    outcome = sent(objective).compute({}, {})
    per_atom = np.array([0.1 / len(one) for one in frames])
    assert outcome.values["rmse_energy"] == pytest.approx(per_atom.std(), rel=1e-9)
    assert "rmse_force" not in outcome.values


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 2.0), (0.7, 1.3)])
@pytest.mark.parametrize("any_zero", [False, True])
def test_gradient_is_the_difference(
    argon: Path, frames: list[Atoms], weights: tuple[float, float], any_zero: bool
) -> None:
    unit = sent(
        EnergyForceObjective(
            "match",
            argon,
            frames,
            energy_weight=weights[0],
            force_weight=weights[1],
            any_zero=any_zero,
            chunk=2,
        )
    )
    here = {name: 1.05 * value for name, value in ModelFile.of(argon).load().values().items()}
    gradient = unit.compute({}, here).gradient
    for name in here:
        expected = finite_difference(
            lambda p: unit.compute({}, p).loss, here, name, (0,), 1e-4 * float(here[name])
        )
        assert float(gradient[name]) == pytest.approx(expected, rel=FD_RTOL)


def test_from_a_file(argon: Path, frames: list[Atoms], tmp_path: Path) -> None:
    path = tmp_path / "labels.xyz"
    ase.io.write(path, frames)
    here = ModelFile.of(argon).load().values()
    one = sent(EnergyForceObjective("match", argon, path)).compute({}, here)
    other = sent(EnergyForceObjective("match", argon, frames)).compute({}, here)
    # ASE writes eight decimals
    assert one.loss == pytest.approx(other.loss, rel=1e-5)


def test_energies_of_another_model(argon: Path, model_file: Callable[..., Path]) -> None:
    """A trajectory of one model as the reference of another: the way to distil a model."""
    teacher = model_file("lennard-jones", **{**argon_options(), "epsilon": [0.012]})
    trajectory = drawn(teacher, 8)
    unit = sent(EnergyForceObjective("match", argon, "t", observable=True, force_weight=0.0))
    assert unit.needs == ("t",)
    wrong = ModelFile.of(argon).load().values()
    right = {**wrong, "epsilon": torch.tensor([0.012], dtype=torch.float64)}
    assert unit.compute({"t": trajectory}, right).loss < 1e-25
    found = unit.compute({"t": trajectory}, wrong)
    assert found.loss > 1e-6
    assert float(found.gradient["epsilon"]) < 0.0


def test_bad_references(argon: Path, frames: list[Atoms], tmp_path: Path) -> None:
    bare = bulk("Ar")
    for reference, options, error, words in (
        ([], {}, InputError, "at least one frame"),
        ([bare], {}, InputError, "frame 0 of the frames of 'match'"),
        (tmp_path / "none.xyz", {}, BridgeError, "no such file"),
        (frames, {"energy_weight": 0.0, "force_weight": 0.0}, ConfigurationError, "both zero"),
        (frames, {"energy_weight": -1.0}, ConfigurationError, "energy_weight of 'match'"),
        ("t", {"observable": True}, ConfigurationError, "no forces"),
    ):
        with pytest.raises(error, match=words):
            EnergyForceObjective("match", argon, reference, **options).check()
    broken = bare.copy()
    broken.calc = SinglePointCalculator(broken, energy=np.nan, forces=np.zeros((1, 3)))
    with pytest.raises(InputError, match="finite"):
        EnergyForceObjective("match", argon, [broken]).check()


def test_labels_of_other_positions(argon: Path, frames: list[Atoms]) -> None:
    """A shared calculator knows the last frame only; a frame that was moved has no labels."""
    shared, ours = BridgeCalculator(argon), []
    for one in frames[:2]:
        atoms = one.copy()
        atoms.calc = shared
        atoms.get_forces()
        ours.append(atoms)
    moved = frames[0].copy()
    moved.calc = SinglePointCalculator(frames[0], energy=0.0, forces=frames[0].get_forces())
    moved.rattle(0.1)
    for reference in (ours, [moved]):
        with pytest.raises(InputError, match=r"frame 0.*its own energy.*other positions"):
            EnergyForceObjective("match", argon, reference).check()
    EnergyForceObjective("match", argon, ours[1:]).check()


def test_labels_with_other_charges_are_other_frames(zoo_path: Path) -> None:
    """The model reads charges and spins: frames that differ in nothing else have other energies."""
    frames = []
    for charge in (1.0, 0.0, 3.0):
        atoms = bulk("Ar", "fcc", cubic=True, a=5.4)
        atoms.numbers[:] = min(ModelFile.of(zoo_path).load().loaded.atomic_types)
        atoms.info.update(charge=charge, spin=1.0 + charge)
        atoms.calc = BridgeCalculator(zoo_path)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    assert len({frame.get_potential_energy() for frame in frames}) == 3
    for frame in frames:
        outcome = sent(EnergyForceObjective("match", zoo_path, [frame])).compute({}, {})
        assert outcome.values["rmse_energy"] < 1e-12
        assert outcome.values["rmse_force"] < 1e-12
