"""Cells of a sweep: the same numbers as 'parity' has, and what goes wrong stays in its cell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lammps_runs import needs_lammps
from sweep_parts import (
    SHIFT,
    Absent,
    Faked,
    Lacking,
    Raising,
    Shifted,
    argon,
    planned,
    save,
    silicon,
    statuses,
    swept,
)

from alchemi_bridge.cli.main import main
from alchemi_bridge.ensembles.executors.in_process import InProcessExecutor
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.sweep import evaluation
from alchemi_bridge.ensembles.sweep import run as sweep_run
from alchemi_bridge.ensembles.sweep.engines import engine
from alchemi_bridge.ensembles.sweep.matrix import Matrix, Row
from alchemi_bridge.ensembles.sweep.plan import ModelFile, Plan, StructureFile
from alchemi_bridge.ensembles.sweep.run import HINTS, inspected
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.parity.cases import user_case
from alchemi_bridge.parity.document import ERRORS, document
from alchemi_bridge.parity.paths import Job, registered
from alchemi_bridge.parity.run import Settings
from alchemi_bridge.parity.run import run as run_parity
from alchemi_bridge.parity.tolerances import FORCE_F64


def only(matrix: Matrix) -> Row:
    (row,) = matrix.rows
    return row


@pytest.fixture
def si(model_file: Callable[..., Path]) -> Path:
    return model_file("stillinger-weber")


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_errors_and_limits_are_those_of_parity(
    frames: int, dtype: str, tmp_path: Path, model_file: Callable[..., Path]
) -> None:
    model = model_file("stillinger-weber", dtype=dtype)
    atoms = [silicon(number) for number in range(frames)]
    file = save(tmp_path / "si.xyz", *atoms)
    # off by so much that roundoff does not matter
    path = Shifted("shifted", tmp_path / "log")
    row = only(swept(planned([model], [file], [path]), tmp_path / "out"))
    report = run_parity(
        [user_case("si.xyz", model, atoms)],
        [registered()["metatomic-ase"], path],
        Settings(repeats=1, warm_up=0),
    )
    expected = document(report)["cases"][0]["paths"][1]
    assert row.status == "failed"
    assert set(row.record["limits"]) == set(expected["tolerances"]) == set(ERRORS)
    for name, limit in expected["tolerances"].items():
        assert row.record["limits"][name] == pytest.approx(limit, rel=1e-6), name
    for name in ("max_force_error", "rms_force_error"):
        assert row.record[name] == pytest.approx(expected[name], rel=1e-3), name
    # of the others there is roundoff, which both have
    for name in ("relative_energy_error", "virial_error_per_atom", "max_energies_error"):
        assert row.record[name] <= expected["tolerances"][name]


def test_a_force_that_is_off_by_so_much_is_found(si: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "si.xyz", silicon())
    row = only(swept(planned([si], [file], [Shifted("off", tmp_path / "log")]), tmp_path / "out"))
    assert row.status == "failed"
    assert row.record["max_force_error"] == pytest.approx(SHIFT, rel=1e-9)
    # 8 atoms have 24 components
    assert row.record["rms_force_error"] == pytest.approx(SHIFT / np.sqrt(24), rel=1e-6)
    assert row.record["limits"]["max_force_error"] == FORCE_F64
    assert row.record["worst"] == "force_max"
    assert row.severity == pytest.approx(SHIFT / FORCE_F64, rel=1e-9)
    assert "force_max 1.00e-03" in row.record["reason"]


def test_energies_of_the_first_frame_are_told(si: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "si.xyz", silicon(0), silicon(1))
    record = only(swept(planned([si], [file], ["ase"]), tmp_path / "out")).record
    assert -4.4 < record["energy_per_atom"] < -4.2
    assert record["reference_energy_per_atom"] == pytest.approx(record["energy_per_atom"])
    assert record["seconds"] > 0


def test_a_number_that_is_none_has_failed(si: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "si.xyz", silicon())
    matrix = swept(planned([si], [file], [Lacking("nan", tmp_path / "log")]), tmp_path / "out")
    row = only(matrix)
    assert row.status == "failed"
    assert row.severity is None
    assert row.record["reason"] == "forces: not finite"
    assert not matrix.passed


@needs_lammps
def test_engines_are_compared(model_file: Callable[..., Path], tmp_path: Path) -> None:
    models = [model_file("stillinger-weber"), model_file("lennard-jones")]
    save(tmp_path / "s" / "si.xyz", silicon(0), silicon(1))
    save(tmp_path / "s" / "ar.xyz", argon())
    matrix = swept(
        planned(models, [tmp_path / "s"], ["ase", "lammps", "bridge-batch"]), tmp_path / "out"
    )
    assert statuses(matrix) == {"passed": 6, "skipped": 6}
    assert matrix.passed


# --- work -----------------------------------------------------------------------------------------


def test_the_reference_is_computed_once_for_all_engines(si: Path, tmp_path: Path) -> None:
    reference = Faked("counted", tmp_path / "log")
    for number in range(2):
        save(tmp_path / "s" / f"{number}.xyz", silicon(number))
    plan = planned([si], [tmp_path / "s"], ["ase", "bridge-batch", "metatomic-ase"])
    plan = type(plan)(
        plan.models,
        plan.structures,
        plan.engines,
        type(plan.reference)("counted", reference),
        plan.options,
    )
    assert statuses(swept(plan, tmp_path / "out")) == {"passed": 6}
    assert len(reference.evaluations) == 2


def test_models_are_loaded_once_by_each_engine(
    model_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    true = evaluation.load_facts

    def counted(*arguments: object) -> object:
        loaded.append(arguments)
        return true(*arguments)

    monkeypatch.setattr(evaluation, "load_facts", counted)
    models = [model_file("stillinger-weber", strict=strict) for strict in (True, False)]
    for number in range(4):
        save(tmp_path / "s" / f"{number}.xyz", silicon(number))
    engines = [Faked(f"engine{number}", tmp_path / "log") for number in range(6)]
    matrix = swept(planned(models, [tmp_path / "s"], engines), tmp_path / "out")
    assert statuses(matrix) == {"passed": 48}
    assert [engine.prepared for engine in engines] == [2] * 6
    assert len(loaded) == 2
    # nothing is kept when all is done
    assert not evaluation._loaded
    assert not evaluation._evaluators


class Periodic(Faked):
    """Promises a virial of crystals only, and makes its evaluators for that."""

    def expected(self, job: Job) -> frozenset[str]:
        periodic = all(atoms.pbc.all() for atoms in job.frames)
        return job.expected - (set() if periodic else {"virial"})


def test_an_evaluator_serves_structures_of_its_kind(si: Path, tmp_path: Path) -> None:
    slab = silicon()
    slab.pbc[2] = False
    for name, atoms in (("a", silicon(1)), ("b", slab), ("c", silicon(2)), ("d", slab * (1, 2, 1))):
        save(tmp_path / "s" / f"{name}.xyz", atoms)
    path = Periodic("periodic", tmp_path / "log")
    matrix = swept(planned([si], [tmp_path / "s"], [path]), tmp_path / "out")
    assert statuses(matrix) == {"passed": 4}
    assert path.prepared == 2
    checked = ["virial_error_per_atom" in row.record["limits"] for row in matrix.rows]
    assert checked == [True, False, True, False]


def test_engines_on_a_gpu_ask_for_one() -> None:
    plan = planned_on("bridge-cuda", "ase")
    found, _ = sweep_run._units(plan, plan.cells, HINTS)
    gpus = {unit.engine.name: unit.hints.num_gpus for unit in found if unit.hints}
    assert gpus == {"bridge-cuda": 1, "ase": None, "metatomic-ase": None}
    halves, _ = sweep_run._units(plan, plan.cells, SchedulerHints(num_gpus=0.5))
    assert {unit.hints.num_gpus for unit in halves if unit.hints} == {0.5}


def planned_on(*names: str) -> Plan:
    """A plan of files that nobody opens."""
    return Plan(
        [ModelFile("m", Path("/m"), "0")],
        [StructureFile("s", Path("/s"), "extxyz", ":", "0", 1, 1, "Si")],
        [engine(name) for name in names],
        engine("metatomic-ase"),
    )


# --- what goes wrong ------------------------------------------------------------------------------


def test_an_error_in_one_cell_stops_nothing_else(si: Path, tmp_path: Path) -> None:
    save(tmp_path / "s" / "a.xyz", silicon(0))
    save(tmp_path / "s" / "b.xyz", silicon(1, repeat=2))
    save(tmp_path / "s" / "c.xyz", silicon(2))
    broken = Raising("broken", tmp_path / "log", at="Si64")
    matrix = swept(planned([si], [tmp_path / "s"], [broken, "ase"]), tmp_path / "out")
    assert statuses(matrix) == {"passed": 5, "error": 1}
    (row,) = matrix.bad()
    assert (row.cell.structure.name, row.cell.engine.name) == ("b.xyz", "broken")
    assert row.record["reason"] == "ZeroDivisionError: this engine is broken"
    assert row.record["error"]["type"] == "ZeroDivisionError"
    assert "in results" in row.record["error"]["traceback"]
    assert not matrix.passed


def test_a_reference_that_fails_is_named(si: Path, tmp_path: Path) -> None:
    plan = planned([si], [save(tmp_path / "si.xyz", silicon())], ["ase", "bridge-batch"])
    broken = Raising("broken", tmp_path / "log")
    plan = type(plan)(
        plan.models, plan.structures, plan.engines, type(plan.reference)("broken", broken), {}
    )
    matrix = swept(plan, tmp_path / "out")
    assert statuses(matrix) == {"error": 2}
    assert "no reference: broken failed: ZeroDivisionError" in matrix.rows[0].record["reason"]


def test_structures_that_a_model_does_not_know_are_skipped(si: Path, tmp_path: Path) -> None:
    mixed = silicon()
    mixed.symbols[:2] = "C"
    mixed.symbols[2] = "H"
    save(tmp_path / "s" / "mixed.xyz", silicon(), mixed)
    matrix = swept(planned([si], [tmp_path / "s"], ["ase"]), tmp_path / "out")
    row = only(matrix)
    assert row.status == "skipped"
    assert row.record["reason"] == "not applicable: the model does not know H, C"
    # nothing that is wrong, but nothing was compared either
    assert not matrix.passed
    assert "nothing was compared" in matrix.summary()


def test_what_an_engine_refuses_is_skipped(si: Path, tmp_path: Path) -> None:
    plan = planned([si], [save(tmp_path / "x.xyz", silicon())], ["oracle", "ase"])
    matrix = swept(plan, tmp_path / "out")
    assert [row.status for row in matrix.rows] == ["skipped", "passed"]
    assert matrix.rows[0].record["reason"] == "there is no oracle for a model of yours"
    assert matrix.passed


def test_a_reference_that_refuses_leaves_nothing_to_compare(si: Path, tmp_path: Path) -> None:
    plan = planned([si], [save(tmp_path / "x.xyz", silicon())], ["ase"], reference="oracle")
    row = only(swept(plan, tmp_path / "out"))
    assert row.status == "skipped"
    assert row.record["reason"].startswith("no reference: oracle: ")


def test_files_that_are_no_models_have_errors_in_their_cells(si: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"nonsense")
    file = save(tmp_path / "si.xyz", silicon())
    matrix = swept(planned([tmp_path / "broken.pt", si], [file], ["ase"]), tmp_path / "out")
    assert [row.status for row in matrix.rows] == ["error", "passed"]
    assert matrix.rows[0].record["error"]["type"] == "ModelLoadError"


def test_an_option_that_a_model_does_not_know_is_an_error_of_its_cells(
    si: Path, models: Callable[[str], Path], tmp_path: Path
) -> None:
    file = save(tmp_path / "si.xyz", silicon())
    options = {"variants": {"energy": "pbe"}}
    matrix = swept(planned([si], [file], ["ase"], options=options), tmp_path / "out")
    assert "pbe" in only(matrix).record["reason"]
    assert only(matrix).status == "error"


def test_frames_are_kept_from_when_the_sweep_began(
    si: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [save(tmp_path / f"{number}.xyz", silicon(number)) for number in range(3)]
    monkeypatch.setattr("alchemi_bridge.ensembles.sweep.plan.KEPT_ATOMS", 17)
    plan = planned([si], files, ["ase"])
    assert [one.content in plan.frames for one in plan.structures] == [True, True, False]
    for file in files:
        file.unlink()
    matrix = swept(plan, tmp_path / "out")
    assert [row.status for row in matrix.rows] == ["passed", "passed", "error"]


@pytest.mark.parametrize("what", ["model", "structure"])
def test_files_that_change_meanwhile_are_noticed(
    what: str,
    si: Path,
    tmp_path: Path,
    model_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alchemi_bridge.ensembles.sweep.plan.KEPT_ATOMS", 0)
    model, file = tmp_path / "copy.pt", save(tmp_path / "si.xyz", silicon())
    model.write_bytes(si.read_bytes())
    plan = planned([model], [file], ["ase"])
    if what == "model":
        model.write_bytes(model_file("lennard-jones").read_bytes())
    else:
        save(file, silicon(1))
    row = only(swept(plan, tmp_path / "out"))
    assert row.status == "error"
    assert file.name in row.record["reason"] or model.name in row.record["reason"]


def test_an_engine_that_is_not_installed_is_an_error_before_any_work(
    si: Path, tmp_path: Path
) -> None:
    counted = Faked("counted", tmp_path / "log")
    plan = planned([si], [save(tmp_path / "x.xyz", silicon())], [counted, Absent("far", tmp_path)])
    with pytest.raises(ConfigurationError, match="another planet"):
        inspected(plan, InProcessExecutor())
    assert counted.evaluations == []


# --- the command line of parity has the same numbers ----------------------------------------------


def test_the_same_limits_as_on_the_command_line_of_parity(
    si: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = save(tmp_path / "si.xyz", silicon(0), silicon(1))
    assert main(["parity", str(si), str(file), "--path", "bridge-list", "--json"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert main(["sweep", str(si), str(file), "--engines", "bridge-list", "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    path = next(one for one in case["paths"] if one["name"] == "bridge-list")
    assert cell["limits"] == pytest.approx(path["tolerances"])
    assert cell["dtype"] == case["dtype"]
