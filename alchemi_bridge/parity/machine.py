"""Where and with what a report was made."""

from __future__ import annotations

import os
import pathlib
import platform
from importlib import metadata
from typing import Any

import torch

from alchemi_bridge.device import cuda_devices

#: Packages whose version a number may depend on.
PACKAGES = (
    "alchemi-bridge",
    "torch",
    "metatomic-torch",
    "metatensor-torch",
    "metatomic-ase",
    "nvalchemi-toolkit",
    "nvalchemi-toolkit-ops",
    "vesin",
    "ase",
    "numpy",
    "scipy",
)


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that matter; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if found["alchemi-bridge"] is None:  # run from a checkout
        from alchemi_bridge import __version__

        found["alchemi-bridge"] = __version__
    return found


def machine(threads: int) -> dict[str, Any]:
    """Processor, GPUs and threads, as a JSON object."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch_threads": threads,
        "gpus": [torch.cuda.get_device_name(index) for index in range(cuda_devices())],
        "cuda": torch.version.cuda,
    }


def _cpu() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
