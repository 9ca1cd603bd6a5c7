"""Model files in the workers: tensors by name, other values for them, files with other values."""

from __future__ import annotations

import gc
import json
import pickle
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from known_potentials import make_system, run
from lammps_runs import needs_lammps

from alchemi_bridge import BridgeCalculator, potentials
from alchemi_bridge.ensembles import models
from alchemi_bridge.ensembles.models import ModelFile, write_model
from alchemi_bridge.ensembles.objectives import EnergyForceObjective
from alchemi_bridge.errors import (
    ConfigurationError,
    DtypeError,
    NonFiniteError,
    ShapeError,
    UntrustedModelError,
)
from alchemi_bridge.model.trust import read_records
from alchemi_bridge.parity.lammps_path import _worker
from alchemi_bridge.parity.oracles.lennard_jones import LennardJonesOracle
from alchemi_bridge.parity.remote import RemoteEvaluator

Export = Callable[..., Path]

#: The same formula with the same numbers, in another order of the sums.
ENERGY_RTOL = 1e-11

EPSILON, SIGMA = [0.012, 0.0131], [3.3, 3.71]


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    models.forget()


@pytest.fixture(scope="module")
def argon() -> Atoms:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    atoms.rattle(0.2, seed=1)
    atoms.numbers[::3] = 36
    return atoms


def values() -> dict[str, torch.Tensor]:
    return {
        "epsilon": torch.tensor(EPSILON, dtype=torch.float64),
        "sigma": torch.tensor(SIGMA, dtype=torch.float64),
    }


def energy(model: object, atoms: Atoms) -> float:
    atoms = atoms.copy()
    atoms.calc = BridgeCalculator(model)
    return float(atoms.get_potential_energy())


def peers_energy(path: Path, atoms: Atoms) -> float:
    """With metatomic's own loader and neighbour lists."""
    peer = pytest.importorskip("metatomic_ase")
    atoms = atoms.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it thinks of versions is not the matter here
        atoms.calc = peer.MetatomicCalculator(str(path))
        return float(atoms.get_potential_energy())


def test_names_are_those_inside_the_wrapper(model_file: Export) -> None:
    tensors = ModelFile.of(model_file("lennard-jones", trainable=True)).load().tensors
    assert {n: t.is_parameter for n, t in tensors.items()} == {"epsilon": True, "sigma": True}
    tensors = ModelFile.of(model_file("message-passing")).load().tensors
    assert not any(t.is_parameter for t in tensors.values())
    assert "readout_bias" in tensors
    tensors = ModelFile.of(model_file("copper")).load().tensors
    assert tensors["energies.fitting.0.layers.3.bias"].is_parameter
    assert not tensors["energies.energy_bias"].is_parameter
    assert all(t.values.is_floating_point() and t.values.numel() for t in tensors.values())


def test_patterns(model_file: Export) -> None:
    model = ModelFile.of(model_file("copper")).load()
    assert model.names(["energies.fitting.0.layers.1.*"]) == [
        f"energies.fitting.0.layers.1.{name}" for name in ("matrix", "bias", "idt")
    ]
    with pytest.raises(ConfigurationError, match=r"'nothing\.\*'.*energies.davg \(buffer, 1x4\)"):
        model.names(["energies.*", "nothing.*"])
    # statistics of the training data are no parameters
    for names in (model.names(["*"]), list(model.values())):
        assert len(names) == 16
        assert all(model.tensors[name].is_parameter for name in names)
    named = ["energies.davg", "energies.fitting.*"]
    assert "energies.davg" in model.names(named)
    assert "energies.dstd" not in model.names(named)
    assert list(model.values(["energies.davg"])) == ["energies.davg"]
    with pytest.raises(ConfigurationError, match=r"buffers only: energies.davg, energies.dstd"):
        model.names(["energies.d[as]*"])
    with pytest.raises(ConfigurationError, match="this one has none"):
        ModelFile.of(model_file("stillinger-weber")).load().names(["*"])


def test_values_are_taken_and_given_back(model_file: Export, argon: Atoms) -> None:
    file = ModelFile.of(model_file("lennard-jones", trainable=True))
    before = LennardJonesOracle().evaluate(argon).energy
    after = LennardJonesOracle(epsilon=EPSILON, sigma=SIGMA).evaluate(argon).energy
    only = LennardJonesOracle(epsilon=EPSILON).evaluate(argon).energy
    epsilon = {"epsilon": values()["epsilon"]}
    order = ((values(), after), (epsilon, only), (None, before), (values(), after), ({}, before))
    for parameters, expected in order:
        found = energy(file.load(parameters).loaded, argon)
        assert found == pytest.approx(expected, rel=ENERGY_RTOL)
    assert len(models._models) == 1


