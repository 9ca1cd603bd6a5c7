"""``alchemi-bridge verify``: output, exit status, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zoo
from ase.build import bulk
from ase.io import write
from cli_runs import as_user

from alchemi_bridge.cli.main import main
from alchemi_bridge.verify import CHECKS

QUICK = ("--check", "forces", "--check", "rotation")


@pytest.fixture(scope="module")
def silicon(model_file: Callable[..., Path]) -> str:
    return str(model_file("stillinger-weber"))


def test_all_checks_pass(silicon: str) -> None:
    # alone, as for a user: resident memory of a process with a history says little about a model
    run = as_user("verify", silicon)
    assert run.status == 0, run.stdout
    for name in CHECKS:
        assert name in run.stdout
    assert "verification passed: 19 pass" in run.stdout
    # no progress bar and no colours where there is no terminal
    assert run.stderr == ""
    assert "\x1b" not in run.stdout


def test_json_and_nothing_else(silicon: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", silicon, "--json", *QUICK]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.err == ""
    assert document["passed"] is True
    assert [check["name"] for check in document["checks"]] == ["forces", "rotation"]
    for check in document["checks"]:
        assert check["status"] == "pass"
        assert 0.0 <= check["value"] <= check["tolerance"]
        assert isinstance(check["unit"], str)
        assert check["message"]


def test_structure_from_a_file(
    silicon: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atoms = bulk("Si", "diamond", a=5.4, cubic=True)
    atoms.positions += np.random.default_rng(0).normal(scale=0.1, size=(8, 3))
    molecule = atoms[:3]
    molecule.pbc = False
    path = str(tmp_path / "frames.xyz")
    write(path, [atoms, molecule])
    assert main(["verify", silicon, path, *QUICK]) == 0
    assert "8 atoms, Si, pbc TTT, as given" in capsys.readouterr().out
    assert main(["verify", silicon, path, "--index", "1", "--check", "stress"]) == 0
    out = capsys.readouterr().out
    assert "3 atoms, Si, pbc FFF, as given" in out
    assert "stress: a molecule has no volume, and no stress" in out


def test_failure_is_exit_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(zoo.save(zoo.jump_at_cutoff(), tmp_path, "jump"))
    assert main(["verify", path, "--check", "cutoff-energy", "--check", "cutoff-force"]) == 1
    out = capsys.readouterr().out
    assert "verification failed: 1 fail, 1 pass" in out
    assert "[jump of the energy 0.1 eV]" in out
    assert main(["verify", path, "--json", "--check", "cutoff-energy"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False
    assert document["checks"][0]["value"] == pytest.approx(0.1)


def test_error_of_a_check_is_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(zoo.save(zoo.nan_energy(threshold=2.9), tmp_path, "nan"))
    assert main(["verify", path, "--json", *QUICK]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [check["status"] for check in document["checks"]] == ["error", "error"]
    assert "NonFiniteResultError" in document["checks"][0]["message"]
    assert document["checks"][0]["value"] is None


def test_reported_is_exit_status_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(zoo.save(zoo.not_invariant(), tmp_path, "field"))
    assert main(["verify", path, "--check", "translation", "--check", "net-force"]) == 0
    out = capsys.readouterr().out
    assert "verification passed: 2 reported" in out
    assert "not invariant" in out


def test_list_needs_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(CHECKS)
    assert main(["verify", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["checks"]
    assert [check["name"] for check in listed] == list(CHECKS)
    assert {check["beyond_tolerance"] for check in listed} == {"fail", "warning", "reported"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a model file"),
        (("{silicon}", "--check", "friction"), "expected one of forces"),
        (("{silicon}", "no-such.xyz"), "no such file"),
        (("{silicon}", "{gold}"), "types [79]"),
        (("{silicon}", "{gold}", "--index", "7"), "--index"),
        (("{silicon}", "--seed", "-1"), "expected an integer of zero or more"),
        (("{silicon}", "--sha256", "0" * 64), "sha-256"),
        (("{gold}",), "model"),
        (("no-such.pt",), "no-such.pt"),
    ],
)
def test_bad_input_is_exit_status_2(
    arguments: tuple[str, ...],
    message: str,
    silicon: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gold = str(tmp_path / "gold.xyz")
    write(gold, bulk("Au"))
    filled = [argument.format(silicon=silicon, gold=gold) for argument in arguments]
    assert main(["verify", *filled]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message.lower() in captured.err.lower()
    assert "Traceback" not in captured.err
