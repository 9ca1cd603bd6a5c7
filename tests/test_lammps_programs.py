"""LAMMPS as a program that knows nothing of Python: the interpreter runs inside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import zoo
from lammps_runs import needs_lammps
from mpi_runs import slow

from alchemi_bridge import potentials
from alchemi_bridge.domain.ranks import environment_of_one, mpiexec
from alchemi_bridge.engines import lammps_plugin

pytestmark = needs_lammps

PROGRAMS = Path(sys.executable).parent

BOX = """
units metal
atom_modify map array
lattice fcc 5.3
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 39.948
"""


def run_lmp(folder: Path, deck: str, n_ranks: int = 1, *, plugin: bool = True) -> tuple[int, str]:
    """Exit status and what was printed; at most two minutes."""
    (folder / "deck.in").write_text(deck)
    command = [str(PROGRAMS / "lmp"), "-in", "deck.in"]
    if n_ranks > 1:
        command = [str(mpiexec()), "-n", str(n_ranks), *command]
    environment = {**environment_of_one(), "OMP_NUM_THREADS": "1"}
    environment.pop("LAMMPS_PLUGIN_PATH", None)
    if plugin:
        # as the entry point does where the package is installed
        environment["LAMMPS_PLUGIN_PATH"] = lammps_plugin.entry_point()
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("n_ranks", [1, slow(2)])
def test_an_input_file(n_ranks: int, tmp_path: Path) -> None:
    potentials.export("lennard_jones", tmp_path / "lj.pt", types=[18], epsilon=[0.01], sigma=[3.4])
    deck = BOX + "pair_style alchemi lj.pt\npair_coeff * * 18\nrun 3\nprint 'all is well'\n"
    status, text = run_lmp(tmp_path, deck, n_ranks)
    assert status == 0, text
    assert "all is well" in text
    # metadata of the model, once
    assert text.count("Please cite") == text.count("Model:") == 1


def test_plugin_load(tmp_path: Path) -> None:
    potentials.export("lennard_jones", tmp_path / "lj.pt", types=[18], epsilon=[0.01], sigma=[3.4])
    deck = f"plugin load {lammps_plugin.build()}\n{BOX}pair_style alchemi lj.pt\n"
    status, text = run_lmp(tmp_path, deck + "pair_coeff * * 18\nrun 0\n", plugin=False)
    assert status == 0, text


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_a_model_that_fails_ends_all_ranks(n_ranks: int, tmp_path: Path) -> None:
    """Mid-run, on the rank that has more atoms than the model takes."""
    zoo.save(zoo.raises(125), tmp_path, "raises")
    deck = f"""
{BOX}
pair_style alchemi raises.pt
pair_coeff * * 18
neighbor 0.5 bin
fix nve all nve
run 2
print "the first run is over"
lattice fcc 5.3 origin 0.25 0.25 0.25
region left block 0.2 1.3 INF INF INF INF
create_atoms 1 region left
run 2
print "this is not reached"
"""
    status, text = run_lmp(tmp_path, deck, n_ranks)
    assert status != 0
    assert "the first run is over" in text.replace('print "the first', "")
    assert "zoo: too many atoms" in text
    assert "ERROR: pair style alchemi" in text
    assert "this is not reached" not in text.replace('print "this is not reached"', "")


def test_entry_point_is_installed() -> None:
    """What `pip install` tells the lammps package, where this project is installed."""
    import importlib.metadata

    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text()
    value = "alchemi_bridge.engines.lammps_plugin:entry_point"
    assert f'[project.entry-points."lammps.plugins"]\nalchemi_bridge = "{value}"' in text
    found = [p.value for p in importlib.metadata.entry_points(group="lammps.plugins")]
    assert value in found or not os.environ.get("CI")
