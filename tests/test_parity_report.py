"""The report: JSON, CSV, plots, and an HTML file that needs nothing but itself."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import parity_fakes as fakes
import pytest
from PIL import Image
from rich.console import Console

from alchemi_bridge.parity import cases, paths, plots, report
from alchemi_bridge.parity.document import CSV_COLUMNS, document
from alchemi_bridge.parity.run import Report, Settings, run

HOSTILE = "<script>alert('x')</script>"
ERRORS = (
    "energy_error_per_atom",
    "relative_energy_error",
    "max_force_error",
    "rms_force_error",
    "virial_error_per_atom",
    "max_energies_error",
)


class Absent(fakes.SpoiledPath):
    """A path that is never there."""

    def unavailable(self) -> str:
        return "not on this machine"


@pytest.fixture(scope="module")
def good() -> Report:
    chosen = [*paths.select(["oracle", "bridge-cpu"]), Absent(fakes.unspoiled, "absent")]
    return run(cases.select(["small-cell", "one-atom"]), chosen, Settings(repeats=2, warm_up=0))


@pytest.fixture(scope="module")
def bad() -> Report:
    """NaN forces on one path, an exception on another, a case with a hostile name."""
    spoiled = [
        fakes.SpoiledPath(fakes.nan_force, "nan"),
        fakes.SpoiledPath(fakes.raises, "broken"),
        fakes.SpoiledPath(fakes.wrong_force, "wrong"),
    ]
    case = dataclasses.replace(cases.BUILT_IN["small-cell"], name=HOSTILE)
    chosen = [*paths.select(["oracle"]), *spoiled]
    return run([case], chosen, Settings(repeats=1, warm_up=0))


def strict(text: str) -> dict:
    """JSON without the NaN and Infinity that Python would let through."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_document_has_every_key(good: Report) -> None:
    data = strict(json.dumps(document(good), allow_nan=False))
    assert data["schema"] == 1
    assert data["passed"] is True
    assert {path["name"]: path["reason"] for path in data["paths"]} == {
        "oracle": None,
        "bridge-cpu": None,
        "absent": "not on this machine",
    }
    assert data["versions"]["torch"]
    assert data["machine"]["cpu"]
    assert data["machine"]["torch_threads"] == 1
    assert [case["name"] for case in data["cases"]] == ["small-cell", "one-atom"]
    for case in data["cases"]:
        assert case["passed"] is True
        assert case["reference"] == "oracle"
        assert case["dtype"] == "float64"
        assert case["frames"] == 2
        assert case["skipped"] == [{"name": "absent", "reason": "not on this machine"}]
        assert [path["name"] for path in case["paths"]] == ["oracle", "bridge-cpu"]
        for path in case["paths"]:
            assert path["passed"] is True
            assert path["failures"] == []
            assert path["ms_per_step"] > 0.0
            for name in ERRORS:
                assert 0.0 <= path[name] < 1e-9
            assert set(path["tolerances"]) == set(ERRORS[1:])


def test_document_of_a_failed_run_says_what_is_off(bad: Report) -> None:
    data = strict(json.dumps(document(bad), allow_nan=False))
    assert data["passed"] is False
    assert data["cases"][0]["passed"] is False
    found = {path["name"]: path for path in data["cases"][0]["paths"]}
    assert [found[name]["passed"] for name in ("oracle", "nan", "broken", "wrong")] == [
        True,
        False,
        False,
        False,
    ]
    assert found["nan"]["max_force_error"] is None
    assert found["nan"]["failures"] == ["forces: not finite"]
    assert found["broken"]["failures"] == ["RuntimeError: this path is broken"]
    assert found["wrong"]["max_force_error"] == pytest.approx(1e-8, rel=1e-3)


def test_files_are_written_and_readable(good: Report, tmp_path: Path) -> None:
    files = report.write(good, tmp_path / "a" / "b")
    assert set(files) == {"html", "json", "csv", "margins", "plot:small-cell", "plot:one-atom"}
    assert strict(files["json"].read_text(encoding="utf-8"))["passed"] is True
    for path in files.values():
        assert path.stat().st_size > 0
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert min(image.size) > 300
                assert len(set(image.convert("L").resize((40, 40)).tobytes())) > 5  # not blank


