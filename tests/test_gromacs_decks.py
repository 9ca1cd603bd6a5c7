"""The decks of integration/gromacs, with the numbers that their program compares."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from gromacs_runs import needs_gromacs
from mpi_runs import slow

from alchemi_bridge.domain.ranks import environment_of_one
from alchemi_bridge.engines.gromacs_commands import Gromacs

FOLDER = Path(__file__).resolve().parent.parent / "integration" / "gromacs"

#: How many numbers each deck compares.
DECKS = {
    "argon_nve": 5,
    "argon_triclinic": 5,
    "ml_mm": 5,
    "ethanol": 3,
    "copper": 3,
    "argon_npt": 1,
}


def program(name: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / name), *map(str, arguments)],
        env={**environment_of_one(), "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600.0,
        check=False,
    )


@needs_gromacs
@pytest.mark.parametrize(
    "name", ["argon_triclinic", *map(slow, sorted(DECKS.keys() - {"argon_triclinic"}))]
)
def test_a_deck_is_within_its_limits(name: str, tmp_path: Path) -> None:
    done = program("run.py", name, "--folder", tmp_path)
    assert done.returncode == 0, done.stdout
    rows = [line for line in done.stdout.splitlines() if f" {name} " in line]
    assert len(rows) == DECKS[name], done.stdout
    assert "all within limits" in done.stdout
    assert "MISSED" not in done.stdout


@needs_gromacs
@pytest.mark.slow
def test_a_lost_virial_would_be_seen(tmp_path: Path) -> None:
    """The limits tell a model from none: without it the decks miss them."""
    prepared = program("run.py", "argon_nve", "--folder", tmp_path)
    assert prepared.returncode == 0, prepared.stdout
    script = tmp_path / "native.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        "from pathlib import Path\n"
        "from alchemi_bridge.engines import gromacs, gromacs_commands\n"
        "import decks\n"
        "program = gromacs.find()\n"
        "def run(name):\n"
        "    return gromacs_commands.Run(program, Path.cwd(), name, '')\n"
        "program.grompp(Path.cwd(), parameters='argon_nve.mdp', structure='argon.gro',\n"
        "               topology='argon.top', name='none')\n"
        "none = program.mdrun(Path.cwd(), 'none')\n"
        "for found in decks._constant_energy(none, run('argon_nve_native_run')):\n"
        "    print(found.quantity, found.error > found.limit, abs(found.error), sep='|')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    missed = {line.split("|")[0]: line.split("|")[1:] for line in done.stdout.splitlines()}
    pressure, error = missed["pressure, step 0 (bar)"]
    assert pressure == "True"
    assert float(error) > 1000.0
    assert missed["forces, step 0, relative"][0] == "True"


def test_what_is_asked_for_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    decks = importlib.import_module("run")
    with pytest.raises(SystemExit):
        decks.main(["nonsense"])
    assert "no deck nonsense: there are argon_nve," in capsys.readouterr().err
    assert decks.main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(DECKS)
    monkeypatch.setenv("ALCHEMI_BRIDGE_GMX", str(tmp_path / "none"))
    assert decks.main([]) == 2
    said = capsys.readouterr().err
    assert "error: program" in said
    assert "gromacs_packages" in said


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [(0.9, 0, "all within limits"), (1.1, 1, "1 missed"), (float("nan"), 1, "1 missed")],
)
def test_a_missed_limit_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: float,
    status: int,
    words: str,
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    decks = importlib.import_module("run")
    comparison = importlib.import_module("decks").Comparison
    found = [comparison("pressure", 1.0, 2.0, error, 1.0), comparison("forces", None, None, 0, 1)]
    monkeypatch.setattr(decks, "DECKS", {"one": lambda folder, program: iter(found)})
    monkeypatch.setattr(decks.prepare, "main", lambda: None)
    program = Gromacs(tmp_path / "gmx", "2025.2", False)
    monkeypatch.setattr(decks.gromacs, "find", lambda: program)
    assert decks.main(["one", "--folder", str(tmp_path)]) == status
    said = capsys.readouterr().out
    assert words in said
    assert ("MISSED" in said) is bool(status)
    assert (tmp_path / "argon.top").is_file()


def test_every_file_belongs_to_a_deck() -> None:
    text = (FOLDER / "decks.py").read_text() + (FOLDER / "prepare.py").read_text()
    readme = (FOLDER / "README.md").read_text()
    for file in [path for kind in ("mdp", "top", "dat") for path in FOLDER.glob(f"*.{kind}")]:
        assert file.stem.removesuffix("_native") in text, file
    for name in DECKS:
        assert f"`{name}`" in readme
