"""Several ranks give what one gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kernel_parts import needs_cuda
from mpi_runs import needs_mpi, run_ranks, slow

HERE = Path(__file__).parent

#: eV per atom, eV/Å, eV/Å per atom, relative: only the order of sums differs.
LIMITS = {"energy": 1e-9, "forces": 1e-8, "sum": 1e-9, "virial": 1e-9, "energies": 1e-9}

#: Å after 100 steps: chaos has not had time to make anything of the last digits.
TRAJECTORY = 1e-6

#: eV per atom over 1,000 steps of 1 fs at 300 K: the time step's own.
SPREAD = 1e-3

#: Three float64, for the coordinates and for the forces.
BYTES_OF_AN_ATOM = 24

#: Flags and fingerprints before a step (18 numbers), flags, energy and virial after it (12), and
#: whether the buffers can hold the results (1).
BYTES_OF_SUMS = 8 * (18 + 12 + 1)


@needs_mpi
@pytest.mark.parametrize("n_ranks", [2, *map(slow, (1, 3, 4, 8))])
def test_the_same_numbers(n_ranks: int) -> None:
    same_numbers(n_ranks, "cpu")


@pytest.mark.gpu
@needs_cuda
@needs_mpi
def test_the_same_numbers_of_ranks_that_share_a_gpu() -> None:
    same_numbers(3, "cuda")


def same_numbers(n_ranks: int, device: str) -> None:
    steps = 4 if n_ranks > 4 else 6
    done = run_ranks(n_ranks, HERE / "domain_agreement.py", steps, device)
    assert done.returncode == 0, done.stdout
    rows = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) == 13
    for row in rows:
        for key, limit in LIMITS.items():
            assert row[key] <= limit, (row["case"], key, row[key])
        assert row["searches"] >= 2, row["case"]  # so that atoms changed hands
        assert sum(row["home"]) == row["atoms"]
        assert all(halo <= row["atoms"] - home
                   for halo, home in zip(row["halo"], row["home"], strict=True))  # fmt: skip
        assert (max(row["halo"]) > 0) == (n_ranks > 1)
    # somewhere the halo is not simply everything
    assert n_ranks == 1 or any(max(row["halo"]) + max(row["home"]) < row["atoms"] for row in rows)


@needs_mpi
@pytest.mark.parametrize("n_ranks", [*map(slow, (1, 2, 3))])
def test_an_engine_whose_atoms_are_on_all_ranks(n_ranks: int) -> None:
    """Its trajectory is that of one rank, and no byte travels that need not."""
    done = run_ranks(n_ranks, HERE / "domain_engine_run.py")
    assert done.returncode == 0, done.stdout
    rows = json.loads(done.stdout.splitlines()[-1])
    assert [row["case"] for row in rows] == ["silicon", "net, triclinic", "one layer"]
    for row in rows:
        assert row["trajectory"] < TRAJECTORY
        assert row["energy"] < LIMITS["energy"]
        assert row["all_there"]
        # the halo is what a search by brute force finds, and all that travels, both ways
        assert row["halo"] == row["needed"]
        assert sum(row["sent_atoms"]) == sum(row["halo"])
        for sent, halo, counted in zip(row["sent_atoms"], row["halo"], row["bytes"], strict=True):
            assert counted.get("Neighbor_alltoallv", 0) == BYTES_OF_AN_ATOM * (sent + halo)
            assert counted["Allreduce"] == BYTES_OF_SUMS
            assert set(counted) <= {"Neighbor_alltoallv", "Allreduce"}
        # rows that can not reach a home atom's energy are left out
        assert row["beyond"] <= 0.0
    assert (rows[0]["moved"] > 0) == (n_ranks > 1)
    assert n_ranks == 1 or sum(rows[2]["halo"]) > 0


@pytest.mark.slow
@needs_mpi
def test_energy_is_conserved_as_on_one_rank() -> None:
    done = run_ranks(3, HERE / "domain_engine_run.py", 1000, timeout=600.0)
    assert done.returncode == 0, done.stdout
    row = json.loads(done.stdout.splitlines()[-1])[0]
    assert row["energy"] < LIMITS["energy"]
    assert row["spread"] < row["serial_spread"] + LIMITS["energy"]
    assert row["serial_spread"] < SPREAD


@needs_mpi
@pytest.mark.parametrize("n_ranks", [slow(3), slow(8)])
def test_unusual_systems_wishes_and_mistakes(n_ranks: int) -> None:
    done = run_ranks(n_ranks, HERE / "domain_edges.py", timeout=300.0)
    assert done.returncode == 0, done.stdout
    checks = [line for line in done.stdout.splitlines() if line.startswith("done: ")]
    assert len(checks) == 23
