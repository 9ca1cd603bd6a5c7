"""NVRTC without CuPy and without a GPU: do the kernels compile for a given architecture?

The library comes from NVIDIA's wheel ``nvidia-cuda-nvrtc``, or from an installed CUDA toolkit. It
is the compiler that CuPy uses at run time. Functions: https://docs.nvidia.com/cuda/nvrtc/index.html.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from alchemi_bridge.compiling import UnavailableError
from alchemi_bridge.native import sources

#: The same bits as on the host: no fused multiply-add. Division and square root are correctly
#: rounded and denormals are kept unless one asks for something else.
OPTIONS = ("-std=c++17", "--fmad=false")

#: Distributions that hold the library, newest first.
WHEELS = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")

_STRINGS = ctypes.POINTER(ctypes.c_char_p)


@dataclass(frozen=True)
class Compiled:
    """What NVRTC made of the sources for one architecture.

    Attributes
    ----------
    architecture
        Such as ``"sm_90"``.
    ptx
        Its assembly, as text.
    cubin
        Machine code.
    log
        Warnings; empty if there are none.
    """

    architecture: str
    ptx: str
    cubin: bytes
    log: str


def find_library() -> str | None:
    """Path or name of the NVRTC library, ``None`` if there is none."""
    for wheel in WHEELS:
        try:
            files = metadata.files(wheel) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name.startswith("libnvrtc.so."):
                return str(file.locate())
    return ctypes.util.find_library("nvrtc")


class Nvrtc:
    """The library.

    Parameters
    ----------
    path
        Where it is; found if not given.

    Raises
    ------
    UnavailableError
        If it is not there, or can not be loaded.
    """

    def __init__(self, path: str | None = None) -> None:
        path = path or find_library()
        if path is None:
            raise UnavailableError(f"no NVRTC: install the package {WHEELS[0]}")
        try:
            # it looks for its built-in headers on the loader's path only, and so not in a wheel;
            # what is loaded already is found
            if Path(path).is_absolute():
                for file in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")):
                    ctypes.CDLL(str(file))
            self._code = ctypes.CDLL(path)
        except OSError as error:
            raise UnavailableError(f"{path} can not be loaded: {error}") from error
        self._code.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._code, name)(*arguments)
        if status != 0:
            raise UnavailableError(f"{name}: {self._code.nvrtcGetErrorString(status).decode()}")

    def compile(
        self, text: str, architecture: str, options: Sequence[str] = (), name: str = sources.MAIN
    ) -> Compiled:
        """Compile a source text.

        Parameters
        ----------
        text
            CUDA C++.
        architecture
            A real one, such as ``"sm_90"``.
        options
            More options, such as ``"-I<folder>"``.
        name
            What messages call the text.

        Raises
        ------
        UnavailableError
            If it does not compile; the message holds the compiler's log.
        """
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            text.encode(),
            name.encode(),
            0,
            _STRINGS(),
            _STRINGS(),
        )
        try:
            given = [*OPTIONS, f"-arch={architecture}", *options]
            array = (ctypes.c_char_p * len(given))(*(option.encode() for option in given))
            status = self._code.nvrtcCompileProgram(program, len(given), array)
            log = self._read("ProgramLog", program).rstrip(b"\0").decode(errors="replace").strip()
            if status != 0:
                reason = log or self._code.nvrtcGetErrorString(status).decode()
                raise UnavailableError(f"NVRTC {self.version} failed: {reason}")
            ptx = self._read("PTX", program).rstrip(b"\0").decode()
            return Compiled(architecture, ptx, self._read("CUBIN", program), log)
        finally:
            self._code.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        memory = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, memory)
        return memory.raw


def compile_kernels(architecture: str) -> Compiled:
    """Compile all kernels for one architecture.

    Raises
    ------
    UnavailableError
        Without the sources or NVRTC, or if they do not compile.
    """
    home = sources.folder()
    if home is None:
        raise UnavailableError("the kernel sources are not installed")
    text = (home / sources.MAIN).read_text(encoding="utf-8")
    return Nvrtc().compile(text, architecture, [f"-I{home}"])
