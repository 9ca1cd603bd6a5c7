"""``alchemi-bridge evaluate``."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
import zoo
from ase.build import bulk, molecule
from cli_runs import Cli, as_user, environment, save, silicon, with_nan
from zoo_parts import MEMBERS, UNCERTAINTY

from alchemi_bridge.engines.ase import BridgeCalculator

ModelFile = Callable[..., Path]

# the same model on the same numbers: only the order of a sum may differ between batches
SAME_ENERGY = 1e-12  # relative
SAME_FORCE = 1e-11  # eV/Å
SINGLE_PRECISION = 1e-6  # the zoo keeps the prefactors of its members in float32
GPA = 160.21766208  # eV/Å^3 in GPa (CODATA 2014, as in ase.units)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def model(model_file: ModelFile) -> Path:
    return model_file("stillinger-weber")


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Three crystals, a slab and a cluster."""
    slab, cluster = silicon(seed=8), silicon(seed=9)
    slab.pbc = (True, True, False)
    cluster.pbc = False
    return save(tmp_path / "si.xyz", *(silicon(seed=seed) for seed in range(3)), slab, cluster)


def test_results_come_back_from_the_file(cli: Cli, model: Path, frames: Path) -> None:
    run = cli("evaluate", model, frames, "--energies", "--json")
    assert run.status == 0
    assert run.stderr == ""
    output = frames.with_name("si.evaluated.extxyz")
    assert run.document["outputs"] == [str(output)]
    calculator = BridgeCalculator(model)
    originals = ase.io.read(frames, ":")
    rows = run.document["frames"]
    for row, atoms, written in zip(rows, originals, ase.io.read(output, ":"), strict=True):
        assert np.array_equal(atoms.positions, written.positions)
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        assert written.get_potential_energy() == pytest.approx(energy, rel=SAME_ENERGY)
        assert np.allclose(written.get_forces(), atoms.get_forces(), rtol=0, atol=SAME_FORCE)
        assert written.get_potential_energies().sum() == pytest.approx(energy, rel=SAME_ENERGY)
        assert row["energy_eV"] == written.get_potential_energy()
        assert row["energy_per_atom_eV"] == row["energy_eV"] / 8
        largest = np.linalg.norm(written.get_forces(), axis=1).max()
        assert row["max_force_eV_per_A"] == pytest.approx(largest, rel=SAME_ENERGY)
        if atoms.pbc.all():
            assert np.allclose(written.get_stress(), atoms.get_stress(), rtol=0, atol=SAME_FORCE)
            pressure = -written.get_stress()[:3].mean() * GPA
            assert row["pressure_GPa"] == pytest.approx(pressure, rel=1e-9)
        else:
            assert row["pressure_GPa"] is None
            assert "stress" not in written.calc.results


@pytest.mark.parametrize("batch", [2, 5, 100])
def test_batches_give_the_same(cli: Cli, model: Path, frames: Path, batch: int) -> None:
    single = cli("evaluate", model, frames, "--json").document["frames"]
    together = cli("evaluate", model, frames, "--json", "--force", "--batch", batch).document
    assert [row["frame"] for row in together["frames"]] == list(range(5))
    for one, other in zip(single, together["frames"], strict=True):
        assert one["energy_eV"] == pytest.approx(other["energy_eV"], rel=SAME_ENERGY)


