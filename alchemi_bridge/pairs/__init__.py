"""What engines hand over as pairs, and the one form that all of it is decoded into."""

from alchemi_bridge.pairs.candidates import decode
from alchemi_bridge.pairs.lists import FullPairs, HalfPairs, Pairs, Search
from alchemi_bridge.pairs.rows import Candidates
from alchemi_bridge.pairs.search import find_pairs

__all__ = ["Candidates", "FullPairs", "HalfPairs", "Pairs", "Search", "decode", "find_pairs"]
