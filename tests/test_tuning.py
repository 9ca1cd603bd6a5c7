"""Which way of running a model is the fastest: how it is found out."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import feature_parts
import numpy as np
import pytest
import torch
import zoo
from metatomic.torch import NeighborListOptions
from zoo_parts import make

from alchemi_bridge import MetatomicForceProvider
from alchemi_bridge.model import tuning
from alchemi_bridge.model.tuning import SAMPLES, WARM_UP, Mode, Tuner, possible_modes
from alchemi_bridge.provider import UNTUNED

CPU = torch.device("cpu")
MODES = possible_modes(may_be_uncut=True)

#: Two modes add the same terms in another order.
SAME = 1e-12


class Clock:
    """A clock that goes on by what a step in the tuner's mode takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[Mode, Any]) -> None:
        self.now, self.waits = 100.0, []
        self.seconds = {
            mode: itertools.cycle(np.atleast_1d(s).tolist()) for mode, s in seconds.items()
        }
        monkeypatch.setattr(tuning.time, "perf_counter", lambda: self.now)

    def step(self, tuner: Tuner, counts: bool = True) -> Mode:
        """One step; returns its mode."""
        tuner.start()
        mode = tuner.mode
        self.now += next(self.seconds[mode]) if counts else 1000.0
        tuner.stop(counts)
        self.now += 50.0  # what the engine does in between is not the model's
        return mode


def tried(clock: Clock, tuner: Tuner) -> list[Mode]:
    """Modes of all steps until one was chosen."""
    modes = []
    while not tuner.done:
        modes.append(clock.step(tuner))
        assert len(modes) < 1000
    return modes


# --- the tuner ------------------------------------------------------------------------------------


def test_modes_in_their_order() -> None:
    assert possible_modes(may_be_uncut=False) == [Mode(False, False), Mode(True, False)]
    assert [Mode(False, False), Mode(True, False), Mode(False, True), Mode(True, True)] == MODES
    assert len({str(mode) for mode in MODES}) == 4


def test_every_mode_is_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, tuner = Clock(monkeypatch, dict.fromkeys(MODES, 1.0)), Tuner(MODES, CPU)
    expected = [mode for mode in MODES for _ in range(WARM_UP[mode.optimize] + SAMPLES)]
    assert tried(clock, tuner) == expected


@pytest.mark.parametrize("fastest", MODES)
def test_the_fastest_is_kept(monkeypatch: pytest.MonkeyPatch, fastest: Mode) -> None:
    seconds = {mode: 0.002 if mode == fastest else 0.003 for mode in MODES}
    clock, tuner = Clock(monkeypatch, seconds), Tuner(MODES, CPU)
    tried(clock, tuner)
    assert tuner.mode == fastest
    assert tuner.milliseconds == pytest.approx({str(m): 1e3 * s for m, s in seconds.items()})
    clock.seconds = dict.fromkeys(MODES, itertools.repeat(1e9))
    for _ in range(20):  # whatever happens afterwards
        assert clock.step(tuner) == fastest
    assert tuner.milliseconds == pytest.approx({str(m): 1e3 * s for m, s in seconds.items()})


