"""What travels in a step: coordinates to the ranks that need them, forces back to the owners.

The pattern is fixed at the pair search. In a step only values travel, only between ranks that share
atoms: MPI's own neighbourhood collective on a graph of these ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alchemi_bridge.domain.abort import vital, waiting
from alchemi_bridge.stages import stage

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Pattern:
    """Who sends which atoms to whom, as one rank sees it.

    Attributes
    ----------
    send_ranks, send_rows
        Ranks that need atoms of this rank, ascending, and for each (n,) int64 rows of home atoms.
    receive_ranks, receive_counts
        Ranks whose atoms this rank needs, ascending, and how many of each. Halo atoms are in this
        order.
    """

    send_ranks: tuple[int, ...]
    send_rows: tuple[np.ndarray, ...]
    receive_ranks: tuple[int, ...]
    receive_counts: tuple[int, ...]

    @property
    def n_halo(self) -> int:
        """Number of atoms that this rank receives."""
        return sum(self.receive_counts)

    @property
    def n_sent(self) -> int:
        """Number of atoms that this rank sends, each counted once for every rank that needs it."""
        return sum(len(rows) for rows in self.send_rows)


class Exchange:
    """Moves values along a pattern, both ways. Making one and freeing it is collective.

    Parameters
    ----------
    comm
        Communicator of all ranks.
    pattern
        Of this rank.
    device
        Where the values are.
    direct
        Hand device memory to MPI as it is; otherwise values go through the host.
    """

    def __init__(
        self, comm: Any, pattern: Pattern, device: torch.device, direct: bool = False
    ) -> None:
        self.pattern, self.device, self._comm = pattern, device, comm
        self._wire = device if direct or device.type == "cpu" else torch.device("cpu")
        to, of = list(pattern.send_ranks), list(pattern.receive_ranks)
        with waiting(comm):
            self._outward = comm.Create_dist_graph_adjacent(of, to, reorder=False)
            self._homeward = comm.Create_dist_graph_adjacent(to, of, reorder=False)
        rows = [torch.from_numpy(rows) for rows in pattern.send_rows]
        self._rows = (torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)).to(device)
        self._sent = [len(rows) for rows in pattern.send_rows]
        self._rounds = _distinct(self._rows.cpu().numpy(), device)

    def free(self) -> None:
        """Give the communicators back; collective."""
        with waiting(self._comm):
            self._outward.Free()
            self._homeward.Free()

    def outward(self, home: torch.Tensor) -> torch.Tensor:
        """Values of halo atoms from their owners.

        Parameters
        ----------
        home
            (n_home, ...) of this rank's atoms, on the device.

        Returns
        -------
        torch.Tensor
            (n_halo, ...) of the same dtype, on the device.
        """
        with stage("exchange"), vital(self._comm):
            packed = home.index_select(0, self._rows)
            return self._move(self._outward, packed, self._sent, self.pattern.receive_counts)

    def homeward(self, halo: torch.Tensor, home: torch.Tensor) -> None:
        """Add what other ranks found for this rank's atoms.

        Sums have a fixed order: by rank, then by row.

        Parameters
        ----------
        halo
            (n_halo, ...) values of this rank for atoms of other ranks.
        home
            (n_home, ...) of this rank's atoms, which is added to.
        """
        with stage("exchange"), vital(self._comm):
            counts = self.pattern.receive_counts
            arrived = self._move(self._homeward, halo, counts, self._sent)
            for rows, places in self._rounds:
                home.index_add_(0, rows, arrived.index_select(0, places).to(home.dtype))

    def _move(
        self, graph: Any, values: torch.Tensor, sent: Sequence[int], received: Sequence[int]
    ) -> torch.Tensor:
        width = int(np.prod(values.shape[1:], dtype=np.int64)) * values.element_size()
        out = values.contiguous().to(self._wire)
        into = torch.empty(
            (sum(received), *values.shape[1:]), dtype=values.dtype, device=self._wire
        )
        if self._wire.type == "cuda":
            torch.cuda.current_stream(self._wire).synchronize()  # MPI knows nothing of streams
        messages = _message(out, sent, width), _message(into, received, width)
        with waiting(self._comm):
            graph.Neighbor_alltoallv(*messages)
        return into.to(self.device)


def _message(values: torch.Tensor, counts: Sequence[int], width: int) -> list[Any]:
    """Bytes with their counts and displacements, as mpi4py wants them."""
    from mpi4py import MPI

    sizes = np.asarray(counts, dtype=np.int64) * width
    places = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else sizes
    data: Any = values.reshape(-1).view(torch.uint8)
    if values.device.type == "cpu":
        data = data.numpy()
    return [data, (sizes, places.astype(np.int64)), MPI.BYTE]


def _distinct(rows: np.ndarray, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rows in rounds in which each occurs once, with their places: sums need no atomics then."""
    order = np.argsort(rows, kind="stable")
    sorted_rows = rows[order]
    begin = np.flatnonzero(np.r_[True, sorted_rows[1:] != sorted_rows[:-1]]) if len(rows) else rows
    lengths = np.diff(np.r_[begin, len(rows)]) if len(rows) else rows
    occurrence = np.empty(len(rows), dtype=np.int64)
    occurrence[order] = np.arange(len(rows)) - np.repeat(begin, lengths)
    rounds = []
    for number in range(int(occurrence.max()) + 1 if len(rows) else 0):
        places = np.flatnonzero(occurrence == number)
        rounds.append(
            (torch.from_numpy(rows[places]).to(device), torch.from_numpy(places).to(device))
        )
    return rounds
