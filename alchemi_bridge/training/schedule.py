"""The learning rate over the steps, as in DeePMD-kit.

Source: DeePMD-kit 3.2.0, https://docs.deepmodeling.com/projects/deepmd, learning_rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ExponentialDecay:
    """``start * rate ** floor(step / decay_steps)``, never below ``stop``.

    Attributes
    ----------
    start, stop
        Learning rates of the first step and after the last.
    decay_steps
        Steps between two changes.
    rate
        Factor of a change.
    smooth
        Change in every step, instead.
    """

    start: float
    stop: float
    decay_steps: int
    rate: float
    smooth: bool = False

    @classmethod
    def over(
        cls, n_steps: int, start: float, stop: float, decay_steps: int, smooth: bool = False
    ) -> ExponentialDecay:
        """From ``start`` to ``stop`` in ``n_steps`` steps.

        ``decay_steps`` of more than ``n_steps`` are taken as DeePMD-kit does: 100, or of less
        than 1000 steps a hundredth and one.
        """
        if decay_steps >= n_steps:
            decay_steps = 100 if n_steps // 10 > 100 else n_steps // 100 + 1
        rate = math.exp(math.log(stop / start) / (n_steps / decay_steps))
        return cls(start, stop, decay_steps, rate, smooth)

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from zero."""
        n = step / self.decay_steps if self.smooth else step // self.decay_steps
        return max(self.start * self.rate**n, self.stop)
