"""Messages between ranks, over torch.distributed: gloo moves host memory, NCCL device memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed

from alchemi_bridge.engines.nvalchemi_pipeline import messages
from alchemi_bridge.errors import BridgeError, RankFailedError, first_line

T = TypeVar("T")

#: What every rank tells all others after each iteration.
DONE, FAILED, ROOM = range(3)


@contextmanager
def telling(doing: str) -> Iterator[None]:
    """Errors of torch.distributed as :class:`RankFailedError`: another rank has gone."""
    try:
        yield
    except BridgeError:
        raise
    except (RuntimeError, ValueError) as error:  # DistError is a RuntimeError
        raise RankFailedError(
            doing,
            expected="all ranks to take part",
            got=first_line(error),
            fix="look for the message of the rank that ended first",
        ) from error


class Ranks:
    """The other ranks, as one of them sees them.

    Parameters
    ----------
    device
        Of the stage.

    Notes
    -----
    A message is a header of fixed size and, unless it is empty, a body that is exactly as long as
    what it holds. With NCCL all operations are in the order of the current stream; tensors of a
    message live until it has been sent.
    """

    def __init__(self, device: torch.device) -> None:
        nccl = distributed.get_backend() == "nccl"
        self.device = device if nccl else torch.device("cpu")
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        self._sending: list[tuple[Any, torch.Tensor]] = []

    def announce(self, prior: int) -> tuple[torch.Tensor, Any]:
        """Make ready for the header of the next message of rank ``prior``."""
        header = torch.empty(messages.HEADER, dtype=torch.int64, device=self.device)
        with telling(f"message of rank {prior}"):
            return header, distributed.irecv(header, src=prior)

    def receive(
        self, prior: int, announced: tuple[torch.Tensor, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Wait for the message whose header was announced: header, on the host, and body."""
        header, work = announced
        with telling(f"message of rank {prior}"):
            work.wait()
            header = header.cpu()
            body = torch.empty(messages.body_size(header), dtype=torch.uint8, device=self.device)
            if len(body):
                distributed.recv(body, src=prior)
        return header, body

    def send(self, following: int, header: torch.Tensor, body: torch.Tensor) -> None:
        """Begin to send a message; :meth:`sent` waits for it."""
        with telling(f"message to rank {following}"):
            for part in (header, body):
                if len(part):
                    self._sending.append((distributed.isend(part, dst=following), part))

    def sent(self) -> None:
        """Wait until what was sent has gone."""
        with telling("message that was sent"):
            for work, _ in self._sending:
                work.wait()
        self._sending.clear()

    def tell(self, done: bool, failed: bool, room: int) -> torch.Tensor:
        """Tell all ranks, and hear from all: (n_ranks, 3) int64 on the host."""
        board = torch.zeros((self.size, 3), dtype=torch.int64, device=self.device)
        board[self.rank] = torch.tensor([int(done), int(failed), room])
        with telling("exchange of all ranks"):
            distributed.all_reduce(board)
        return board.cpu()

    def gather(self, value: T) -> list[T]:
        """Values of all ranks, on all ranks."""
        values: list[Any] = [None] * self.size
        with telling("exchange of all ranks"):
            distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all ranks are here."""
        with telling("barrier of all ranks"):
            distributed.barrier()
