"""The library behind PLUMED's interface, for engines that load what ``PLUMED_KERNEL`` names."""

from __future__ import annotations

from pathlib import Path

from alchemi_bridge.compiling import UnavailableError
from alchemi_bridge.engines import plugins

NAME = "libalchemi_bridge_plumed.so"

SOURCES = (
    "plumed/kernel.cpp",
    "plumed/session.cpp",
    "plumed/model.cpp",
    "plumed/energies.cpp",
    "plumed/ranks.cpp",
)


def build() -> Path:
    """Path of the library; compiled if it is not in the cache.

    Raises
    ------
    ConfigurationError
        If it can not be built.
    """
    try:
        return plugins.compiled(NAME, SOURCES, defines={"AB_LIBRARY": str(plugins.shim())})
    except UnavailableError as error:
        raise plugins.unavailable("library for PLUMED's interface", error) from error
