"""Numbers that tell whether ranks have the same things, bit by bit."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

_ODD = 0x9E3779B97F4A7C15 - 2**64  # as a signed number; spreads consecutive integers
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def of_values(*parts: Any) -> int:
    """64 bits of anything with a definite ``repr``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def of_tensor(values: torch.Tensor | None) -> int:
    """64 bits of an array on any device: its shape, its numbers, and their order.

    A sum of integers, so that it does not depend on how many threads add them up.
    """
    if values is None:
        return 0
    flat = values.detach().contiguous().reshape(-1)
    bits = flat.view(_BITS[flat.element_size()]).to(torch.int64)
    weights = torch.arange(1, len(bits) + 1, dtype=torch.int64, device=bits.device) * _ODD
    weights |= 1  # an odd factor loses nothing
    total = ((bits ^ (bits >> 31)) * weights).sum()
    return of_values(tuple(values.shape), str(values.dtype), int(total))


def halves(number: int) -> np.ndarray:
    """(2,) float64: a number of 64 bits, exactly."""
    return np.array([number >> 32, number & 0xFFFFFFFF], dtype=np.float64)
