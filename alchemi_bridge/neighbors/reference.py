"""Debug mode: are the pairs handed to the model those that a new search would find."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import PairListError
from alchemi_bridge.neighbors.blocks import RequestedPairs
from alchemi_bridge.neighbors.cut import fill, mark, shift_vectors
from alchemi_bridge.pairs import find_pairs


def require_same_pairs(
    pairs: RequestedPairs,
    positions: torch.Tensor,
    cell: Cell,
    *,
    cutoff: float,
    full_list: bool,
    uncut: bool,
) -> None:
    """Raise :class:`PairListError` if a pair is missing, or beyond the cutoff without need.

    Slow: searches from scratch, on the host.

    Parameters
    ----------
    pairs
        What the model would be given.
    positions
        (n_atoms, 3) of the step, in the frame of the pair list and the working precision.
    cell, cutoff
        In the same length unit.
    full_list
        Both directions, or each pair once.
    uncut
        Whether pairs beyond the cutoff are there on purpose.
    """
    dtype, device = pairs.vectors.dtype, positions.device
    found = find_pairs(positions, cell, math.nextafter(cutoff, math.inf))
    found = replace(found, margin=pairs.candidates.margin)
    offsets = shift_vectors(found.table, cell.tensor(positions.dtype, device))
    marked = mark(found, positions, offsets, cutoff=cutoff, full_list=full_list, dtype=dtype)
    right = fill(found, positions, offsets, marked, int(marked.base[-1]), dtype)
    expected = set(map(tuple, right.samples.tolist()))
    handed = set(map(tuple, pairs.samples.tolist()))
    missing = sorted(expected - handed)
    extra = [] if uncut else sorted(handed - expected)
    if not missing and not extra and len(handed) == len(pairs.samples):
        return
    example = (missing or extra or sorted(handed))[0]
    raise PairListError(
        "pair list (debug mode)",
        expected=f"the {len(expected)} pairs that a new search finds within {cutoff:g}",
        got=f"{len(missing)} missing, {len(extra)} beyond the cutoff, "
        f"{len(pairs.samples) - len(handed)} repeated, such as (first, second, shift) = {example}",
        fix="look for a list that is shorter than its reach says, or belongs to other positions",
    )
