"""A checksum of coordinates, and the guard that finds out when they change while they are read."""

from __future__ import annotations

from types import TracebackType

import torch

from alchemi_bridge.errors import ProtocolError
from alchemi_bridge.native import elements, launcher_for

#: As in kernels/checksum.cuh.
CHUNK = 16

#: Constants of SplitMix64, as signed 64-bit integers: torch has no unsigned multiplication.
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)

#: Integers of the size of a coordinate.
_WORDS = {torch.float32: torch.int32, torch.float64: torch.int64}


def checksum(positions: torch.Tensor, subset: torch.Tensor | None = None) -> torch.Tensor:
    """Hash of the bits of all coordinates, in their order.

    The memory's layout does not matter: rows kept as float4 have the checksum of the same rows
    without gaps. The same numbers in float32 and float64 have different ones.

    Parameters
    ----------
    positions
        (n, 3) float32 or float64, with any strides; read only.
    subset
        (n_rows,) int64 rows that count, in this order; all if not given.

    Returns
    -------
    torch.Tensor
        Scalar int64 on the same device: nothing waits for it.
    """
    words = positions.view(_WORDS[positions.dtype])
    run = launcher_for(positions.device)
    if run is None:
        return _checksum_torch(words, subset)
    n_rows = len(words) if subset is None else len(subset)
    n_chunks = (n_rows + CHUNK - 1) // CHUNK
    partial = torch.empty(n_chunks, dtype=torch.int64, device=words.device)
    run.launch(
        f"checksum_{words.element_size()}",
        n_chunks,
        elements(words),
        *words.stride(),
        subset,
        n_rows,
        partial,
    )
    return partial.sum()


def _checksum_torch(words: torch.Tensor, subset: torch.Tensor | None) -> torch.Tensor:
    """Torch reference: the same number. Integers wrap as unsigned ones do."""
    bits = (words if subset is None else words[subset]).long().reshape(-1)
    if words.dtype == torch.int32:
        bits &= 0xFFFFFFFF  # without the sign
    place = torch.arange(1, len(bits) + 1, device=bits.device)
    z = bits + place * _STEP
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return (z ^ _shifted(z, 31)).sum()


def _shifted(z: torch.Tensor, by: int) -> torch.Tensor:
    """To the right, as an unsigned number."""
    return (z >> by) & ((1 << (64 - by)) - 1)


class CoordinateGuard:
    """Finds out whether somebody writes coordinates while they are read.

    The classic cause is a halo exchange, or an integrator, that does not wait for the event which
    ``compute`` returned. Costs two passes over the coordinates, and the host waits for the device
    at the end: for debugging.

    Use it around the reading, in stream order after the wait for the coordinates' event::

        with CoordinateGuard(positions, subset):
            ...

    Parameters
    ----------
    positions
        (n, 3) float32 or float64 in the engine's memory, with any strides.
    subset
        (n_rows,) int64 rows that are read; all if not given. Others may change.
    name
        What to call them in the error.
    """

    def __init__(
        self, positions: torch.Tensor, subset: torch.Tensor | None = None, name: str = "positions"
    ) -> None:
        self._positions, self._subset, self._name = positions, subset, name
        self._before = checksum(positions, subset)

    def verify(self) -> None:
        """Compare with now.

        Raises
        ------
        ProtocolError
            If a coordinate changed since the guard was made.
        """
        after = checksum(self._positions, self._subset)
        first, last = torch.stack([self._before, after]).tolist()
        if first == last:
            return
        raise ProtocolError(
            self._name,
            expected="coordinates that stay as they are from the event that says that they may be"
            " read to the one that compute returns",
            got="coordinates that changed while they were read"
            f" (checksum {_hexadecimal(first)} before, {_hexadecimal(last)} after)",
            fix="hand over the event after which positions are complete (halo included) as"
            " Step.ready, and let whatever writes them next wait for the event of compute",
        )

    def __enter__(self) -> CoordinateGuard:
        """Nothing to do: the checksum was taken."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Verify, unless there is an error already."""
        if kind is None:
            self.verify()


def _hexadecimal(number: int) -> str:
    return f"{number & 0xFFFFFFFFFFFFFFFF:016x}"
