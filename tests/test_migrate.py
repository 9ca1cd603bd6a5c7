"""Rows go to their owners in a fixed order, whatever they hold; errors are those of all ranks."""

from __future__ import annotations

import numpy as np
import pytest
from mpi_runs import needs_mpi, require_success, run_ranks, slow

MOVES = """
import pickle
import numpy as np
from mpi4py import MPI
from alchemi_bridge.domain.migration import Migration, migrate

comm = MPI.COMM_WORLD
size, me = comm.size, comm.rank

def system(rank, sizes, seed):
    # what a rank has: everybody can work it out for everybody
    rng = np.random.default_rng([seed, rank])
    n = sizes[rank]
    record = np.zeros(n, dtype=[("kind", "S3"), ("weight", "<f4", (2,))])
    record["kind"], record["weight"] = b"H", rng.normal(size=(n, 2))
    arrays = {
        "positions": rng.normal(size=(n, 3)),
        "strided": rng.normal(size=(n, 8))[:, ::2],
        "fortran": np.asfortranarray(rng.normal(size=(n, 2, 3)).astype(np.float32)),
        "id": rng.integers(-(2**60), 2**60, n),
        "swapped": rng.integers(0, 99, n).astype(">i2"),
        "flag": rng.random(n) < 0.5,
        "complex": rng.normal(size=n) + 1j * rng.normal(size=n),
        "name": np.array([f"atom {i} of {rank}" for i in range(n)], dtype="U12"),
        "time": rng.integers(0, 9, n).astype("datetime64[s]"),
        "record": record,
        "nothing": np.empty((n, 0, 3)),
        "from": np.full(n, rank, dtype=np.int8),
    }
    return rng, arrays

def same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, values in expected.items():
        got = found[name]
        assert got.dtype == values.dtype and got.shape == values.shape, name
        assert got.tobytes() == values.tobytes(), name

def check(sizes, seed, choose):
    owners, arrays = [], []
    for rank in range(size):
        rng, given = system(rank, sizes, seed)
        arrays.append(given)
        owners.append(choose(rng, rank, sizes[rank]))
    expected = {
        # joining arrays loses their byte order
        name: np.concatenate([a[name][o == me] for a, o in zip(arrays, owners)]).astype(kept.dtype)
        for name, kept in arrays[me].items()
    }
    before = pickle.dumps(arrays[me])
    found = migrate(comm, owners[me], arrays[me])
    same(found, expected)
    assert (np.diff(found["from"]) >= 0).all()
    assert pickle.dumps(arrays[me]) == before
    plan = Migration.plan(comm, owners[me])
    assert plan.n_received == len(expected["id"])
    same(plan.forward({"id": arrays[me]["id"]}), {"id": expected["id"]})
    same(plan.forward({"positions": arrays[me]["positions"]}), {"positions": expected["positions"]})
    same(plan.reverse(found), arrays[me])

rng = np.random.default_rng(0)
for seed in range(6):
    sizes = rng.integers(0, 40, size)
    check(sizes, seed, lambda rng, rank, n: rng.integers(0, size, n))
check([5] * size, 10, lambda rng, rank, n: np.full(n, rank))            # nobody moves
check([5] * size, 11, lambda rng, rank, n: np.full(n, (rank + 1) % size, dtype=np.uint8))
check([9] * size, 12, lambda rng, rank, n: np.full(n, size - 1))        # all to one
check([9] + [0] * (size - 1), 13, lambda rng, rank, n: np.arange(n) % size)  # all from one
check([0] * size, 14, lambda rng, rank, n: np.empty(n, dtype=np.int32))
assert migrate(comm, np.zeros(3, dtype=int), {}) == {}

# only ranks that have something for each other meet
sent = []
class Counting(MPI.Intracomm):
    def Isend(self, buffer, dest, tag):
        sent.append(dest)
        return super().Isend(buffer, dest, tag)
counting = Counting(comm.Dup())
migrate(counting, np.full(4, (me + 1) % size), {"a": np.arange(4), "b": np.arange(8).reshape(4, 2)})
assert sent == ([(me + 1) % size] if size > 1 else []), sent
done = comm.gather(me)
if me == 0:
    print("moved on", done)
"""


