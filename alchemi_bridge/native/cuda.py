"""CUDA kernels: compiled at run time by NVRTC through CuPy, queued on torch's current stream."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alchemi_bridge.compiling import UnavailableError
from alchemi_bridge.errors import (
    BufferAccessError,
    DeviceMismatchError,
    EvaluationError,
    first_line,
    last_line,
)
from alchemi_bridge.native import nvrtc, sources
from alchemi_bridge.native.launch import Argument, Launcher, converted

LOGGER = logging.getLogger(__name__)

THREADS_PER_BLOCK = 128

#: Threads take further indices in strides (see AB_KERNEL): more blocks than this gain nothing.
MAX_BLOCKS = 65535

#: Views of streams that are kept; they cost some bytes each.
MAX_STREAMS = 64

#: What CuPy hands over for each kind of parameter: 8 bytes each, as the entry points declare.
_SCALARS: dict[str, type[np.generic]] = {
    "array": np.uint64,
    "integer": np.int64,
    "real": np.float64,
}


class CudaLauncher(Launcher):
    """Runs kernels on CUDA devices.

    CuPy compiles for each device when its first kernel is launched, and keeps the machine code in
    its own cache (``CUPY_CACHE_DIR``).

    Parameters
    ----------
    cupy
        The module.

    Attributes
    ----------
    cache
        Folder of the compiled code.
    """

    device_type = "cuda"

    def __init__(self, cupy: Any) -> None:
        home = sources.folder()
        if home is None:
            raise UnavailableError("the kernel sources are not installed")
        self._cupy = cupy
        self._module = cupy.RawModule(
            code=module_text(), options=(*nvrtc.OPTIONS, f"-I{home}"), backend="nvrtc"
        )
        self._kernels: dict[str, tuple[Any, tuple[type[np.generic], ...]]] = {}
        self._ready: set[int] = set()
        self._streams: dict[tuple[int, int], Any] = {}
        version = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
        self.description = f"CUDA kernels (CuPy {cupy.__version__}, NVRTC {version})"
        named = os.environ.get("CUPY_CACHE_DIR")
        self.cache = Path(named) if named else Path.home() / ".cupy" / "kernel_cache"

    def threads(self, count: int) -> int:
        """As many as there are threads; more than one for any count, so that callers gather."""
        return max(min(count, MAX_BLOCKS * THREADS_PER_BLOCK), 2)

    def prepare(self, index: int) -> None:
        """Compile for a device, and load every kernel there: later ones may be recorded in graphs.

        Raises
        ------
        Exception
            Whatever CuPy raises where it can not.
        """
        with self._cupy.cuda.Device(index):
            for name, parameters in sources.entry_points().items():
                kinds = tuple(_SCALARS[parameter.kind] for parameter in parameters)
                self._kernels[name] = (self._module.get_function(name), kinds)
        self._ready.add(index)

    def launch(self, kernel: str, count: int, *arguments: Argument, serial: bool = False) -> None:
        """Queue a kernel on torch's current stream of the arrays' device.

        Raises
        ------
        DtypeError, DeviceMismatchError, BufferAccessError
            Before anything is launched, if an array does not fit; all arrays must be on one device.
        EvaluationError
            If the kernel can not be compiled for this device, or not be queued.
        """
        del serial  # one thread for each index, and atomics where they count
        plain = converted(kernel, arguments, "cuda")
        index = common_device(kernel, arguments, plain)
        if count <= 0:
            return
        try:
            if index not in self._ready:
                self.prepare(index)
            function, kinds = self._kernels[kernel]
            values: list[Any] = [np.int64(count)]
            values += [kind(value) for kind, value in zip(kinds, plain, strict=True)]
            self._queue(function, count, tuple(values), index)
        except Exception as error:  # compiler, runtime and driver have classes of their own
            raise EvaluationError(
                f"kernel {kernel} on cuda:{index}",
                expected="that it can be queued",
                got=f"{type(error).__name__}: {last_line(error)}",
                fix="look for an earlier error of the device (it stays with the process), or try"
                " ALCHEMI_BRIDGE_KERNELS=torch",
            ) from error

    def _queue(self, function: Any, count: int, values: tuple[Any, ...], index: int) -> None:
        cuda = self._cupy.cuda
        grid, block = (n_blocks(count),), (THREADS_PER_BLOCK,)
        stream = self._stream(torch.cuda.current_stream(index).cuda_stream, index)
        if cuda.runtime.getDevice() == index:
            with stream:
                function(grid, block, values)
            return
        with cuda.Device(index), stream:  # gives the current device back
            function(grid, block, values)

    def _stream(self, handle: int, index: int) -> Any:
        """CuPy's view of a stream, which stays torch's."""
        found = self._streams.get((index, handle))
        if found is None:
            if len(self._streams) >= MAX_STREAMS:
                self._streams.clear()
            with warnings.catch_warnings():
                # CuPy 14 prefers Stream.from_external, which CuPy 13 does not have
                warnings.simplefilter("ignore", DeprecationWarning)
                found = self._cupy.cuda.ExternalStream(handle, device_id=index)
            self._streams[index, handle] = found
        return found


def module_text() -> str:
    """What CuPy compiles: the main file, with the hash of all.

    CuPy's cache is keyed by the text alone, without what it includes: the hash makes another text
    of it when one of the other files changes.
    """
    return f"// {sources.digest()}\n{sources.texts()[sources.MAIN]}"


def n_blocks(count: int) -> int:
    """Size of the grid for this many indices."""
    return min(-(-count // THREADS_PER_BLOCK), MAX_BLOCKS)


def common_device(
    kernel: str, arguments: Sequence[Argument], plain: Sequence[int | float | None]
) -> int:
    """Number of the CUDA device that holds all arrays.

    Parameters
    ----------
    kernel
        Name of the entry point.
    arguments, plain
        As they came, and as numbers and addresses.

    Raises
    ------
    DeviceMismatchError
        If they are on more than one.
    BufferAccessError
        If an address is not aligned to its elements: a GPU can not read those.
    TypeError
        Without arrays.
    """
    index = -1
    for place, (argument, address) in enumerate(zip(arguments, plain, strict=True)):
        if not isinstance(argument, torch.Tensor):
            continue
        here, size = argument.get_device(), argument.element_size()
        if index < 0:
            index = here
        if here != index:
            raise DeviceMismatchError(
                f"{sources.entry_points()[kernel][place].name} of kernel {kernel}",
                expected=f"memory of cuda:{index}, like the arrays before it",
                got=f"memory of cuda:{here}",
                fix="move the array to the provider's device",
            )
        if int(address or 0) % size:
            raise BufferAccessError(
                f"{sources.entry_points()[kernel][place].name} of kernel {kernel}",
                expected=f"an address that is a multiple of {size}",
                got=f"{address:#x}",
                fix="hand over memory that is aligned to its elements",
            )
    if index < 0:
        raise TypeError(f"{kernel}: none of the arguments is an array")
    return index


@cache
def cuda_launcher() -> CudaLauncher:
    """The launcher, ready for torch's current device.

    Raises
    ------
    UnavailableError
        Without a CUDA device, sources or CuPy, or if the kernels can not be compiled.
    """
    if not torch.cuda.is_available():
        raise UnavailableError("torch sees no CUDA device")
    try:
        import cupy
    except Exception as error:  # a torn installation may raise anything at import
        raise UnavailableError(f"CuPy can not be imported: {first_line(error)}") from error
    try:
        launcher = CudaLauncher(cupy)
        launcher.prepare(torch.cuda.current_device())
    except UnavailableError:
        raise
    except Exception as error:  # NVRTC, driver and file system have errors of their own
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UnavailableError(f"CuPy can not compile the kernels: {reason}") from error
    LOGGER.info("compiled the kernels with %s", launcher.description)
    return launcher
