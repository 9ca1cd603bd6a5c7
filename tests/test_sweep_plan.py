"""What a sweep is about: files, names, engines, and keys of what numbers depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_parts import Faked, argon, planned, save, silicon, swept

import alchemi_bridge
from alchemi_bridge.ensembles.content import hash_of_frames
from alchemi_bridge.ensembles.executors.in_process import InProcessExecutor
from alchemi_bridge.ensembles.sweep import surroundings
from alchemi_bridge.ensembles.sweep.engines import Engine, engine, engines
from alchemi_bridge.ensembles.sweep.files import model_files, structure_files
from alchemi_bridge.ensembles.sweep.plan import Plan
from alchemi_bridge.ensembles.sweep.run import inspected
from alchemi_bridge.errors import ConfigurationError, StructureFileError, UntrustedModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Models a.pt and sub/a.pt, b.pt, and others that are none."""
    for name in ("a.pt", "b.pt", "sub/a.pt", "sub/notes.txt", ".hidden/c.pt"):
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "models"


def names(files: list[Path], folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in files]


# --- files ----------------------------------------------------------------------------------------


def test_a_folder_is_searched_but_for_what_is_hidden(folder: Path) -> None:
    assert names(model_files([str(folder)]), folder) == ["a.pt", "b.pt", "sub/a.pt"]


