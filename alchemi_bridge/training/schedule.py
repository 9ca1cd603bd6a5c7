"""The learning rate over the steps, as in DeePMD-kit.

Source: DeePMD-kit 3.2.0, https://docs.deepmodeling.com/projects/deepmd, learning_rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: A rate of zero is taken as this where a logarithm is needed.
LEAST_STOP = 1e-10


@dataclass(frozen=True)
class ExponentialDecay:
    """``start * rate ** floor(step / decay_steps)``, never below ``stop``, after a warm-up.

    Attributes
    ----------
    start, stop
        Learning rates of the first step after the warm-up, and after the last.
    decay_steps
        Steps between two changes.
    rate
        Factor of a change.
    smooth
        Change in every step, instead.
    warmup_steps, warmup_start
        Steps in which the learning rate grows linearly to ``start``, and where it begins.
    """

    start: float
    stop: float
    decay_steps: int
    rate: float
    smooth: bool = False
    warmup_steps: int = 0
    warmup_start: float = 0.0

    @classmethod
    def over(
        cls,
        n_steps: int,
        start: float,
        stop: float,
        decay_steps: int,
        smooth: bool = False,
        warmup_steps: int = 0,
        warmup_start: float = 0.0,
    ) -> ExponentialDecay:
        """From ``start`` to ``stop`` in ``n_steps`` steps, those of the warm-up included.

        ``decay_steps`` of more than are left after the warm-up are taken as DeePMD-kit does: 100,
        or of less than 1010 steps a hundredth and one.
        """
        n_left = n_steps - warmup_steps
        if decay_steps >= n_left:
            decay_steps = 100 if n_left // 10 > 100 else n_left // 100 + 1
        rate = math.exp(math.log(max(stop, LEAST_STOP) / start) / (n_left / decay_steps))
        return cls(start, stop, decay_steps, rate, smooth, warmup_steps, warmup_start)

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from zero."""
        if step < self.warmup_steps:
            way = step / self.warmup_steps
            return self.warmup_start + (self.start - self.warmup_start) * way
        step -= self.warmup_steps
        n = step / self.decay_steps if self.smooth else step // self.decay_steps
        return max(self.start * self.rate**n, self.stop)
