"""``alchemi-bridge parity`` and the frame that all commands share."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import parity_fakes as fakes
import pytest
from ase.build import bulk, molecule
from ase.io import write

import alchemi_bridge
from alchemi_bridge import __version__
from alchemi_bridge.cli import console, options, parity
from alchemi_bridge.cli.main import COMMANDS, main
from alchemi_bridge.engines.structure_files import distinct_names
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.parity.builtin_paths import MetatomicAsePath

QUICK = ["--repeats", "1"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reports go to a folder of the test; warnings are captured anew in each."""
    monkeypatch.chdir(tmp_path)
    yield
    logging.captureWarnings(False)


@pytest.fixture
def argon(tmp_path: Path) -> Path:
    path = tmp_path / "argon.xyz"
    frames = []
    for seed in range(3):
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True).repeat(2)
        atoms.rattle(0.1, seed=seed)
        frames.append(atoms)
    write(path, frames)
    return path


# --- built-in cases -------------------------------------------------------------------------------


def test_green_run_prints_a_table_and_names_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "--case", "one-atom", "--path", "bridge-list", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "one-atom" in out
    assert "bridge-list" in out
    assert "all within tolerance" in out
    for name in ("html", "json", "csv"):
        assert f"{name}: {Path('parity-report') / f'parity.{name}'}" in out
        assert (Path("parity-report") / f"parity.{name}").exists()


def test_json_is_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["parity", "--json", "--output", "out", "--case", "one-atom", *QUICK]
    assert main([*arguments, "--path", "bridge-cpu"]) == 0
    shown = capsys.readouterr().out
    data = json.loads(shown)
    assert data == json.loads(Path("out/parity.json").read_text(encoding="utf-8")) | {
        "date": data["date"]
    }
    (case,) = data["cases"]
    assert case["name"] == "one-atom"
    for path in case["paths"]:
        assert {"name", "energy_error_per_atom", "max_force_error", "passed", "ms_per_step"} <= set(
            path
        )


@pytest.mark.parametrize(
    "spoil",
    [fakes.wrong_force, fakes.wrong_virial, fakes.wrong_energy, fakes.nan_force, fakes.raises],
)
def test_something_off_exits_with_1(spoil: fakes.Spoil, capsys: pytest.CaptureFixture[str]) -> None:
    with fakes.registered(fakes.SpoiledPath(spoil)):
        assert main(["parity", "--case", "small-cell", "--path", "spoiled", *QUICK]) == 1
    out = capsys.readouterr().out
    assert "OFF" in out
    assert "small-cell/spoiled" in out
    assert json.loads(Path("parity-report/parity.json").read_text("utf-8"))["passed"] is False