def test_frames_are_streamed(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more frames are alive than a batch holds."""
    alive = {"now": 0, "most": 0}

    class Counted(ase.Atoms):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            alive["now"] += 1
            alive["most"] = max(alive["most"], alive["now"])

        def __del__(self) -> None:
            alive["now"] -= 1

    path = save(tmp_path / "many.xyz", *(silicon(seed=seed) for seed in range(30)))
    monkeypatch.setattr("ase.io.extxyz.Atoms", Counted)
    assert cli("evaluate", model, path, "--batch", 3, "--json").status == 0
    # a batch, the next one, the copies that are written, the copy that a calculator keeps
    assert 3 <= alive["most"] <= 12


def test_many_files_and_one_output(cli: Cli, model: Path, frames: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.xyz", silicon(seed=20))
    run = cli("evaluate", model, frames, other, "-o", tmp_path / "all.extxyz", "--json")
    assert len(ase.io.read(tmp_path / "all.extxyz", ":")) == 6
    assert [row["structure"] for row in run.document["frames"]] == [str(frames)] * 5 + [str(other)]
    assert cli("evaluate", model, frames, other).status == 0
    assert len(ase.io.read(tmp_path / "other.evaluated.extxyz", ":")) == 1


def test_index(cli: Cli, model: Path, frames: Path) -> None:
    rows = cli("evaluate", model, frames, "--index", "::2", "--json").document["frames"]
    assert len(rows) == 3


def test_uncertainty_and_ensemble(cli: Cli, tmp_path: Path) -> None:
    model = zoo.save(zoo.ensemble(), tmp_path, "ensemble")
    path = save(tmp_path / "si.xyz", silicon(), silicon(seed=1))
    run = cli("evaluate", model, path, "--json", "--batch", 2)
    for row, atoms in zip(
        run.document["frames"], ase.io.read(tmp_path / "si.evaluated.extxyz", ":"), strict=True
    ):
        assert row["max_uncertainty_eV"] == pytest.approx(UNCERTAINTY)
        assert atoms.arrays["energy_uncertainty"] == pytest.approx(np.full(8, UNCERTAINTY))
        expected = np.array(MEMBERS) * atoms.get_potential_energy()
        assert atoms.info["energy_ensemble"] == pytest.approx(expected, rel=SINGLE_PRECISION)


def test_uncertain_atoms_are_named(cli: Cli, tmp_path: Path) -> None:
    model = zoo.save(zoo.uncertain(), tmp_path, "uncertain")
    path = save(tmp_path / "si.xyz", silicon())
    with pytest.warns(UserWarning, match="uncertainty of 8 atoms"):
        assert cli("evaluate", model, path).status == 0


def test_extra_outputs(cli: Cli, tmp_path: Path) -> None:
    model = zoo.save(zoo.extra_outputs(), tmp_path, "extra")
    path = save(tmp_path / "si.xyz", silicon(), silicon(2, seed=1))
    names = ("zoo::coordination", "zoo::dipole", "feature")
    options = [word for name in names for word in ("--output-name", name)]
    run = cli("evaluate", model, path, *options, "--json", "--batch", 2)
    assert run.document["columns"] == {
        "zoo::coordination": "zoo_coordination",
        "zoo::dipole": "zoo_dipole",
        "feature": "feature",
    }
    small, large = ase.io.read(tmp_path / "si.evaluated.extxyz", ":")
    assert small.arrays["zoo_dipole"].shape == (8, 3)
    assert large.arrays["feature"].shape == (64, 2)
    # an atom's energy is half of its coordination, in this model
    for atoms in (small, large):
        half = atoms.arrays["zoo_coordination"].sum() / 2
        assert half == pytest.approx(atoms.get_potential_energy(), rel=1e-12)


def test_model_without_energy(cli: Cli, tmp_path: Path) -> None:
    model = zoo.save(zoo.no_energy(), tmp_path, "none")
    path = save(tmp_path / "si.xyz", silicon())
    cli("evaluate", model, path).failed_with("--output-name", "feature")
    run = cli("evaluate", model, path, "--output-name", "feature", "--json")
    assert run.document["frames"][0]["energy_eV"] is None
    assert ase.io.read(tmp_path / "si.evaluated.extxyz").arrays["feature"].shape == (8, 2)


def test_variants(cli: Cli, tmp_path: Path) -> None:
    model = zoo.save(zoo.variants(), tmp_path, "variants")
    path = save(tmp_path / "si.xyz", silicon())
    options = ("--json", "--force")
    plain = cli("evaluate", model, path, *options).document["frames"][0]
    pbe = cli("evaluate", model, path, *options, "--variant", "pbe").document["frames"][0]
    assert pbe["energy_eV"] == pytest.approx(2 * plain["energy_eV"], rel=SAME_ENERGY)
    run = cli("evaluate", model, path, *options, "--variant", "lda")
    run.failed_with("lda", "pbe", "--variant energy=NAME")
    assert "variants=" not in run.stderr


def test_text(cli: Cli, model: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "many.xyz", *(silicon(seed=seed) for seed in range(45)))
    run = cli("evaluate", model, path, "--batch", 10)
    assert run.status == 0
    assert "and 5 more frames" in run.stdout
    assert "pressure (GPa)" in run.stdout
    assert "uncertainty" not in run.stdout


def test_nothing_is_overwritten(cli: Cli, model: Path, frames: Path) -> None:
    output = frames.with_name("si.evaluated.extxyz")
    output.write_text("precious")
    cli("evaluate", model, frames).failed_with("--force")
    assert output.read_text() == "precious"
    cli("evaluate", model, frames, "-o", frames, "--force").failed_with("another")
    assert len(ase.io.read(frames, ":")) == 5
    assert cli("evaluate", model, frames, "--force").status == 0


def test_outputs_of_one_name(cli: Cli, model: Path, frames: Path) -> None:
    twin = frames.with_suffix(".extxyz")
    twin.write_bytes(frames.read_bytes())
    cli("evaluate", model, frames, twin).failed_with("--output")


@pytest.mark.parametrize("batch", [1, 3])
def test_bad_frame_is_named_and_the_others_are_kept(
    cli: Cli, model: Path, tmp_path: Path, batch: int
) -> None:
    path = save(tmp_path / "si.xyz", silicon(), with_nan(silicon()), silicon())
    run = cli("evaluate", model, path, "--batch", batch, "--json")
    partial = tmp_path / "si.evaluated.extxyz.partial"
    run.failed_with("frame 1", "finite", f"'{partial}'")
    assert len(ase.io.read(partial, ":", format="extxyz")) == 1
    # the corrected file needs no --force, and nothing unfinished is left behind
    output = tmp_path / "si.evaluated.extxyz"
    assert not output.exists()
    save(path, silicon(), silicon())
    assert cli("evaluate", model, path, "--batch", batch).status == 0
    assert len(ase.io.read(output, ":")) == 2
    assert not partial.exists()


def test_failure_keeps_the_outputs_of_an_earlier_run(cli: Cli, model: Path, tmp_path: Path) -> None:
    good = save(tmp_path / "good.xyz", silicon())
    bad = save(tmp_path / "bad.xyz", with_nan(silicon()))
    output = tmp_path / "good.evaluated.extxyz"
    output.write_text("precious")
    cli("evaluate", model, good, bad, "--force").failed_with("bad.xyz", f"'{output}.partial'")
    assert output.read_text() == "precious"
    assert not (tmp_path / "bad.evaluated.extxyz").exists()


def test_a_linked_output_stays_a_link(cli: Cli, model: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "si.xyz", silicon())
    target, link = tmp_path / "target.extxyz", tmp_path / "link.extxyz"
    target.write_text("old")
    link.symlink_to(target)
    assert cli("evaluate", model, path, "-o", link, "--force").status == 0
    assert link.is_symlink()
    assert len(ase.io.read(target, ":")) == 1


@pytest.mark.parametrize("structure", [".", "", "/"])
def test_structure_without_a_name(cli: Cli, model: Path, structure: str) -> None:
    cli("evaluate", model, structure).failed_with("directory")


def test_outputs_that_are_no_files(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "si.xyz", silicon())
    monkeypatch.chdir(tmp_path)
    cli("evaluate", model, path, "-o", "-").failed_with("standard output")
    cli("evaluate", model, path, "-o", tmp_path, "--force").failed_with("folder")
    cli("evaluate", model, path, "-o", "/dev/null", "--force").failed_with("regular file")
    # a structure whose name the unfinished output would take
    ase.io.write("POSCAR.partial", silicon(), format="vasp")
    before = Path("POSCAR.partial").read_bytes()
    cli("evaluate", model, "POSCAR.partial", "-o", "POSCAR").failed_with("another file")
    assert Path("POSCAR.partial").read_bytes() == before
    assert not [entry.name for entry in tmp_path.glob("*.extxyz*")]


def test_bad_structures(cli: Cli, model: Path, tmp_path: Path) -> None:
    def evaluate(*frames: ase.Atoms) -> object:
        path = save(tmp_path / "bad.xyz", *frames)
        return cli("evaluate", model, path, "--force")

    evaluate(silicon(), bulk("C", "diamond", a=3.5)).failed_with("frame 1", "[6]")
    evaluate(molecule("CH4")).failed_with("frame 0")
    flat = silicon()
    flat.cell[2] = 0
    evaluate(flat).failed_with("cell vector c")
    overlapping = silicon()
    overlapping.positions[1] = overlapping.positions[0]
    evaluate(overlapping).failed_with("atoms 0 and 1")
    cli("evaluate", model, tmp_path / "missing.xyz").failed_with("no such file")
    cli("evaluate", model, tmp_path / "bad.xyz", "--index", "9", "--force").failed_with("--index")


def test_bad_options(cli: Cli, model: Path, frames: Path, tmp_path: Path) -> None:
    cli("evaluate", tmp_path / "missing.pt", frames).failed_with("missing.pt")
    cli("evaluate", model, frames, "--output-name", "zoo::x").failed_with("zoo::x")
    cli("evaluate", model, frames, "--sha256", "0" * 64).failed_with("SHA-256")
    cli("evaluate", model, frames, "--non-conservative", "forces").failed_with("lacks")
    cli("evaluate", model, frames, "--device", "nonsense").failed_with("nonsense")
    cli("evaluate", model, frames, "--threads", "99999999999").failed_with("--threads")
    model = zoo.save(zoo.per_system_only(), tmp_path, "whole")
    cli("evaluate", model, frames, "--energies").failed_with("--energies")
    assert not frames.with_name("si.evaluated.extxyz").exists()


def test_unwritable_output(cli: Cli, model: Path, frames: Path, tmp_path: Path) -> None:
    run = cli("evaluate", model, frames, "-o", tmp_path / "missing" / "out.extxyz")
    assert run.status == 2
    assert run.stderr.startswith("error: ")


def test_a_batch_without_bound(cli: Cli, model: Path, frames: Path) -> None:
    assert cli("evaluate", model, frames, "--batch", 10**30).status == 0


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">&-", "standard output is closed"),
        (">&- 2>&-", ""),
        (">/dev/full", "No space left"),
    ],
)
def test_stdout_that_takes_nothing(
    model: Path, frames: Path, redirection: str, message: str
) -> None:
    words = [sys.executable, "-m", "alchemi_bridge.cli.main", "evaluate", model, frames, "--json"]
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(map(str, words))} {redirection}"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=environment(),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert message in done.stderr
    assert done.stderr.count("error: ") == bool(message)


@pytest.mark.slow
def test_as_user(model: Path, frames: Path) -> None:
    run = as_user("evaluate", model, frames, "--json", "-v")
    assert run.status == 0, run.stderr
    assert len(run.document["frames"]) == 5
    again = as_user("evaluate", model, frames, "--json")
    again.failed_with("--force")
