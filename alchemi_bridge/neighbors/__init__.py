"""Every step: vectors of the candidate pairs, cut at each cutoff that the model requests."""

from alchemi_bridge.neighbors.blocks import RequestedPairs, cut, neighbor_block
from alchemi_bridge.neighbors.guard import Reference, inspect_step
from alchemi_bridge.neighbors.vectors import (
    outer_sum,
    pair_offsets,
    pair_vectors,
    rows_times,
    squared_lengths,
    sum_over_pairs,
    virial_of_pairs,
)

__all__ = [
    "Reference",
    "RequestedPairs",
    "cut",
    "inspect_step",
    "neighbor_block",
    "outer_sum",
    "pair_offsets",
    "pair_vectors",
    "rows_times",
    "squared_lengths",
    "sum_over_pairs",
    "virial_of_pairs",
]
