"""Checkpoints that are damaged or of another training, and inputs that ask for too much."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_parts
from training_parts import make, train

from alchemi_bridge.errors import ConfigurationError, ModelLoadError
from alchemi_bridge.training import Start, freeze
from alchemi_bridge.training.checkpoint import load, numbered

KALMAN = {"training__opt_type": "LKF", "loss": {}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and the checkpoints of two steps with Adam and with the filter."""
    folder = tmp_path_factory.mktemp("training")
    training_parts.write_data(folder / "data")
    for name, changes in (("adam", {}), ("lkf", {**KALMAN, "training__kf_blocksize": 50})):
        (folder / name).mkdir()
        train(training_parts.write_input(folder, training__numb_steps=2, **changes), folder / name)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def write(folder: Path, **changes: Any) -> Path:
    return training_parts.write_input(folder, training__numb_steps=4, **changes)


def test_restart_with_other_data_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = Start(restart=folder / "adam" / "model.ckpt")
    make(write(folder), folder / "adam", start)
    assert caplog.text == ""
    # the same number of batches, of the same size
    energies = folder / "data" / "copper" / "set.000" / "energy.npy"
    before = energies.read_bytes()
    np.save(energies, np.load(energies) + 1e-6)
    make(write(folder), folder / "adam", start)
    assert "structures or labels" in caplog.text
    assert "batch sizes" not in caplog.text
    energies.write_bytes(before)
    for name in ("coord", "box", "force", "virial"):
        caplog.clear()
        path = folder / "data" / "copper" / "set.000" / f"{name}.npy"
        before = path.read_bytes()
        np.save(path, np.load(path) * (1 + 1e-9))
        make(write(folder), folder / "adam", start)
        assert "structures or labels" in caplog.text
        path.write_bytes(before)
    caplog.clear()
    make(write(folder, training__training_data__batch_size=3), folder / "adam", start)
    assert "batch sizes: [2, 2] before, [3, 3] now" in caplog.text


