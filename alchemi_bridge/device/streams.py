"""An engine's own CUDA streams, which the provider can run on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from alchemi_bridge.device.driver import require_cuda, require_handle
from alchemi_bridge.errors import DeviceMismatchError

#: Handle of the default stream (``cudaStreamLegacy``).
DEFAULT = 1


def foreign_stream(
    handle: int, device: torch.device | str | int | None = None
) -> torch.cuda.Stream:
    """View of an engine's stream, which stays the engine's.

    Parameters
    ----------
    handle
        ``cudaStream_t`` as an integer; 1 stands for the default stream, since 0 could just as well
        be a handle that was forgotten.
    device
        Where the stream was made; torch's current CUDA device if not given.

    Returns
    -------
    torch.cuda.Stream
        Never destroyed by torch. The engine keeps the stream as long as memory that was allocated
        under it is in use.

    Raises
    ------
    InputError
        If the handle is null or no handle.
    DeviceMismatchError
        If torch does not see the device.
    """
    require_handle(handle, "stream")
    device = require_cuda(device, "device of a stream")
    if handle == DEFAULT:
        return torch.cuda.default_stream(device)
    return torch.cuda.ExternalStream(handle, device=device)


def run_on(
    handle: int | None, device: torch.device | str | int | None = None
) -> AbstractContextManager[object]:
    """Context in which torch, and so the provider, queues its work on an engine's stream.

    The device is the current one inside, and what was current before is so again afterwards.

    Parameters
    ----------
    handle, device
        As for :func:`foreign_stream`; with ``None`` for the handle nothing changes.
    """
    if handle is None:
        return nullcontext()
    return torch.cuda.stream(foreign_stream(handle, device))


def require_current(device: torch.device, what: str = "provider") -> None:
    """Raise :class:`DeviceMismatchError` unless a CUDA device is the current one of this thread.

    Work of other libraries goes to the current device: a provider that leaves it to chance gets
    its results from another one.
    """
    if device.type != "cuda":
        return
    current = torch.cuda.current_device()
    if device.index not in (None, current):
        raise DeviceMismatchError(
            f"device of the {what}",
            expected=f"the current CUDA device, cuda:{current}",
            got=str(device),
            fix=f"call torch.cuda.set_device({device.index}) first, or run_on(stream, device)",
        )
