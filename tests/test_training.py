"""Whole trainings: restart, fine-tuning, freezing, several ranks."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from types import SimpleNamespace

import deepmd_standin as standin
import numpy as np
import pytest
import torch
import torch.distributed as dist
import training_parts
from ase import Atoms
from training_parts import launch, train

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.errors import (
    ConfigurationError,
    InputError,
    ModelLoadError,
    NonFiniteResultError,
)
from alchemi_bridge.model.files import write_atomically
from alchemi_bridge.potentials.deepmd import to_deepmd
from alchemi_bridge.training import Ranks, Start, Training, finetune, freeze, joined, read_input
from alchemi_bridge.training import checkpoint as checkpoints
from alchemi_bridge.training.loss import Targets
from alchemi_bridge.training.ranks import said_once
from alchemi_bridge.training.rmse import ErrorSums, errors_of, predict

#: Two ranks sum gradients in another order than one process; Adam divides by their size, so that
#: the difference grows in every step. Relative to the largest weight, after twelve steps.
OTHER_ORDER = 1e-8
#: The provider finds its own pairs: sums in another order.
ROUNDING = 1e-10

#: The same with one net in float32, eV/Å: forces of order one.
SINGLE = 1e-5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training_parts.write_data(tmp_path / "data")
    return tmp_path


def weights(output: Path, step: int = 12) -> dict[str, torch.Tensor]:
    return dict(checkpoints.load(output / f"model.ckpt-{step}.pt").model)


def curve(output: Path) -> list[dict[str, str]]:
    with (output / "lcurve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_training_learns_and_writes_what_it_did(folder: Path) -> None:
    path = training_parts.write_input(
        folder, training__numb_steps=60, training__disp_freq=20, learning_rate__start_lr=0.02,
        training__save_freq=10, training__validation_data={"systems": "data"},
    )  # fmt: skip
    training = train(path, folder / "out")
    rows = curve(folder / "out")
    assert [int(row["step"]) for row in rows] == [0, 20, 40, 60]
    forces = [float(row["validation_force"]) for row in rows]
    assert forces[-1] < 0.85 * forces[0]
    # what the table says of all frames is what a plain loop over them says
    assert training.model is not None
    total = sum(
        errors_of(training.model, system, 3.6).sums for system in _systems(path)
    )  # fmt: skip
    assert forces[-1] == pytest.approx(float((total[1, 0] / total[1, 1]).sqrt()), rel=1e-8)
    assert (folder / "out" / "lcurve.png").read_bytes().startswith(b"\x89PNG")
    kept = checkpoints.numbered(folder / "out" / "model.ckpt")
    assert [p.name for p in kept] == [f"model.ckpt-{n}.pt" for n in (20, 30, 40, 50, 60)]
    assert not list((folder / "out").glob(".*"))


def _systems(path: Path) -> list:
    from alchemi_bridge.training.systems import read_systems

    return read_systems(read_input(path).training.systems, ("Cu", "Au"))


@pytest.mark.parametrize("stop", [6, 11])
def test_restart_gives_the_numbers_of_no_interruption(folder: Path, stop: int) -> None:
    """Bit by bit, in the middle of an epoch; a killed run loses the steps since step 6."""
    path = training_parts.write_input(folder)
    train(path, folder / "whole")
    train(path, folder / "cut", stop=stop)
    assert not (folder / "cut" / "model.ckpt-12.pt").exists()
    train(path, folder / "cut", Start(restart=folder / "cut" / "model.ckpt"))
    whole, cut = weights(folder / "whole"), weights(folder / "cut")
    assert whole.keys() == cut.keys()
    for name, tensor in whole.items():
        assert torch.equal(cut[name], tensor), name
    assert curve(folder / "cut") == curve(folder / "whole")


def test_finetuning_begins_with_the_weights_and_a_fitting_bias(folder: Path) -> None:
    path = training_parts.write_input(folder)
    train(path, folder / "first")
    for energies in folder.glob("data/*/set.000/energy.npy"):
        n_atoms = 4 if "alloy" in str(energies) else 8
        np.save(energies, np.load(energies) + 10.0 * n_atoms)
    start = Start(finetune=folder / "first" / "model.ckpt-12.pt")
    with joined("cpu") as ranks:
        training = Training(read_input(path), folder, ranks, start)
    old = weights(folder / "first")
    assert training.step == 0
    for name, parameter in training.model.named_parameters():
        assert torch.equal(parameter, old[name])
    # the errors that are left do not depend on the composition
    residual = np.concatenate(
        [s.energies - predict(training.model, s, 3.6).energies for s in _systems(path)]
    )
    counts = np.concatenate(
        [[np.bincount(s.types, minlength=2)] * s.n_frames for s in _systems(path)]
    )
    np.testing.assert_allclose(counts.T @ residual, 0.0, atol=1e-8)


def test_finetuning_from_models_of_deepmd_kit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint and its frozen model; their layouts, with weights under its names."""
    path = training_parts.write_input(folder)
    train(path, folder / "first")
    found = checkpoints.load(folder / "first" / "model.ckpt-12.pt")
    state = to_deepmd(found.build(), found.definition)
    section = found.definition.to_deepmd()
    extra = {"model_params": section, "train_infos": {"lr": 0, "step": 12}}
    named = {f"model.Default.{key}": tensor for key, tensor in state.items()}
    torch.save({"model": {**named, "_extra_state": extra}, "optimizer": {}}, folder / "theirs.pt")
    module = SimpleNamespace(state_dict=lambda: state)
    monkeypatch.setattr(
        finetune,
        "read_frozen",
        lambda _: SimpleNamespace(kind="se_e2_a", definition=section, module=module),
    )
    for name in ("theirs.pt", "frozen.pth", "first/model.ckpt"):
        with joined("cpu") as ranks:
            start = Start(finetune=folder / name)
            training = Training(read_input(path), folder, ranks, start)
        assert training.step == 0
        for key, parameter in training.model.named_parameters():
            assert torch.equal(parameter, found.model[key]), (name, key)


