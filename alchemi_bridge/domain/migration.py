"""Rows of arrays to the ranks that own them now, when home atoms change at a pair search.

One number goes from every rank to every other, that of rows to come; then rows travel between ranks
that have some for each other, all arrays of a rank in one message.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alchemi_bridge.domain.abort import agree, collective, waiting
from alchemi_bridge.errors import DtypeError, InputError, ShapeError

_TAG = 21


@dataclass(frozen=True, eq=False)
class Migration:
    """A movement of rows between ranks, which can be made again, there and back.

    Make one with :meth:`plan`. Rows arrive ordered by the rank that they come from, and among those
    of one rank as they were there.

    Attributes
    ----------
    comm
        Communicator of all ranks.
    order
        (n,) int64 rows of this rank in the order of their destinations.
    sent, received
        (n_ranks,) int64 how many rows go to, and come from, each rank.
    """

    comm: Any
    order: np.ndarray
    sent: np.ndarray
    received: np.ndarray

    @classmethod
    def plan(cls, comm: Any, owners: np.ndarray) -> Migration:
        """Agree on a movement; collective.

        Parameters
        ----------
        comm
            Communicator of mpi4py.
        owners
            (n,) integers, the rank to which each row of this rank goes.

        Raises
        ------
        ShapeError, DtypeError, InputError
            On all ranks, if the owners of one rank are no list of integers, or no ranks.
        """
        size = comm.Get_size()
        with collective(comm):
            ranks = _ranks(owners, size)
            order = np.argsort(ranks, kind="stable")
            sent = np.bincount(ranks, minlength=size).astype(np.int64)
            received = sent.copy()
        if size > 1:
            with waiting(comm):
                comm.Alltoall(sent, received)
        return cls(comm, order, sent, received)

    @property
    def n_received(self) -> int:
        """How many rows this rank has afterwards."""
        return int(self.received.sum())

    def forward(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Move rows to their owners; collective.

        Parameters
        ----------
        arrays
            (n, ...) each, by name; the same names, dtypes and further lengths on all ranks.
            Anything but Python objects can be moved.

        Returns
        -------
        dict
            New arrays of :attr:`n_received` rows.

        Raises
        ------
        ShapeError, DtypeError, InputError
            On all ranks, if lengths differ from that of the owners, or ranks hand over different
            things.
        """
        with collective(self.comm):
            given = _checked(arrays, len(self.order))
        rows = self._pack(given, len(self.order))
        moved = self._move(rows[self.order], self.sent, self.received)
        return _unpack(moved, given)

    def reverse(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Move rows from their owners back to where, and in which order, they were; collective.

        Parameters
        ----------
        arrays
            (:attr:`n_received`, ...) each, by name.

        Returns
        -------
        dict
            New arrays of as many rows as there were owners.

        Raises
        ------
        ShapeError, DtypeError, InputError
            As :meth:`forward`.
        """
        with collective(self.comm):
            given = _checked(arrays, self.n_received)
        moved = self._move(self._pack(given, self.n_received), self.received, self.sent)
        rows = np.empty_like(moved)
        rows[self.order] = moved
        return _unpack(rows, given)

    def _pack(self, arrays: dict[str, np.ndarray], n_rows: int) -> np.ndarray:
        """(n, bytes) rows of all arrays side by side, after all ranks agreed on what is in them."""
        _agree_on_kinds(self.comm, arrays)
        parts = [_as_bytes(array, n_rows) for array in arrays.values()]
        return np.concatenate([np.empty((n_rows, 0), dtype=np.uint8), *parts], axis=1)

    def _move(self, rows: np.ndarray, sent: np.ndarray, received: np.ndarray) -> np.ndarray:
        """Rows, in the order of their destinations, become rows in the order of their sources."""
        width, me = rows.shape[1], self.comm.Get_rank()
        found = np.empty((int(received.sum()), width), dtype=np.uint8)
        to, of = _blocks(rows, sent), _blocks(found, received)
        of[me][...] = to[me]
        if self.comm.Get_size() == 1 or width == 0:
            return found
        from mpi4py import MPI

        row = MPI.BYTE.Create_contiguous(width).Commit()  # counts of bytes may pass 2**31
        with waiting(self.comm):
            requests = [
                self.comm.Irecv([block, len(block), row], source=rank, tag=_TAG)
                for rank, block in enumerate(of)
                if len(block) and rank != me
            ]
            requests += [
                self.comm.Isend([block, len(block), row], dest=rank, tag=_TAG)
                for rank, block in enumerate(to)
                if len(block) and rank != me
            ]
            MPI.Request.Waitall(requests)
        row.Free()
        return found


def migrate(
    comm: Any, owners: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Move every row to its owner; collective.

    Parameters
    ----------
    comm
        Communicator of mpi4py.
    owners
        (n,) integers, the rank to which each row of this rank goes; none is fine.
    arrays
        (n, ...) each, by name, as for :meth:`Migration.forward`.

    Returns
    -------
    dict
        New arrays with the rows of this rank, ordered by the rank that they come from, and among
        those of one rank as they were there.

    Raises
    ------
    ShapeError, DtypeError, InputError
        On all ranks, whichever found something wrong.
    """
    return Migration.plan(comm, owners).forward(arrays)


def _ranks(owners: np.ndarray, size: int) -> np.ndarray:
    ranks = np.asarray(owners)
    if ranks.ndim != 1:
        raise ShapeError(
            "owners", expected="shape (n,)", got=str(ranks.shape), fix="one rank for each row"
        )
    if ranks.dtype.kind not in "iu":
        raise DtypeError(
            "owners", expected="integers", got=str(ranks.dtype), fix="pass ranks, such as int64"
        )
    wrong = np.flatnonzero((ranks < 0) | (ranks >= size))
    if len(wrong):
        raise InputError(
            "owners",
            expected=f"ranks from 0 to {size - 1}",
            got=f"{ranks[wrong[0]]} in row {wrong[0]}",
            fix="divide the atoms for this number of ranks",
        )
    return ranks.astype(np.int64)


def _checked(arrays: Mapping[str, np.ndarray], n_rows: int) -> dict[str, np.ndarray]:
    """Arrays by name, in the order of the names."""
    given = {name: np.asarray(arrays[name]) for name in sorted(arrays)}
    for name, array in given.items():
        if array.ndim == 0 or len(array) != n_rows:
            raise ShapeError(
                f"array '{name}'",
                expected=f"{n_rows} rows",
                got=f"shape {array.shape}",
                fix="pass one row for each atom of this rank",
            )
        if array.dtype.hasobject:
            raise DtypeError(
                f"array '{name}'",
                expected="numbers or other plain data",
                got="Python objects",
                fix="convert it to a dtype of fixed size",
            )
    return given


def _kinds(arrays: Mapping[str, np.ndarray]) -> str:
    kinds = ", ".join(f"{k}: {a.dtype.descr} {a.shape[1:]}" for k, a in arrays.items())
    return kinds or "nothing"


def _agree_on_kinds(comm: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise on all ranks if they do not hand over the same names, dtypes and trailing shapes."""
    if comm.Get_size() == 1:
        return
    from mpi4py import MPI

    kinds = _kinds(arrays)
    number = zlib.crc32(kinds.encode())
    ends = np.array([number, -number], dtype=np.int64)
    with waiting(comm):
        comm.Allreduce(MPI.IN_PLACE, ends, op=MPI.MIN)
        if ends[0] == -ends[1]:
            return
        first = comm.bcast(kinds, root=0)
    error = None
    if kinds != first:
        error = InputError(
            "arrays to move",
            expected=f"what rank 0 has ({first})",
            got=kinds,
            fix="pass the same names, dtypes and shapes on all ranks, also where there are no rows",
        )
    agree(comm, error)


def _as_bytes(array: np.ndarray, n_rows: int) -> np.ndarray:
    """(n, bytes) view or copy."""
    width = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    if n_rows == 0 or width == 0:
        return np.empty((n_rows, width), dtype=np.uint8)
    return np.ascontiguousarray(array).reshape(n_rows, -1).view(np.uint8)


def _unpack(rows: np.ndarray, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of the kinds that were given."""
    found, begin = {}, 0
    for name, like in given.items():
        array = np.empty((len(rows), *like.shape[1:]), dtype=like.dtype)
        width = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        if array.size and width:
            _as_bytes(array, len(rows))[...] = rows[:, begin : begin + width]
        begin += width
        found[name] = array
    return found


def _blocks(rows: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Views of consecutive rows."""
    return np.split(rows, np.cumsum(counts)[:-1])
