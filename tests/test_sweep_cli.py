"""``alchemi-bridge sweep`` as users call it, on the files of examples/ and on bad input."""

from __future__ import annotations

import io
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ase.io
import numpy as np
import parity_fakes as fakes
import pytest
from cli_runs import Cli, environment
from lammps_runs import needs_lammps
from ray_runs import needs_ray
from rich.console import Console
from sweep_parts import Absent, Faked, Interrupting, Raising, Shifted, argon, save, silicon

from alchemi_bridge import BridgeCalculator, potentials
from alchemi_bridge.cli import console, sweep
from alchemi_bridge.ensembles.sweep.store import FILE, CellStore
from alchemi_bridge.parity.builtin_paths import MetatomicAsePath

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

REPORTS = {"sweep.html", "sweep.json", "sweep.csv", "sweep-heatmap.png"}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def si(model_file: Callable[..., Path]) -> Path:
    return model_file("stillinger-weber")


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    """A folder of three structures."""
    for number in range(3):
        save(tmp_path / "s" / f"{number}.xyz", silicon(number, repeat=1 + number % 2))
    return tmp_path / "s"


# --- the examples ---------------------------------------------------------------------------------


@needs_lammps
def test_the_examples_of_the_repository(cli: Cli, tmp_path: Path) -> None:
    folders = (EXAMPLES / "models", EXAMPLES / "structures")
    done = cli("sweep", *folders, "--engines", "ase,lammps")
    assert done.status == 0, done.stderr
    assert "3 models, 6 structures, 2 engines against metatomic-ase" in done.stdout
    assert "20 passed, 16 skipped" in done.stdout
    assert {path.name for path in (tmp_path / "sweep-report").iterdir()} == {FILE, *REPORTS}
    again = cli("sweep", *folders, "--engines", "ase,lammps", "--json")
    assert again.status == 0
    assert again.document["cells_run"] == 0


def test_files_of_the_examples_are_what_their_script_makes() -> None:
    made = runpy.run_path(str(EXAMPLES / "models" / "make.py"))
    assert {path.name for path in (EXAMPLES / "models").glob("*.pt")} == set(made["MADE"])
    frames = made["frames"]()
    assert {path.name for path in (EXAMPLES / "structures").iterdir()} == set(frames)
    for name, expected in frames.items():
        found = ase.io.read(EXAMPLES / "structures" / name, ":")
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.symbols.get_chemical_formula() == other.symbols.get_chemical_formula()
            assert (one.pbc == other.pbc).all()
            # the files have eight digits
            np.testing.assert_allclose(one.positions, other.positions, atol=1e-7)
            np.testing.assert_allclose(one.cell.array, other.cell.array, atol=1e-7)


@pytest.mark.parametrize(
    ("file", "structure"),
    [("argon.pt", "argon-liquid"), ("silicon.pt", "silicon-slab"), (None, "ethanol")],
)
def test_models_of_the_examples_are_what_the_code_makes(
    file: str | None, structure: str, tmp_path: Path
) -> None:
    file = file or "message-passing-f32.pt"
    made = runpy.run_path(str(EXAMPLES / "models" / "make.py"))
    name, options = made["MADE"][file]
    atoms = ase.io.read(EXAMPLES / "structures" / f"{structure}.xyz", "0")
    energies = []
    for model in (EXAMPLES / "models" / file, potentials.export(name, tmp_path / file, **options)):
        atoms.calc = BridgeCalculator(model, device="cpu")
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], rel=1e-6 if "f32" in file else 1e-12)


# --- outcomes -------------------------------------------------------------------------------------


def test_what_is_off_makes_the_exit_status_1(
    cli: Cli, si: Path, crystals: Path, tmp_path: Path
) -> None:
    with fakes.registered(Shifted("shifted", tmp_path / "log", at="Si64")):
        done = cli("sweep", si, crystals, "--engines", "ase,shifted", "-o", "out")
    assert done.status == 1
    assert "5 passed, 1 failed" in done.stdout
    assert "force_max 1.00e-03" in done.stdout
    with fakes.registered(Raising("raising", tmp_path / "log", at="Si64")):
        done = cli("sweep", si, crystals, "--engines", "ase,raising", "-o", "out", "--json")
    assert done.status == 1
    assert done.document["counts"] == {"passed": 5, "failed": 0, "skipped": 0, "error": 1}
    assert not done.document["passed"]


