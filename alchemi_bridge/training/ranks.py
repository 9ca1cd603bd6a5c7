"""The ranks that torchrun started: who is there, on which device, and sums over them."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from alchemi_bridge.errors import BridgeError, ConfigurationError, RankFailedError, first_line

LOGGER = logging.getLogger(__name__)

#: Of a rank whose error another rank has said: the command line's status of bad input.
EXIT_STATUS = 2
#: Where a rank that fails leaves its number.
_FAILED = "alchemi_bridge/failed"
#: How long a rank waits for the word of the one that failed, seconds.
_WAIT = 3.0
#: Of errors of communication, which gloo raises as plain RuntimeError.
_COMMUNICATION = re.compile(r"gloo|Connection (closed|reset|refused)|NCCL", re.IGNORECASE)


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

    Raises
    ------
    ConfigurationError
        If variables of torchrun are missing.
    RankFailedError
        If another rank has gone without a word. Where it has said why, this one exits with status 2
        instead, and says nothing.
    """
    local, rank, n_ranks = _numbers()
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device(kind)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    if n_ranks == 1:
        yield Ranks(0, 1, place)
        return
    # torchrun's own store, where ranks leave word when they fail
    store, _, _ = next(rendezvous("env://"))
    limit = dist.constants.default_pg_timeout
    store.set_timeout(limit)
    backend = {"backend": "nccl", "device_id": place} if place.type == "cuda" else {
        "backend": "gloo"}  # fmt: skip
    dist.init_process_group(store=store, rank=rank, world_size=n_ranks, **backend)
    try:
        yield Ranks(rank, n_ranks, place)
    except BaseException as error:
        if isinstance(error, RuntimeError) and not isinstance(error, BridgeError):
            _blame(error, store, rank)
        with suppress(RuntimeError):
            store.set(_FAILED, str(rank))
        raise
    finally:
        dist.destroy_process_group()


def _blame(error: RuntimeError, store: dist.Store, rank: int) -> None:
    """What looks like an error of this rank may be that another one has gone.

    Raises
    ------
    SystemExit
        With status 2, if another rank failed and has said why.
    RankFailedError
        If communication failed and nobody has said why.
    """
    if not isinstance(error, dist.DistError) and not _COMMUNICATION.search(str(error)):
        return
    deadline = time.monotonic() + _WAIT
    with suppress(RuntimeError):
        while time.monotonic() < deadline:
            if store.check([_FAILED]):
                LOGGER.debug("after the failure of another rank: %s", first_line(error))
                raise SystemExit(EXIT_STATUS) from error
            time.sleep(0.05)
        store.set(_FAILED, str(rank))
    raise RankFailedError(
        "training on several ranks",
        expected="all ranks until the end",
        got=f"a rank that does not answer: {first_line(error)}",
        fix="look for the first message of another rank, or whether it was killed (memory)",
    ) from error


def _numbers() -> tuple[int, int, int]:
    """Rank on this machine, rank, number of ranks, as torchrun tells them."""
    found = []
    n_ranks = os.environ.get("WORLD_SIZE", "1")
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        text = os.environ.get(name, {"WORLD_SIZE": "1"}.get(name, "0" if n_ranks == "1" else ""))
        if not text.isdecimal():
            raise ConfigurationError(
                f"environment variable {name}",
                expected="a number: torchrun sets LOCAL_RANK, RANK and WORLD_SIZE",
                got=repr(text) if text else f"none, and WORLD_SIZE={n_ranks}",
                fix="start with torchrun, or unset WORLD_SIZE",
            )
        found.append(int(text))
    return found[0], found[1], max(found[2], 1)


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