def test_finetuning_from_other_models_is_refused(folder: Path) -> None:
    path = training_parts.write_input(folder)
    with pytest.raises(ModelLoadError, match="a dpa3 model"):
        train(path, folder, Start(finetune=standin.save(folder / "x.pth", "dpa3")))
    torch.save({"model": {"weights": 1}}, folder / "other.pt")
    with pytest.raises(ModelLoadError, match=r"other\.pt"):
        train(path, folder, Start(finetune=folder / "other.pt"))


def test_virials_may_be_missing_in_some_systems(folder: Path) -> None:
    """Of the others they are learnt from; each row of the curve is of one system's batch."""
    (folder / "data" / "copper" / "set.000" / "virial.npy").unlink()
    path = training_parts.write_input(
        folder, training__numb_steps=7, training__disp_freq=1, training__save_freq=7
    )
    train(path, folder / "out")
    there = ["training_virial" in row and row["training_virial"] != "" for row in
             curve(folder / "out")[1:]]  # fmt: skip
    # four batches of the alloy and three of copper are an epoch
    assert there.count(True) == 4
    assert there.count(False) == 3


def test_validation_takes_as_many_batches_as_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``numb_btch``, drawn anew for each row; all frames where it is not given."""
    counted: list[int] = []
    add = ErrorSums.add

    def watched(self: ErrorSums, results: object, targets: Targets) -> None:
        counted.append(int(targets.weights.sum()))
        add(self, results, targets)

    monkeypatch.setattr(ErrorSums, "add", watched)
    for n_batches, expected in ((2, 2), (None, 7)):
        data = {"systems": "data", "batch_size": 2}
        if n_batches:
            data["numb_btch"] = n_batches
        path = training_parts.write_input(
            folder, training__validation_data=data, training__numb_steps=1
        )
        counted.clear()
        train(path, folder / f"out-{expected}")
        # two rows: the batch of the step, and the validation
        assert len(counted) == 2 * (1 + expected)
        if n_batches is None:
            assert sum(counted[1:8]) == 12


def test_ranks_say_once_what_all_of_them_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rank with a message raises it; the others leave with the same status."""
    said = ["a", "a", "b", None]

    def gather(messages: list[str | None], mine: str | None) -> None:
        messages[:] = said
        assert mine == said[here]

    def enter(ranks: Ranks, message: str | None) -> None:
        with said_once(ranks):
            if message is not None:
                raise InputError(message, expected="", got="", fix="")

    monkeypatch.setattr(dist, "all_gather_object", gather)
    monkeypatch.setattr(InputError, "__str__", lambda self: str(self.what))
    for here, raised in enumerate((InputError, SystemExit, InputError, SystemExit)):
        with pytest.raises(raised) as caught:
            enter(Ranks(here, 4, torch.device("cpu")), said[here])
        if raised is SystemExit:
            assert caught.value.code == 2