@needs_mpi
@pytest.mark.parametrize("n_ranks", [3, *map(slow, (1, 4))])
def test_rows_go_to_their_owners_and_back(n_ranks: int) -> None:
    run = require_success(run_ranks(n_ranks, MOVES))
    assert run.stdout == f"moved on {list(range(n_ranks))}\n"


ERRORS = """
import numpy as np
from mpi4py import MPI
from alchemi_bridge.domain.migration import Migration, migrate
from alchemi_bridge.errors import DtypeError, InputError, ShapeError

comm = MPI.COMM_WORLD
last = comm.size - 1
bad = comm.rank == last
good_owners, good = np.zeros(3, dtype=int), {"a": np.zeros((3, 2)), "b": np.arange(3)}

def refused(kind, what, owners, arrays):
    if not bad:
        owners, arrays = good_owners, good
    try:
        migrate(comm, owners, arrays)
    except kind as error:
        assert type(error) is kind and what in str(error), error
        if not bad:
            assert str(error).startswith(f"rank {last}: "), error
    else:
        raise AssertionError(f"no {kind.__name__} on rank {comm.rank}")
    # and all go on together
    assert len(migrate(comm, good_owners, good)["b"]) == (3 * comm.size if comm.rank == 0 else 0)

refused(InputError, f"{comm.size} in row 1", np.array([0, comm.size, 0]), good)
refused(InputError, "-1 in row 2", np.array([0, 0, -1]), good)
refused(DtypeError, "float64", np.zeros(3), good)
refused(DtypeError, "bool", np.zeros(3, dtype=bool), good)
refused(ShapeError, "(3, 1)", np.zeros((3, 1), dtype=int), good)
refused(ShapeError, "array 'b'", good_owners, {**good, "b": np.arange(4)})
refused(ShapeError, "array 'b'", good_owners, {**good, "b": np.array(1)})
refused(DtypeError, "Python objects", good_owners, {**good, "b": np.array([None] * 3)})
if comm.size > 1:
    for other in (
        {**good, "b": np.arange(3.0)},
        {**good, "a": np.zeros((3, 3))},
        {"a": good["a"]},
        {**good, "c": good["b"]},
        {},
    ):
        refused(InputError, "what rank 0 has (a: ", good_owners, other)
    refused(InputError, "what rank 0 has", np.empty(0, dtype=int), {"b": np.empty(0)})
# the way back has as many rows as arrived
plan = Migration.plan(comm, good_owners)
n_wrong = plan.n_received + 1
try:
    plan.reverse({"a": np.zeros(n_wrong)})
except ShapeError as error:
    assert "array 'a'" in str(error)
else:
    raise AssertionError
done = comm.gather(comm.rank)
if comm.rank == 0:
    print("refused on", done)
"""


@needs_mpi
@pytest.mark.parametrize("n_ranks", [3, slow(1)])
def test_what_one_rank_can_not_move_is_refused_by_all(n_ranks: int) -> None:
    run = require_success(run_ranks(n_ranks, ERRORS))
    assert run.stdout == f"refused on {list(range(n_ranks))}\n"


@needs_mpi
def test_one_process_without_a_launcher_moves_nothing() -> None:
    from mpi4py import MPI

    from alchemi_bridge.domain.migration import migrate

    rows = np.random.default_rng(0).normal(size=(5, 3))
    found = migrate(MPI.COMM_SELF, np.zeros(5, dtype=int), {"rows": rows})
    np.testing.assert_array_equal(found["rows"], rows)
    assert not np.shares_memory(found["rows"], rows)
