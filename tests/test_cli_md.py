"""``alchemi-bridge md``: the physics, the files, restarts, and everything that can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
import zoo
from ase import Atoms, units
from ase.constraints import FixAtoms
from cli_runs import Cli, as_user, frames, rows, save, silicon, with_nan
from zoo_parts import UNCERTAINTY

from alchemi_bridge.cli.md_analysis import energy_drift
from alchemi_bridge.cli.md_start import StepNoise, draw_velocities

ModelFile = Callable[..., Path]

# The bound that the project promises for a picosecond of silicon at 300 K.
MAX_DRIFT = 1e-6  # eV/atom/ps


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def model(model_file: ModelFile) -> Path:
    return model_file("stillinger-weber")


@pytest.fixture
def crystal(tmp_path: Path) -> Path:
    return save(tmp_path / "si.xyz", silicon(2))


# --- what a run leaves --------------------------------------------------------------------------


def test_nve(cli: Cli, model: Path, crystal: Path, tmp_path: Path) -> None:
    options = ("--steps", 40, "--temperature", 600, "--seed", 3, "--timestep", 0.5)
    run = cli("md", model, crystal, *options, "-o", tmp_path / "run", "--json")
    assert run.status == 0
    assert run.stderr == ""
    summary = run.document
    assert (summary["first_step"], summary["last_step"], summary["seed"]) == (0, 40, 3)
    assert summary["time_ps"] == pytest.approx(0.02)
    table = rows(tmp_path / "run.csv")
    assert [int(row["step"]) for row in table] == list(range(41))
    trajectory = frames(tmp_path / "run.extxyz")
    assert sorted(trajectory) == [0, 10, 20, 30, 40]
    for step, atoms in trajectory.items():
        row = table[step]
        assert float(row["potential_energy_eV"]) == atoms.get_potential_energy()
        assert float(row["kinetic_energy_eV"]) == pytest.approx(atoms.get_kinetic_energy())
        assert float(row["time_ps"]) == pytest.approx(atoms.info["time_ps"])
        assert float(row["temperature_K"]) == pytest.approx(atoms.get_temperature(), abs=1e-3)
        largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
        assert float(row["max_force_eV_per_A"]) == pytest.approx(largest)
        kinetic = 2 * atoms.get_kinetic_energy() / (3 * atoms.get_volume())
        pressure = (kinetic - atoms.get_stress()[:3].mean()) / units.GPa
        assert float(row["pressure_GPa"]) == pytest.approx(pressure)
    assert float(table[0]["temperature_K"]) == pytest.approx(600)
    assert np.abs(trajectory[40].get_momenta().sum(axis=0)).max() < 1e-10
    energies = [float(row["total_energy_eV"]) for row in table]
    # velocity Verlet at 0.5 fs: a wobble of some 1e-5 eV per atom
    assert np.ptp(energies) / 64 < 1e-4
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_langevin_reaches_its_temperature(cli: Cli, model: Path, crystal: Path) -> None:
    run = cli(
        *("md", model, crystal, "--ensemble", "langevin", "--temperature", 500, "--seed", 2),
        *("--steps", 600, "--friction", 50, "--timestep", 2, "--json", "--no-plot"),
    )
    table = rows(crystal.with_suffix(".langevin.csv"))
    late = [float(row["temperature_K"]) for row in table[300:]]
    # 64 atoms: the temperature fluctuates by sqrt(2 / 192), 10 %; some ten independent samples
    assert np.mean(late) == pytest.approx(500, rel=0.15)
    assert "drift_eV_per_atom_per_ps" not in run.document
    assert not crystal.with_suffix(".langevin.png").exists()


def test_fire(cli: Cli, model: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "si.xyz", silicon(2, rattle=0.15))
    arguments = ("md", model, path, "--ensemble", "fire", "--json", "--force")
    run = cli(*arguments, "--fmax", 0.001)
    assert run.status == 0
    assert run.document["converged"] is True
    assert run.document["max_force_eV_per_A"] < 0.001
    relaxed = ase.io.read(tmp_path / "si.fire.extxyz")
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() < 0.001
    assert relaxed.get_potential_energy() / 64 == pytest.approx(-4.3366, abs=1e-3)
    assert rows(tmp_path / "si.fire.csv")[0]["temperature_K"] == ""
    assert (tmp_path / "si.fire.png").read_bytes().startswith(b"\x89PNG")
    short = cli(*arguments, "--fmax", 1e-6, "--steps", 3)
    assert short.status == 1
    assert short.document["converged"] is False
    again = cli(*arguments[:-1], "--restart", "--fmax", 0.001)
    assert again.status == 0
    assert again.document["first_step"] == 3
    steps = [int(row["step"]) for row in rows(tmp_path / "si.fire.csv")]
    assert steps == list(range(len(steps)))


def test_text(cli: Cli, model: Path, crystal: Path) -> None:
    run = cli("md", model, crystal, "--steps", 3, "--temperature", 300)
    assert run.status == 0
    for words in ("nve, 64 atoms, steps 0 to 3", "drift of the total energy", "si.nve.csv"):
        assert words in run.stdout


def test_uncertainty_is_written_down_and_logged_once(cli: Cli, tmp_path: Path) -> None:
    model = zoo.save(zoo.uncertain(), tmp_path, "uncertain")
    path = save(tmp_path / "si.xyz", silicon())
    run = cli("md", model, path, "--steps", 5, "--temperature", 10, "--interval", 5, "--json")
    assert run.status == 0
    assert run.stderr.count("WARNING") == 1
    assert "from step 0 on" in run.stderr
    assert run.document["max_uncertainty_eV"] == pytest.approx(4 * UNCERTAINTY)
    assert float(rows(tmp_path / "si.nve.csv")[5]["max_uncertainty_eV"]) == pytest.approx(0.2)
    last = frames(tmp_path / "si.nve.extxyz")[5]
    assert last.arrays["energy_uncertainty"] == pytest.approx(np.full(8, 4 * UNCERTAINTY))


def test_no_steps(cli: Cli, model: Path, crystal: Path) -> None:
    run = cli("md", model, crystal, "--steps", 0, "--temperature", 300, "--json")
    assert run.status == 0
    assert run.document["last_step"] == 0
    assert len(frames(crystal.with_suffix(".nve.extxyz"))) == 1


def test_fixed_atoms_stay(cli: Cli, model: Path, tmp_path: Path) -> None:
    atoms = silicon(1)
    atoms.set_constraint(FixAtoms([0, 3]))
    path = save(tmp_path / "fixed.xyz", atoms)
    assert cli("md", model, path, "--steps", 20, "--temperature", 500).status == 0
    last = ase.io.read(tmp_path / "fixed.nve.extxyz")
    assert np.array_equal(last.positions[[0, 3]], atoms.positions[[0, 3]])
    assert np.abs(last.positions[1] - atoms.positions[1]).max() > 1e-3
    assert list(last.constraints[0].index) == [0, 3]


# --- velocities and noise -----------------------------------------------------------------------


def test_velocities_of_a_molecule() -> None:
    atoms = silicon(1)
    atoms.pbc = False
    draw_velocities(atoms, 300.0, seed=1)
    assert atoms.get_temperature() == pytest.approx(300)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-9
    first = atoms.get_momenta()
    draw_velocities(atoms, 300.0, seed=1)
    assert np.array_equal(first, atoms.get_momenta())
    draw_velocities(atoms, 300.0, seed=2)
    assert not np.allclose(first, atoms.get_momenta())


def test_velocities_of_one_atom_and_at_zero() -> None:
    atom = Atoms("Si")
    draw_velocities(atom, 300.0, seed=1)
    assert atom.get_temperature() == pytest.approx(300)
    atoms = silicon(1)
    draw_velocities(atoms, 0.0, seed=1)
    assert not atoms.get_momenta().any()


def test_velocities_of_the_file_are_kept(cli: Cli, model: Path, tmp_path: Path) -> None:
    atoms = silicon(1)
    draw_velocities(atoms, 450.0, seed=5)
    path = save(tmp_path / "hot.xyz", atoms)
    run = ("md", model, path, "--steps", 1, "--force")
    assert cli(*run).status == 0
    start = frames(tmp_path / "hot.nve.extxyz")[0]
    assert np.array_equal(start.get_momenta(), atoms.get_momenta())
    # a temperature that would not be used is refused, not ignored
    cli(*run, "--temperature", 100).failed_with("--temperature", "--new-velocities", "450.0 K")
    assert cli(*run, "--new-velocities", "--temperature", 100).status == 0
    assert frames(tmp_path / "hot.nve.extxyz")[0].get_temperature() == pytest.approx(100)


def test_langevin_keeps_velocities_and_has_a_temperature(
    cli: Cli, model: Path, tmp_path: Path
) -> None:
    atoms = silicon(1)
    draw_velocities(atoms, 450.0, seed=5)
    path = save(tmp_path / "hot.xyz", atoms)
    options = ("--ensemble", "langevin", "--temperature", 100, "--steps", 1, "--no-plot")
    assert cli("md", model, path, *options).status == 0
    start = frames(tmp_path / "hot.langevin.extxyz")[0]
    assert np.array_equal(start.get_momenta(), atoms.get_momenta())


@pytest.mark.parametrize("structure", [".", "", "/"])
def test_structure_without_a_name(cli: Cli, model: Path, structure: str) -> None:
    cli("md", model, structure, "--temperature", 300).failed_with("directory")


def test_noise_depends_on_seed_and_step_only() -> None:
    def draw(seed: int, step: int) -> np.ndarray:
        noise = StepNoise(seed)
        noise.standard_normal((7, 3))
        noise.start(step)
        return noise.standard_normal((1000, 3))

    assert np.array_equal(draw(1, 5), draw(1, 5))
    for other in (draw(2, 5), draw(1, 6)):
        # independent: the correlation of 3000 numbers is about 1 / sqrt(3000)
        assert abs(np.corrcoef(draw(1, 5).ravel(), other.ravel())[0, 1]) < 0.1


# --- what can go wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--temperature"),
        (("--ensemble", "langevin"), "--temperature"),
        (("--ensemble", "langevin", "--temperature", "0"), "positive"),
        (("--temperature", "-3"), "--temperature"),
        (("--temperature", "nan"), "--temperature"),
        (("--temperature", "300", "--timestep", "0"), "--timestep"),
        (("--temperature", "300", "--steps", "-1"), "--steps"),
        (("--temperature", "300", "--friction", "1"), "langevin"),
        (("--ensemble", "fire", "--temperature", "300"), "nve"),
        (("--ensemble", "fire", "--fmax", "-1"), "--fmax"),
        (("--temperature", "300", "--seed", "-1"), "--seed"),
        (("--temperature", "300", "--index", "7"), "--index"),
        (("--temperature", "300", "--index", ":"), None),
        (("--temperature", "300", "--sha256", "0" * 64), "SHA-256"),
        (("--temperature", "300", "--threads", "99999999999"), "--threads"),
        (("--temperature", "300", "--variant", "pbe"), "pbe"),
        (("--temperature", "300", "--non-conservative", "forces"), "lacks"),
    ],
)
def test_bad_options(
    cli: Cli, model: Path, tmp_path: Path, options: tuple[str, ...], words: str | None
) -> None:
    path = save(tmp_path / "si.xyz", silicon(), silicon(seed=1))
    run = cli("md", model, path, *options)
    run.failed_with(words or "picks several")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("si")) == ["si.xyz"]


def test_bad_structures(cli: Cli, model: Path, tmp_path: Path) -> None:
    run = ("--temperature", 300)
    path = save(tmp_path / "nan.xyz", with_nan(silicon()))
    cli("md", model, path, *run).failed_with("finite")
    carbon = silicon()
    carbon.numbers[:] = 6
    cli("md", model, save(tmp_path / "c.xyz", carbon), *run).failed_with("[6]")
    cli("md", model, tmp_path / "missing.xyz", *run).failed_with("no such file")
    cli("md", tmp_path / "missing.pt", path, *run).failed_with("missing.pt")
    assert not list(tmp_path.glob("*.csv"))


def test_nothing_is_overwritten(cli: Cli, model: Path, crystal: Path, tmp_path: Path) -> None:
    run = ("md", model, crystal, "--temperature", 300, "--steps", 1)
    (tmp_path / "si.nve.csv").write_text("precious")
    cli(*run).failed_with("--force", "--restart")
    assert (tmp_path / "si.nve.csv").read_text() == "precious"
    assert cli(*run, "--force").status == 0
    trajectory = tmp_path / "si.nve.extxyz"
    same = ("md", model, trajectory, "-o", tmp_path / "si.nve", "--steps", 1, "--force")
    cli(*same).failed_with("another file")


def test_a_run_that_blows_up(cli: Cli, model: Path, crystal: Path) -> None:
    run = cli(
        *("md", model, crystal, "--temperature", 5000, "--timestep", 60, "--seed", 1),
        *("--interval", 1, "--steps", 2000),
    )
    assert run.status == 2
    assert "Traceback" not in run.stderr
    assert "error: " in run.stderr
    assert "stopped in the step after step" in run.stderr
    trajectory = frames(crystal.with_suffix(".nve.extxyz"))
    table = rows(crystal.with_suffix(".nve.csv"))
    assert len(trajectory) == len(table) > 0
    assert all(np.isfinite(atoms.positions).all() for atoms in trajectory.values())


def test_as_user(model: Path, crystal: Path) -> None:
    run = as_user("md", model, crystal, "--steps", 2, "--temperature", 300, "--json")
    assert run.status == 0, run.stderr
    assert run.document["last_step"] == 2
    as_user("md", model, crystal, "--steps", 2).failed_with("existing file")


# --- analysis -----------------------------------------------------------------------------------


def test_drift_of_a_known_line() -> None:
    times = np.linspace(0, 2, 401)
    wobble = 1e-5 * np.sin(2 * np.pi * 20 * times)
    energy = 8 * (-4.3 + 3e-6 * times + wobble)
    drift = energy_drift({"time_ps": times, "total_energy_eV": energy}, 8)
    assert drift is not None
    # an oscillation of 20 per ps leaks up to 6 A / (pi f T^2) into the slope
    assert drift.slope == pytest.approx(3e-6, abs=2.5e-7)
    assert drift.fluctuation == pytest.approx(1e-5 / np.sqrt(2), rel=0.01)
    short = {"time_ps": times[:2], "total_energy_eV": energy[:2]}
    assert energy_drift(short, 8) is None


@pytest.mark.slow
def test_nve_drift_of_a_picosecond(cli: Cli, model: Path, crystal: Path, tmp_path: Path) -> None:
    """1 ps of silicon at 300 K, equilibrated by Langevin dynamics before."""
    heat = cli(
        *("md", model, crystal, "--ensemble", "langevin", "--temperature", 300, "--seed", 1),
        *("--friction", 20, "--steps", 400, "--no-plot", "--json"),
    )
    assert heat.status == 0
    run = cli(
        *("md", model, tmp_path / "si.langevin.extxyz", "-o", tmp_path / "nve", "--json"),
        *("--steps", 2000, "--timestep", 0.5),
    )
    assert run.document["time_ps"] == pytest.approx(1.0)
    assert run.document["mean_temperature_K"] == pytest.approx(300, abs=60)
    assert abs(run.document["drift_eV_per_atom_per_ps"]) < MAX_DRIFT
