"""The host shim: the kernel bodies compiled by g++ on first use, called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge.native import sources
from alchemi_bridge.native.launch import Argument, Launcher, UnavailableError, converted

LOGGER = logging.getLogger(__name__)

#: Set to another compiler, or to the empty string to go without.
COMPILER_VARIABLE = "ALCHEMI_BRIDGE_CXX"

#: Contraction would give other bits than the torch reference and the GPU. -march=native is safe
#: because the cache is keyed by the processor.
FLAGS = (
    "-x", "c++", "-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno",
    "-fopenmp", "-fPIC", "-shared", "-fvisibility=default", "-w",
)  # fmt: skip

BUILD_TIMEOUT_SECONDS = 120.0

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
    UnavailableError
        Without sources or compiler, or if the build fails.
    """
    compiler = find_compiler()
    if not sources.texts():
        raise UnavailableError("the kernel sources are not installed")
    if compiler is None:
        raise UnavailableError(
            "no C++ compiler: install g++, or name one with " + COMPILER_VARIABLE
        )
    library = _cache_folder() / f"kernels-{_key(compiler)}.so"
    if not library.is_file():
        _build(compiler, library)
    try:
        return HostLauncher(library)
    except OSError as error:
        raise UnavailableError(f"{library} can not be loaded: {error}") from error


def find_compiler() -> str | None:
    """Path of the C++ compiler, ``None`` if there is none."""
    named = os.environ.get(COMPILER_VARIABLE)
    if named is not None:
        return shutil.which(named) if named else None
    return next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), None)


def _cache_folder() -> Path:
    """Folder for compiled code: named by the user, the user's own cache, or a temporary one."""
    named = os.environ.get("ALCHEMI_BRIDGE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    wanted = Path(named) if named else Path(base) / "alchemi_bridge"
    try:
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except OSError as error:
        LOGGER.warning("no cache for compiled kernels in %s (%s)", wanted, error)
        return Path(tempfile.mkdtemp(prefix="alchemi-bridge-"))


def _key(compiler: str) -> str:
    """Names one build: sources, flags, compiler and processor."""
    try:
        version = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, check=False, timeout=30.0
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{compiler} can not be run: {error}") from error
    parts = [sources.digest(), *FLAGS, os.path.realpath(compiler), version, _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))})
    )


def _build(compiler: str, library: Path) -> None:
    home = sources.folder()
    assert home is not None
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        command = [compiler, *FLAGS, str(home / sources.MAIN), "-o", str(made)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=BUILD_TIMEOUT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"{compiler} can not be run: {error}") from error
        if done.returncode != 0:
            first = next(iter(done.stderr.strip().splitlines()), "no message")
            raise UnavailableError(f"{compiler} failed: {first}")
        made.replace(library)  # at once: other processes may build the same
    LOGGER.info("compiled the kernels into %s", library)