def test_csv_has_a_row_for_every_path(good: Report, bad: Report, tmp_path: Path) -> None:
    with report.write(good, tmp_path)["csv"].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(row["case"], row["path"], row["status"]) for row in rows] == [
        ("small-cell", "oracle", "reference"),
        ("small-cell", "bridge-cpu", "compared"),
        ("small-cell", "absent", "skipped"),
        ("one-atom", "oracle", "reference"),
        ("one-atom", "bridge-cpu", "compared"),
        ("one-atom", "absent", "skipped"),
    ]
    assert rows[1]["passed"] == "True"
    assert float(rows[1]["max_force_error"]) < 1e-9
    assert rows[2]["reason"] == "not on this machine"
    assert rows[2]["passed"] == ""
    with report.write(bad, tmp_path)["csv"].open(newline="", encoding="utf-8") as file:
        spoiled = {row["path"]: row for row in csv.DictReader(file)}
    assert spoiled["nan"]["max_force_error"] == ""
    assert spoiled["nan"]["passed"] == "False"
    assert spoiled["nan"]["reason"] == "forces: not finite"


def test_html_needs_nothing_else(good: Report, tmp_path: Path) -> None:
    html = report.write(good, tmp_path)["html"].read_text(encoding="utf-8")
    assert "http:" not in html
    assert "https:" not in html
    assert "<script" not in html
    assert "@import" not in html
    assert "url(" not in html
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert len(sources) == 3  # two cases and the margins
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "all within tolerance" in html
    assert "absent" in html
    assert "not run: not on this machine" in html


def test_html_escapes_and_shows_failures(bad: Report, tmp_path: Path) -> None:
    files = report.write(bad, tmp_path)
    html = files["html"].read_text(encoding="utf-8")
    assert HOSTILE not in html
    assert "&lt;script&gt;" in html
    assert "OFF: forces: not finite" in html
    assert all(path.parent == tmp_path for path in files.values())


def test_table_shows_everything(good: Report, bad: Report) -> None:
    def text(of: Report) -> str:
        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        with console.file:
            console.print(report.table(of))
            return console.export_text()

    shown = text(good)
    for word in ("small-cell", "oracle", "bridge-cpu", "reference", "ok", "dF max", "ms/step"):
        assert word in shown
    assert "not run: not on this machine" in shown
    shown = text(bad)
    assert "OFF: forces: not finite" in shown
    assert "OFF: RuntimeError" in shown
    assert "nan" in report.summary(bad)
    assert "1 case, 3 comparisons" in report.summary(bad)


def test_times_on_a_busy_machine_are_not_taken_for_granted(good: Report) -> None:
    assert report.busy(dataclasses.replace(good, cpu_share=0.99)) is None
    assert report.busy(dataclasses.replace(good, cpu_share=None)) is None
    note = report.busy(dataclasses.replace(good, cpu_share=0.4))
    assert note is not None
    assert "40%" in note


def test_a_crowd_of_files_with_one_name_does_not_overwrite(good: Report, tmp_path: Path) -> None:
    names = ("a/x.xyz", "a:x.xyz", "...")
    twins = [
        dataclasses.replace(good.cases[0], case=dataclasses.replace(good.cases[0].case, name=name))
        for name in names
    ]
    files = report.write(dataclasses.replace(good, cases=twins), tmp_path)
    plots = [path for name, path in files.items() if name.startswith("plot:")]
    assert len(set(plots)) == 3
    assert all(path.exists() for path in plots)


def test_many_paths_look_different() -> None:
    many = [SimpleNamespace(name=f"path {k}") for k in range(20)]
    made = SimpleNamespace(cases=[SimpleNamespace(ran=many, reference="none")], paths=many)
    looks = {(style["color"], style["marker"]) for style in plots.styles(made).values()}
    assert len(looks) == len(many)
