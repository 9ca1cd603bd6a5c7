"""What is predicted for many ranks, against volumes by Monte Carlo and atoms counted one by one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from mpi_runs import needs_mpi
from scipy.spatial import cKDTree

from alchemi_bridge.bench.ranks import RanksRow
from alchemi_bridge.bench.scaling import around, plot_scaling, predict
from alchemi_bridge.cli.main import main
from alchemi_bridge.domain import decompose

#: Of 400,000 points: three standard deviations of the share in a volume are below half a percent.
POINTS, SHARE = 400_000, 0.005

#: Atoms at random are as a gas, not as a liquid, at the faces of a domain.
HALO_SHARE = 0.1


def row(**changes: object) -> RanksRow:
    numbers = {
        "model": "a net", "ranks": 1, "atoms": 10_000, "ms_per_step": 200.0, "serial_ms": 200.0,
        "crowded_serial_ms": 200.0, "time_over_serial": 1.0, "fixed_ms": 2.0, "atoms_ms": 30.0,
        "exchange_ms": 0.0, "exchange_share": 0.0, "halo": 0, "rows": 500_000, "bytes_per_step": 0,
        "range": 5.0, "cutoff": 5.0, "skin": 1.0, "density": 0.1,
    }  # fmt: skip
    return RanksRow(**{**numbers, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("sides", [
    (10.0, 10.0, 10.0), (4.0, 6.0, 8.0), (20.0, 5.0, 5.0), (20.0, 20.0, 5.0), (20.0, 20.0, 20.0),
])  # fmt: skip
@pytest.mark.parametrize("width", [0.0, 1.0, 4.0])
def test_volume_around_a_box(sides: tuple[float, ...], width: float) -> None:
    """Faces, edges and corners, in a periodic cube of 20."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-10.0, 10.0, (POINTS, 3))  # nearest images of a box in the middle
    beyond = np.maximum(np.abs(points) - np.array(sides) / 2.0, 0.0)
    share = float(np.mean((beyond**2).sum(axis=1) <= width**2))
    found = around(np.array(sides), np.full(3, 20.0), width) / 20.0**3
    assert found == pytest.approx(share, abs=SHARE)


def test_a_box_that_is_everywhere_has_nothing_around() -> None:
    assert around(np.full(3, 6.0), np.full(3, 20.0), 30.0) == 20.0**3
    assert around(np.full(3, 20.0), np.full(3, 20.0), 3.0) == 20.0**3


@pytest.mark.parametrize("n_ranks", [2, 4, 8, 27])
def test_halo_atoms_and_rows_that_are_counted(n_ranks: int) -> None:
    """Domains of a random gas, by distances between all pairs of domains and atoms."""
    rng, one = np.random.default_rng(1), row(range=7.0, cutoff=3.5)
    edge = (one.atoms / one.density) ** (1.0 / 3.0)
    fractional = rng.random((one.atoms, 3))
    domains = decompose(fractional, n_ranks, (True,) * 3, heights=edge, halo=one.range)
    owner, halo, rows = domains.owner(fractional), [], []
    for rank in range(n_ranks):
        home = cKDTree(fractional[owner == rank] * edge, boxsize=edge)
        distances, _ = home.query(fractional[owner != rank] * edge)
        halo.append(np.sum(distances <= one.range + one.skin) / np.sum(owner == rank))
        rows.append(1.0 + np.sum(distances <= one.range - one.cutoff + one.skin)
                    / np.sum(owner == rank))  # fmt: skip
    found = predict(one, n_ranks)
    assert found.halo == pytest.approx(np.mean(halo), rel=HALO_SHARE)
    assert found.rows == pytest.approx(np.mean(rows), rel=HALO_SHARE)


def test_one_rank_is_what_was_measured() -> None:
    found = predict(row(), 1)
    assert (found.halo, found.rows, found.exchange, found.time) == (0.0, 1.0, 0.0, 1.0)


def test_rows_of_a_net_with_one_layer_are_its_own() -> None:
    """Halo atoms cost their part, and a constant remains on every rank."""
    found = predict(row(), 2)
    assert found.rows == 1.0
    assert found.time == pytest.approx((2.0 + (30.0 * (1.0 + found.halo) + 168.0) / 2.0) / 200.0,
                                       rel=1e-3)  # fmt: skip
    assert predict(row(), 1000).time > 2.0 / 200.0


def test_more_ranks_are_faster_and_exchange_more() -> None:
    found = [predict(row(range=15.0), n, 10**6) for n in (1, 8, 64, 512)]
    for few, many in itertools.pairwise(found):
        assert few.time > many.time
        assert few.halo < many.halo
        assert few.rows < many.rows


def test_picture(tmp_path: Path) -> None:
    rows = [row(), row(ranks=2, time_over_serial=0.6, halo=2000), row(ranks=4, halo=5000)]
    plot_scaling(rows, tmp_path / "a.png", "a machine", 2)
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.slow
@needs_mpi
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own ranks, small systems; what it counts can be counted otherwise."""
    assert main(["--quiet", "bench", "--mpi", "--quick", "--ranks", "2", "--json",
                 "--output", str(tmp_path), "--record", str(tmp_path / "kept")]) == 0  # fmt: skip
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "bench-ranks.json").read_text())
    assert (tmp_path / "bench-ranks.png").exists()
    assert len(list((tmp_path / "kept").glob("*-ranks.json"))) == 1
    found = {(r["model"], r["ranks"]): r for r in document["results"]}
    assert len(found) == 4
    for (_, ranks), one in found.items():
        assert one["atoms"] == 3000
        if ranks == 1:
            assert one["halo"] == one["bytes_per_step"] == 0
            continue
        # three coordinates in the engine's float64, three forces in the model's float32
        assert one["bytes_per_step"] == 36 * one["halo"]
        assert one["halo"] / 2 == pytest.approx(one["predicted_halo_per_rank"], rel=HALO_SHARE)
        # how long it takes depends on what else the machine does
        assert 0.0 < one["exchange_share"] < 1.0
        assert one["time_over_serial"] > 0.0
