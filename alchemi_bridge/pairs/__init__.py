"""What engines hand over as pairs, and the one form that all of it is decoded into."""

from alchemi_bridge.pairs.candidates import Pairs, decode, is_pairs, reach_of
from alchemi_bridge.pairs.clusters import ClusterPairs
from alchemi_bridge.pairs.ghosts import GhostPairs
from alchemi_bridge.pairs.lists import FullPairs, HalfPairs, Search
from alchemi_bridge.pairs.matrix import NeighborMatrix
from alchemi_bridge.pairs.rows import Candidates
from alchemi_bridge.pairs.search import find_pairs

__all__ = [
    "Candidates",
    "ClusterPairs",
    "FullPairs",
    "GhostPairs",
    "HalfPairs",
    "NeighborMatrix",
    "Pairs",
    "Search",
    "decode",
    "find_pairs",
    "is_pairs",
    "reach_of",
]
