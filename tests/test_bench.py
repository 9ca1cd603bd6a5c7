"""``alchemi-bridge bench``: what it writes, and whether its numbers are what they say."""

from __future__ import annotations

import json
import os
import statistics
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from alchemi_bridge import errors as e
from alchemi_bridge.bench import WORKLOADS, Options, Peers, measure, measure_conversion
from alchemi_bridge.bench import run as bench_run
from alchemi_bridge.bench.paths import ProviderPath, TimedPath
from alchemi_bridge.bench.workloads import STEP, moving
from alchemi_bridge.cli.main import main
from alchemi_bridge.stages import STAGES, collect, stage

CPU = torch.device("cpu")
BRIEF = Options(device=CPU, threads=1, seconds=0.05, least_steps=5, most_steps=5)

#: The stages of a step, and what lies between them: Python, checks, views of buffers.
LEAST_SHARE_OF_STAGES = 0.3


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("bench")
    options = ["--workload", "lennard-jones", "--atoms", "4", "--seconds", "0.1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alchemi_bridge.cli.bench.CONVERSION_ATOMS", 2000)
        status = main(
            ["--quiet", "bench", *options, "--output", str(folder), "--record", str(folder / "r")]
        )
    assert status == 0
    return json.loads((folder / "bench.json").read_text()), folder


def test_results_have_what_readers_look_for(document: tuple[dict, Path]) -> None:
    (row,) = document[0]["results"]
    assert (row["model"], row["atoms"], row["dtype"]) == ("lennard-jones", 4, "float64")
    assert row["ms_per_step"] == row["paths"]["bridge"]["median"] > 0.0
    peer = row["paths"]["metatomic-ase"]["median"]
    assert row["ratio_to_metatomic_ase"] == pytest.approx(peer / row["ms_per_step"])
    assert row["ase_ratio_to_metatomic_ase"] == pytest.approx(peer / row["ase_ms_per_step"])
    model = row["paths"]["model"]["median"]
    assert row["overhead_over_model"] == pytest.approx(row["ms_per_step"] / model - 1.0)
    assert row["bridge_ms"] == pytest.approx(row["ms_per_step"] - model)
    # fcc argon within 2.5 sigma: shells of 12, 6, 24, 12 and 24
    assert row["neighbors"] == pytest.approx(78.0, abs=6.0)
    assert row["largest_force_difference"] < 1e-8
    assert {"machine", "versions", "kernels", "peers", "about"} <= set(document[0])


def test_conversion_has_what_readers_look_for(document: tuple[dict, Path]) -> None:
    (row,) = document[0]["conversion"]
    assert row["atoms"] == 2000
    assert row["ratio_to_sort_dedup"] == pytest.approx(row["ms_sort_dedup"] / row["ms"])
    assert row["ratio_to_vesin"] == pytest.approx(row["ms_vesin"] / row["ms"])
    assert row["ratio_to_torch"] == pytest.approx(row["ms_torch"] / row["ms"])
    assert row["ratio_to_floor"] == pytest.approx(row["ms"] / row["ms_floor"])
    # starts, and three int32 for each of the two entries of a pair, besides the list itself
    assert row["megabytes"] * 1e6 > 4 * 2001 + 2 * 3 * 4 * row["pairs"]


def test_stages_of_the_results(document: tuple[dict, Path]) -> None:
    (row,) = document[0]["results"]
    stages = row["stages"]
    assert list(stages) == [name for name in STAGES if name in stages]
    assert set(stages) == {"search", "decode", "cut", "forward", "backward", "accumulate"}
    assert min(stages.values()) > 0.0


def test_stages_add_up_to_less_than_the_step(tmp_path: Path) -> None:
    workload = WORKLOADS[0]
    atoms = workload.structure(192)
    engine = ProviderPath(atoms, workload.export(tmp_path), CPU)
    shares = []
    for positions in islice(moving(atoms), 40):
        with collect() as times:
            whole, _ = engine.step(positions)
        # of the same step: whatever else the machine does is in both
        shares.append(sum(map(sum, times.values())) / whole)
    assert max(shares) <= 1.0
    assert statistics.median(shares) > LEAST_SHARE_OF_STAGES


def test_picture_and_record(document: tuple[dict, Path]) -> None:
    assert (document[1] / "bench.png").read_bytes().startswith(b"\x89PNG")
    (record,) = (document[1] / "r").glob("*-1-thread.json")
    assert json.loads(record.read_text()) == document[0]


