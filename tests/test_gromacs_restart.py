"""Runs of GROMACS that go on from a checkpoint, and where their files lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gromacs_runs import deck, needs_gromacs, run
from plumed_engine import energies_in

from alchemi_bridge.engines import gromacs, plumed_plugin

pytestmark = [needs_gromacs, pytest.mark.slow]


def test_a_run_that_goes_on(tmp_path: Path, models: Callable[[str], Path]) -> None:
    """From a checkpoint: GROMACS says so, and energies go on where they were."""
    setup = (f"model '{models('pair')}'", "species Ar", "every 3")
    deck(tmp_path, ["Ar", "Ar"], [[1.0, 1.0, 1.0], [1.2, 1.0, 1.0]], *setup)
    run(tmp_path)
    whole = energies_in(tmp_path / "bridge.energies")
    assert whole[:, 0].tolist() == [0, 3, 6, 9, 12, 15, 18]
    program = gromacs.find()
    program.mdrun(tmp_path, "run", bridge="bridge.dat", extra=["-nsteps", 10])
    with (tmp_path / "bridge.energies").open("a") as file:
        file.write("12 0.012 -1\n15 0.015 -1\n")  # beyond the checkpoint
    variables = {"PLUMED_KERNEL": str(plumed_plugin.build())}
    words = ["-s", "run.tpr", "-deffnm", "run", "-cpi", "run.cpt", "-plumed", "bridge.dat"]
    program.call("mdrun", *words, "-ntmpi", 1, "-ntomp", 1, folder=tmp_path, variables=variables)
    found = energies_in(tmp_path / "bridge.energies")
    np.testing.assert_array_equal(found[:, :2], whole[:, :2])
    np.testing.assert_allclose(
        found[:, 2], whole[:, 2], rtol=1e-5
    )  # checkpoints of mixed precision


def test_a_folder_with_odd_letters_without_a_locale(
    tmp_path: Path, models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "Größe 1"
    folder.mkdir()
    model = folder / "modèle.pt"
    model.write_bytes(models("pair").read_bytes())
    for name in ("LANG", "LC_CTYPE", "LANGUAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LC_ALL", "C")
    deck(folder, ["Ar", "Ar"], [[1.0, 1.0, 1.0], [1.2, 1.0, 1.0]], "model modèle.pt", "species Ar")
    run(folder)
    assert len(energies_in(folder / "bridge.energies")) == 21
