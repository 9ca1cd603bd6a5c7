"""Running cases on paths: the built-in ones agree, and every kind of mistake is noticed."""

from __future__ import annotations

import numpy as np
import parity_fakes as fakes
import pytest

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.parity import cases, paths
from alchemi_bridge.parity.run import Report, Settings, run

FAST = Settings(repeats=1, warm_up=0)
BRIDGE = ["bridge-cpu", "bridge-batch", "bridge-list", "bridge-half-list"]


def run_spoiled(spoil: fakes.Spoil, case: str = "small-cell") -> Report:
    chosen = [*paths.select(["oracle"]), fakes.SpoiledPath(spoil)]
    return run(cases.select([case]), chosen, FAST)


@pytest.mark.parametrize("name", list(cases.BUILT_IN))
def test_every_path_of_the_bridge_agrees_with_the_oracle(name: str) -> None:
    report = run(cases.select([name]), paths.select(["oracle", *BRIDGE]), FAST)
    found = {path.name: path.failures for path in report.cases[0].ran}
    assert found == {name: [] for name in ("oracle", *BRIDGE)}
    assert report.passed
    for path in report.cases[0].ran:
        assert path.comparison is not None
        # all five numbers were compared: nothing was left out on the way
        assert len(path.comparison.checks) == 5
        assert path.ms_per_step is not None
        assert path.ms_per_step > 0.0


def test_the_peer_agrees_with_the_oracle() -> None:
    pytest.importorskip("metatomic_ase")
    report = run(cases.select(quick=True), paths.select(["oracle", "metatomic-ase"]), FAST)
    assert [path.failures for case in report.cases for path in case.ran] == [[]] * 10


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(cases.BUILT_IN))
def test_the_gpu_agrees_with_the_oracle(name: str) -> None:
    if (reason := paths.registered()["bridge-cuda"].unavailable()) is not None:
        pytest.skip(reason)
    report = run(cases.select([name]), paths.select(["oracle", "bridge-cuda"]), FAST)
    assert [path.failures for path in report.cases[0].ran] == [[], []]


def test_a_right_path_passes() -> None:
    assert run_spoiled(fakes.unspoiled).passed


@pytest.mark.parametrize(
    ("spoil", "failure"),
    [
        (fakes.wrong_force, "force_max"),
        (fakes.wrong_energy, "energy_relative"),
        (fakes.wrong_virial, "virial_per_atom"),
        (fakes.wrong_energies, "energies_max"),
        (fakes.nan_force, "forces: not finite"),
        (fakes.nan_energy, "energy: not finite"),
        (fakes.infinite_virial, "virial: not finite"),
        (fakes.no_virial, "virial: missing"),
        (fakes.short_forces, "forces: shape"),
        (fakes.raises, "RuntimeError: this path is broken"),
    ],
)
def test_every_kind_of_mistake_is_noticed(spoil: fakes.Spoil, failure: str) -> None:
    report = run_spoiled(spoil)
    assert not report.passed
    assert report.cases[0].paths[0].passed  # the oracle is not to blame
    failures = report.cases[0].paths[1].failures
    assert any(text.startswith(failure) for text in failures), failures
    assert all("\n" not in text for text in failures)


def test_a_path_that_breaks_while_it_is_timed_fails() -> None:
    class Tired(fakes.SpoiledEvaluator):
        def step(self, atoms: object) -> float:
            raise ValueError("no more steps")

    class TiredPath(fakes.SpoiledPath):
        def prepare(self, job: paths.Job) -> paths.Evaluator:
            return Tired(super().prepare(job).oracle, fakes.unspoiled)  # type: ignore[attr-defined]

    chosen = [*paths.select(["oracle"]), TiredPath(fakes.unspoiled)]
    report = run(cases.select(["one-atom"]), chosen, FAST)
    assert not report.passed
    assert report.cases[0].paths[1].failures == ["while timing: ValueError: no more steps"]
    assert report.cases[0].paths[1].ms_per_step is None