def test_restart_with_other_settings_of_adam(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The input decides, not the checkpoint, and what is new is said."""
    start = Start(restart=folder / "adam" / "model.ckpt")
    changes = {"training__adam_beta2": 0.9, "training__weight_decay": 0.25}
    training = make(write(folder, **changes), folder / "adam", start)
    assert [record.getMessage() for record in caplog.records] == [
        "not the training that was begun, adam_beta2: 0.999 before, 0.9 now",
        "not the training that was begun, weight_decay: 0 before, 0.25 now",
    ]
    for _ in training.steps():
        pass
    saved = torch.load(training.checkpoint_path(4), weights_only=True)["optimiser"]
    [group] = saved["param_groups"]
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.9), 0.25)
    # the moments are those of the checkpoint, and have gone on
    assert {float(one["step"]) for one in saved["state"].values()} == {4.0}


@pytest.mark.parametrize(
    ("checkpoint", "changes", "key"),
    [
        ("lkf", {**KALMAN, "training__kf_blocksize": 40}, r"training\.kf_blocksize.*50.*got 40"),
        ("lkf", {}, r"training\.opt_type.*lkf.*got adam"),
        ("adam", KALMAN, r"training\.opt_type.*adam.*got lkf"),
    ],
)
def test_restart_with_another_optimiser_names_the_key(
    folder: Path, checkpoint: str, changes: dict[str, Any], key: str
) -> None:
    start = Start(restart=folder / checkpoint / "model.ckpt")
    with pytest.raises(ConfigurationError, match=key):
        make(write(folder, **changes), folder / checkpoint, start)


def _nan(content: dict[str, Any]) -> None:
    name = next(k for k, v in content["model"].items() if v.is_floating_point())
    content["model"][name] = content["model"][name] * float("nan")


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no plan": lambda c: c.pop("plan"),
    "plan is a list": lambda c: c.update(plan=[1, 2]),
    "negative step": lambda c: c.update(step=-3),
    "definition": lambda c: c.update(definition="{}"),
    "definition is a list": lambda c: c.update(definition="[]"),
    "no weights": lambda c: c.update(model=None),
    "shape": lambda c: c["model"].update({k: v[:1] for k, v in c["model"].items() if v.dim()}),
    "nan": _nan,
}
OPTIMISER_DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no state": lambda c: c["optimiser"].pop("state"),
    "empty state": lambda c: c["optimiser"].update(state={}),
    "no groups": lambda c: c["optimiser"].update(param_groups=[]),
    "no betas": lambda c: c["optimiser"]["param_groups"][0].pop("betas"),
}


@pytest.mark.parametrize("damage", [*DAMAGES, *OPTIMISER_DAMAGES])
def test_damaged_content_is_an_error_that_names_the_file(folder: Path, damage: str) -> None:
    content = torch.load(folder / "adam" / "model.ckpt-2.pt", weights_only=True)
    (DAMAGES | OPTIMISER_DAMAGES)[damage](content)
    bad = folder / "bad.pt"
    torch.save(content, bad)
    if damage in DAMAGES:
        with pytest.raises(ModelLoadError, match=r"bad\.pt"):
            freeze(bad, folder / "model.pt")
        assert not (folder / "model.pt").exists()
    (folder / "out").mkdir()
    with pytest.raises(ModelLoadError, match=r"bad\.pt"):
        make(write(folder), folder / "out", Start(restart=bad))


def test_one_wrong_bit_in_the_weights_is_noticed(folder: Path) -> None:
    """In the mantissa of one weight, where nothing but a checksum can see it."""
    path = folder / "adam" / "model.ckpt-2.pt"
    found = load(path)
    whole = bytearray(path.read_bytes())
    tensor = max(found.model.values(), key=torch.Tensor.numel)
    place = whole.index(tensor.numpy().tobytes())
    whole[place + 3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ModelLoadError, match="checksum"):
        load(path)


class _Harmful:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self._mark),)


def test_files_of_another_kind_are_named_plainly(folder: Path) -> None:
    frozen = freeze(folder / "adam" / "model.ckpt", folder / "model.pt")
    with pytest.raises(ModelLoadError, match="a frozen model"):
        load(frozen)
    torch.save({"format": _Harmful(folder / "mark")}, folder / "code.pt")
    with pytest.raises(ModelLoadError, match="a pickle of something else"):
        load(folder / "code.pt")
    (folder / "plain.pt").write_bytes(pickle.dumps(_Harmful(folder / "mark")))
    with pytest.raises(ModelLoadError, match="another kind"):
        load(folder / "plain.pt")
    assert not (folder / "mark").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__descriptor__trainable": False}, r"model\.descriptor\.trainable"),
        ({"model__fitting_net__trainable": [True, False]}, r"model\.fitting_net\.trainable"),
        ({"training__seed": 2**70}, r"training\.seed.*2\*\*63"),
        ({**KALMAN, "model__descriptor__precision": "float32"}, r"fitting_net\.precision.*float32"),
        ({"model__fitting_net__atom_ener": [float("nan"), 1]}, r"atom_ener"),
        ({"model__descriptor__neurons": [4]}, r"input\.json'\.model\.descriptor\.neurons"),
        ({"training__training_data__systems": ["data"]}, r"in a list, which holds 2 systems"),
        ({"training__numb_steps": None}, r"training\.numb_steps.*got none"),
    ],
)
def test_inputs_that_ask_for_too_much(folder: Path, changes: dict[str, Any], message: str) -> None:
    (folder / "out").mkdir()
    with pytest.raises(ConfigurationError, match=message):
        make(training_parts.write_input(folder, **changes), folder / "out")
    assert not numbered(folder / "out" / "model.ckpt")


def test_trainable_may_say_what_is_so(folder: Path) -> None:
    (folder / "out").mkdir()
    path = write(
        folder, model__descriptor__trainable=True, model__fitting_net__trainable=[True, True, True]
    )
    assert make(path, folder / "out").step == 0


def test_a_loss_without_data(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in folder.glob("data/*/set.000/virial.npy"):
        path.unlink()
    (folder / "out").mkdir()
    make(write(folder), folder / "out")
    assert "loss.start_pref_v and loss.limit_pref_v do nothing" in caplog.text
    zeros = {f"{end}_pref_{letter}": 0 for end in ("start", "limit") for letter in "ef"}
    path = write(folder, loss={**zeros, "start_pref_v": 1, "limit_pref_v": 1})
    with pytest.raises(ConfigurationError, match="weights of the virial only"):
        make(path, folder / "out")


def test_a_sel_below_the_data_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "out").mkdir()
    make(write(folder, model__descriptor__sel=[2, 40]), folder / "out")
    assert "neighbours of the type Cu, of which the nearest 2" in caplog.text
    assert "type Au" not in caplog.text
