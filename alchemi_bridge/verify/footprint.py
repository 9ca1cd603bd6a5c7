"""How much memory this process holds."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys
from collections.abc import Callable

import torch


def memory_state(device: torch.device) -> dict[str, float]:
    """Memory in use now, after everything that can be freed has been.

    Returns
    -------
    dict
        ``"resident memory"`` in bytes; ``"heap in use"``, the bytes handed out by malloc, with the
        GNU C library; ``"memory of the GPU"``, the bytes handed out by torch, on a CUDA device;
        ``"tensors alive"``, the number of tensors that Python knows of.
    """
    gc.collect()
    state = {}
    in_use = heap_in_use()
    if in_use is not None:
        state["heap in use"] = float(in_use)
        # hands free pages back to the system: what stays resident is in use, or close to it
        ctypes.CDLL(None).malloc_trim(0)
    state["resident memory"] = float(resident_bytes())
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        state["memory of the GPU"] = float(torch.cuda.memory_allocated(device))
    # type(), since isinstance() would run the code of proxy objects
    state["tensors alive"] = float(list(map(type, gc.get_objects())).count(torch.Tensor))
    return state


def resident_bytes() -> int:
    """Physical memory of this process; where Linux does not tell, its peak.

    The peak grows with a leak just the same, once it has been reached.
    """
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def heap_in_use() -> int | None:
    """Bytes that malloc has handed out; None without the GNU C library 2.33 or later.

    See https://man7.org/linux/man-pages/man3/mallinfo.3.html.
    """
    query = _mallinfo2()
    if query is None:
        return None
    info = query()
    return int(info.uordblks) + int(info.hblkhd)


class _MallInfo2(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h: ten sizes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


@functools.cache
def _mallinfo2() -> Callable[[], _MallInfo2] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        query = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    query.restype = _MallInfo2
    query.argtypes = []
    return query