def test_a_reference_that_breaks_fails_and_leaves_its_place_to_the_next() -> None:
    broken = fakes.SpoiledPath(fakes.raises, name="oracle")
    report = run(cases.select(["one-atom"]), [broken, *paths.select(["bridge-cpu"])], FAST)
    assert not report.passed
    assert report.cases[0].reference == "bridge-cpu"
    assert [path.passed for path in report.cases[0].paths] == [False, True]
    # with no other path to trust there is nothing to compare with
    chosen = [broken, fakes.SpoiledPath(fakes.unspoiled)]
    report = run(cases.select(["one-atom"]), chosen, FAST)
    assert not report.passed
    assert report.cases[0].paths[1].failures == [
        "no reference: oracle failed: RuntimeError: this path is broken"
    ]


def test_a_reference_that_is_not_finite_fails() -> None:
    oracle = fakes.SpoiledPath(fakes.nan_force, name="oracle")
    report = run(cases.select(["one-atom"]), [oracle, *paths.select(["bridge-cpu"])], FAST)
    assert [path.passed for path in report.cases[0].paths] == [False, False]


def test_a_reference_alone_compares_nothing() -> None:
    with pytest.raises(ConfigurationError, match="at least one other path"):
        run(cases.select(["one-atom"]), paths.select(["oracle"]), FAST)


def test_paths_without_a_reference_are_refused() -> None:
    chosen = [fakes.SpoiledPath(fakes.unspoiled, "a"), fakes.SpoiledPath(fakes.unspoiled, "b")]
    with pytest.raises(ConfigurationError, match="reference"):
        run(cases.select(["one-atom"]), chosen, FAST)


def test_an_unavailable_path_is_listed_with_its_reason() -> None:
    class Missing(fakes.SpoiledPath):
        def unavailable(self) -> str:
            return "not on this machine"

    chosen = [*paths.select(["oracle", "bridge-cpu"]), Missing(fakes.unspoiled)]
    report = run(cases.select(["one-atom"]), chosen, FAST)
    assert report.passed
    assert report.cases[0].paths[2].skipped == "not on this machine"
    with pytest.raises(ConfigurationError, match="not on this machine"):
        run(cases.select(["one-atom"]), [chosen[0], chosen[2]], FAST)


def test_no_case_is_not_a_pass() -> None:
    assert not run([], paths.select(["oracle", "bridge-cpu"]), FAST).passed


def test_names_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="'gold'"):
        cases.select(["gold"])
    with pytest.raises(ConfigurationError, match="'magic'"):
        paths.select(["magic"])
    with fakes.registered(fakes.SpoiledPath(fakes.unspoiled)) as path:
        assert "spoiled" in paths.registered()
        with pytest.raises(ConfigurationError, match="not taken"):
            paths.register(path)
    assert "spoiled" not in paths.registered()


def test_quick_is_a_subset() -> None:
    quick = [case.name for case in cases.select(quick=True)]
    assert 0 < len(quick) < len(cases.BUILT_IN)
    assert [case.name for case in cases.select(["silicon"], quick=True)] == ["silicon"]


# --- the cases are what they say ------------------------------------------------------------------


@pytest.mark.parametrize("name", list(cases.BUILT_IN))
def test_structures_are_the_same_every_time(name: str) -> None:
    case = cases.BUILT_IN[name]
    for one, other in zip(case.make_frames(), case.make_frames(), strict=True):
        assert one == other
    first, second = case.make_frames()
    moved = np.abs(first.positions - second.positions)
    assert 0.0 < moved.max() <= 0.02


def test_structures_have_what_they_are_there_for() -> None:
    frames = {name: case.make_frames()[0] for name, case in cases.BUILT_IN.items()}
    assert len(frames["silicon"]) == 1000
    assert len(frames["argon"]) > 200
    assert np.linalg.det(frames["left-handed"].cell.array) < 0.0
    assert frames["slab"].pbc.tolist() == [True, True, False]
    assert not frames["molecule"].pbc.any()
    angles = frames["triclinic"].cell.angles()
    assert angles.min() < 60.0
    assert angles.max() > 120.0
    assert frames["small-cell"].cell.lengths().max() < 8.5
    assert len(frames["one-atom"]) == 1
    assert len(set(frames["mixed-species"].numbers)) == 4
    fractions = frames["mixed-species"].cell.scaled_positions(frames["mixed-species"].positions)
    assert fractions.min() < -1.0
    assert fractions.max() > 2.0
    z = frames["slab"].positions[:, 2]
    assert z.min() < 0.0 or z.max() > frames["slab"].cell[2, 2]
