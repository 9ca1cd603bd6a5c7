"""The ranks that torchrun started: who is there, on which device, and sums over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from alchemi_bridge.errors import BridgeError

#: Of a rank whose error another rank has said: the command line's status of bad input.
EXIT_STATUS = 2


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


@contextmanager
def said_once(ranks: Ranks) -> Iterator[None]:
    """Let one rank raise what all of them would; all must enter the context.

    If a rank fails, all leave the context: the first with each message raises it, the others exit
    with status 2, that of bad input, and say nothing.
    """
    if ranks.n_ranks == 1:
        yield
        return
    failure: BridgeError | None = None
    try:
        yield
    except BridgeError as error:
        failure = error
    messages: list[str | None] = [None] * ranks.n_ranks
    dist.all_gather_object(messages, None if failure is None else str(failure))
    if failure is not None and str(failure) not in messages[: ranks.rank]:
        raise failure
    if any(messages):
        raise SystemExit(EXIT_STATUS)
