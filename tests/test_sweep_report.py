"""What a sweep shows: JSON, CSV, HTML, heat map; also for tens of thousands of cells."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.image import imread

from alchemi_bridge.ensembles.sweep import heatmap, report
from alchemi_bridge.ensembles.sweep.engines import engine
from alchemi_bridge.ensembles.sweep.html import MOST_LISTED
from alchemi_bridge.ensembles.sweep.matrix import ERROR_NAMES, Matrix, document
from alchemi_bridge.ensembles.sweep.plan import ModelFile, Plan, StructureFile
from alchemi_bridge.parity.document import ERRORS

SKIPPED = {"status": "skipped", "reason": "not applicable: the model does not know Si"}
ERROR = {
    "status": "error",
    "reason": "ValueError: <b>bold</b>",
    "error": {"type": "ValueError", "message": "<b>", "traceback": "Traceback </script>"},
}
MISSING = {"status": "failed", "reason": "forces: not finite", "severity": None, "limits": {}}


def number(severity: float) -> dict[str, Any]:
    """The record of a cell with numbers."""
    return {
        "status": "passed" if severity <= 1 else "failed",
        "reason": "" if severity <= 1 else 'force_max too large, "really"',
        "dtype": "float64",
        **{name: severity * 10.0**-place for place, name in enumerate(ERROR_NAMES, start=9)},
        "limits": dict.fromkeys(ERRORS, 1e-9),
        "severity": severity,
        "worst": "force_max",
        "energy_per_atom": -1 / 3,
        "reference_energy_per_atom": -1 / 3,
        "seconds": 0.1,
    }


def matrix_of(
    models: int, structures: int, engines: list[str], records: Mapping[int, dict] | None = None
) -> Matrix:
    """A matrix with these records by the number of their cell; 1e-3 for all others."""
    plan = Plan(
        [ModelFile(f"model{i}.pt", Path(f"/m/{i}"), f"{i:064x}") for i in range(models)],
        [
            StructureFile(f"s{i}.xyz", Path(f"/s/{i}"), "extxyz", ":", str(i), 1, 8, "Si8")
            for i in range(structures)
        ],
        [engine(name) for name in engines],
        engine("metatomic-ase"),
    )
    found = {
        cell.key: (records or {}).get(place, number(1e-3)) for place, cell in enumerate(plan.cells)
    }
    return Matrix.of(plan, lambda cell: found.get(cell.key), run=found, seconds=1.0)


#: Two models, three structures, two engines: each kind of cell.
MIXED = {1: number(30.0), 4: SKIPPED, 5: SKIPPED, 6: ERROR, 8: MISSING, 11: number(1e9)}


@pytest.fixture(scope="module")
def mixed() -> Matrix:
    return matrix_of(2, 3, ["ase", "lammps"], MIXED)


@pytest.fixture(scope="module")
def files(mixed: Matrix, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return report.write(mixed, document(mixed), tmp_path_factory.mktemp("report"))


# --- data -----------------------------------------------------------------------------------------


def test_counts_and_what_is_off_comes_first(mixed: Matrix) -> None:
    assert mixed.counts == {"passed": 6, "failed": 3, "skipped": 2, "error": 1}
    assert not mixed.passed
    order = [row.record for row in mixed.bad()]
    assert order == [ERROR, MISSING, number(1e9), number(30.0)]
    assert matrix_of(1, 2, ["ase"]).passed
    assert not matrix_of(1, 2, ["ase"], {0: SKIPPED, 1: SKIPPED}).passed


def test_json_holds_all(mixed: Matrix, files: dict[str, Path]) -> None:
    data = json.loads(files["json"].read_text())
    assert data == json.loads(json.dumps(document(mixed) | {"date": data["date"]}))
    assert data["counts"] == mixed.counts
    assert len(data["cells"]) == 12
    assert data["cells"][1] == {
        "model": "model0.pt",
        "structure": "s0.xyz",
        "engine": "lammps",
        **number(30.0),
    }
    for what in ("models", "structures", "engines"):
        counts = [group["counts"] for group in data[what]]
        assert sum(count["failed"] for count in counts) == 3
        assert sum(sum(count.values()) for count in counts) == 12
    assert data["engines"][1]["worst_severity"] == 1e9


def test_a_cell_is_one_line_of_the_json_file(files: dict[str, Path]) -> None:
    lines = files["json"].read_text().splitlines()
    assert sum(line.startswith('    {"model"') for line in lines) == 12


def test_csv_has_the_numbers_of_the_json(files: dict[str, Path]) -> None:
    cells = json.loads(files["json"].read_text())["cells"]
    with files["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):
        for name in ("model", "structure", "engine", "status", "reason"):
            assert row[name] == cell[name]
        for name in (*ERROR_NAMES, "severity", "energy_per_atom", "seconds"):
            found = cell.get(name)
            assert row[name] == ("" if found is None else repr(found))
        for name in ERRORS:
            found = cell.get("limits", {}).get(name)
            assert row[f"{name}_limit"] == ("" if found is None else repr(found))
        assert row["error_type"] == cell.get("error", {}).get("type", "")
        assert row["reference"] == "metatomic-ase"


# --- HTML -----------------------------------------------------------------------------------------


def test_html_needs_nothing_else_and_runs_nothing_of_others(files: dict[str, Path]) -> None:
    page = files["html"].read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert "<b>bold" not in page
    assert page.count("</script>") == 1
    assert "data:image/png;base64," in page


def test_html_lists_what_is_off_first(files: dict[str, Path]) -> None:
    page = files["html"].read_text()
    assert page.index("What is off") < page.index("Heat map") < page.index("All cells")
    listed = page[page.index("What is off") : page.index("Heat map")]
    assert listed.count('<td class="failed">failed</td>') == 3
    assert listed.count('<td class="error">error</td>') == 1
    assert "model0.pt" in listed


def test_html_holds_all_cells_as_data(mixed: Matrix, files: dict[str, Path]) -> None:
    found = re.search(r"^const data = (.*);$", files["html"].read_text(), re.MULTILINE)
    assert found is not None
    data = json.loads(found[1])
    assert len(data["cells"]) == len(mixed.rows)
    for (model, structure, one, status, severity, reason), row in zip(
        data["cells"], mixed.rows, strict=True
    ):
        assert data["models"][model] == row.cell.model.name
        assert data["structures"][structure] == row.cell.structure.name
        assert data["engines"][one] == row.cell.engine.name
        assert data["statuses"][status] == row.status
        assert severity == row.severity
        assert data["reasons"][reason] == row.record["reason"]


# --- the heat map ---------------------------------------------------------------------------------


def test_rows_are_models_and_engines_and_columns_structures(mixed: Matrix) -> None:
    values = heatmap.severities(mixed)
    assert values.shape == (4, 3)
    expected = np.full((4, 3), -3.0)
    expected[1, 0] = np.log10(30.0)
    expected[:2, 2] = -np.inf
    expected[2, 0] = np.inf
    expected[2, 1] = heatmap.HIGHEST  # a number that is missing
    expected[3, 2] = heatmap.HIGHEST
    np.testing.assert_allclose(values, expected)


def test_colours_tell_good_from_bad() -> None:
    values = np.array([[-6.0, -0.01, 0.0, 0.01, 6.0, -np.inf, np.inf]])
    found = heatmap.colours(values)[0]
    # blue within the limit; red and no blue beyond
    assert all(colour[2] > colour[0] for colour in found[:2])
    assert all(colour[0] > colour[2] for colour in found[3:5])
    assert tuple(found[5]) == to_rgba(heatmap.SKIPPED)
    assert tuple(found[6]) == to_rgba(heatmap.ERROR)


def test_of_cells_that_share_a_pixel_the_worst_shows() -> None:
    values = np.full((7, 5000), -4.0)
    values[3, 4321] = 2.0
    values[5] = -np.inf
    small = heatmap.binned(values, 7, 1000)
    assert small.shape == (7, 1000)
    assert np.argwhere(small == 2.0).tolist() == [[3, 4321 // 5]]
    assert np.all(small[5] == -np.inf)
    odd = heatmap.binned(np.arange(7.0)[:, None], 3, 1)
    assert odd.ravel().tolist() == [1.0, 3.0, 6.0]
    assert heatmap.binned(values, 10, 10000) is values


def shown(path: Path, colour: Any) -> int:
    """Number of pixels of this colour, up to the rounding of a PNG file."""
    pixels = imread(path)[..., :3]
    return int(np.sum(np.all(np.abs(pixels - np.asarray(to_rgba(colour))[:3]) < 2 / 255, axis=-1)))


def test_each_kind_of_cell_covers_its_area(files: dict[str, Path], tmp_path: Path) -> None:
    picture = files["heatmap"]
    good = heatmap.colours(np.array([[-3.0]]))[0, 0]
    cells = {"good": shown(picture, good), "skipped": shown(picture, heatmap.SKIPPED)}
    # six cells that passed, two that were skipped, less what is written in them, and the legend
    assert 2.2 < cells["good"] / cells["skipped"] < 3.6
    clean = tmp_path / "clean.png"
    heatmap.plot(matrix_of(2, 3, ["ase", "lammps"]), clean)
    # letters have grey edges
    assert shown(clean, heatmap.SKIPPED) < 0.02 * cells["skipped"]


@pytest.mark.parametrize(("models", "structures"), [(1, 1), (1, 40), (40, 1), (3, 2500)])
def test_any_shape_can_be_drawn(models: int, structures: int, tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    heatmap.plot(matrix_of(models, structures, ["ase"], {0: ERROR}), path)
    height, width = imread(path).shape[:2]
    assert 200 < height < 4000
    assert 400 < width < 3000
    assert shown(path, heatmap.ERROR) > 20


def test_names_are_no_formulas(tmp_path: Path) -> None:
    matrix = matrix_of(1, 1, ["ase"])
    name = "$\\frac{$" + "x" * 80
    structure = StructureFile(name, Path("/s"), "extxyz", ":", "1", 1, 1, "Si")
    plan = Plan(matrix.plan.models, [structure], matrix.plan.engines, matrix.plan.reference)
    heatmap.plot(Matrix.of(plan, lambda _: number(1e-3)), tmp_path / "map.png")


def test_names_in_any_script_make_no_noise(tmp_path: Path) -> None:
    plan = matrix_of(1, 1, ["ase"]).plan
    models = [dataclasses.replace(plan.models[0], name="銅.pt")]
    plan = dataclasses.replace(plan, models=models)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heatmap.plot(Matrix.of(plan, lambda _: number(1e-3)), tmp_path / "map.png")


# --- tens of thousands ----------------------------------------------------------------------------


def test_thirty_thousand_cells(tmp_path: Path) -> None:
    records = {place: number(100.0) for place in range(0, 30000, 50)}
    matrix = matrix_of(20, 500, ["ase", "lammps", "bridge-batch"], records)
    files = report.write(matrix, document(matrix), tmp_path)
    page = files["html"].read_text()
    assert page.count('<td class="failed">failed</td>') == MOST_LISTED
    assert f"The worst {MOST_LISTED} of 600" in page
    # what a browser opens, and an editor
    assert files["html"].stat().st_size < 5e6
    assert files["heatmap"].stat().st_size < 1e6
    assert files["json"].stat().st_size < 40e6