def test_frozen_model_says_what_the_trained_one_says(folder: Path) -> None:
    path = training_parts.write_input(folder)
    training = train(path, folder / "out")
    file = freeze(folder / "out" / "model.ckpt", folder / "alloy.pt")
    [alloy, _] = _systems(path)
    expected = predict(training.model, alloy, 3.6)
    assert alloy.cells is not None
    calculator = BridgeCalculator(file, device="cpu")
    for frame in range(2):
        symbols = [("Cu", "Au")[t] for t in alloy.types]
        atoms = Atoms(symbols, alloy.coordinates[frame], cell=alloy.cells[frame], pbc=True)
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(expected.energies[frame], abs=ROUNDING)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces[frame], atol=ROUNDING)
        virial = atoms.get_stress(voigt=False) * atoms.get_volume()
        symmetric = (expected.virials[frame] + expected.virials[frame].T) / 2
        np.testing.assert_allclose(virial, symmetric, atol=ROUNDING)


def test_checkpoints_that_are_not_usable(folder: Path) -> None:
    path = training_parts.write_input(folder)
    train(path, folder / "out")
    good = folder / "out" / "model.ckpt-12.pt"
    half = folder / "half.pt"
    half.write_bytes(good.read_bytes()[:2000])
    other = folder / "other.pt"
    torch.save({"format": "of somebody else"}, other)
    for bad in (half, other, folder / "none.pt", folder / "input.json"):
        with pytest.raises(ModelLoadError, match=bad.name):
            checkpoints.load(bad)
    with pytest.raises(ConfigurationError, match="path of the model file"):
        freeze(good, good)
    changed = training_parts.write_input(folder, model__fitting_net__neuron=[8, 9])
    with pytest.raises(ConfigurationError, match=r"model\.fitting_net\.neuron.*\[8, 8\]"):
        train(changed, folder / "out", Start(restart=good))


def test_divergence_is_said_and_leaves_the_last_checkpoint(folder: Path) -> None:
    path = training_parts.write_input(folder, learning_rate__start_lr=1e300)
    with pytest.raises(NonFiniteResultError, match="training at step"):
        train(path, folder / "out")
    assert not checkpoints.numbered(folder / "out" / "model.ckpt")


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.pt"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.pt"]


def test_single_precision_and_open_boundaries(folder: Path) -> None:
    """Clusters without a cell, float32 in one net: the frozen model still says the same."""
    for system in (folder / "data").iterdir():
        (system / "nopbc").touch()
    path = training_parts.write_input(folder, model__descriptor__precision="float32")
    training = train(path, folder / "out")
    assert {p.dtype for p in training.model.parameters()} == {torch.float32, torch.float64}
    assert "training_virial" not in curve(folder / "out")[-1]
    file = freeze(folder / "out" / "model.ckpt", folder / "alloy.pt")
    [alloy, _] = _systems(path)
    atoms = Atoms([("Cu", "Au")[t] for t in alloy.types], alloy.coordinates[0])
    atoms.calc = BridgeCalculator(file, device="cpu")
    expected = predict(training.model, alloy, 3.6)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces[0], atol=SINGLE)


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["Adam", "LKF"])
def test_two_ranks_follow_one_process_with_the_double_batch(folder: Path, optimiser: str) -> None:
    changes = {"training__opt_type": optimiser, "loss": {}}
    path = training_parts.write_input(folder, **changes, training__training_data__batch_size=1)
    launch(2, path, folder / "two")
    train(training_parts.write_input(folder, **changes), folder / "one")
    one, two = weights(folder / "one"), weights(folder / "two")
    for name, tensor in one.items():
        limit = OTHER_ORDER * float(tensor.abs().max())
        assert float((two[name] - tensor).abs().max()) <= limit, name
    for mine, theirs in zip(curve(folder / "one"), curve(folder / "two"), strict=True):
        for key, value in mine.items():
            assert float(theirs[key]) == pytest.approx(float(value), rel=1e-6), key


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), [("disp_frq", 3), ("save_ckpt", "input.json/model")])
def test_bad_input_on_two_ranks_is_said_once(folder: Path, key: str, value: int | str) -> None:
    """torchrun has a status of its own, and tells that of the ranks."""
    path = training_parts.write_input(folder, **{f"training__{key}": value})
    said = launch(2, path, folder, status=1).stderr
    assert said.count("error: ") == 1
    assert f"training.{key}" in said
    assert "exitcode  : 2" in said
