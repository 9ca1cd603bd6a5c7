"""The few calls of the CUDA driver that torch does not offer: on events that are raw handles.

The runtime's handles (``cudaStream_t``, ``cudaEvent_t``) are those of the driver (``CUstream``,
``CUevent``), see https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__DRIVER.html. The
driver's library is there wherever torch sees a CUDA device.
"""

from __future__ import annotations

import ctypes
import operator
from contextlib import suppress
from functools import cache
from typing import Any

import torch

from alchemi_bridge.device.select import cuda_devices
from alchemi_bridge.errors import ConfigurationError, DeviceMismatchError, InputError

SUCCESS = 0
NOT_READY = 600  # CUDA_ERROR_NOT_READY

#: Names of the driver's library, on Linux.
LIBRARIES = ("libcuda.so.1", "libcuda.so")

_HANDLE = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuCtxGetCurrent": (ctypes.POINTER(_HANDLE),),
    "cuEventQuery": (_HANDLE,),
    "cuEventRecord": (_HANDLE, _HANDLE),
    "cuEventSynchronize": (_HANDLE,),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuStreamWaitEvent": (_HANDLE, _HANDLE, ctypes.c_uint),
}


class Driver:
    """The driver's library.

    Parameters
    ----------
    code
        What ctypes loaded.
    """

    def __init__(self, code: Any) -> None:
        self._code = code
        for name, types in _SIGNATURES.items():
            function = getattr(code, name)
            function.argtypes, function.restype = types, ctypes.c_int

    def wait_event(self, stream: int, event: int, device: torch.device) -> None:
        """Let all later work of a stream wait for an event; the host does not wait."""
        with self._current(device):
            self._check("cuStreamWaitEvent", event, stream, event, 0)

    def record(self, event: int, stream: int, device: torch.device) -> None:
        """Record an event on a stream."""
        with self._current(device):
            self._check("cuEventRecord", event, event, stream)

    def synchronize(self, event: int, device: torch.device) -> None:
        """Let the host wait for an event."""
        with self._current(device):
            self._check("cuEventSynchronize", event, event)

    def query(self, event: int, device: torch.device) -> bool:
        """Whether an event happened; never waits."""
        with self._current(device):
            status = self._code.cuEventQuery(event)
        if status in (SUCCESS, NOT_READY):
            return bool(status == SUCCESS)
        raise self._refused("cuEventQuery", event, status)

    def _current(self, device: torch.device) -> torch.cuda.device:
        """With the device's context, which the driver expects and a new thread does not have."""
        context = _HANDLE()
        self._code.cuCtxGetCurrent(ctypes.byref(context))
        if not context.value:
            with torch.cuda.device(device):
                torch.cuda.current_stream(device).query()
        return torch.cuda.device(device)

    def _check(self, name: str, event: int, *arguments: int) -> None:
        status = getattr(self._code, name)(*arguments)
        if status != SUCCESS:
            raise self._refused(name, event, status)

    def _refused(self, name: str, event: int, status: int) -> InputError:
        text = ctypes.c_char_p()
        self._code.cuGetErrorName(status, ctypes.byref(text))
        return InputError(
            f"event {event:#x}",
            expected="a CUDA event of the stream's device that was not destroyed",
            got=f"{(text.value or b'an unknown error').decode()} from {name}",
            fix="hand over the cudaEvent_t itself, and keep it until the provider has used it; an"
            " earlier error of the device shows here, too",
        )


@cache
def driver() -> Driver:
    """The driver.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    reason = ""
    for name in LIBRARIES:
        try:
            return Driver(ctypes.CDLL(name))
        except (OSError, AttributeError) as error:
            reason = reason or str(error)
    raise ConfigurationError(
        "events as raw handles",
        expected=f"the CUDA driver ({LIBRARIES[0]})",
        got=reason,
        fix="install NVIDIA's driver, or hand over torch.cuda.Event objects",
    )


def require_handle(handle: int, what: str) -> int:
    """The handle, if it can be one.

    Parameters
    ----------
    handle
        ``cudaStream_t`` or ``cudaEvent_t`` as an integer.
    what
        ``"stream"`` or ``"event"``.

    Raises
    ------
    InputError
        If it is null, negative, or no integer.
    """
    if handle is not None and not isinstance(handle, bool):
        with suppress(TypeError):
            number = operator.index(handle)  # NumPy's integers, too
            if 0 < number < 1 << 64:
                return number
    fix = "hand over the value of the handle, as an integer"
    if what == "stream":
        fix += "; 1 stands for the default stream (cudaStreamLegacy), 2 for that of each thread"
    raise InputError(
        f"handle of a CUDA {what}",
        expected=f"a cuda{what.capitalize()}_t that is not null",
        got="a null handle" if handle is None or handle == 0 else repr(handle),
        fix=fix,
    )


def require_cuda(device: torch.device | str | int | None, what: str) -> torch.device:
    """A CUDA device of this process, with its index.

    Raises
    ------
    DeviceMismatchError
        If it is another kind of device, or not there.
    """
    there = cuda_devices()
    found = None
    with suppress(RuntimeError, TypeError, ValueError):
        found = torch.device("cuda" if device is None else device)
    # torch keeps an index in one byte: 'cuda:256' becomes the first device
    misread = isinstance(device, str) and ":" in device and device != str(found)
    fits = found is not None and found.type == "cuda" and not misread
    if found is None or not fits or not 0 <= (found.index or 0) < there:
        raise DeviceMismatchError(
            what,
            expected=f"one of {there} CUDA devices that torch sees",
            got=repr(str(device)) if isinstance(device, torch.device) else repr(device),
            fix="name the device that it belongs to, or check with 'alchemi-bridge doctor'",
        )
    return found if found.index is not None else torch.device("cuda", torch.cuda.current_device())