def test_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps in which TorchScript compiles are slow in the mode that is the fastest later."""
    seconds = {
        mode: [9.0] * WARM_UP[mode.optimize] + [0.1 if mode.optimize else 0.2] * SAMPLES
        for mode in MODES
    }
    clock, tuner = Clock(monkeypatch, seconds), Tuner(MODES, CPU)
    tried(clock, tuner)
    assert tuner.mode == Mode(optimize=True, uncut=False)
    assert max(tuner.milliseconds.values()) == pytest.approx(200.0)


def test_steps_that_search_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, tuner = Clock(monkeypatch, dict.fromkeys(MODES[:2], 0.5)), Tuner(MODES[:2], CPU)
    steps = searches = 0
    while not tuner.done:
        search = steps > 5 and steps % 3 == 0
        searches += search
        clock.step(tuner, counts=not search)
        steps += 1
    assert searches > 3
    assert tuner.milliseconds == pytest.approx({str(mode): 500.0 for mode in MODES[:2]})
    # searches during the warm-up are steps of the warm-up
    counted = sum(WARM_UP[mode.optimize] + SAMPLES for mode in MODES[:2])
    assert counted < steps <= counted + searches


def test_one_slow_step_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = [0.1] * WARM_UP[False] + [0.1, 7.0, 0.1, 0.1, 7.0]
    clock = Clock(monkeypatch, {MODES[0]: noisy, MODES[1]: 0.2})
    tuner = Tuner(MODES[:2], CPU)
    tried(clock, tuner)
    assert tuner.mode == MODES[0]


@pytest.mark.parametrize(("later", "chosen"), [(1.0, 0), (0.98, 0), (0.96, 1)])
def test_ties_go_to_the_earlier(monkeypatch: pytest.MonkeyPatch, later: float, chosen: int) -> None:
    """A mode has to be faster by more than noise."""
    clock = Clock(monkeypatch, {MODES[0]: 1.0, MODES[1]: later})
    tuner = Tuner(MODES[:2], CPU)
    tried(clock, tuner)
    assert tuner.mode == MODES[chosen]


def test_nothing_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, tuner = Clock(monkeypatch, {UNTUNED: 1.0}), Tuner([UNTUNED], CPU)
    assert tuner.done
    assert clock.step(tuner) == UNTUNED
    assert tuner.milliseconds == {}


def test_times_of_a_gpu_are_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events before and after each step; the host waits for them at the end of a mode only."""
    clock = Clock(monkeypatch, dict.fromkeys(MODES, 0.004) | {MODES[2]: 0.001})
    stream = object()

    class FakeEvent:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.at: float | None = None
            self.finished = False

        def record(self, on: object) -> None:
            assert on is stream
            self.at = clock.now

        def synchronize(self) -> None:
            self.finished = True
            clock.waits.append(self)

        def elapsed_time(self, end: FakeEvent) -> float:
            assert end.finished
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    tuner = Tuner(MODES, torch.device("cuda", 0))
    waits = []
    while not tuner.done:
        before = len(clock.waits)
        clock.step(tuner)
        waits.append(len(clock.waits) - before)
    assert tuner.mode == MODES[2]
    assert tuner.milliseconds[str(MODES[2])] == pytest.approx(1.0)
    last_steps = np.cumsum([WARM_UP[mode.optimize] + SAMPLES for mode in MODES]) - 1
    assert np.flatnonzero(waits).tolist() == last_steps.tolist()
    assert sum(waits) == SAMPLES * len(MODES)


# --- in a provider --------------------------------------------------------------------------------


def reads_inputs(folder: Path) -> Path:
    """Not strict, but with an input that metatomic hands over."""
    module = zoo.Inputs(zoo.INPUTS["charge"])
    module.options = [NeighborListOptions(zoo.CUTOFF, True, False)]
    return zoo.save(make(module, "inputs"), folder, "inputs")


@pytest.mark.parametrize(
    ("name", "options", "whole"),
    [
        ("not_strict", {}, True),
        ("not_strict", {"check_consistency": True}, False),
        ("not_strict", {"gradient": "strain"}, False),
        ("pair", {}, False),
        ("several_cutoffs", {}, False),
        ("extra_outputs", {"extra_outputs": ["feature"]}, False),
    ],
)
def test_whole_lists_where_they_are_allowed(name: str, options: dict, whole: bool) -> None:
    provider = MetatomicForceProvider(feature_parts.zoo_file(name), **options)
    assert provider._modes() == possible_modes(may_be_uncut=whole)
    assert provider.mode == MODES[0]


def test_no_whole_lists_with_inputs(tmp_path: Path) -> None:
    provider = MetatomicForceProvider(reads_inputs(tmp_path))
    assert provider._modes() == MODES[:2]


def test_first_steps_try_all_modes() -> None:
    """They are ordinary steps with right results."""
    atoms = feature_parts.crystal(2)
    provider = MetatomicForceProvider(feature_parts.zoo_file("not_strict"))
    expected = feature_parts.exact(atoms)
    feature_parts.prepare(provider, atoms)
    modes = []
    while not provider.tuned:
        modes.append(provider.mode)
        found = feature_parts.step(provider, atoms)
        for name in ("energy", "forces", "virial", "energies"):
            np.testing.assert_allclose(
                found.numpy(name), getattr(expected, name), rtol=SAME, atol=SAME
            )
    assert modes == [m for m in MODES for _ in range(WARM_UP[m.optimize] + SAMPLES)]
    assert provider.mode in MODES
    assert provider.searches == 1


def test_without_tuning() -> None:
    provider = MetatomicForceProvider(feature_parts.zoo_file("not_strict"), tuning=False)
    assert provider.tuned
    assert provider.mode == UNTUNED
    feature_parts.run(provider, feature_parts.crystal())
    assert provider.mode == UNTUNED
