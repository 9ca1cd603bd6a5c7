"""Runs of GROMACS that must not succeed: mdrun stops with the bridge's message."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from gromacs_runs import deck, needs_gromacs, run

from alchemi_bridge.engines import gromacs, gromacs_commands, plumed_plugin
from alchemi_bridge.engines.gromacs_files import read_trr
from alchemi_bridge.errors import EvaluationError

pytestmark = needs_gromacs

TWO = ["Ar", "Ar"]
APART = [[1.0, 1.0, 1.0], [1.2, 1.0, 1.0]]


@pytest.fixture
def start(tmp_path: Path, models: Callable[[str], Path]) -> Callable[..., gromacs_commands.Run]:
    """Runs two atoms with a model of the zoo and lines of a setup file."""

    def run_it(model: str, *lines: str, **options: object) -> gromacs_commands.Run:
        deck(tmp_path, TWO, APART, f"model '{models(model)}'", *lines, **options)
        return run(tmp_path)

    return run_it


def test_the_same_deck_runs(start: Callable[..., gromacs_commands.Run]) -> None:
    done = start("nan_energy", "species Ar")
    assert [frame.step for frame in done.frames()] == list(range(21))


def test_atoms_that_do_not_exist(start: Callable[..., gromacs_commands.Run]) -> None:
    with pytest.raises(
        EvaluationError,
        match=r"exit status 1: alchemi_bridge: 'atoms' in bridge.dat: expected atoms with numbers "
        r"from 1 to 2.*got 3",
    ):
        start("pair", "species Ar", "atoms 1-3")


@pytest.mark.slow
def test_a_group_that_does_not_exist(
    tmp_path: Path, start: Callable[..., gromacs_commands.Run]
) -> None:
    (tmp_path / "index.ndx").write_text("[ System ]\n1 2\n")
    with pytest.raises(EvaluationError, match=r"alchemi_bridge: .*Protein.*System"):
        start("pair", "species Ar", "group index.ndx Protein")


def test_elements_that_the_model_lacks(start: Callable[..., gromacs_commands.Run]) -> None:
    with pytest.raises(EvaluationError, match=r"alchemi_bridge: atomic types: .*\[54\]"):
        start("pair", "species Xe")


@pytest.mark.slow
def test_another_number_of_atoms(
    tmp_path: Path, start: Callable[..., gromacs_commands.Run]
) -> None:
    (tmp_path / "three.xyz").write_text("3\n\nAr 0 0 0\nAr 0 0 2\nAr 0 0 4\n")
    with pytest.raises(EvaluationError, match=r"alchemi_bridge: .*expected 2 atoms.*got 3"):
        start("pair", "structure three.xyz")


@pytest.mark.slow
def test_periodic_directions_that_the_model_can_not_do(
    start: Callable[..., gromacs_commands.Run],
) -> None:
    with pytest.raises(EvaluationError, match=r"alchemi_bridge: .*periodic in all three.*True, Fa"):
        start("non_conservative", "species Ar", "non_conservative stress", "periodic xy")


def test_a_model_that_fails_in_the_middle_of_a_run(
    tmp_path: Path, start: Callable[..., gromacs_commands.Run]
) -> None:
    against = [[10.0, 0.0, 0.0], [-10.0, 0.0, 0.0]]
    with pytest.raises(
        EvaluationError, match=r"exit status 1: alchemi_bridge: .*finite.*what it has written"
    ):
        start("nan_energy", "species Ar", velocities=against)
    # there is a part of a trajectory, but nobody was told that this was a run
    assert 0 < len(read_trr(tmp_path / "run.trr")) < 21
    assert "Finished mdrun" not in (tmp_path / "run.log").read_text()


def test_a_run_that_stops_before_its_end_is_no_result(tmp_path: Path) -> None:
    """mdrun ends with status 0 when its time is over."""
    steps = "nstlist = 10\nverlet-buffer-tolerance = -1\nnsteps = 100000000\n"
    deck(tmp_path, TWO, APART, parameters=steps)
    program = gromacs.find()
    names = {"parameters": "in.mdp", "structure": "in.gro", "topology": "in.top"}
    program.grompp(tmp_path, **names, name="run", extra=["-maxwarn", 1])
    with pytest.raises(EvaluationError, match="stopped early"):
        program.mdrun(tmp_path, "run", extra=["-maxh", 1e-4])
    with pytest.raises(EvaluationError, match="timed out"):
        program.mdrun(tmp_path, "run", timeout=0.5)


def test_input_that_grompp_refuses(tmp_path: Path) -> None:
    deck(tmp_path, TWO, APART, parameters="pbc = no\n")
    with pytest.raises(EvaluationError, match=r"gmx grompp: .*ERROR 1 \[file in.mdp\]"):
        run(tmp_path)


def test_a_kernel_that_is_none(tmp_path: Path) -> None:
    deck(tmp_path, TWO, APART, "model nothing.pt")
    program = gromacs.find()
    names = {"parameters": "in.mdp", "structure": "in.gro", "topology": "in.top"}
    program.grompp(tmp_path, **names, name="run", extra=["-maxwarn", 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plumed_plugin, "build", lambda: Path(os.devnull))
        with pytest.raises(EvaluationError, match="gmx mdrun"):
            program.mdrun(tmp_path, "run", bridge="bridge.dat")