def test_nothing_that_was_compared_is_no_success(cli: Cli, si: Path, tmp_path: Path) -> None:
    done = cli("sweep", si, save(tmp_path / "ar.xyz", argon()))
    assert done.status == 1
    assert "nothing was compared" in done.stdout


def test_further_files_and_quiet(cli: Cli, si: Path, crystals: Path, tmp_path: Path) -> None:
    more = save(tmp_path / "more.xyz", silicon(7), silicon(8))
    done = cli(
        "sweep", si, crystals / "0.xyz", "--structures", more, "--structures", f"{crystals}/1.xyz",
        "--index", "0", "--quiet", "--json",
    )  # fmt: skip
    assert done.status == 0
    assert [one["name"] for one in done.document["structures"]] == ["0.xyz", "more.xyz", "1.xyz"]
    assert [one["frames"] for one in done.document["structures"]] == [1, 1, 1]
    assert done.stderr == ""


def test_the_reference_is_no_engine(
    cli: Cli, si: Path, crystals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("sweep", si, crystals, "--json")
    found = cli(*args, "--engines", "ase,metatomic-ase").document
    assert found["reference"]["name"] == "metatomic-ase"
    assert [one["name"] for one in found["engines"]] == ["ase"]
    chosen = cli(*args, "--engines", "ase,metatomic-ase", "--reference", "ase").document
    assert [one["name"] for one in chosen["engines"]] == ["metatomic-ase"]
    monkeypatch.setattr(MetatomicAsePath, "unavailable", lambda self: "not here")
    found = cli(*args, "--engines", "ase", "--engines", "bridge-batch").document
    assert found["reference"]["name"] == "ase"
    assert [one["name"] for one in found["engines"]] == ["bridge-batch"]
    cli(*args, "--engines", "ase").failed_with("besides the reference", "'ase'")


# --- going on -------------------------------------------------------------------------------------


def test_an_interrupt_keeps_what_is_finished(
    cli: Cli, si: Path, crystals: Path, tmp_path: Path
) -> None:
    stops = Interrupting("stops", tmp_path / "log", at="Si64")
    with fakes.registered(stops):
        done = cli("sweep", si, crystals, "--engines", "stops", "-o", "out")
        assert done.status == 130
        assert "1 cells were finished and are kept" in done.stderr
        assert "goes on with the other 2" in done.stderr
        stops.at = "nowhere"
        again = cli("sweep", si, crystals, "--engines", "stops", "-o", "out", "--json")
    assert again.status == 0
    assert again.document["cells_run"] == 2


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=[needs_ray, pytest.mark.slow])])
def test_a_termination_is_like_an_interrupt(
    workers: int, si: Path, crystals: Path, tmp_path: Path
) -> None:
    for number in range(3, 60):
        save(crystals / f"{number}.xyz", silicon(number, repeat=6))
    words = ["sweep", si, crystals, "-o", "out", "--workers", workers]
    with subprocess.Popen(
        [sys.executable, "-m", "alchemi_bridge.cli.main", *map(str, words)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        kept = tmp_path / "out" / FILE
        for _ in range(900):
            if running.poll() is not None or (kept.exists() and kept.read_text().count("\n") > 2):
                break
            time.sleep(0.1)
        running.terminate()
        _, told = running.communicate(timeout=60)
    assert running.returncode == 143
    assert "cells were finished and are kept" in told
    assert told.endswith("error: terminated\n")
    assert "Traceback" not in told


def test_a_report_that_can_not_be_written(cli: Cli, si: Path, crystals: Path) -> None:
    Path("out/sweep.csv").mkdir(parents=True)
    cli("sweep", si, crystals, "-o", "out").failed_with(
        "report of the sweep", "Is a directory", "out/sweep.csv"
    )
    Path("out/sweep.csv").rmdir()
    done = cli("sweep", si, crystals, "-o", "out", "--json")
    assert (done.status, done.document["cells_run"]) == (0, 0)


def test_fresh_runs_all_again(cli: Cli, si: Path, crystals: Path, tmp_path: Path) -> None:
    counted = Faked("counted", tmp_path / "log")
    with fakes.registered(counted):
        for extra, evaluations in (((), 3), ((), 3), (("--fresh",), 6)):
            assert cli("sweep", si, crystals, "--engines", "counted", *extra).status == 0
            assert len(counted.evaluations) == evaluations


def test_report_of_a_smaller_sweep_in_the_same_folder(cli: Cli, si: Path, crystals: Path) -> None:
    assert cli("sweep", si, crystals, "--json").document["counts"]["passed"] == 3
    smaller = cli("sweep", si, crystals / "0.xyz", "--json").document
    assert smaller["counts"]["passed"] == 1
    assert smaller["cells_run"] == 0
    assert json.loads(Path("sweep-report/sweep.json").read_text())["counts"] == smaller["counts"]


def test_progress_tells_what_is_off(
    cli: Cli, si: Path, crystals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    @contextmanager
    def counting(description: str, total: int) -> Iterator[Callable[[str], None]]:
        said.append(f"{description} of {total}")
        yield said.append

    monkeypatch.setattr(sweep, "counting", counting)
    with fakes.registered(Raising("raising", tmp_path / "log", at="Si64")):
        cli("sweep", si, crystals, "--engines", "raising,ase")
    assert said == ["sweep of 6", "sweep", "sweep", *["sweep, 1 off"] * 4]


def test_a_bar_that_others_move(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.counting("sweep", 2) as advance:
        advance("unseen")
    assert capsys.readouterr().err == ""
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=100)
    monkeypatch.setattr(console, "stderr_console", lambda: terminal)
    monkeypatch.setattr(console, "show_progress", lambda: True)
    with console.counting("sweep", 2) as advance:
        advance("sweep, 1 off")
        advance("sweep, 2 off")
    assert "sweep, 2 off" in shown.getvalue()
    assert "2/2" in shown.getvalue()


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["none.pt", "S"], "none.pt"),
        (["M", "none"], "none"),
        (["M", "EMPTY"], "structure files"),
        (["EMPTY", "S"], "models (*.pt)"),
        (["M", "BROKEN"], "broken.xyz"),
        (["M", "S", "--engines", "lamps"], "did you mean 'lammps'"),
        (["M", "S", "--engines", "ase,ase"], "each engine once"),
        (["M", "S", "--engines", ",,"], "names of engines, with commas between them, got ',,'"),
        (["M", "S", "--engines", "metatomic-ase"], "at least one besides the reference"),
        (["M", "S", "--engines", "ase,absent"], "another planet"),
        (["M", "S", "--reference", "nobody"], "engine 'nobody'"),
        (["M", "S", "--reference", "absent"], "another planet"),
        (["M", "S", "--index", "nonsense"], "'nonsense'"),
        (["M", "S", "--index", "17"], "17"),
        (["M", "S", "--sha256", "0" * 64], "SHA-256"),
        (["M", "S", "--variant", "energy="], "--variant"),
        (["M", "S", "-o", "S/0.xyz"], "--output"),
        (["M", "S", "-o", "/proc/nothing"], "No such file or directory: '/proc/nothing'"),
        (["M", "S", "--ray-address", ""], "Ray address"),
    ],
)
def test_bad_input_is_an_error_before_any_work(
    arguments: list[str], word: str, cli: Cli, si: Path, crystals: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.xyz").write_text("2\n\nAr 0 0 0\n")
    words = {
        "M": si,
        "S": crystals,
        "S/0.xyz": crystals / "0.xyz",
        "EMPTY": tmp_path / "empty",
        "BROKEN": tmp_path / "bad",
    }
    with fakes.registered(Absent("absent", tmp_path / "log")):
        done = cli("sweep", *(words.get(word, word) for word in arguments))
    done.failed_with(word)
    kept = tmp_path / "sweep-report" / FILE
    assert not kept.exists() or len(kept.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "0"],
        ["--workers", "2", "--ray-address", "auto"],
        ["--num-cpus", "-1"],
        ["--num-gpus", "nan"],
        ["--mem-mb", "inf"],
        ["--max-retries", "1.5"],
        ["--nonsense"],
    ],
)
def test_options_that_make_no_sense(arguments: list[str], cli: Cli, si: Path) -> None:
    done = cli("sweep", si, si, *arguments)
    assert done.status == 2
    assert arguments[0] in done.stderr


@needs_ray
def test_a_cluster_that_does_not_answer(cli: Cli, si: Path, crystals: Path) -> None:
    start = time.monotonic()
    done = cli("sweep", si, crystals, "--ray-address", "127.0.0.1:1")
    done.failed_with("Ray cluster at '127.0.0.1:1'")
    assert time.monotonic() - start < 15


def test_without_ray(cli: Cli, si: Path, crystals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    cli("sweep", si, crystals, "--workers", "2").failed_with('pip install "alchemi-bridge[ray]"')


def test_one_sweep_at_a_time(cli: Cli, si: Path, crystals: Path) -> None:
    with CellStore(Path("out")):
        cli("sweep", si, crystals, "-o", "out").failed_with("one sweep at a time")
