"""The decks of integration/lammps, and the potentials' own command line that they use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lammps_runs import needs_lammps

from alchemi_bridge.domain.ranks import environment_of_one
from alchemi_bridge.engines import lammps_plugin
from alchemi_bridge.model import load_model
from alchemi_bridge.potentials.__main__ import main

FOLDER = Path(__file__).resolve().parent.parent / "integration" / "lammps"
DECKS = ("argon", "silicon_npt", "slab", "minimise", "ml_mm", "copper")


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@needs_lammps
@pytest.mark.slow
@pytest.mark.parametrize("name", DECKS)
def test_a_deck_and_its_twin_agree(name: str, tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    environment = {
        **environment_of_one(),
        # the package may not be installed, so that LAMMPS would not find its entry point
        "LAMMPS_PLUGIN_PATH": lammps_plugin.entry_point(),
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    run([str(programs / "lmp"), "-in", str(FOLDER / f"{name}.in")], tmp_path, environment)
    printed = run([sys.executable, str(FOLDER / f"{name}.py")], tmp_path, environment)
    assert printed.count("limit") >= 3


def test_there_is_a_twin_for_every_deck() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.in")) == sorted(DECKS)
    twins = {path.stem for path in FOLDER.glob("*.py")} - {"twin"}
    assert twins == set(DECKS)


def test_potentials_are_written_by_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lj.pt"
    assert main(["lennard-jones", str(file), "truncation=none", "types=[18]", "cutoff=7.5",
                 "epsilon=[0.01]", "sigma=[3.4]"]) == 0  # fmt: skip
    loaded = load_model(str(file))
    assert loaded.cutoff == 7.5
    assert loaded.atomic_types == {18}
    for arguments, message in (
        ([], "NAME FILE"),
        (["lennard-jones", str(file), "cutoff"], "name=value"),
        (["lennard-jones", str(file), "cutoff=-1"], "cutoff"),
        (["nonsense", str(file)], "expected one of lennard-jones"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
