"""``alchemi-bridge export nnpot``: what it writes, prints and refuses."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zoo
from cli_runs import Cli, as_user

from alchemi_bridge.engines.nnpot import check
from alchemi_bridge.engines.nnpot import record as nnpot_record
from alchemi_bridge.engines.nnpot.export import export
from alchemi_bridge.engines.nnpot.record import ALWAYS, needed_libraries, record
from alchemi_bridge.errors import ConfigurationError, EvaluationError, ModelLoadError
from alchemi_bridge.model import load_model
from alchemi_bridge.model.libraries import Extension


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def silicon_model(model_file: Callable[..., Path]) -> Path:
    return model_file("stillinger-weber")


def extra(path: Path, name: str) -> str:
    """An extra record of a TorchScript file."""
    with zipfile.ZipFile(path) as archive:
        (entry,) = [n for n in archive.namelist() if n.endswith(f"/extra/{name}")]
        return archive.read(entry).decode()


def test_json(cli: Cli, silicon_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "si.pt"
    run = cli("export", "nnpot", silicon_model, out, "--contract", "2026", "--json")
    assert run.status == 0
    assert run.stderr == ""
    document = run.document
    assert document["file"] == str(out)
    assert document["contract"] == "2026"
    assert document["inputs"] == [
        "atom-positions",
        "atom-numbers",
        "atom-pairs",
        "pair-shifts",
        "box",
        "pbc",
    ]
    assert document["cutoff_nm"] == pytest.approx(0.18 * 2.0951)
    assert document["relative_difference_from_provider"] < 1e-6
    files = [Path(name) for name in document["libraries"]]
    assert [file.name for file in files] == list(ALWAYS)
    assert all(file.is_file() for file in files)
    assert document["extension_libs"] == ":".join(map(str, files))
    assert extra(out, "extension_libs") == document["extension_libs"]
    facts = json.loads(extra(out, "alchemi-bridge"))
    assert facts["contract"] == "2026"
    assert facts["model-sha256"] == load_model(silicon_model).sha256


def test_lines_for_the_mdp_file(silicon_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "si.pt"
    run = as_user("export", "nnpot", silicon_model, out)
    assert run.status == 0
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    options = dict(
        (part.strip() for part in line.split("=", 1)) for line in lines if not line.startswith(";")
    )
    assert options == {
        "nnpot-active": "true",
        "nnpot-modelfile": str(out),
        "nnpot-input-group": "System",
        "nnpot-model-input1": "atom-positions",
        "nnpot-model-input2": "atom-numbers",
        "nnpot-model-input3": "box",
        "nnpot-model-input4": "pbc",
    }
    comments = "\n".join(line for line in lines if line.startswith(";"))
    for words in ("libtorch 2.", "nnpot-link-type", "face of the box", "pcoupl = no", *ALWAYS):
        assert words in comments
    assert out.stat().st_mode & 0o444 == silicon_model.stat().st_mode & 0o444
    assert list(tmp_path.iterdir()) == [out]


def test_lines_with_pairs(cli: Cli, silicon_model: Path, tmp_path: Path) -> None:
    run = cli("export", "nnpot", silicon_model, tmp_path / "si.pt", "--contract", "2026")
    assert run.status == 0
    # of 0.377118, and 0.1 beyond
    assert "nnpot-pair-cutoff  = 0.478" in run.stdout
    assert "buffer 0.1 nm" in run.stdout
    assert "nnpot-link-type    = Si" in run.stdout
    assert "rlist must be 0.478 or more" in run.stdout
    assert "with link atoms, export with --contract 2025" in run.stdout
    run = cli(
        *("export", "nnpot", silicon_model, tmp_path / "si.pt"),
        *("--contract", "2026", "--skin", "0.2", "--json"),
    )
    assert run.document["skin_nm"] == 0.2
    assert "nnpot-pair-cutoff  = 0.578" in run.document["mdp"]


def test_names_instead_of_paths(cli: Cli, silicon_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "si.pt"
    run = cli("export", "nnpot", silicon_model, out, "--libraries", "names")
    assert run.status == 0
    assert extra(out, "extension_libs") == ":".join(ALWAYS)
    assert "export LD_LIBRARY_PATH=" in run.stdout


def test_a_model_that_knows_hydrogen_needs_no_link_type(
    cli: Cli, models: Callable[[str], Path], tmp_path: Path
) -> None:
    run = cli("export", "nnpot", models("pair"), tmp_path / "out.pt", "--contract", "2026")
    assert run.status == 0
    assert "link-type" not in run.stdout


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("no_energy", [], ["energy", "inspect"]),
        ("variants", ["--variant", "blyp"], ["--variant energy=NAME"]),
        ("pair", ["--skin", "-1"], ["skin", "nm"]),
        ("pair", ["--skin", "nan"], ["skin", "nm"]),
        # nanometres, not angstrom: a list of that reach would fill the memory
        ("pair", ["--skin", "50"], ["skin", "nm, from zero to 1", "50.0"]),
        ("pair", ["--non-conservative"], ["non_conservative_force"]),
        ("pair", ["--sha256", "0" * 64], ["SHA-256"]),
        pytest.param("cuda_only", [], ["device", "cpu"], id="the file is written on the CPU"),
    ],
)
def test_what_can_not_be_exported(
    cli: Cli,
    models: Callable[[str], Path],
    tmp_path: Path,
    model: str,
    options: list[str],
    words: list[str],
) -> None:
    run = cli("export", "nnpot", models(model), tmp_path / "out.pt", *options)
    run.failed_with(*words)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_wants_what_gromacs_does_not_have(cli: Cli, tmp_path: Path) -> None:
    model = zoo.save(zoo.extra_inputs("charge"), tmp_path, "charge")
    cli("export", "nnpot", model, tmp_path / "out.pt").failed_with("charge", "GROMACS")


def test_targets_that_can_not_be(cli: Cli, silicon_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(silicon_model, tmp_path / "model.pt"))
    content = model.read_bytes()
    cli("export", "nnpot", model, tmp_path / "out.pth").failed_with("out.pt'", ".pt")
    cli("export", "nnpot", model, tmp_path / "no" / "out.pt").failed_with("folder")
    cli("export", "nnpot", model, model).failed_with("another file")
    cli("export", "nnpot", tmp_path / "no.pt", tmp_path / "out.pt").failed_with("no.pt")
    (tmp_path / "folder.pt").mkdir()
    cli("export", "nnpot", model, tmp_path / "folder.pt").failed_with("the folder", "folder.pt'")
    assert model.read_bytes() == content
    assert cli("export", "vasp", model, tmp_path / "out.pt").status == 2


def test_a_folder_that_can_not_be_written_to(
    cli: Cli, silicon_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names what the user did, and no file of our own in it."""

    def denied(path: Path, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "touch", denied)
    run = cli("export", "nnpot", silicon_model, tmp_path / "out.pt")
    run.failed_with(f"got '{tmp_path}' (Permission denied)", "choose another folder")
    assert "tmp1" not in run.stderr