def test_json_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--workload", "lennard-jones", "--atoms", "4", "--seconds", "0.05"]
    assert main(["bench", "--json", "--no-conversion", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["results"]) == 1
    assert found["conversion"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workload", "gold"], "lennard-jones or stillinger-weber or schnet-like or copper"),
        (["--atoms", "5"], "expected one of"),
        (["--model", "a.pt"], "--model and --structure"),
        (["--threads", "0"], "--threads"),
        (["--seconds", "-1"], "--seconds"),
        (["--device", "abacus"], "device"),
    ],
)
def test_bad_options(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--no-conversion", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_of_the_users_own(
    model_file, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structure = tmp_path / "cell.xyz"
    WORKLOADS[1].structure(8).write(structure)
    path = model_file("stillinger-weber")
    options = ["--model", str(path), "--structure", str(structure), "--seconds", "0.05"]
    assert main(["bench", "--json", *options]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert (row["model"], row["atoms"]) == (path.stem, 8)


@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(w, id=w.name, marks=[] if w.name == "copper" else [pytest.mark.slow])
        for w in WORKLOADS
    ],
)
def test_workloads(workload) -> None:
    """The smallest size of each runs on all paths, and these agree."""
    before = torch.get_num_threads()
    with Peers(CPU, 1) as peers:
        (row,) = measure(workload, workload.sizes[:1], BRIEF, peers)
    assert row.atoms == workload.sizes[0] == len(workload.structure(workload.sizes[0]))
    assert row.steps == 5
    assert {"bridge", "bridge-ase", "metatomic-ase", "model"} <= set(row.paths)
    assert torch.get_num_threads() == before


def test_peers_are_a_process_of_their_own(tmp_path: Path) -> None:
    with Peers(CPU, 1) as peers:
        assert peers._process.pid != os.getpid()
        with pytest.raises(e.EvaluationError, match="no-such-model"):
            peers.paths(WORKLOADS[0].structure(4), tmp_path / "no-such-model.pt")
        # and it answers again
        (path, *_) = peers.paths(WORKLOADS[0].structure(4), WORKLOADS[0].export(tmp_path))
        assert path.name == "metatomic-ase"
    assert not peers._process.is_alive()
    with pytest.raises(e.EvaluationError, match="peers"):
        path.forces()


def test_atoms_move_as_in_dynamics() -> None:
    atoms = WORKLOADS[0].structure(192)
    frames = [frame for frame, _ in zip(moving(atoms), range(200), strict=False)]
    steps = np.diff(frames, axis=0)
    assert np.sqrt((steps**2).sum(axis=2).mean()) == pytest.approx(STEP, rel=0.5)
    away = np.linalg.norm(np.array(frames) - atoms.positions, axis=2)
    assert 0.05 < np.sqrt((away**2).mean()) < 0.5


class _Fake(TimedPath):
    def __init__(self, name: str, forces: np.ndarray) -> None:
        self.name, self._forces = name, forces

    def step(self, positions: np.ndarray) -> tuple[float, float]:
        return 1e-3, 1e-3

    def forces(self) -> np.ndarray:
        return self._forces


def test_paths_that_disagree_are_not_timed() -> None:
    right, wrong = np.ones((4, 3)), np.ones((4, 3)) * (1.0 + 1e-6)
    paths = [_Fake("one", right), _Fake("other", wrong)]
    agree = bench_run._require_agreement
    assert agree(paths, right, torch.float32) == pytest.approx(1e-6)
    with pytest.raises(e.NonFiniteResultError, match="one, other"):
        agree(paths, right, torch.float64)


def test_conversion_finds_the_same_pairs_all_ways() -> None:
    row = measure_conversion(1500, CPU, repeats=1)
    assert row.pairs > 1500 * 10
    assert min(row.ms, row.ms_sort_dedup, row.ms_sort_alone, row.ms_vesin) > 0.0


def test_stages_are_measured_only_when_somebody_listens() -> None:
    with stage("cut"):
        pass
    with collect() as times:
        with stage("cut"):
            time.sleep(0.01)
        with stage("cut"):
            pass
    with stage("forward"):
        pass
    assert list(times) == ["cut"]
    assert 0.01 <= times["cut"][0] < 1.0
    assert len(times["cut"]) == 2
