"""The host shim: the kernel bodies compiled by g++ on first use, called through ctypes."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge import compiling
from alchemi_bridge.native import sources
from alchemi_bridge.native.launch import Argument, Launcher, converted

#: Contraction would give other bits than the torch reference and the GPU. -march=native is safe
#: because the cache is keyed by the processor.
FLAGS = (
    "-x", "c++", "-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno",
    "-fopenmp", "-fPIC", "-shared", "-fvisibility=default", "-w",
)  # fmt: skip

#: Below this many indices a second thread costs more than it saves.
LEAST_PER_THREAD = 256


class HostLauncher(Launcher):
    """Runs kernels on the CPU, with as many threads as torch uses."""

    device_type = "cpu"

    def __init__(self, library: Path) -> None:
        self.library = library
        self.description = f"g++ shim ({library})"
        self._code = ctypes.CDLL(str(library))
        self._functions: dict[str, Any] = {}

    def _function(self, kernel: str) -> Any:
        function = getattr(self._code, kernel)
        kinds = {"array": ctypes.c_void_p, "integer": ctypes.c_longlong, "real": ctypes.c_double}
        parameters = sources.entry_points()[kernel]
        function.argtypes = [
            ctypes.c_longlong,
            ctypes.c_longlong,
            *(kinds[p.kind] for p in parameters),
        ]
        function.restype = None
        self._functions[kernel] = function
        return function

    def threads(self, count: int) -> int:
        """As many as torch uses, but not for a handful of indices."""
        if count < 2 * LEAST_PER_THREAD:
            return 1
        return min(torch.get_num_threads(), count // LEAST_PER_THREAD)

    def launch(self, kernel: str, count: int, *arguments: Argument, serial: bool = False) -> None:
        """Run a kernel; it is done when this returns."""
        function = self._functions.get(kernel) or self._function(kernel)
        threads = 1 if serial else self.threads(count)
        function(count, threads, *converted(kernel, arguments, "cpu"))


@cache
def host_launcher() -> HostLauncher:
    """Build the shim, or take it from the cache.

    Raises
    ------
    compiling.UnavailableError
        Without sources or compiler, or if the build fails.
    """
    home = sources.folder()
    if home is None:
        raise compiling.UnavailableError("the kernel sources are not installed")
    compiler = compiling.require_compiler()
    library = compiling.cache_folder() / f"kernels-{_key(compiler)}.so"
    if not library.is_file():
        compiling.build([compiler, *FLAGS, str(home / sources.MAIN)], library)
    try:
        return HostLauncher(library)
    except OSError as error:
        raise compiling.UnavailableError(f"{library} can not be loaded: {error}") from error


def _key(compiler: str) -> str:
    """Names one build: sources, flags, compiler and processor."""
    version = compiling.version_of(compiler)
    parts = [sources.digest(), *FLAGS, os.path.realpath(compiler), version, _processor()]
    return compiling.key_of(parts)


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))})
    )