def test_list_names_cases_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "--list"]) == 0
    out = capsys.readouterr().out
    for name in ("argon", "left-handed", "oracle", "metatomic-ase", "bridge-cuda", "bridge-batch"):
        assert name in out
    assert main(["parity", "--list", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {"cases", "paths"} == set(data)
    assert not Path("parity-report").exists()


def require_peer() -> None:
    """Skip without metatomic-ase; importing it may write to the standard output."""
    if importlib.util.find_spec("metatomic_ase") is None:
        pytest.skip("metatomic-ase is not installed")


# --- a user's own files ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_own_model_and_structures(
    dtype: str, argon: Path, model_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    require_peer()
    model = str(model_file("lennard-jones", dtype=dtype))
    assert main(["parity", model, str(argon), "--json", *QUICK]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert (case["name"], case["frames"], case["atoms"]) == ("argon.xyz", 3, 32)
    assert (case["reference"], case["dtype"]) == ("metatomic-ase", dtype)
    names = [path["name"] for path in case["paths"]]
    assert {"metatomic-ase", "bridge-cpu", "bridge-batch", "bridge-list"} <= set(names)
    assert {"name": "oracle", "reason": "there is no oracle for a model of yours"} in case[
        "skipped"
    ]
    # the interfaces to GROMACS and nvalchemi have no place for energies of atoms
    without = {p["name"] for p in case["paths"] if p["max_energies_error"] is None}
    assert without <= {"gromacs", "nvalchemi"}


@pytest.mark.slow
def test_own_molecule_and_index(
    tmp_path: Path, model_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    require_peer()
    model = str(model_file("message-passing"))
    files = [str(tmp_path / name) for name in ("ethanol.xyz", "benzene.xyz")]
    write(files[0], [molecule("CH3CH2OH")] * 4)
    write(files[1], molecule("C6H6"))
    assert main(["parity", model, *files, "--index", "-1", "--json", *QUICK]) == 0
    data = json.loads(capsys.readouterr().out)
    # one frame is followed by itself a step later
    assert [(case["name"], case["frames"]) for case in data["cases"]] == [
        ("ethanol.xyz", 2),
        ("benzene.xyz", 2),
    ]


@pytest.mark.slow
def test_without_the_peer_the_bridge_is_the_reference(
    argon: Path,
    model_file: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MetatomicAsePath, "unavailable", lambda self: "not installed")
    model = str(model_file("lennard-jones"))
    for chosen in ([], ["--path", "bridge-list"]):
        assert main(["parity", model, str(argon), *chosen, "--json", *QUICK]) == 0
        (case,) = json.loads(capsys.readouterr().out)["cases"]
        assert case["reference"] == "bridge-cpu"


def test_two_paths_do_without_the_peer(
    argon: Path, model_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--path", "bridge-cpu", "--path", "bridge-batch", "--json", *QUICK]
    assert main(["parity", str(model_file("lennard-jones")), str(argon), *chosen]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert [path["name"] for path in case["paths"]] == ["bridge-cpu", "bridge-batch"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["M", "a", "b", "--json"],
        ["M", "--json", "a", "b"],
        ["--json", "M", "a", "b"],
        ["M", "a", "--json", "b"],
        ["M", "a", "--repeats", "1", "--json", "b", "--quiet"],
    ],
)
def test_options_may_stand_anywhere(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def run(args: argparse.Namespace) -> int:
        seen.extend([args.model, args.structures, args.json])
        return 0

    monkeypatch.setattr(parity, "run", run)
    assert main(["parity", *arguments]) == 0
    assert seen == ["M", ["a", "b"], True]


def test_two_files_of_one_name_are_told_apart() -> None:
    assert distinct_names(["a/x.xyz", "b/y.xyz"]) == ["x.xyz", "y.xyz"]
    assert distinct_names(["a/x.xyz", "b/x.xyz"]) == ["a/x.xyz", "b/x.xyz"]
    assert distinct_names(["/c/a/x.xyz", "/c/x.xyz", "/c/y"]) == ["a/x.xyz", "x.xyz", "y"]
    assert distinct_names(["x", "x"]) == ["x (1)", "x (2)"]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--case", "gold"], "'gold'"),
        (["--path", "magic"], "'magic'"),
        (["--path", "oracle"], "at least one other path"),
        (["--repeats", "0"], "positive integer"),
        (["--index", "0"], "--index"),
        (["--variant", "pbe"], "without MODEL"),
        (["--nonsense"], "--nonsense"),
        (["model.pt"], "MODEL without STRUCTURE"),
        (["model.pt", "x.xyz", "--quick"], "MODEL with --case or --quick"),
        (["missing.pt", "ARGON"], "missing.pt"),
        (["ARGON", "ARGON"], "argon.xyz"),
        (["MODEL", "missing.xyz"], "missing.xyz"),
        (["MODEL", "ARGON", "--index", "nonsense"], "'nonsense'"),
        (["MODEL", "ARGON", "--index", "17"], "17"),
        (["MODEL", "ARGON", "--sha256", "0" * 64], "SHA-256"),
        (["MODEL", "ARGON", "--variant", "pbe"], "pbe"),
        (["MODEL", "ARGON", "--variant", "energy="], "--variant"),
        (["MODEL", "ARGON", "--non-conservative", "forces"], "non_conservative_force"),
        (["MODEL", "WATER"], "unknown types"),
        (["MODEL", "NAN"], "finite"),
    ],
)
def test_bad_input_exits_with_2_and_a_message(
    arguments: list[str],
    word: str,
    argon: Path,
    tmp_path: Path,
    model_file: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    water, nan = molecule("H2O"), bulk("Ar", "fcc", a=5.3)
    nan.positions[0, 0] = np.nan
    write(tmp_path / "water.xyz", water)
    write(tmp_path / "nan.xyz", nan)
    files = {
        "MODEL": str(model_file("lennard-jones")),
        "ARGON": str(argon),
        "WATER": str(tmp_path / "water.xyz"),
        "NAN": str(tmp_path / "nan.xyz"),
    }
    filled = [files.get(argument, argument) for argument in arguments]
    assert main(["parity", *filled, "--threads", "1"]) == 2
    shown = capsys.readouterr()
    assert word in shown.err
    assert "error: " in shown.err
    assert "Traceback" not in shown.err + shown.out
    assert shown.out == ""


def test_an_output_folder_that_can_not_be_made_is_an_error(
    capsys: pytest.CaptureFixture[str], argon: Path
) -> None:
    before = argon.read_bytes()
    for option, folder in (("--output", argon), ("-o", argon), ("-o", f"{argon}/report")):
        assert main(["parity", "--case", "one-atom", option, str(folder)]) == 2
        error = capsys.readouterr().err
        assert f"error: --output '{folder}': expected a folder" in error
    assert argon.read_bytes() == before


def test_short_option_of_the_output_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    chosen = ["--case", "one-atom", "--path", "bridge-cpu", "-o", str(folder)]
    assert main(["parity", *chosen, *QUICK]) == 0
    assert (folder / "parity.json").is_file()


def test_too_many_threads_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "--case", "one-atom", "--threads", "99999999999"]) == 2
    assert f"error: --threads: expected at most {options.MAX_THREADS}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("index", "named"), [(":", "frame 2:"), ("1:", "frame 1 of those at index '1:':")]
)
def test_the_frame_at_fault_is_named(
    index: str,
    named: str,
    tmp_path: Path,
    model_file: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = bulk("Ar", "fcc", a=5.3), bulk("Ar", "fcc", a=5.3)
    bad.positions[0, 0] = np.nan
    file = tmp_path / "ar.xyz"
    write(file, [good, good, bad, good])
    model = str(model_file("lennard-jones"))
    assert main(["parity", model, str(file), "--index", index, *QUICK]) == 2
    error = capsys.readouterr().err
    assert f"error: '{file}', {named} " in error
    assert "finite" in error


# --- the frame ------------------------------------------------------------------------------------


#: The package is found from any folder, installed or not; output is buffered, as it usually is.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(alchemi_bridge.__file__).parents[1])}
ENVIRONMENT.pop("PYTHONUNBUFFERED", None)


def python(script: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        env=ENVIRONMENT,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["parity", "--help"],
        ["export", "--help"],
        ["sweep", "--help"],
        ["fly"],
    ],
)
def test_help_and_usage_do_not_load_torch(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom alchemi_bridge.cli.main import main\n"
        f"code = main({arguments!r})\n"
        "heavy = {'torch', 'ase', 'matplotlib', 'numpy', 'metatomic', 'ray'} & set(sys.modules)\n"
        "sys.exit(99 if heavy else code)"
    )
    done = python(script)
    assert done.returncode == (2 if arguments == ["fly"] else 0), done.stderr


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: alchemi-bridge {command}")
    assert "--verbose" in out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^ +{command} ", out, re.MULTILINE) for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"alchemi-bridge {__version__}\n"
    assert main([]) == 2


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let the command raise something."""

    def prepare(error: BaseException) -> None:
        def run(args: object) -> int:
            raise error

        monkeypatch.setattr(parity, "run", run)

    return prepare


def test_a_bug_is_called_a_bug(
    raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(ZeroDivisionError("division by zero"))
    assert main(["parity"]) == 70
    error = capsys.readouterr().err
    assert "this is a bug in alchemi_bridge: ZeroDivisionError: division by zero" in error
    assert "Traceback" not in error
    log = re.search(r"traceback in (\S+)", error)
    assert log is not None
    text = Path(log.group(1)).read_text(encoding="utf-8")
    Path(log.group(1)).unlink()
    assert "Traceback" in text
    assert main(["parity", "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_bridge_errors_and_interrupts(
    raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(ConfigurationError("the thing", expected="this", got="that", fix="do so"))
    assert main(["parity"]) == 2
    assert capsys.readouterr().err == "error: the thing: expected this, got that; do so\n"
    assert main(["--debug", "parity"]) == 2
    assert "Traceback" in capsys.readouterr().err
    raising(KeyboardInterrupt())
    assert main(["parity"]) == 130


def test_a_reader_that_leaves_is_no_error() -> None:
    script = "import sys; from alchemi_bridge.cli.main import main; sys.exit(main(['--help']))"
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = python(script, stdout=writing)
    finally:
        os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


def test_global_options_work_on_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["-v", "parity"], ["parity", "-v"]):
        assert main([*arguments, "--case", "one-atom", "--path", "bridge-cpu", *QUICK]) == 0
        assert "INFO: case one-atom" in capsys.readouterr().err
    assert main(["parity", "--case", "one-atom", "--path", "bridge-cpu", *QUICK]) == 0
    assert capsys.readouterr().err == ""


def test_tables_are_not_cut_off_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("name", no_wrap=True)
    table.add_row("x" * 400)
    console.print_table(table)
    assert "x" * 400 in capsys.readouterr().out


def test_json_refuses_what_json_has_no_word_for() -> None:
    with pytest.raises(ValueError, match="JSON"):
        console.print_json({"x": float("nan")})


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(console.progress([1, 2, 3], "counting")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_variants_and_outputs() -> None:
    parser = options.model_options(optional=True)
    args = parser.parse_args(["--variant", "pbe", "--variant", "energy_uncertainty=r2scan"])
    assert options.variants(args) == {"energy": "pbe", "energy_uncertainty": "r2scan"}
    assert options.non_conservative(args) is False
    args = parser.parse_args(["--non-conservative", "both", "--threads", "2"])
    assert options.variants(args) is None
    assert options.non_conservative(args) is True
    assert args.threads == 2
    args = parser.parse_args(["--non-conservative", "stress"])
    assert options.non_conservative(args) == "stress"
    with pytest.raises(ConfigurationError, match="each output once"):
        options.variants(parser.parse_args(["--variant", "a", "--variant", "energy=b"]))
