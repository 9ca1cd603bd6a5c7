"""Finished cells on disk: what is kept, what is run again, what a killed sweep leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runs import environment
from sweep_parts import Faked, Raising, planned, save, silicon, statuses, swept

from alchemi_bridge.ensembles.sweep.store import FILE, HEADER, CellStore
from alchemi_bridge.errors import ConfigurationError

NAMES = {"model": "m", "structure": "s", "engine": "e"}


def test_what_was_added_is_there_for_the_next(tmp_path: Path) -> None:
    with CellStore(tmp_path / "new" / "folder") as store:
        store.add("a", NAMES, {"status": "passed", "severity": 0.5})
        store.add("b", NAMES, {"status": "error", "reason": "x"})
        # on disk at once, for whoever looks
        assert len(store.path.read_text().splitlines()) == 3
    with CellStore(tmp_path / "new" / "folder") as store:
        assert len(store) == 2
        assert store.get("a") == {"status": "passed", "severity": 0.5}
        assert store.finished("a")
        assert not store.finished("b")
        assert not store.finished("c")
        store.add("b", NAMES, {"status": "passed"})
    with CellStore(tmp_path / "new" / "folder") as store:
        assert store.finished("b")


@pytest.mark.parametrize(
    "torn", [b"{", b'{"key": "c", "status": "pas', b'{"key": "c"}', b"\xff\x00"]
)
def test_a_torn_last_line_is_cut_off(torn: bytes, tmp_path: Path) -> None:
    with CellStore(tmp_path) as store:
        store.add("a", NAMES, {"status": "passed"})
    before = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(before + torn)
    with CellStore(tmp_path) as store:
        assert len(store) == 1
        store.add("b", NAMES, {"status": "passed"})
    assert (tmp_path / FILE).read_bytes().startswith(before)
    with CellStore(tmp_path) as store:
        assert len(store) == 2


def test_a_torn_first_line_is_no_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(json.dumps(HEADER).encode()[:10])
    with CellStore(tmp_path) as store:
        store.add("a", NAMES, {"status": "passed"})
    with CellStore(tmp_path) as store:
        assert len(store) == 1


def test_a_line_that_can_not_be_read_is_said_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with CellStore(tmp_path) as store:
        store.add("a", NAMES, {"status": "passed"})
    with (tmp_path / FILE).open("a") as file:
        file.write('nonsense\n[1]\n{"key": 3, "status": "passed"}\n')
    with CellStore(tmp_path) as store:
        assert len(store) == 1
    told = [record.message for record in caplog.records if "can not be read" in record.message]
    # as editors count: the first line is the header
    assert [f"line {number} can" in line for number, line in zip((3, 4, 5), told, strict=True)]


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("my own\n")
    for fresh in (False, True):
        with (
            pytest.raises(ConfigurationError, match="another kind"),
            CellStore(tmp_path, fresh=fresh),
        ):
            pass
    assert (tmp_path / FILE).read_text() == "my own\n"


def test_fresh_forgets(tmp_path: Path) -> None:
    with CellStore(tmp_path) as store:
        store.add("a", NAMES, {"status": "passed"})
    with CellStore(tmp_path, fresh=True) as store:
        assert len(store) == 0


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(ConfigurationError, match="--output"), CellStore(folder):
            pass


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    with CellStore(tmp_path):
        with pytest.raises(ConfigurationError, match="one sweep at a time"), CellStore(tmp_path):
            pass
        with CellStore(tmp_path / "other"):
            pass
    with CellStore(tmp_path):
        pass
    assert set(os.listdir(tmp_path)) == {FILE, "other"}


# --- whole sweeps ---------------------------------------------------------------------------------


@pytest.fixture
def structures(tmp_path: Path) -> Path:
    for number in range(3):
        save(tmp_path / "s" / f"{number}.xyz", silicon(number))
    return tmp_path / "s"


def test_a_second_run_runs_nothing(
    tmp_path: Path, structures: Path, model_file: Callable[..., Path]
) -> None:
    path = Faked("counted", tmp_path / "log")
    plan = planned([model_file("stillinger-weber")], [structures], [path])
    first = swept(plan, tmp_path / "out")
    assert first.run == len(path.evaluations) == 3
    second = swept(plan, tmp_path / "out")
    assert second.run == 0
    assert len(path.evaluations) == 3
    assert [row.record for row in second.rows] == [row.record for row in first.rows]
    assert second.passed
    assert "3 of them kept" in second.summary()


def test_what_is_new_or_changed_is_run_and_nothing_else(
    tmp_path: Path, structures: Path, model_file: Callable[..., Path]
) -> None:
    path = Faked("counted", tmp_path / "log")
    model = model_file("stillinger-weber")
    swept(planned([model], [structures], [path]), tmp_path / "out")
    save(structures / "1.xyz", silicon(17))
    save(structures / "3.xyz", silicon(3))
    again = swept(planned([model], [structures], [path]), tmp_path / "out")
    assert again.run == 2
    assert len(path.evaluations) == 3 + 2
    other = model_file("stillinger-weber", strict=False)
    assert swept(planned([model, other], [structures], [path]), tmp_path / "out").run == 4
    assert statuses(again) == {"passed": 4}


def test_errors_are_run_again_and_skipped_cells_are_not(
    tmp_path: Path, structures: Path, model_file: Callable[..., Path]
) -> None:
    broken = Raising("broken", tmp_path / "log")
    models = [model_file("stillinger-weber"), model_file("lennard-jones")]
    plan = planned(models, [structures], [broken])
    assert statuses(swept(plan, tmp_path / "out")) == {"error": 3, "skipped": 3}
    broken.at = "nowhere"
    mended = swept(plan, tmp_path / "out")
    assert mended.run == 3
    assert statuses(mended) == {"passed": 3, "skipped": 3}


def test_two_files_of_one_content_are_one_cell(
    tmp_path: Path, model_file: Callable[..., Path]
) -> None:
    path = Faked("counted", tmp_path / "log")
    for name in ("a", "b"):
        save(tmp_path / "s" / f"{name}.xyz", silicon())
    matrix = swept(
        planned([model_file("stillinger-weber")], [tmp_path / "s"], [path]), tmp_path / "out"
    )
    assert len(path.evaluations) == 1
    assert statuses(matrix) == {"passed": 2}
    assert (matrix.run, matrix.kept) == (1, 0)
    assert matrix.summary().endswith("2 passed (1 of them the same as others)")


def test_reasons_of_files_of_one_content_say_which_was_read(
    tmp_path: Path, model_file: Callable[..., Path]
) -> None:
    path = Raising("broken", tmp_path / "log")
    for name in ("a", "b"):
        save(tmp_path / "s" / f"{name}.xyz", silicon())
    matrix = swept(
        planned([model_file("stillinger-weber")], [tmp_path / "s"], [path]), tmp_path / "out"
    )
    a, b = (row.record["reason"] for row in matrix.rows)
    assert b == f"{a} (found with structure 'a.xyz', which is the same)"


@pytest.mark.parametrize("closing", [False, True])
def test_a_full_disk_names_the_file(tmp_path: Path, closing: bool) -> None:
    def fill() -> None:
        # a device on which there never is room
        with CellStore(tmp_path) as store, Path("/dev/full").open("w") as full:
            os.dup2(full.fileno(), store._file.fileno())
            if closing:
                store._file.write("not written yet")
            else:
                store.add("a", NAMES, {"status": "passed"})

    with pytest.raises(ConfigurationError, match=r"No space left on device: .*cells\.jsonl"):
        fill()
    assert set(os.listdir(tmp_path)) == {FILE}


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigurationError, match="Is a directory"), CellStore(tmp_path):
        pass


_SWEEP = """
import sys
from pathlib import Path
from sweep_parts import Faked, planned, swept
model, structures, out = map(Path, sys.argv[1:])
swept(planned([model], [structures], [Faked("counted", out.with_suffix(".log"))]), out)
"""


def test_a_killed_sweep_goes_on_where_it_was(
    tmp_path: Path, model_file: Callable[..., Path]
) -> None:
    total = 60
    model = model_file("stillinger-weber")
    for number in range(total):
        save(tmp_path / "s" / f"{number}.xyz", silicon(number, repeat=2))
    out = tmp_path / "out"
    variables = environment()
    variables["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    running = subprocess.Popen(
        [sys.executable, "-c", _SWEEP, str(model), str(tmp_path / "s"), str(out)], env=variables
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (out / FILE).exists():
            time.sleep(0.02)
        while time.monotonic() < deadline and (out / FILE).read_bytes().count(b"\n") < 4:
            time.sleep(0.02)
    finally:
        running.kill()
        running.wait()
    kept = (out / FILE).read_bytes().count(b"\n") - 1
    assert 3 <= kept < total
    path = Faked("counted", tmp_path / "log")
    matrix = swept(planned([model], [tmp_path / "s"], [path]), out)
    assert matrix.run == len(path.evaluations) == total - kept
    assert statuses(matrix) == {"passed": total}
