"""Compiled bodies of the hot path, by g++ for the host, by NVRTC for a GPU; else there is torch."""

from alchemi_bridge.compiling import UnavailableError
from alchemi_bridge.native.launch import Launcher, elements
from alchemi_bridge.native.select import KernelPath, kernel_path, launcher_for, using

__all__ = [
    "KernelPath",
    "Launcher",
    "UnavailableError",
    "elements",
    "kernel_path",
    "launcher_for",
    "using",
]
