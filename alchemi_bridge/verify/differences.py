"""Derivatives from values: Ridders' extrapolation of central differences.

Ridders, Adv. Eng. Softw. 4, 75 (1982), https://doi.org/10.1016/S0141-1195(82)80057-0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Derivative:
    """A numerical derivative.

    Attributes
    ----------
    value
        The extrapolated derivative.
    uncertainty
        How much neighbouring entries of the tableau differ from it.
    step
        Smallest step that went into the value.
    """

    value: float
    uncertainty: float
    step: float


def derivative(function: Callable[[np.ndarray], np.ndarray], steps: np.ndarray) -> Derivative:
    """Derivative of a function at 0.

    Central differences with each of the steps, then Richardson's extrapolation to step 0 in all
    orders; the entry that agrees best with its neighbours in the tableau is taken. Large steps
    suffer from higher derivatives, small ones from rounding, and steps across a kink from the kink;
    the choice avoids all three, without knowing what the answer should be.

    Parameters
    ----------
    function
        Called once, with plus and minus each step; returns as many values.
    steps
        Descending.

    Returns
    -------
    Derivative
    """
    values = function(np.concatenate([steps, -steps]))
    central = (values[: len(steps)] - values[len(steps) :]) / (2.0 * steps)
    tableau = [[entry] for entry in central.tolist()]
    best = Derivative(tableau[-1][0], float("inf"), float(steps[-1]))
    for row in range(1, len(steps)):
        for order in range(1, row + 1):
            # the error of a central difference is a series in the square of the step
            ratio = float(steps[row - order] / steps[row]) ** 2
            fine, coarse = tableau[row][order - 1], tableau[row - 1][order - 1]
            entry = fine + (fine - coarse) / (ratio - 1.0)
            tableau[row].append(entry)
            uncertainty = max(abs(entry - fine), abs(entry - coarse))
            if uncertainty < best.uncertainty:
                best = Derivative(entry, uncertainty, float(steps[row]))
    return best
