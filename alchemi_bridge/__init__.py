"""One force provider for metatomic models, behind every MD engine.

Heavy imports (torch, metatomic) happen on first use of a name, so that ``import alchemi_bridge``
and the command line's ``--help`` stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alchemi_bridge.contract import (
        Atoms,
        Cell,
        ForceBuffers,
        ForceProvider,
        Requirements,
        Step,
    )
    from alchemi_bridge.device import DeviceBuffer, Event
    from alchemi_bridge.domain import DomainForceProvider
    from alchemi_bridge.engines.ase import BridgeCalculator
    from alchemi_bridge.errors import BridgeError
    from alchemi_bridge.model import LoadedModel, load_model
    from alchemi_bridge.pairs import (
        ClusterPairs,
        FullPairs,
        GhostPairs,
        HalfPairs,
        NeighborMatrix,
        Search,
    )
    from alchemi_bridge.provider import MetatomicForceProvider
    from alchemi_bridge.units import Units

__version__ = "0.1.0"

_HOME_OF = {
    "Atoms": "contract",
    "Cell": "contract",
    "ForceBuffers": "contract",
    "ForceProvider": "contract",
    "Requirements": "contract",
    "Step": "contract",
    "DeviceBuffer": "device",
    "Event": "device",
    "BridgeCalculator": "engines.ase",
    "BridgeError": "errors",
    "LoadedModel": "model",
    "load_model": "model",
    "ClusterPairs": "pairs",
    "FullPairs": "pairs",
    "GhostPairs": "pairs",
    "HalfPairs": "pairs",
    "NeighborMatrix": "pairs",
    "Search": "pairs",
    "DomainForceProvider": "domain",
    "MetatomicForceProvider": "provider",
    "Units": "units",
}

__all__ = [
    "Atoms",
    "BridgeCalculator",
    "BridgeError",
    "Cell",
    "ClusterPairs",
    "DeviceBuffer",
    "DomainForceProvider",
    "Event",
    "ForceBuffers",
    "ForceProvider",
    "FullPairs",
    "GhostPairs",
    "HalfPairs",
    "LoadedModel",
    "MetatomicForceProvider",
    "NeighborMatrix",
    "Requirements",
    "Search",
    "Step",
    "Units",
    "__version__",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'alchemi_bridge' has no attribute '{name}'")
    return getattr(importlib.import_module(f"alchemi_bridge.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
