"""How far lists reach beyond the model's cutoff, nm."""

from __future__ import annotations

import math

#: Buffer of a list that is kept from step to step.
SKIN = 0.1

#: Largest buffer: a list grows with the third power of its reach, and nothing is won by more.
MOST_SKIN = 1.0

#: What ``nnpot-pair-cutoff`` has beyond cutoff and buffer: GROMACS measures distances in single
#: precision, of coordinates that are rounded at some tens of nm.
ROUNDING = 1e-4

#: It is written with so many digits.
DIGITS = 3


def pair_cutoff(cutoff: float, skin: float) -> float:
    """``nnpot-pair-cutoff`` with which a list holds what an own search finds; rounded up."""
    scale = 10**DIGITS
    return math.ceil((cutoff + skin + ROUNDING) * scale) / scale
