"""GROMACS in the parity harness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from gromacs_runs import needs_gromacs
from mpi_runs import slow

from alchemi_bridge.engines import gromacs, plugins, plumed_plugin
from alchemi_bridge.engines.gromacs_box import GromacsBox
from alchemi_bridge.errors import ConfigurationError, EvaluationError, InputError
from alchemi_bridge.parity import cases, oracles, paths
from alchemi_bridge.parity.keywords import keywords
from alchemi_bridge.parity.run import Settings, run

FAST = Settings(repeats=2, warm_up=0)

#: These two show what is special to GROMACS' boxes: skewed ones, and those that it does not have.
QUICK = ("triclinic", "slab")


@needs_gromacs
@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in cases.BUILT_IN])
def test_all_cases_agree_with_the_oracle(name: str) -> None:
    report = run(cases.select([name]), paths.select(["oracle", "gromacs"]), FAST)
    found = report.cases[0].paths[1]
    assert found.skipped is None
    assert found.failures == []
    assert found.comparison is not None
    # all but the energies of atoms
    assert {check.quantity for check in found.comparison.checks} == {"energy", "forces", "virial"}
    assert found.ms_per_step is not None
    assert found.ms_per_step > 0.0


@needs_gromacs
@pytest.mark.slow
def test_structures_that_share_a_run_and_others(model_file) -> None:
    """Pairs of structures, a change of the elements, of the cell, and one that is left over."""
    pairs = {(18, 10): (0.0055, 3.2)}
    options = {"types": (18, 10), "epsilon": (0.0104, 0.0031), "sigma": (3.4, 2.8), "pairs": pairs}
    file = model_file("lennard-jones", cutoff=5.0, **options)
    known = oracles.build("lennard-jones", cutoff=5.0, **options)
    rng = np.random.default_rng(3)
    first = Atoms("Ar2Ne", rng.uniform(0.0, 20.0, (3, 3)), cell=[7.0, 8.0, 9.0], pbc=True)
    first.positions[:, 0] = [0.0, 3.5, 7.5]  # the last one is in the next cell
    moved = first.copy()
    moved.positions += rng.uniform(-0.3, 0.3, (3, 3))
    other = moved.copy()
    other.numbers = [10, 18, 10]
    larger = other.copy()
    larger.set_cell([7.0, 8.0, 9.5])
    free = Atoms("Ar2", [[100.0, 0.0, 0.0], [103.5, 0.5, 0.0]])
    structures = [first, moved, other, larger, free]
    box = GromacsBox(gromacs.find(double=True), file, {}, 5.0)
    found = box.evaluate(structures)
    assert box.step_ms is not None
    for result, atoms in zip(found, structures, strict=True):
        right = known.evaluate(atoms)
        assert result.energy == pytest.approx(right.energy, abs=1e-11)
        np.testing.assert_allclose(result.forces, right.forces, rtol=0.0, atol=1e-11)
        np.testing.assert_allclose(result.virial, right.virial, rtol=0.0, atol=1e-10)


@needs_gromacs
def test_structures_that_can_not_be_computed(model_file) -> None:
    box = GromacsBox(gromacs.find(double=True), model_file("lennard-jones"), {}, 8.5)
    with pytest.raises(InputError, match="at least one atom"):
        box.evaluate([Atoms(cell=[9.0, 9.0, 9.0], pbc=True)])
    with pytest.raises(EvaluationError, match="alchemi_bridge: atomic types"):
        box.evaluate([Atoms("Au", cell=[9.0, 9.0, 9.0], pbc=True)])


def test_what_makes_the_path_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = paths.registered()["gromacs"]
    monkeypatch.setenv(gromacs.PROGRAM_VARIABLE, str(tmp_path / "none"))
    assert "none" in (path.unavailable() or "")
    monkeypatch.setattr(gromacs, "missing", lambda double: None)
    monkeypatch.setattr(plugins, "shared_python", lambda: None)
    assert "libpython3" in (path.unavailable() or "")
    monkeypatch.setattr(plugins, "shared_python", lambda: tmp_path)

    def build() -> Path:
        raise ConfigurationError("compiler", expected="g++", got="none", fix="install it")

    monkeypatch.setattr(plumed_plugin, "build", build)
    assert path.unavailable() == "compiler: expected g++, got none; install it"
    monkeypatch.setattr(plumed_plugin, "build", lambda: tmp_path)
    assert path.unavailable() is None


def test_options_become_lines_of_a_setup_file() -> None:
    options = {
        "variants": {"energy": "pbe"},
        "non_conservative": "forces",
        "extensions_directory": "/a folder/b",
    }
    assert keywords(options, "x") == {
        "variant/energy": "pbe",
        "non_conservative": "forces",
        "extensions": "/a folder/b",
    }
    with pytest.raises(ConfigurationError, match="leave the path 'gromacs' out"):
        keywords({"unknown": 1}, "gromacs")
