"""Whether the C library gives memory back to the system as soon as it is freed.

A step of a model allocates and frees the same tens or hundreds of megabytes each time. By default
glibc returns free memory at the end of the heap to the system and gets it back, page by page, in
the next step; each page is cleared by the kernel on the way. A net of SchNet's kind with 164,000
pairs took 203 ms a step with that, and 152 ms without (glibc 2.36). Blocks beyond 32 MB it maps one
by one, whatever its thresholds are: with 550,000 pairs the same net took 790 ms, and 250 ms with
these blocks in the heap, too. So a provider on the CPU asks glibc to keep what is freed, for the
process: what it occupies stays at its peak, but for what is free at the end of the heap beyond
:data:`KEPT_BYTES`.
"""

from __future__ import annotations

import ctypes
import logging
import os
from functools import cache

from alchemi_bridge.errors import ConfigurationError

LOGGER = logging.getLogger(__name__)

#: Set to 0 to leave glibc as it is.
VARIABLE = "ALCHEMI_BRIDGE_KEEP_MEMORY"

#: Numbers of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4

#: Free memory at the end of the heap beyond this goes back to the system.
KEPT_BYTES = 1 << 30

#: Blocks beyond this size are mapped one by one, and unmapped when freed, if mapping is allowed at
#: all: the largest value, and where glibc's own rule ends in a process that frees large blocks.
MAPPED_BYTES = 32 << 20

#: How many blocks glibc may map if nobody says anything.
MAPPED_BLOCKS = 65536


def keep_freed_memory() -> bool:
    """Let glibc keep memory that is freed, once for the process.

    Returns
    -------
    bool
        Whether it does; false for other C libraries, or if the user does not want it.

    Raises
    ------
    ConfigurationError
        If the environment variable is neither 0 nor 1.
    """
    value = os.environ.get(VARIABLE, "1").strip()
    if value not in ("0", "1"):
        raise ConfigurationError(
            VARIABLE,
            expected="0 or 1",
            got=repr(value),
            fix="correct the environment variable, or unset it",
        )
    return value == "1" and _kept_once()


@cache
def _kept_once() -> bool:
    kept = set_thresholds(trim=KEPT_BYTES, mapped=MAPPED_BYTES, blocks=0)
    if kept:
        LOGGER.info("glibc keeps up to %d MiB of freed memory", KEPT_BYTES >> 20)
    return kept


def set_thresholds(*, trim: int, mapped: int, blocks: int) -> bool:
    """Set glibc's parameters; false if the C library has none.

    Parameters
    ----------
    trim
        Bytes at the end of the heap beyond which it gives them back.
    mapped
        Bytes beyond which a block is mapped instead of taken from the heap.
    blocks
        How many blocks may be mapped at a time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 (musl has a mallopt that does nothing)
    except (AttributeError, OSError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((M_MMAP_THRESHOLD, mapped), (M_TRIM_THRESHOLD, trim), (M_MMAP_MAX, blocks))
    done = [mallopt(name, value) for name, value in settings]  # each, also after one that failed
    return all(done)
