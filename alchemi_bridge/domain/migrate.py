"""Rows of arrays to the ranks that own them now: for engines whose atoms are spread over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from alchemi_bridge.domain.abort import collective, waiting
from alchemi_bridge.errors import ShapeError


def migrate(
    comm: Any, owners: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Send every row to its owner; collective.

    Parameters
    ----------
    comm
        Communicator of all ranks.
    owners
        (n,) rank that each row of this rank goes to, such as
        :meth:`~alchemi_bridge.domain.Decomposition.owner` gives.
    arrays
        (n, ...) by name, of the same names, types and row shapes on all ranks.

    Returns
    -------
    dict
        The rows of this rank now, ordered by the rank that they came from, and then as there.

    Raises
    ------
    ShapeError
        On all ranks, if an array has another number of rows, rows or types differ between ranks, or
        an owner does not exist.
    """
    n_ranks = int(comm.Get_size())
    with collective(comm):
        owners = np.asarray(owners)
        _check(owners, arrays, n_ranks)
        layout = {
            name: (array.dtype.str, array.shape[1:], array.dtype.itemsize)
            for name, array in sorted(arrays.items())
        }
    with waiting():
        layouts = comm.allgather(layout)
    with collective(comm):
        if any(other != layout for other in layouts):
            raise ShapeError(
                "arrays to migrate",
                expected="the same names, types and row shapes on all ranks",
                got=str(layouts),
                fix="hand over empty arrays of the right type where a rank has no rows",
            )
        order = np.argsort(owners, kind="stable")
        sent = np.bincount(owners, minlength=n_ranks).astype(np.int64)
    received = np.empty_like(sent)
    with waiting():
        comm.Alltoall(sent, received)
    return {name: _moved(comm, arrays[name][order], sent, received) for name in layout}


def _check(owners: np.ndarray, arrays: Mapping[str, np.ndarray], n_ranks: int) -> None:
    for name, array in arrays.items():
        if len(array) != len(owners):
            raise ShapeError(
                f"array '{name}' to migrate",
                expected=f"{len(owners)} rows, as owners",
                got=f"{len(array)} rows",
                fix="hand over one row for each owner",
            )
    if len(owners) == 0:
        return
    if owners.dtype.kind not in "iu" or owners.min() < 0 or owners.max() >= n_ranks:
        raise ShapeError(
            "owners",
            expected=f"integers from 0 to {n_ranks - 1}",
            got=f"{owners.dtype} from {owners.min()} to {owners.max()}",
            fix="decompose for as many ranks as there are",
        )


def _moved(comm: Any, rows: np.ndarray, sent: np.ndarray, received: np.ndarray) -> np.ndarray:
    from mpi4py import MPI

    width = int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.dtype.itemsize
    into = np.empty((int(received.sum()), *rows.shape[1:]), dtype=rows.dtype)

    def message(array: np.ndarray, counts: np.ndarray) -> list[Any]:
        sizes = counts * width
        places = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return [np.ascontiguousarray(array).reshape(-1).view(np.uint8), (sizes, places), MPI.BYTE]

    with waiting():
        comm.Alltoallv(message(rows, sent), message(into, received))
    return into
