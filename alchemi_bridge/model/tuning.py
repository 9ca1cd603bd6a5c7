"""Which way of running a model is fastest here: measured in the first steps, kept afterwards.

TorchScript's optimised execution costs more than it saves for some models, and a light model is
faster with all pairs of the list, skin included, than with a list that is cut in every step.
Neither can be read off the model, so the first steps try each way in turn. They are ordinary steps
with right results: nothing is evaluated for the measurement alone.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mode:
    """One way of running a model.

    Attributes
    ----------
    optimize
        Let TorchScript optimise the model.
    uncut
        Hand over all pairs of the list in memory that stays; only where the model allows it.
    """

    optimize: bool
    uncut: bool

    def __str__(self) -> str:
        execution = "optimised" if self.optimize else "interpreted"
        return f"{execution} execution, {'whole' if self.uncut else 'cut'} lists"


#: Steps of a mode that do not count: TorchScript profiles and compiles in its first calls.
WARM_UP = {True: 4, False: 1}

#: Steps of a mode that do.
SAMPLES = 5

#: A mode is preferred to an earlier one if it takes less than this share of its time: the choice
#: shall not depend on noise.
CLEARLY_FASTER = 0.97

#: So many steps with a pair search are left out; where every step searches they have to count.
MOST_LEFT_OUT = 10


@dataclass
class _Trial:
    mode: Mode
    left_out: int
    searched: int = 0
    seconds: list[float] = field(default_factory=list)


class Tuner:
    """Tries modes in turn, step by step, and keeps the fastest.

    Parameters
    ----------
    modes
        At least one; the first is taken if none is clearly faster.
    device
        Where the model runs.
    """

    def __init__(self, modes: Sequence[Mode], device: torch.device) -> None:
        self.device = device
        self._trials = [_Trial(mode, WARM_UP[mode.optimize]) for mode in modes]
        self._current = 0
        self.done = len(self._trials) == 1
        self.mode = self._trials[0].mode
        self._pending: list[tuple[_Trial, torch.cuda.Event, torch.cuda.Event]] = []
        self._begin: float | torch.cuda.Event = 0.0

    @property
    def milliseconds(self) -> dict[str, float]:
        """Median of each mode that was measured so far."""
        return {str(t.mode): 1e3 * statistics.median(t.seconds) for t in self._trials if t.seconds}

    def start(self) -> None:
        """Begin a step in :attr:`mode`."""
        if self.done:
            return
        self._begin = self._now()

    def stop(self, counts: bool) -> None:
        """End the step; ``counts`` is false for one that did other work, too (a pair search)."""
        if self.done:
            return
        trial = self._trials[self._current]
        if trial.left_out > 0:
            trial.left_out -= 1
            return
        if not counts and trial.searched < MOST_LEFT_OUT:
            trial.searched += 1
            return
        self._take(trial)
        if len(trial.seconds) + len(self._pending) < SAMPLES:
            return
        self._resolve()
        self._current += 1
        if self._current == len(self._trials):
            self._decide()
        else:
            self.mode = self._trials[self._current].mode

    def give_up_whole_lists(self) -> None:
        """Leave out the modes with whole lists, since a model fails with them."""
        if not self.mode.uncut:
            return
        if self.done:
            self.mode = Mode(self.mode.optimize, uncut=False)
            return
        self._trials = [trial for trial in self._trials if not trial.mode.uncut]
        self._pending = [one for one in self._pending if not one[0].mode.uncut]
        self._current = len(self._trials)
        self._resolve()
        self._decide()

    def _now(self) -> float | torch.cuda.Event:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _take(self, trial: _Trial) -> None:
        end = self._now()
        if isinstance(self._begin, torch.cuda.Event):
            assert isinstance(end, torch.cuda.Event)
            self._pending.append((trial, self._begin, end))
        else:
            assert isinstance(end, float)
            trial.seconds.append(end - self._begin)

    def _resolve(self) -> None:
        """Read the times of a GPU: one wait per mode, in the first steps only."""
        for trial, begin, end in self._pending:
            end.synchronize()
            trial.seconds.append(begin.elapsed_time(end) / 1e3)
        self._pending = []

    def _decide(self) -> None:
        best = self._trials[0]
        for trial in self._trials[1:]:
            faster = CLEARLY_FASTER * statistics.median(best.seconds)
            if statistics.median(trial.seconds) < faster:
                best = trial
        self.mode, self.done = best.mode, True
        LOGGER.info("running the model with %s; measured (ms): %s", best.mode, self.milliseconds)


def possible_modes(*, may_be_uncut: bool) -> list[Mode]:
    """Modes to try, the one to begin with first."""
    modes = [Mode(optimize=False, uncut=False), Mode(optimize=True, uncut=False)]
    if may_be_uncut:
        modes += [Mode(optimize=False, uncut=True), Mode(optimize=True, uncut=True)]
    return modes
