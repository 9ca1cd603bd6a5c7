"""One model evaluated by several MPI ranks: domains, halos, and the exchange between them.

Needs mpi4py (the extra ``mpi``); nothing is imported before it is used.
"""

from alchemi_bridge.domain.decompose import Decomposition, choose_grid, decompose, over, wrap
from alchemi_bridge.domain.lead import dismiss, follow, lead, provider_for
from alchemi_bridge.domain.migrate import migrate
from alchemi_bridge.domain.provider import DomainForceProvider
from alchemi_bridge.domain.replicated import ReplicatedForceProvider
from alchemi_bridge.domain.world import launched_ranks, world

__all__ = [
    "Decomposition",
    "DomainForceProvider",
    "ReplicatedForceProvider",
    "choose_grid",
    "decompose",
    "dismiss",
    "follow",
    "launched_ranks",
    "lead",
    "migrate",
    "over",
    "provider_for",
    "world",
    "wrap",
]