def test_files_folders_and_patterns_each_file_once(folder: Path) -> None:
    asked = [str(folder / "b.pt"), f"{folder}/*.pt", str(folder)]
    assert names(model_files(asked), folder) == ["b.pt", "a.pt", "sub/a.pt"]
    (folder / "link.pt").symlink_to(folder / "b.pt")
    assert "link.pt" not in names(model_files([f"{folder}/b.pt", str(folder)]), folder)
    # what is named itself may be called anything
    assert names(model_files([f"{folder}/sub/notes.txt"]), folder) == ["sub/notes.txt"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "a[1].pt"
    path.touch()
    assert model_files([str(path)]) == [path]


def test_structures_in_a_folder_are_known_by_their_names(tmp_path: Path) -> None:
    for name in ("a.xyz", "b.CIF", "POSCAR_1", "c.extxyz", "notes.md", "model.pt"):
        (tmp_path / name).touch()
    found = names(structure_files([str(tmp_path)]), tmp_path)
    assert sorted(found) == ["POSCAR_1", "a.xyz", "b.CIF", "c.extxyz"]


@pytest.mark.parametrize(
    ("asked", "word"),
    [("none.pt", "nothing of that name"), ("none*.pt", "nothing of that name"), ("sub", "none")],
)
def test_nothing_there(asked: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(ConfigurationError, match=word):
        model_files([str(tmp_path / asked)])


# --- engines --------------------------------------------------------------------------------------


def test_engines_by_name_and_alias() -> None:
    found = engines(["ase", "lammps", "bridge-batch"])
    assert [one.name for one in found] == ["ase", "lammps", "bridge-batch"]
    assert [one.path.name for one in found] == ["bridge-cpu", "lammps", "bridge-batch"]


def test_unknown_engines_and_the_same_twice() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'lammps'"):
        engines(["ase", "lamps"])
    with pytest.raises(ConfigurationError, match="'ase' and 'bridge-cpu', which is the same"):
        engines(["ase", "bridge-cpu"])
    with pytest.raises(ConfigurationError, match="'ase' twice"):
        engines(["ase", "ase"])


# --- the plan -------------------------------------------------------------------------------------


@pytest.fixture
def plan(folder: Path, tmp_path: Path) -> Plan:
    save(tmp_path / "s" / "si.xyz", silicon(0), silicon(1))
    save(tmp_path / "s" / "ar.xyz", argon())
    return planned([folder], [tmp_path / "s"], ["ase", "bridge-batch"])


def test_cells_of_a_model_and_structure_follow_each_other(plan: Plan) -> None:
    assert len(plan) == len(plan.cells) == 3 * 2 * 2
    assert len({cell.name for cell in plan.cells}) == 12
    models = [cell.model for cell in plan.cells]
    assert models == sorted(models, key=plan.models.index)
    assert [cell.engine.name for cell in plan.cells[:4]] == ["ase", "bridge-batch"] * 2
    assert [cell.structure.name for cell in plan.cells[:4]] == ["ar.xyz"] * 2 + ["si.xyz"] * 2


def test_models_of_one_name_are_told_apart(plan: Plan, folder: Path) -> None:
    assert [model.name for model in plan.models] == ["a.pt", "b.pt", "sub/a.pt"]
    assert folder.name not in plan.models[0].name


def test_structures_are_described(plan: Plan) -> None:
    ar, si = plan.structures
    assert (ar.frames, ar.atoms, ar.formula) == (1, 32, "Ar32")
    assert (si.frames, si.atoms, si.formula) == (2, 8, "Si8")
    assert si.path.is_absolute()


def test_index_picks_frames(folder: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "si.xyz", silicon(0), silicon(1), silicon(2))
    last = planned([folder], [file], ["ase"], index="-1").structures[0]
    alone = planned([folder], [save(tmp_path / "2.xyz", silicon(2))], ["ase"]).structures[0]
    assert last.frames == 1
    assert last.content == alone.content


def test_structures_that_can_not_be_read(folder: Path, tmp_path: Path) -> None:
    good = save(tmp_path / "s" / "good.xyz", silicon())
    for number in range(5):
        (tmp_path / "s" / f"bad{number}.xyz").write_text("two\n\n")
    with pytest.raises(StructureFileError, match=r"bad1\.xyz"):
        planned([folder], [good, tmp_path / "s" / "bad1.xyz"], ["ase"])
    with pytest.raises(StructureFileError, match=r"5 of 6 structure files.*bad2.*and 2 more"):
        planned([folder], [tmp_path / "s"], ["ase"])


def test_a_pinned_hash_is_that_of_each_model(plan: Plan, folder: Path, tmp_path: Path) -> None:
    pinned = plan.models[0].sha256
    files = [tmp_path / "s"]
    assert planned([plan.models[0].path], files, ["ase"], sha256=pinned.upper())
    with pytest.raises(UntrustedModelError, match=r"b\.pt"):
        planned([folder], files, ["ase"], sha256=pinned)


# --- keys -----------------------------------------------------------------------------------------


def keys(plan: Plan) -> list[str]:
    return [cell.key for cell in plan.cells]


def test_keys_differ_and_do_not_depend_on_names(plan: Plan, tmp_path: Path) -> None:
    assert len(set(keys(plan))) == len(plan)
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    (tmp_path / "s" / "ar.xyz").rename(tmp_path / "s" / "a new name.xyz")
    moved = planned([tmp_path / "elsewhere"], [tmp_path / "s"], ["ase", "bridge-batch"])
    assert keys(moved) == keys(plan)


def test_a_model_that_changed_has_new_keys_and_others_have_not(plan: Plan, folder: Path) -> None:
    (folder / "b.pt").write_text("another one")
    again = planned([folder], [plan.structures[0].path.parent], ["ase", "bridge-batch"])
    changed = [
        cell.model.name
        for cell, old in zip(again.cells, plan.cells, strict=True)
        if cell.key != old.key
    ]
    assert {Path(name).name for name in changed} == {"b.pt"}
    assert len(changed) == 4


def test_keys_depend_on_all_that_numbers_depend_on(plan: Plan) -> None:
    reference, first = plan.reference, plan.engines[0]
    others = [
        dataclasses.replace(plan, reference=engine("bridge-list")),
        dataclasses.replace(plan, reference=dataclasses.replace(reference, version="2")),
        dataclasses.replace(plan, options={"non_conservative": True}),
        dataclasses.replace(plan, engines=[Engine("ase", first.path, "2"), plan.engines[1]]),
    ]
    assert all(keys(other)[0] != keys(plan)[0] for other in others)
    # another name of an engine is the same engine
    same = dataclasses.replace(plan, engines=[Engine("x", first.path), plan.engines[1]])
    assert keys(same) == keys(plan)


@pytest.fixture
def other_code(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """As if somebody worked on this package."""
    return lambda: monkeypatch.setattr(surroundings, "hash_of_sources", lambda: "another")


def test_keys_depend_on_code_and_packages_where_engines_run(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, other_code: Callable[[], None]
) -> None:
    here = InProcessExecutor()
    before = keys(inspected(plan, here))
    assert keys(inspected(plan, here)) == before
    monkeypatch.setattr(surroundings, "versions", lambda: {"torch": "9"})
    upgraded = keys(inspected(plan, here))
    other_code()
    found = [*before, *upgraded, *keys(inspected(plan, here))]
    assert len(set(found)) == 3 * len(plan)


def test_engines_are_looked_at_all_at_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    executor, events = InProcessExecutor(), []

    def noting(name: str) -> None:
        method = getattr(executor, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            events.append(name)
            return method(*args, **kwargs)

        monkeypatch.setattr(executor, name, noted)

    for name in ("submit", "result"):
        noting(name)
    inspected(plan, executor)
    assert events == ["submit"] * 3 + ["result"] * 3


def test_cells_are_run_again_when_the_code_changed(
    model_file: Callable[..., Path], tmp_path: Path, other_code: Callable[[], None]
) -> None:
    counted = Faked("counted", tmp_path / "log")
    structure = save(tmp_path / "si.xyz", silicon())
    plan = planned([model_file("stillinger-weber")], [structure], [counted])
    for evaluations in (1, 1):
        swept(plan, tmp_path / "out")
        assert len(counted.evaluations) == evaluations
    other_code()
    assert swept(plan, tmp_path / "out").run == 1
    assert len(counted.evaluations) == 2


def test_the_hash_of_sources_is_that_of_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> str:
        surroundings.hash_of_sources.cache_clear()
        return surroundings.hash_of_sources()

    monkeypatch.setattr(alchemi_bridge, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "kernels").mkdir()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "kernels" / "a.cu").write_text("one")
    seen = [found()]
    (tmp_path / "__pycache__" / "a.pyc").write_text("compiled")
    assert found() == seen[0]
    (tmp_path / "kernels" / "a.cu").write_text("two")
    seen.append(found())
    (tmp_path / "kernels" / "a.cu").rename(tmp_path / "a.cu")
    seen.append(found())
    assert len(set(seen)) == 3
    surroundings.hash_of_sources.cache_clear()


def test_keys_depend_on_extensions(plan: Plan, tmp_path: Path) -> None:
    library = tmp_path / "extensions" / "lib" / "libmore.so.1"
    library.parent.mkdir(parents=True)
    options = {"extensions_directory": str(tmp_path / "extensions")}
    found = []
    for content in ("one", "two"):
        library.write_text(content)
        (library.parent / "notes.txt").write_text(content * 2)
        found.append(keys(dataclasses.replace(plan, options=options))[0])
    assert len(set(found)) == 2
    (library.parent / "notes.txt").write_text("no library")
    assert keys(dataclasses.replace(plan, options=options))[0] == found[-1]


def change_cell(atoms):
    atoms.cell[0, 1] += 1e-12


def change_position(atoms):
    atoms.positions[3, 2] = np.nextafter(atoms.positions[3, 2], 9.0)


def change_kind(atoms):
    atoms.numbers[0] = 6


def change_periodicity(atoms):
    atoms.pbc[2] = False


def change_charges(atoms):
    atoms.set_initial_charges(np.ones(len(atoms)))


def change_info(atoms):
    atoms.info["charge"] = 1


@pytest.mark.parametrize(
    "change",
    [
        change_cell,
        change_position,
        change_kind,
        change_periodicity,
        change_charges,
        change_info,
    ],
)
def test_content_of_structures_is_hashed_to_the_last_bit(change: Callable) -> None:
    changed = silicon()
    change(changed)
    assert hash_of_frames([changed]) != hash_of_frames([silicon()])
    assert hash_of_frames([silicon()]) == hash_of_frames([silicon()])
    assert hash_of_frames([silicon(), silicon()]) != hash_of_frames([silicon()])


def test_values_of_any_kind_can_be_hashed() -> None:
    atoms = silicon()
    atoms.info = {"list": [[1], [1, 2]], "none": None, "text": "x", 3: {"a": 1}}
    assert hash_of_frames([atoms]) == hash_of_frames([atoms.copy()])