def test_a_model_with_libraries_is_refused_without_their_folder(
    cli: Cli, tmp_path: Path, silicon_model: Path
) -> None:
    """The trust policy is that of every other command."""
    model = tmp_path / "model.pt"
    libraries = json.dumps([{"name": "foo", "path": "libfoo.so"}])
    with zipfile.ZipFile(silicon_model) as old, zipfile.ZipFile(model, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("/extra/extensions"):
                data = libraries.encode()
            new.writestr(entry.filename, data)
    cli("export", "nnpot", model, tmp_path / "out.pt").failed_with("libfoo.so", "--extensions")


def test_libraries_of_the_model_come_last(
    silicon_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dependencies before extensions, all from where this process has them."""
    there = {Path("/a") / name for name in (*ALWAYS, "libbar.so", "libfoo.so", "libother.so")}
    monkeypatch.setattr(nnpot_record, "loaded_files", lambda: frozenset(there))
    loaded = load_model(silicon_model)
    assert loaded.records is not None
    own = dataclasses.replace(
        loaded.records,
        extensions=(Extension("foo", "lib/libfoo.so", ""),),
        extension_dependencies=(Extension("bar", "libbar.so", ""),),
    )
    loaded = dataclasses.replace(loaded, records=own)
    names = [str(file) for file in needed_libraries(loaded)]
    assert names == [f"/a/{name}" for name in (*ALWAYS, "libbar.so", "libfoo.so")]
    there.remove(Path("/a/libbar.so"))
    with pytest.raises(ModelLoadError, match=r"no libbar\.so"):
        needed_libraries(loaded)


def test_a_colon_in_a_path_can_not_be_written() -> None:
    with pytest.raises(ConfigurationError, match="--libraries names"):
        record([Path("/opt/a:b/libfoo.so")], "paths")
    assert record([Path("/opt/a:b/libfoo.so")], "names") == "libfoo.so"


def test_a_file_that_differs_from_the_provider_is_not_written(
    silicon_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*of_the_check: object) -> list:
        arguments = given(*of_the_check)
        arguments[0] = arguments[0] * 1.001
        return arguments

    given = check.inputs
    monkeypatch.setattr(check, "inputs", other)
    with pytest.raises(EvaluationError, match="relative difference"):
        export(silicon_model, tmp_path / "out.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_fails_on_the_structure_of_the_check(
    models: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = zoo.save(zoo.raises(limit=3), tmp_path, "raises")
    exported = export(model, tmp_path / "out.pt")
    assert exported.checked is None
    assert "too many atoms" in caplog.text
