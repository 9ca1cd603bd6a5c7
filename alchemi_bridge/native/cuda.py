"""The CUDA kernels: compiled at run time by NVRTC through CuPy, queued on torch's current stream."""

from __future__ import annotations

from functools import cache

import torch

from alchemi_bridge.native import sources
from alchemi_bridge.native.launch import Argument, Launcher, UnavailableError, converted

#: The same bits as on the host: no fused multiply-add.
OPTIONS = ("--std=c++17", "--fmad=false")

THREADS_PER_BLOCK = 128
MAX_BLOCKS = 65535


class CudaLauncher(Launcher):
    """Runs kernels on the current CUDA device."""

    device_type = "cuda"

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        texts = dict(sources.texts())
        code = _inlined(texts)
        self._modules: dict[int, object] = {}
        self._code = code
        self._functions: dict[tuple[int, str], object] = {}
        self.description = f"CUDA kernels (CuPy {cupy.__version__}, NVRTC)"

    def launch(self, kernel: str, count: int, *arguments: Argument, serial: bool = False) -> None:
        """Queue a kernel on the current stream of the arrays' device."""
        del serial  # one thread for an index, atomics where they count
        raise NotImplementedError


def _inlined(texts: dict[str, str]) -> str:
    raise NotImplementedError


@cache
def cuda_launcher() -> CudaLauncher:
    """The launcher, or :class:`UnavailableError` without a CUDA device or CuPy."""
    if not torch.cuda.is_available():
        raise UnavailableError("torch sees no CUDA device")
    try:
        return CudaLauncher()
    except ImportError as error:
        raise UnavailableError(f"CuPy can not be imported: {error}") from error
