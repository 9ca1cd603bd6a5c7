"""Several systems in common arrays, and which atoms are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from metatensor.torch import TensorMap

from alchemi_bridge.batch.cells import Cells


@dataclass(frozen=True, eq=False)
class Systems:
    """Systems one after the other, in the engine's units, on the provider's device.

    Attributes
    ----------
    types
        (n_atoms,) int32 or int64.
    positions
        (n_atoms, 3) float32 or float64.
    cells
        Of each system.
    sizes
        Number of atoms of each system.
    inputs
        Extra inputs of each system, as metatomic's models want them; empty if there are none.
    numbers
        What errors call the systems; 0, 1, ... if it is ``None``.
    """

    types: torch.Tensor
    positions: torch.Tensor
    cells: Cells
    sizes: list[int]
    inputs: Sequence[dict[str, TensorMap]] = ()
    numbers: Sequence[int] | None = None

    def number(self, k: int) -> int:
        """What errors call system ``k``."""
        return k if self.numbers is None else self.numbers[k]


@dataclass(frozen=True, eq=False)
class Layout:
    """Which atoms belong to which system.

    ``offsets`` are the first atom of each system and the number of all atoms, ``starts`` the same
    on the device; ``system`` (n_atoms,) int64.
    """

    sizes: list[int]
    offsets: list[int]
    starts: torch.Tensor
    system: torch.Tensor

    @classmethod
    def of(cls, sizes: list[int], device: torch.device) -> Layout:
        offsets = list(accumulate(sizes, initial=0))
        starts = torch.tensor(offsets, device=device)
        numbers = torch.arange(len(sizes), device=device)
        system = numbers.repeat_interleave(torch.tensor(sizes, device=device))
        return cls(list(sizes), offsets, starts, system)