def test_values_that_do_not_fit_change_nothing(model_file: Export) -> None:
    file = ModelFile.of(model_file("lennard-jones", trainable=True))
    before = file.load().values()
    good = values()["epsilon"]
    for bad, error in (
        ({"nothing": good}, ConfigurationError),
        ({"sigma": good[:1]}, ShapeError),
        ({"sigma": good.float()}, DtypeError),
        ({"sigma": good * float("nan")}, NonFiniteError),
    ):
        with pytest.raises(error, match=next(iter(bad))):
            file.load({"epsilon": good, **bad})
        assert all(torch.equal(before[n], v) for n, v in models._kept(file, "").values().items())


def test_the_cache_is_bounded_and_sees_new_files(tmp_path: Path, model_file: Export) -> None:
    trainable = model_file("lennard-jones", trainable=True)
    path = tmp_path / "model.pt"
    path.write_bytes(trainable.read_bytes())
    file = ModelFile(path)
    first = file.load()
    assert file.load() is first
    assert file.load(use="another") is not first
    write_model(trainable, values(), path)
    second = file.load()
    assert second is not first
    torch.testing.assert_close(second.values(), values(), rtol=0.0, atol=0.0)
    for number in range(2 * models.MAX_KEPT):
        file.load(use=str(number))
    assert len(models._models) == models.MAX_KEPT


def test_one_copy_of_a_file_with_and_without_its_hash(model_file: Export, tmp_path: Path) -> None:
    models.forget()
    path = model_file("lennard-jones", trainable=True)
    pinned = ModelFile(path).check()
    assert pinned.sha256 is not None
    first = pinned.load()
    assert ModelFile(path).load() is first
    (tmp_path / "link.pt").symlink_to(path)
    assert ModelFile(tmp_path / "link.pt").load() is first
    # one copy, but not for those who expect another file
    with pytest.raises(UntrustedModelError):
        ModelFile(path, sha256="0" * 64).load()
    assert len(models._models) == 1


def test_nothing_keeps_a_model_that_is_let_go(model_file: Export, argon: Atoms) -> None:
    """Prepared frames hold the model; they go when it goes."""
    path = model_file("lennard-jones", trainable=True)
    files = [ModelFile(path), *(ModelFile(path, device=device) for device in ("cpu",))]
    for let_go in ("forget", "others"):
        frames = [argon.copy()]
        frames[0].calc = SinglePointCalculator(argon, energy=0.0)
        gone = []
        for file in files:
            objective = EnergyForceObjective("match", file, frames, force_weight=0.0)
            objective.compute({}, {})
            gone.append(weakref.ref(file.load().loaded))
        if let_go == "forget":
            models.forget()
        for number in range(models.MAX_KEPT):
            if let_go == "others":
                files[0].load(use=str(number))
        gc.collect()
        assert [one() for one in gone] == [None, None]


def test_a_file_travels_with_its_hash(model_file: Export, tmp_path: Path) -> None:
    trainable = model_file("lennard-jones", trainable=True)
    file = pickle.loads(pickle.dumps(ModelFile(trainable).check()))
    assert file.load().sha256 == file.sha256 == read_records(trainable).sha256
    other = ModelFile(model_file("lennard-jones"), sha256=file.sha256)
    for use in (other.check, other.load, lambda: other.write({}, tmp_path / "new.pt")):
        with pytest.raises(UntrustedModelError, match="pinned"):
            use()


def test_gradient_by_the_parameters(model_file: Export, argon: Atoms) -> None:
    """Of the energy, taken with metatomic's own call, against differences of the oracle."""
    model = ModelFile.of(model_file("lennard-jones", trainable=True)).load(values())
    system, _ = make_system(argon, model.loaded.module)
    with model.differentiable(["epsilon", "sigma"]) as leaves:
        total = run(model.loaded.module, [system]).values.sum()
        found = torch.autograd.grad(total, [leaves["epsilon"], leaves["sigma"]])
    assert not any(t.values.requires_grad for t in model.tensors.values())
    for which, gradient in enumerate(found):
        for kind in range(2):
            energies = []
            for step in (1e-5, -1e-5):
                changed = [list(EPSILON), list(SIGMA)]
                changed[which][kind] += step
                oracle = LennardJonesOracle(epsilon=changed[0], sigma=changed[1])
                energies.append(oracle.evaluate(argon).energy)
            expected = (energies[0] - energies[1]) / 2e-5
            assert float(gradient[kind]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ConfigurationError, match="'gamma'"), model.differentiable(["gamma"]):
        pass


