"""Every step: coordinates, the guard, the cut at each cutoff, and gradients on the way back."""

from alchemi_bridge.neighbors.advance import Moved, Reference, advance
from alchemi_bridge.neighbors.blocks import RequestedPairs, neighbor_block
from alchemi_bridge.neighbors.cut import Marked, fill, mark, refresh, rows_times, shift_vectors
from alchemi_bridge.neighbors.gradients import (
    add_rows,
    attached_vectors,
    gather_forces,
    outer_sum,
    shared_virials,
)
from alchemi_bridge.neighbors.guard import read_facts
from alchemi_bridge.neighbors.reference import require_same_pairs

__all__ = [
    "Marked",
    "Moved",
    "Reference",
    "RequestedPairs",
    "add_rows",
    "advance",
    "attached_vectors",
    "fill",
    "gather_forces",
    "mark",
    "neighbor_block",
    "outer_sum",
    "read_facts",
    "refresh",
    "require_same_pairs",
    "rows_times",
    "shared_virials",
    "shift_vectors",
]
