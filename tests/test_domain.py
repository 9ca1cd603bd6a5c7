"""Several ranks give what one gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mpi_runs import needs_mpi, run_ranks

HERE = Path(__file__).parent

#: eV per atom, eV/Å, eV/Å per atom, relative: only the order of sums differs.
LIMITS = {"energy": 1e-9, "forces": 1e-8, "sum": 1e-9, "virial": 1e-9, "energies": 1e-9}


@needs_mpi
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4, 8])
def test_the_same_numbers(n_ranks: int) -> None:
    done = run_ranks(n_ranks, HERE / "domain_agreement.py", 4 if n_ranks > 4 else 6)
    assert done.returncode == 0, done.stdout
    rows = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) == 10
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