def test_written_files_are_the_model_with_other_values(
    model_file: Export, tmp_path: Path, argon: Atoms
) -> None:
    source = model_file("lennard-jones", trainable=True)
    path = write_model(source, values(), tmp_path / "new.pt")
    expected = LennardJonesOracle(epsilon=EPSILON, sigma=SIGMA).evaluate(argon).energy
    assert energy(path, argon) == pytest.approx(expected, rel=ENERGY_RTOL)
    assert peers_energy(path, argon) == pytest.approx(expected, rel=ENERGY_RTOL)
    old, new = read_records(source), read_records(path)
    assert old.sha256 != new.sha256
    for name in ("metatomic_version", "extensions", "extension_dependencies", "export_metadata",
                 "model_metadata", "differentiates_internally"):  # fmt: skip
        assert getattr(old, name) == getattr(new, name), name
    assert new.torch_version == torch.__version__
    one, other = ModelFile(source).load().loaded, ModelFile(path).load().loaded
    assert one.capabilities.outputs.keys() == other.capabilities.outputs.keys()
    assert one.atomic_types == other.atomic_types
    assert one.interaction_range == other.interaction_range
    assert json.dumps(one.metadata.extra) == json.dumps(other.metadata.extra)
    # the file that was read is what it was, and so is the model in memory
    assert read_records(source).sha256 == old.sha256
    # a file that was written can be written again, and back
    back = write_model(path, ModelFile(source).load().values(), tmp_path / "back.pt")
    assert energy(back, argon) == energy(source, argon)


@needs_lammps
def test_written_files_in_lammps(model_file: Export, tmp_path: Path, argon: Atoms) -> None:
    """The energy that LAMMPS prints is that of the model in memory with the same values."""
    source = model_file("lennard-jones", trainable=True)
    path = write_model(source, values(), tmp_path / "new.pt")
    expected = energy(ModelFile(source).load(values()).loaded, argon)
    in_lammps = RemoteEvaluator(_worker("lammps"), "alchemi", str(path), {}, ("energies",))
    [found] = in_lammps.evaluate([argon])
    assert found.energy == pytest.approx(expected, rel=1e-10)


def test_written_copper(model_file: Export, tmp_path: Path) -> None:
    source = model_file("copper")
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=3)
    model = ModelFile(source).load()
    chosen = model.values(["energies.energy_bias", "energies.fitting.0.layers.3.bias"])
    before = energy(model.loaded, atoms)
    shifted = {name: value + 0.25 for name, value in chosen.items()}
    path = write_model(source, shifted, tmp_path / "copper.pt")
    in_place = energy(ModelFile(source).load(shifted).loaded, atoms)
    found = energy(path, atoms)
    # the outermost bias is a constant per atom, whatever else is in the model
    assert abs(found - before) > 1.0
    assert found == pytest.approx(in_place, rel=ENERGY_RTOL)
    assert peers_energy(path, atoms) == pytest.approx(found, rel=ENERGY_RTOL)


def test_written_models_without_parameters(model_file: Export, tmp_path: Path) -> None:
    source = model_file("stillinger-weber")
    path = write_model(source, {}, tmp_path / "sw.pt")
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=3)
    assert energy(path, atoms) == energy(source, atoms)
    assert peers_energy(path, atoms) == pytest.approx(energy(source, atoms), rel=ENERGY_RTOL)


def test_what_can_not_be_written(model_file: Export, tmp_path: Path) -> None:
    source = model_file("lennard-jones", trainable=True)
    with pytest.raises(ConfigurationError, match="another file"):
        write_model(source, {}, source)
    with pytest.raises(ConfigurationError, match="folder that exists"):
        write_model(source, {}, tmp_path / "nowhere" / "new.pt")
    with pytest.raises(ShapeError, match="sigma"):
        write_model(source, {"sigma": values()["sigma"][:1]}, tmp_path / "new.pt")
    assert not (tmp_path / "new.pt").exists()


@pytest.mark.parametrize("truncation", ["none", "energy-shift", "force-shift"])
def test_trainable_lennard_jones(truncation: str, argon: Atoms) -> None:
    """Energies, forces and stress are those of the oracle, and of the model with a table."""
    options = {"epsilon": EPSILON, "sigma": SIGMA, "truncation": truncation}
    known = LennardJonesOracle(**options).evaluate(argon)
    found = {}
    for trainable in (False, True):
        atoms = argon.copy()
        atoms.calc = BridgeCalculator(
            potentials.build("lennard-jones", trainable=trainable, **options)
        )
        found[trainable] = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        assert found[trainable][0] == pytest.approx(known.energy, rel=ENERGY_RTOL)
        np.testing.assert_allclose(found[trainable][1], known.forces, atol=1e-11)
    for one, other in zip(found[False], found[True], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def test_trainable_lennard_jones_refuses_pairs() -> None:
    with pytest.raises(ConfigurationError, match="mixing rule"):
        potentials.build("lennard-jones", trainable=True, pairs={(18, 36): (0.01, 3.5)})
