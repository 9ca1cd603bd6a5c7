"""``alchemi-bridge inspect``."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zoo
from cli_runs import Cli, as_user

ModelFile = Callable[..., Path]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def silicon_model(model_file: ModelFile) -> Path:
    return model_file("stillinger-weber")


def test_json(cli: Cli, silicon_model: Path) -> None:
    run = cli("inspect", silicon_model, "--json")
    assert run.status == 0
    assert run.stderr == ""
    document = run.document
    content = silicon_model.read_bytes()
    assert document["file"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert document["file"]["size_bytes"] == len(content)
    assert document["file"]["torch_version"].startswith("2.")
    assert document["metadata"]["name"] == "Stillinger-Weber"
    assert any("Phys. Rev. B 31" in r for r in document["metadata"]["references"]["architecture"])
    assert document["dtype"] == "float64"
    assert document["symbols"] == ["Si"]
    assert document["neighbor_lists"][0]["cutoff_angstrom"] == pytest.approx(1.8 * 2.0951)
    assert document["neighbor_lists"][0]["full_list"] is True
    assert document["extensions"] == []
    assert document["inputs"] == []
    assert document["outputs"] == [
        {
            "name": "energy",
            "quantity": "energy",
            "variant": None,
            "unit": "eV",
            "per": "atom",
            "explicit_gradients": [],
            "description": "potential energy",
        }
    ]


def test_text(cli: Cli, silicon_model: Path) -> None:
    run = cli("inspect", silicon_model)
    assert run.status == 0
    for words in (
        "Stillinger-Weber",
        "3.77118",
        "Si (14)",
        "neighbour lists",
        "outputs",
        "SHA-256",
    ):
        assert words in run.stdout


def test_units_variants_and_inputs(cli: Cli, tmp_path: Path) -> None:
    nm = cli("inspect", zoo.save(zoo.nm_units(), tmp_path, "nm"), "--json").document
    assert nm["neighbor_lists"][0]["cutoff"] == pytest.approx(0.4)
    assert nm["neighbor_lists"][0]["cutoff_angstrom"] == pytest.approx(4.0)
    assert nm["interaction_range_angstrom"] == pytest.approx(4.0)
    assert (nm["length_unit"], nm["energy_unit"]) == ("nm", "kJ/mol")

    variants = cli("inspect", zoo.save(zoo.variants(), tmp_path, "v"), "--json").document
    energies = [o["variant"] for o in variants["outputs"] if o["quantity"] == "energy"]
    assert sorted(energies, key=str) == [None, "pbe", "scan"]

    model = zoo.save(zoo.extra_inputs("charge_and_spin"), tmp_path, "inputs")
    inputs = cli("inspect", model, "--json").document["inputs"]
    assert {(i["name"], i["per"]) for i in inputs} == {
        ("charge", "system"),
        ("spin_multiplicity", "system"),
    }


def test_infinite_range_is_no_invalid_json(cli: Cli, tmp_path: Path) -> None:
    model = zoo.save(zoo.infinite_range(), tmp_path, "inf")
    assert cli("inspect", model, "--json").document["interaction_range"] is None
    assert "infinite" in cli("inspect", model).stdout


def test_records_only_loads_nothing(
    cli: Cli, silicon_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("alchemi_bridge.model.load_model", refuse)
    document = cli("inspect", silicon_model, "--records-only", "--json").document
    assert document["metadata"]["name"] == "Stillinger-Weber"
    assert "outputs" not in document


def test_records_only_of_a_model_for_another_machine(cli: Cli, tmp_path: Path) -> None:
    model = zoo.save(zoo.cuda_only(), tmp_path, "cuda")
    assert cli("inspect", model, "--records-only").status == 0


@pytest.mark.parametrize("options", [(), ("--records-only",)])
def test_pinned(cli: Cli, silicon_model: Path, options: tuple[str, ...]) -> None:
    right = hashlib.sha256(silicon_model.read_bytes()).hexdigest()
    assert cli("inspect", silicon_model, "--sha256", right.upper(), *options).status == 0
    wrong = "0" * 64
    cli("inspect", silicon_model, "--sha256", wrong, *options).failed_with("SHA-256", wrong)


@pytest.mark.parametrize("options", [(), ("--records-only",), ("--json",)])
@pytest.mark.parametrize("content", [None, b"", b"not a model", b"PK\x03\x04 torn"])
def test_bad_file(cli: Cli, tmp_path: Path, content: bytes | None, options: tuple) -> None:
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    cli("inspect", path, *options).failed_with(str(path))


def test_foreign_zip(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "world")
    cli("inspect", path).failed_with("metatomic")


def test_as_user(silicon_model: Path, tmp_path: Path) -> None:
    run = as_user("inspect", silicon_model, "--json")
    assert run.status == 0
    assert run.document["symbols"] == ["Si"]
    bad = as_user("inspect", tmp_path / "missing.pt", "--json")
    bad.failed_with("no such file")
