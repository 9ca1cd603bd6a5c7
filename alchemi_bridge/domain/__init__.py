"""One model evaluated by several MPI ranks: domains, halos, and the exchange between them.

Needs mpi4py (the extra ``mpi``). Everything is imported on first use: the command line asks for the
number of ranks before it knows whether torch is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alchemi_bridge.domain.decomposition import (
        Decomposition,
        choose_grid,
        decompose,
        over,
        wrap,
    )
    from alchemi_bridge.domain.leading import dismiss, follow, lead, provider_for
    from alchemi_bridge.domain.migration import Migration, migrate
    from alchemi_bridge.domain.provider import DomainForceProvider
    from alchemi_bridge.domain.ranks import launched_ranks, world
    from alchemi_bridge.domain.replicated import ReplicatedForceProvider

_HOME_OF = {
    "Decomposition": "decomposition",
    "DomainForceProvider": "provider",
    "Migration": "migration",
    "ReplicatedForceProvider": "replicated",
    "choose_grid": "decomposition",
    "decompose": "decomposition",
    "dismiss": "leading",
    "follow": "leading",
    "launched_ranks": "ranks",
    "lead": "leading",
    "migrate": "migration",
    "over": "decomposition",
    "provider_for": "leading",
    "world": "ranks",
    "wrap": "decomposition",
}

__all__ = [
    "Decomposition",
    "DomainForceProvider",
    "Migration",
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


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'alchemi_bridge.domain' has no attribute '{name}'")
    return getattr(importlib.import_module(f"alchemi_bridge.domain.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
