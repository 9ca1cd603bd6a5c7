"""Rows of neighbours that lie anywhere in host memory, each at an address of its own.

LAMMPS keeps its lists in pages and hands out a pointer to each row (``firstneigh``). The compiled
kernels read the rows where they are; without a compiler they are copied.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

import torch

from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import BufferAccessError
from alchemi_bridge.pairs.engine_rows import EngineRows

WORD = 4


@dataclass(frozen=True)
class RowPointers:
    """Stands for the ``neighbors`` of a list whose rows are told by address.

    Attributes
    ----------
    address
        Of an array of addresses, that of the row of atom ``a`` at place ``a``, as LAMMPS'
        ``firstneigh``. Places of atoms without a row are not read. Rows are int32 in host memory;
        they stay the engine's and are read during the call only.
    """

    address: int

    def rows(self, atoms: torch.Tensor, counts: torch.Tensor, mask: int) -> EngineRows:
        """Rows of ``atoms``, (n_rows,) int64, with (n_rows,) int32 ``counts``, on their device."""
        rows = self._on_host(atoms.cpu(), counts.cpu(), mask)
        return rows if atoms.device.type == "cpu" else copied_to(rows, atoms.device)

    def _on_host(self, atoms: torch.Tensor, counts: torch.Tensor, mask: int) -> EngineRows:
        held = counts > 0
        reached = int(atoms[held].max()) + 1 if bool(held.any()) else 0
        table = DeviceBuffer.from_pointer(
            self.address, (reached,), torch.int64, name="row pointers of the pair list"
        ).tensor
        where = torch.zeros_like(atoms)
        where[held] = table[atoms[held]]
        wrong = held & ((where <= 0) | (where % WORD != 0))
        if bool(wrong.any()):
            row = int(wrong.to(torch.uint8).argmax())
            raise BufferAccessError(
                f"row pointer of atom {int(atoms[row])}",
                expected=f"the address of {int(counts[row])} int32 numbers",
                got=f"{int(where[row]):#x}",
                fix="hand over all arrays of the same search",
            )
        if not reached:
            empty = torch.zeros(0, dtype=torch.int32)
            return EngineRows(
                atoms.to(torch.int32), torch.zeros_like(atoms), counts, empty, 1, mask
            )
        base = int(where[held].min())
        begin = torch.where(held, (where - base) // WORD, 0)
        first = DeviceBuffer.from_pointer(base, (1,), torch.int32, name="neighbors").tensor
        return _AddressedRows(atoms.to(torch.int32), begin, counts, first, 1, mask)


@dataclass(frozen=True, eq=False)
class _AddressedRows(EngineRows):
    """Rows whose ``entries`` are the lowest address: only the kernels may look beyond it."""

    def expanded(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.copied().expanded()

    def copied(self) -> EngineRows:
        """The same with entries of their own."""
        counts = self.counts.long()
        begin = torch.cumsum(counts, 0) - counts
        entries = torch.empty(int(counts.sum()), dtype=torch.int32)
        source, target = self.entries.data_ptr(), entries.data_ptr()
        rows = zip(self.begin.tolist(), begin.tolist(), counts.tolist(), strict=True)
        for there, here, count in rows:
            ctypes.memmove(target + WORD * here, source + WORD * there, WORD * count)
        return EngineRows(self.atoms, begin, self.counts, entries, 1, self.mask, self.padding)


def copied_to(rows: EngineRows, device: torch.device) -> EngineRows:
    """Rows in host memory, copied to a device: no kernel there can follow a host's addresses."""
    rows = rows.copied() if isinstance(rows, _AddressedRows) else rows
    arrays = {name: getattr(rows, name) for name in ("atoms", "begin", "counts", "entries")}
    return replace(rows, **{name: array.to(device) for name, array in arrays.items()})
