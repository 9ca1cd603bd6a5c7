"""The C interface: the provider behind the function table of ``plugins/include/alchemi_bridge.h``.

:func:`address` is for hosts that are written in Python; the shim library (``plugins/shim``) calls
it in an interpreter that it starts.
"""

from __future__ import annotations

from typing import Any

__all__ = ["address"]


def __getattr__(name: str) -> Any:
    # torch is loaded on first use only
    if name == "address":
        from alchemi_bridge.engines.interface.table import address

        return address
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
