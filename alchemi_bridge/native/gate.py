"""The compile gate: every kernel has to compile for every target, without a warning.

``python -m alchemi_bridge.native.gate`` (``make kernels``) needs no GPU. nvcc is asked where it is
there, NVRTC where its package is installed: one of the two has to be, since one that could be left
out everywhere would prove nothing. g++ compiles the same bodies as the host shim.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from alchemi_bridge import compiling
from alchemi_bridge.compiling import UnavailableError
from alchemi_bridge.native import host, nvrtc, sources

#: A100 and H100: the oldest and the newest generation that the kernels are meant for.
ARCHITECTURES = ("sm_80", "sm_90")

#: Beside what the host shim is compiled with at run time.
WARNINGS = ("-Wall", "-Wextra", "-Werror")

SECONDS = 300.0

_ENTRY = re.compile(r"\.entry\s+(\w+)")
_ASSEMBLED = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")


def find_nvcc() -> str | None:
    """Path of nvcc, ``None`` if it is not there."""
    return shutil.which("nvcc")


def by_nvcc(architecture: str, compiler: str) -> set[str]:
    """Compile with nvcc to machine code; returns the entry points."""
    with tempfile.TemporaryDirectory() as scratch:
        output = _run(
            [
                compiler,
                *nvrtc.OPTIONS,
                "-Werror",
                "all-warnings",
                f"-arch={architecture}",
                "-cubin",
                "-Xptxas=-v",  # names each entry point that it made code for
                str(_main_file()),
                "-o",
                str(Path(scratch) / "kernels.cubin"),
            ]
        )
    return {name for name, made_for in _ASSEMBLED.findall(output) if made_for == architecture}


def by_nvrtc(architecture: str) -> set[str]:
    """Compile with NVRTC to assembly and machine code; returns the entry points."""
    compiled = nvrtc.compile_kernels(architecture)
    if compiled.log:
        raise UnavailableError(f"NVRTC warns: {compiled.log}")
    found = set(_ENTRY.findall(compiled.ptx))
    # names of functions are plain text in machine code's table of symbols
    return {name for name in found if b"\0" + name.encode() + b"\0" in compiled.cubin}


def by_host_compiler(compiler: str) -> set[str]:
    """Compile the host shim; returns the entry points that can be called."""
    with tempfile.TemporaryDirectory() as scratch:
        library = Path(scratch) / "kernels.so"
        flags = [flag for flag in host.FLAGS if flag != "-w"]
        _run([compiler, *flags, *WARNINGS, str(_main_file()), "-o", str(library)])
        code = ctypes.CDLL(str(library))
    return {name for name in sources.entry_points() if hasattr(code, name)}


def checks() -> list[tuple[str, Callable[[], set[str]]]]:
    """What can be checked here, by name.

    Raises
    ------
    UnavailableError
        Without any CUDA compiler, or without one for the host.
    """
    found: list[tuple[str, Callable[[], set[str]]]] = []
    nvcc, compiler = find_nvcc(), compiling.find_compiler()
    for architecture in ARCHITECTURES:
        if nvcc is not None:
            found.append((f"nvcc {architecture}", partial(by_nvcc, architecture, nvcc)))
        if nvrtc.find_library() is not None:
            found.append((f"NVRTC {architecture}", partial(by_nvrtc, architecture)))
    if not found:
        raise UnavailableError(
            f"neither nvcc nor NVRTC: install the package {nvrtc.WHEELS[0]}, or a CUDA toolkit"
        )
    if compiler is None:
        raise UnavailableError(
            f"no C++ compiler: install g++, or set {compiling.COMPILER_VARIABLE}"
        )
    found.append((f"host {Path(compiler).name}", partial(by_host_compiler, compiler)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks; 0 if every kernel compiled everywhere."""
    argparse.ArgumentParser(prog="make kernels", description=__doc__).parse_args(arguments)
    try:
        expected = set(sources.entry_points())
        if not expected:
            raise UnavailableError("the kernel sources are not installed")
        for name, check in checks():
            if missing := sorted(expected - check()):
                raise UnavailableError(f"{name} made no code for {', '.join(missing)}")
            print(f"{name}: {len(expected)} kernels")
    except UnavailableError as error:
        print(f"make kernels: {error}", file=sys.stderr)
        return 1
    return 0


def _main_file() -> Path:
    home = sources.folder()
    if home is None:
        raise UnavailableError("the kernel sources are not installed")
    return home / sources.MAIN


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command[0]} can not be run: {error}") from error
    output = done.stdout + done.stderr
    if done.returncode != 0:
        raise UnavailableError(f"{' '.join(command)} failed:\n{output.strip()}")
    return output


if __name__ == "__main__":
    raise SystemExit(main())
