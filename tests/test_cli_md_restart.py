"""``alchemi-bridge md --restart``: the same run, however it was cut short."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from cli_runs import Cli, environment, frames, rows, save, silicon

ModelFile = Callable[..., Path]

# A restarted run searches its pairs anew, so that forces are summed in another order. Rounding
# (1e-15 of forces of a few eV/Å) grows by the chaos of the motion: a factor of ten in 50 steps.
SAME_POSITION = 1e-11  # Å
SAME_MOMENTUM = 1e-9  # sqrt(eV u), of values about 1


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def model(model_file: ModelFile) -> Path:
    return model_file("stillinger-weber")


@pytest.fixture
def crystal(tmp_path: Path) -> Path:
    return save(tmp_path / "si.xyz", silicon(2))


def assert_same_run(one: Path, other: Path, steps: range) -> None:
    first, second = frames(one), frames(other)
    for step in steps:
        a, b = first[step], second[step]
        assert np.allclose(a.positions, b.positions, rtol=0, atol=SAME_POSITION), step
        assert np.allclose(a.get_momenta(), b.get_momenta(), rtol=0, atol=SAME_MOMENTUM), step


@pytest.mark.parametrize(
    "ensemble", [("nve",), ("langevin", "--friction", "20")], ids=lambda e: e[0]
)
def test_restart_goes_where_the_whole_run_goes(
    cli: Cli, model: Path, crystal: Path, tmp_path: Path, ensemble: tuple[str, ...]
) -> None:
    options = ("--ensemble", *ensemble, "--temperature", 400, "--interval", 5)
    run = ("md", model, crystal, *options, "--json")
    assert cli(*run, "--steps", 60, "--seed", 11, "-o", tmp_path / "whole").status == 0
    assert cli(*run, "--steps", 33, "--seed", 11, "-o", tmp_path / "parts").status == 0
    # the seed is that of the trajectory
    again = cli(*run, "--steps", 60, "-o", tmp_path / "parts", "--restart")
    assert again.document["first_step"] == 33
    assert again.document["seed"] == 11
    assert again.document["restarted"] is True
    assert_same_run(tmp_path / "whole.extxyz", tmp_path / "parts.extxyz", range(0, 61, 5))
    whole, parts = rows(tmp_path / "whole.csv"), rows(tmp_path / "parts.csv")
    for a, b in zip(whole, parts, strict=True):
        assert a["step"] == b["step"]
        assert a["time_ps"] == b["time_ps"]
        assert float(a["total_energy_eV"]) == pytest.approx(float(b["total_energy_eV"]), rel=1e-10)
    walls = [float(row["wall_time_s"]) for row in parts]
    assert walls == sorted(walls)


@pytest.mark.parametrize("cut", [1, 40, 2500])
def test_restart_after_a_kill(
    cli: Cli, model: Path, crystal: Path, tmp_path: Path, cut: int
) -> None:
    """Half a frame and half a row at the end, and rows beyond the last whole frame."""
    run = ("md", model, crystal, "--temperature", 400, "--seed", 1, "--interval", 4, "--json")
    assert cli(*run, "--steps", 20, "-o", tmp_path / "whole").status == 0
    assert cli(*run, "--steps", 12, "-o", tmp_path / "killed").status == 0
    trajectory, table = tmp_path / "killed.extxyz", tmp_path / "killed.csv"
    trajectory.write_bytes(trajectory.read_bytes()[:-cut])
    table.write_bytes(table.read_bytes()[:-7])
    again = cli(*run, "--steps", 20, "-o", tmp_path / "killed", "--restart")
    assert again.status == 0
    assert again.document["first_step"] == 8
    assert "incomplete frame" in again.stderr
    assert_same_run(tmp_path / "whole.extxyz", trajectory, range(0, 21, 4))
    assert len(ase.io.read(trajectory, ":")) == 6
    assert [int(row["step"]) for row in rows(table)] == list(range(21))


def test_restart_of_a_finished_run_adds_nothing(cli: Cli, model: Path, crystal: Path) -> None:
    run = ("md", model, crystal, "--temperature", 400, "--steps", 10, "--json")
    assert cli(*run).status == 0
    trajectory = crystal.with_suffix(".nve.extxyz")
    before = trajectory.read_bytes(), len(rows(crystal.with_suffix(".nve.csv")))
    again = cli(*run, "--restart")
    assert again.status == 0
    assert again.document["last_step"] == 10
    assert before == (trajectory.read_bytes(), len(rows(crystal.with_suffix(".nve.csv"))))


def test_restart_without_its_table(cli: Cli, model: Path, crystal: Path) -> None:
    run = ("md", model, crystal, "--temperature", 400, "--json")
    assert cli(*run, "--steps", 10).status == 0
    crystal.with_suffix(".nve.csv").unlink()
    again = cli(*run, "--steps", 12, "--restart")
    assert again.status == 0
    assert "is missing" in again.stderr
    assert [row["step"] for row in rows(crystal.with_suffix(".nve.csv"))] == ["11", "12"]


def test_restarts_that_are_refused(cli: Cli, model: Path, crystal: Path, tmp_path: Path) -> None:
    run = ("md", model, crystal, "--temperature", 400)
    cli(*run, "--restart").failed_with("si.nve.extxyz", "no such file")
    assert cli(*run, "--steps", 2).status == 0
    before = crystal.with_suffix(".nve.extxyz").read_bytes()
    prefix = ("-o", crystal.with_suffix(".nve"))
    cli(*run, "--ensemble", "langevin", "--restart", *prefix).failed_with("--ensemble", "nve")
    other = save(tmp_path / "other.xyz", silicon(1))
    cli("md", model, other, "--restart", *prefix).failed_with("other atoms")
    assert crystal.with_suffix(".nve.extxyz").read_bytes() == before
    foreign = save(tmp_path / "foreign.extxyz", silicon(2))
    cli(*run, "--restart", "-o", foreign.with_suffix("")).failed_with("written by alchemi-bridge")
    table = crystal.with_suffix(".nve.csv")
    table.write_text("a,b,c\n1,2,3\n")
    cli(*run, "--restart").failed_with("columns", "a,b,c")
    assert table.read_text() == "a,b,c\n1,2,3\n"
    assert crystal.with_suffix(".nve.extxyz").read_bytes() == before


def _start(model: Path, crystal: Path, prefix: Path) -> subprocess.Popen[str]:
    """A long run in a process of its own, once it has written some frames."""
    arguments = (
        *("md", model, crystal, "--temperature", 300, "--steps", 10**7, "--seed", 1),
        *("-o", prefix, "--interval", 2, "--json"),
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "alchemi_bridge.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    deadline = time.monotonic() + 120
    table = Path(f"{prefix}.csv")
    while not table.exists() or table.stat().st_size < 2000:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run did not get going"
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_in_order(
    cli: Cli, model: Path, crystal: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = _start(model, crystal, tmp_path / "run")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in stderr
    assert f'"stopped_by_signal": {int(number)}' in stdout
    table = rows(tmp_path / "run.csv")
    last = int(table[-1]["step"])
    assert max(frames(tmp_path / "run.extxyz")) == last
    assert (tmp_path / "run.png").exists()
    again = cli(
        *("md", model, crystal, "-o", tmp_path / "run", "--restart", "--json"),
        *("--steps", last + 3),
    )
    assert again.status == 0
    assert again.document["first_step"] == last


def test_kill_leaves_files_to_restart_from(
    cli: Cli, model: Path, crystal: Path, tmp_path: Path
) -> None:
    process = _start(model, crystal, tmp_path / "run")
    process.kill()
    process.communicate(timeout=60)
    again = cli(
        *("md", model, crystal, "-o", tmp_path / "run", "--restart", "--json"),
        *("--steps", int(rows(tmp_path / "run.csv")[-1]["step"]) + 5, "--interval", 2),
    )
    assert again.status == 0
    steps = [int(row["step"]) for row in rows(tmp_path / "run.csv")]
    assert steps == list(range(steps[-1] + 1))
