"""The ranks that torchrun started: who is there, on which device, and sums over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This rank, of how many, and its device."""

    rank: int
    n_ranks: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and messages."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks, on the CPU; all must call it."""
        if self.n_ranks == 1:
            return values
        total = values.to(self.device)
        dist.all_reduce(total)
        return total.cpu()

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.n_ranks > 1:
            dist.barrier()


@contextmanager
def joined(device: str | None = None) -> Iterator[Ranks]:
    """Join the other ranks, for as long as the context lasts.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"``, or the one that is there if None. Every rank takes the GPU of its
        number on the machine.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device(kind)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    n_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if n_ranks == 1:
        yield Ranks(0, 1, place)
        return
    if place.type == "cuda":
        dist.init_process_group("nccl", device_id=place)
    else:
        dist.init_process_group("gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()
