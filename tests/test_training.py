"""Whole trainings: restart, fine-tuning, freezing, several ranks."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import training_parts
from ase import Atoms

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.errors import ConfigurationError, ModelLoadError, NonFiniteResultError
from alchemi_bridge.training import Start, Training, freeze, joined, read_input
from alchemi_bridge.training import checkpoint as checkpoints
from alchemi_bridge.training.rmse import errors_of, predict

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


def train(
    path: Path, output: Path, start: Start | None = None, stop: int | None = None
) -> Training:
    """Run a training in this process, up to a step if ``stop`` is given."""
    output.mkdir(exist_ok=True)
    with joined("cpu") as ranks:
        training = Training(read_input(path), output, ranks, start or Start())
        steps = training.steps()
        for step in steps:
            if step == stop:
                steps.close()
    return training


def weights(output: Path, step: int = 12) -> dict[str, torch.Tensor]:
    return dict(checkpoints.load(output / f"model.ckpt-{step}.pt").model)


def curve(output: Path) -> list[dict[str, str]]:
    with (output / "lcurve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_training_learns_and_writes_what_it_did(folder: Path) -> None:
    path = training_parts.write_input(
        folder, training__numb_steps=120, training__disp_freq=40, learning_rate__start_lr=0.02,
        training__validation_data={"systems": "data"},
    )  # fmt: skip
    training = train(path, folder / "out")
    rows = curve(folder / "out")
    assert [int(row["step"]) for row in rows] == [0, 40, 80, 120]
    forces = [float(row["validation_force"]) for row in rows]
    assert forces[-1] < 0.6 * forces[0]
    # what the table says of all frames is what a plain loop over them says
    assert training.model is not None
    total = sum(
        errors_of(training.model, system, 3.6).sums for system in _systems(path)
    )  # fmt: skip
    assert forces[-1] == pytest.approx(float((total[1, 0] / total[1, 1]).sqrt()), rel=1e-8)
    assert (folder / "out" / "lcurve.png").read_bytes().startswith(b"\x89PNG")
    kept = checkpoints.numbered(folder / "out" / "model.ckpt")
    assert [p.name for p in kept] == [f"model.ckpt-{n}.pt" for n in (96, 102, 108, 114, 120)]
    assert not list((folder / "out").glob(".*"))


def _systems(path: Path) -> list:
    from alchemi_bridge.training.systems import read_systems

    return read_systems(read_input(path).training.systems, ("Cu", "Au"))


@pytest.mark.parametrize("stop", [6, 9, 11])
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
    checkpoints.write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        checkpoints.write_atomically(path, b"new")
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


def launch(n_ranks: int, path: Path, output: Path) -> None:
    """``torchrun ... train``, as users start it."""
    output.mkdir()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc_per_node={n_ranks}", "-m", "alchemi_bridge.cli.main",
        "train", str(path), "--output", str(output), "--device", "cpu",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


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
