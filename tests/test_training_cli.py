"""``train``, ``test`` and ``freeze`` on the command line, and the copper example."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import training_parts
from cli_runs import Cli

from alchemi_bridge.cli.main import _run
from alchemi_bridge.training import find_systems, read_input, read_system
from alchemi_bridge.training.checkpoint import load, numbered

EXAMPLES = Path(__file__).parents[1] / "examples" / "deepmd"
#: The goal of the copper example, eV/Å.
FORCE_RMSE = 0.1


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training_parts.write_data(tmp_path / "data")
    return tmp_path


def test_train_test_and_freeze(cli: Cli, folder: Path) -> None:
    path = training_parts.write_input(folder)
    done = cli("train", path, "--output", folder, "--device", "cpu", "--json")
    assert done.status == 0, done.stderr
    assert done.document["steps"] == 12
    assert Path(done.document["checkpoint"]) == folder / "model.ckpt-12.pt"
    assert {"training_energy", "training_force"} <= done.document["errors"].keys()

    tested = cli("test", folder / "model.ckpt", folder / "data", "--json").document
    assert [row["frames"] for row in tested["systems"]] == [7, 5]
    # components of forces are counted, not frames: 7 frames of 4 atoms and 5 of 8
    squares = [row["rmse"]["force"] ** 2 for row in tested["systems"]]
    expected = ((28 * squares[0] + 40 * squares[1]) / 68) ** 0.5
    assert tested["all"]["rmse"]["force"] == pytest.approx(expected, rel=1e-12)
    table = cli("test", folder / "model.ckpt", folder / "data" / "copper")
    assert f"{1e3 * tested['systems'][1]['rmse']['force']:.3f}" in table.stdout

    frozen = cli("freeze", folder / "model.ckpt", folder / "alloy.pt", "--json").document
    content = (folder / "alloy.pt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == frozen["sha256"]
    assert cli("inspect", folder / "alloy.pt").status == 0

    # the frozen model through the bridge: the same errors
    again = cli("test", folder / "alloy.pt", folder / "data", "--json").document
    for mine, theirs in zip(tested["systems"], again["systems"], strict=True):
        assert mine["name"] == theirs["name"]
        assert theirs["rmse"] == pytest.approx(mine["rmse"], rel=1e-9)
    cli("test", folder / "model.ckpt", folder / "data", "--types", "Cu=29").failed_with("--types")


def test_restart_and_finetune_by_name(cli: Cli, folder: Path) -> None:
    path = training_parts.write_input(folder)
    assert cli("train", path, "--output", folder, "--device", "cpu").status == 0
    longer = training_parts.write_input(folder, training__numb_steps=15)
    done = cli(
        "train", longer, "--output", folder, "--device", "cpu", "--json",
        "--restart", folder / "model.ckpt",
    )  # fmt: skip
    assert done.document["steps"] == 15
    # folders are made
    done = cli(
        "train", path, "--output", folder / "new" / "tuned", "--device", "cpu",
        "--finetune", folder / "model.ckpt-15.pt",
    )  # fmt: skip
    assert done.status == 0
    assert "meV/Å" in done.stdout


def test_errors_name_file_key_and_expectation(cli: Cli, folder: Path) -> None:
    path = training_parts.write_input(folder, training__disp_frq=3)
    cli("train", path, "--output", folder).failed_with("training.disp_frq", str(path))
    path = training_parts.write_input(folder)
    cli("train", path, "--output", path).failed_with("--output", "no folder", str(path))
    cli("train", path, "--output", folder, "--restart", folder / "no.pt").failed_with("no.pt")
    forces = folder / "data" / "copper" / "set.000" / "force.npy"
    np.save(forces, np.load(forces)[:, :6])
    cli("train", path, "--output", folder).failed_with(str(forces), "(5, 24)")
    cli("test", path, folder / "data").failed_with("input.json", "checkpoint")
    cli("freeze", path, folder / "out.pt").failed_with("input.json")


def test_ranks_of_mpi_are_not_taken_for_those_of_torchrun(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # only the command, without the MPI that the variable speaks of
    monkeypatch.setattr("alchemi_bridge.domain.ranks.launched_ranks", lambda: 2)
    monkeypatch.setattr("alchemi_bridge.cli.main._on_all_ranks", _run)
    path = training_parts.write_input(folder)
    cli("train", path, "--output", folder).failed_with("torchrun")


@pytest.mark.parametrize("name", ["copper.json", "copper_adam.json"])
def test_copper_example_is_a_valid_input(tmp_path: Path, name: str) -> None:
    """The data are where the input looks for them, and have forces that can be learnt."""
    label = runpy.run_path(str(EXAMPLES / "label_copper.py"))
    # some frames of each system, instead of hundreds
    for key, (repeat, _, _) in label["SYSTEMS"].items():
        label["SYSTEMS"][key] = (repeat, 4, 3)
    label["main"](tmp_path / "copper")
    path = tmp_path / "copper.json"
    path.write_text((EXAMPLES / name).read_text())
    settings = read_input(path)
    assert settings.optimiser.unused == ()
    assert settings.validation is not None
    assert len(settings.training.systems) == len(settings.validation.systems) == 2
    for folder in find_systems(tmp_path / "copper"):
        system = read_system(folder, ["Cu"])
        assert 0.3 < system.forces.std() < 3.0
        np.testing.assert_allclose(system.forces.sum(axis=1), 0.0, atol=1e-9)


@pytest.mark.slow
def test_copper_example_reaches_its_goal(cli: Cli, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, EXAMPLES / "label_copper.py", tmp_path / "copper"], check=True, timeout=120
    )
    path = tmp_path / "copper.json"
    path.write_text((EXAMPLES / "copper.json").read_text())
    done = cli("train", path, "--output", tmp_path, "--device", "cpu", "--json")
    assert done.status == 0, done.stderr
    assert done.document["errors"]["validation_force"] < FORCE_RMSE
    assert json.loads(path.read_text())["training"]["numb_steps"] == done.document["steps"]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(cli: Cli, folder: Path) -> None:
    """Killed at a moment that nobody chose: files are whole, and the end is the same."""
    path = training_parts.write_input(folder, training__numb_steps=400, training__save_freq=20)
    output = folder / "out"
    output.mkdir()
    command = [sys.executable, "-m", "alchemi_bridge.cli.main", "train", str(path)]
    process = subprocess.Popen([*command, "--output", str(output), "--device", "cpu"])
    try:
        deadline = time.monotonic() + 200
        while not numbered(output / "model.ckpt"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    [*_, last] = numbered(output / "model.ckpt")
    step = load(last).step
    assert 20 <= step < 400
    done = cli(
        "train", path, "--output", output, "--device", "cpu", "--restart", output / "model.ckpt"
    )
    assert done.status == 0, done.stderr
    whole = folder / "whole"
    whole.mkdir()
    assert cli("train", path, "--output", whole, "--device", "cpu").status == 0
    found, expected = (load(place / "model.ckpt") for place in (output, whole))
    assert found.step == expected.step == 400
    for name, tensor in expected.model.items():
        assert torch.equal(found.model[name], tensor), name
