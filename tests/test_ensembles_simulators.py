"""Molecular dynamics as units of work: ASE, LAMMPS and nvalchemi."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
import zoo
from ase import units
from ase.build import bulk
from ase.constraints import FixAtoms
from lammps_runs import missing as lammps_missing
from lammps_runs import needs_lammps

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.engines import nvalchemi_version
from alchemi_bridge.ensembles import models
from alchemi_bridge.ensembles.models import ModelFile
from alchemi_bridge.ensembles.simulators import (
    ENGINES,
    AseSimulator,
    LammpsSimulator,
    NvalchemiSimulator,
    ase_engine,
    multi_temperature,
)
from alchemi_bridge.ensembles.simulators.plan import State
from alchemi_bridge.ensembles.trajectory import Trajectory
from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    EvaluationError,
    ModelLoadError,
    SpeciesError,
    StructureFileError,
)
from alchemi_bridge.parity.oracles.lennard_jones import LennardJonesOracle

Export = Callable[..., Path]

#: The same numbers, summed in another order.
ENERGY_RTOL = 1e-10

#: The two programs take their units from different editions of the constants of nature: relative
#: differences of 1e-7 in a time, of displacements of 1 Å.
UNITS = 2e-7

EPSILON, SIGMA = 0.0119, 3.33

# Warp and torch.compile, which nvalchemi's integrators use, warn of their own future
WARNS = [
    pytest.mark.filterwarnings(f"ignore::{w}Warning") for w in ("User", "Deprecation", "Future")
]
WARNS.append(pytest.mark.filterwarnings("ignore::ImportWarning"))
needs_nvalchemi = pytest.mark.skipif(
    nvalchemi_version.missing() is not None, reason=str(nvalchemi_version.missing())
)
every_engine = pytest.mark.parametrize(
    "engine",
    [
        "ase",
        pytest.param("lammps", marks=needs_lammps),
        pytest.param("nvalchemi", marks=[needs_nvalchemi, *WARNS]),
    ],
)


@pytest.fixture(scope="module")
def argon_file(model_file: Export) -> Path:
    return model_file(
        "lennard-jones", types=[18], epsilon=[0.0104], sigma=[3.4], cutoff=6.5, trainable=True
    )


def argon(repeat: int = 2, a: float = 5.4) -> ase.Atoms:
    atoms = bulk("Ar", "fcc", a=a, cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(0.05, seed=1)
    return atoms


def parameters(epsilon: float = EPSILON, sigma: float = SIGMA) -> dict[str, torch.Tensor]:
    given = {"epsilon": epsilon, "sigma": sigma}
    return {name: torch.tensor([v], dtype=torch.float64) for name, v in given.items()}


def simulator(engine: str, model: Path, name: str = "sim", **options: Any) -> Any:
    given: dict[str, Any] = {
        "structure": argon(), "temperature": 60.0, "timestep": 4.0, "steps": 40, "every": 10,
        "equilibration": 10, **options,
    }  # fmt: skip
    return ENGINES[engine](name=name, model=model, **given)


def run(unit: Any, values: Any = None, state: State | None = None) -> tuple[Trajectory, State]:
    """In a worker: everything goes there and comes back pickled."""
    unit = pickle.loads(pickle.dumps(unit))
    (found,), state = unit.run(values or {}, pickle.loads(pickle.dumps(state)))
    return pickle.loads(pickle.dumps(found)), state


@every_engine
def test_trajectories_carry_what_made_them(engine: str, argon_file: Path) -> None:
    """Energies are those of a fresh calculator, and of the oracle, for the stored frames."""
    unit = simulator(engine, argon_file)
    unit.check()
    for values in ({}, parameters()):
        found, state = run(unit, values)
        assert len(found) == 4
        np.testing.assert_array_equal(found.times, [80.0, 120.0, 160.0, 200.0])
        np.testing.assert_array_equal(found.temperatures, 60.0)
        [origin] = found.origins
        assert (origin.engine, origin.simulator, origin.run) == (engine, "sim", 0)
        assert origin.has_parameters(values)
        assert origin.sha256 == ModelFile(argon_file).load().sha256
        assert (state.run, state.time) == (0, 200.0)
        options = {"epsilon": [EPSILON], "sigma": [SIGMA]} if values else {"epsilon": [0.0104]}
        oracle = LennardJonesOracle(types=[18], cutoff=6.5, **{"sigma": [3.4], **options})
        models.forget()
        calculator = BridgeCalculator(ModelFile(argon_file).load(values).loaded)
        for atoms, energy in zip(found.to_ase(), found.energies, strict=True):
            assert energy == pytest.approx(oracle.evaluate(atoms).energy, rel=ENERGY_RTOL)
            atoms.calc = calculator
            assert energy == pytest.approx(atoms.get_potential_energy(), rel=ENERGY_RTOL)
        moved = np.abs(np.diff(found.positions, axis=0)).max(axis=(1, 2))
        assert (moved > 1e-3).all()
        assert (moved < 2.0).all()


@every_engine
def test_runs_are_reproducible_and_differ_by_name(engine: str, argon_file: Path) -> None:
    """With the same random numbers; the bridge measures which way of evaluation is fastest, and the
    ways differ in their last digits, which 50 steps do not yet make larger."""
    first, state = run(simulator(engine, argon_file))
    again, _ = run(simulator(engine, argon_file))
    np.testing.assert_allclose(first.positions, again.positions, rtol=0.0, atol=1e-9)
    others = [
        simulator(engine, argon_file, "other"),
        simulator(engine, argon_file, seed=1),
    ]
    seen = [first, *(run(unit)[0] for unit in others), run(others[0], {}, state)[0]]
    for k, one in enumerate(seen):
        for other in seen[:k]:
            assert np.abs(one.positions - other.positions).max() > 1e-3
    later = [run(simulator(engine, argon_file), {}, state)[0] for _ in range(2)]
    np.testing.assert_allclose(later[0].positions, later[1].positions, rtol=0.0, atol=1e-9)


@every_engine
def test_a_later_run_continues(engine: str, argon_file: Path) -> None:
    """NVE in two runs is NVE in one."""
    options = {"ensemble": "nve", "equilibration": 0, "timestep": 2.0}
    whole, end = run(simulator(engine, argon_file, steps=80, **options))
    first, state = run(simulator(engine, argon_file, **options))
    second, state = run(simulator(engine, argon_file, **options), {}, state)
    joined = Trajectory.concatenate([first, second])
    # roundoff of units, which chaos makes larger: 160 fs are far less than a collision
    np.testing.assert_allclose(joined.positions, whole.positions, atol=1e-9)
    np.testing.assert_allclose(state.members[0].velocities, end.members[0].velocities, atol=1e-10)
    np.testing.assert_array_equal(joined.times, whole.times)
    assert np.isnan(whole.temperatures).all()
    assert [o.run for o in joined.origins] == [0, 1]
    anew, _ = run(simulator(engine, argon_file, continue_from_last=False, **options), {}, state)
    assert anew.times[0] == 20.0
    assert np.abs(anew.positions - first.positions).max() > 1e-3


@needs_lammps
@pytest.mark.parametrize("shape", ["triclinic", "left-handed", "slab"])
def test_lammps_moves_atoms_as_ase_does(shape: str, argon_file: Path) -> None:
    """The same start, NVE, in LAMMPS' own frame and back."""
    atoms = argon()
    cell = atoms.cell.array.copy()
    if shape == "triclinic":
        cell[2] += 0.3 * cell[0] - 0.2 * cell[1]
        cell = cell @ np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    if shape == "left-handed":
        cell = cell[[1, 0, 2]]
    if shape == "slab":
        atoms.pbc = (True, False, True)
    atoms.set_cell(cell, scale_atoms=shape == "triclinic")
    atoms.positions += atoms.cell.array[0] * 2.3  # outside, and through the faces
    options = {"structure": atoms, "ensemble": "nve", "timestep": 2.0}
    one, _ = run(simulator("ase", argon_file, **options), parameters())
    other, _ = run(simulator("lammps", argon_file, **options), parameters())
    np.testing.assert_allclose(one.positions, other.positions, rtol=0.0, atol=UNITS)
    np.testing.assert_allclose(one.cells, other.cells, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(one.energies, other.energies, rtol=UNITS)


@needs_lammps
@pytest.mark.parametrize("shape", ["rotated", "triclinic"])
def test_lammps_begins_at_the_structure(shape: str, argon_file: Path) -> None:
    """Atoms on the faces of the box, to roundoff on one side or the other."""
    atoms = bulk("Ar", "fcc", a=5.3333, cubic=True) * 2
    if shape == "rotated":
        atoms.rotate(37.0, (1, 2, 3), rotate_cell=True)
    else:
        skew = np.random.default_rng(1).normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.2 * skew), scale_atoms=True)
    start, state = atoms, None
    for seed in range(3):
        unit = simulator(
            "lammps", argon_file, structure=atoms, temperature=30.0, every=1, equilibration=0,
            seed=seed,
        )  # fmt: skip
        found, state = run(unit, {}, state)
        # nothing moves as far as half an Å in 4 fs
        assert np.abs(found.positions[0] - start.positions).max() < 0.5
        assert np.abs(np.diff(found.positions, axis=0)).max() < 0.5
        start = state.members[0]


@every_engine
def test_replicas(engine: str, argon_file: Path) -> None:
    found, state = run(simulator(engine, argon_file, replicas=3))
    assert len(found) == 12
    assert [o.simulator for o in found.origins] == ["sim/0", "sim/1", "sim/2"]
    np.testing.assert_array_equal(np.bincount(found.origin), [4, 4, 4])
    assert len(state.members) == 3
    ends = [m.positions for m in state.members]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
    assert len(found.after(2)) == 6


@pytest.mark.parametrize(
    "engine",
    [
        "ase",
        pytest.param("lammps", marks=[needs_lammps, pytest.mark.slow]),
        pytest.param("nvalchemi", marks=[needs_nvalchemi, *WARNS]),
    ],
)
def test_langevin_dynamics_are_canonical(engine: str, argon_file: Path) -> None:
    """kT/2 for each velocity, and, in a crystal so cold that it is harmonic, for each vibration.

    The crystal at rest in its wells takes half of the energy that it starts with: only the
    thermostat brings it back, within exp(-5).
    """
    asked, replicas = 5.0, 8
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True) * 2
    unit = simulator(
        engine, argon_file, structure=crystal, temperature=asked, friction=5.0, steps=1, every=1,
        equilibration=250, replicas=replicas,
    )  # fmt: skip
    found, state = run(unit)
    masses = crystal.get_masses()[:, None]
    squares = np.array([masses * m.velocities**2 for m in state.members]) / units.kB / asked
    # a variance is known to its square root of 2 over the number of degrees of freedom
    error = np.sqrt(2.0 / (96 * replicas))
    assert squares.mean() == pytest.approx(1.0, abs=4.0 * error)
    # no direction is special, and no atom
    np.testing.assert_allclose(squares.mean(axis=(0, 1)), 1.0, atol=4.0 * np.sqrt(3.0) * error)
    assert squares.mean(axis=(1, 2)).std(ddof=1) == pytest.approx(np.sqrt(2.0 / 96), rel=0.7)
    minimum = LennardJonesOracle(types=[18], epsilon=[0.0104], sigma=[3.4], cutoff=6.5)
    vibrations = (found.energies - minimum.evaluate(crystal).energy) / (0.5 * units.kB * asked)
    assert vibrations.mean() / 93 == pytest.approx(1.0, abs=4.0 * error + np.exp(-5.0))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ase", pytest.param("lammps", marks=needs_lammps)])
def test_npt_has_the_pressure(engine: str, argon_file: Path) -> None:
    """The mean of the virial's pressure and the ideal gas' is the one that was asked for."""
    asked = 0.2  # GPa
    unit = simulator(
        engine, argon_file, ensemble="npt", pressure=asked, temperature=40.0, timestep=4.0,
        steps=12000, every=20, equilibration=4000,
    )  # fmt: skip
    found, _ = run(unit)
    calculator = BridgeCalculator(argon_file)
    pressures = []
    for atoms in found[::2].to_ase():
        atoms.calc = calculator
        virial = -atoms.get_stress()[:3].mean()
        pressures.append(virial + len(atoms) * units.kB * 40.0 / atoms.get_volume())
    blocks = np.array_split(np.array(pressures) / units.GPa, 6)
    means = np.array([b.mean() for b in blocks])
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert error < 0.02
    assert means.mean() == pytest.approx(asked, abs=4.0 * error + 0.004)
    assert found.volumes.std() > 1.0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["gas", "crystal"])
def test_npt_of_four_atoms_is_exact(
    what: str, model_file: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few atoms show each degree of freedom that has another temperature than asked for.

    The volume of an ideal gas has the mean (N + 1) kT / P. A crystal so cold that it is harmonic
    has kT / 2 for each of its 3 N - 3 vibrations and for its volume. (With the centre of mass at
    rest, and 3 N kT / 2 for the motion of the others, both would be a third too large.)
    """
    # a light barostat forgets soon; the distribution does not depend on it
    monkeypatch.setattr(ase_engine, "BAROSTAT_STEPS", 60)
    options: dict[str, Any] = {"types": [18], "epsilon": [0.0104], "sigma": [3.4], "cutoff": 6.5}
    if what == "gas":
        options.update(epsilon=[1e-12], sigma=[0.1], cutoff=0.5)
    asked = 40.0 if what == "gas" else 2.0
    thermal = units.kB * asked
    pressure = 5.0 * thermal / 500.0 if what == "gas" else 0.0
    unit = simulator(
        "ase", model_file("lennard-jones", **options), temperature=asked, ensemble="npt",
        pressure=pressure / units.GPa, structure=bulk("Ar", "fcc", a=5.27, cubic=True),
        timestep=8.0, steps=16000, every=10, equilibration=1000, friction=2.0,
    )  # fmt: skip
    found, _ = run(unit)
    if what == "gas":
        values, expected = found.volumes, 500.0
    else:
        least = min(
            LennardJonesOracle(**options).evaluate(bulk("Ar", "fcc", a=a, cubic=True)).energy
            for a in np.linspace(5.0, 5.6, 601)
        )
        values, expected = found.energies - least, 0.5 * thermal * (3 * 4 - 3 + 1)
    means = np.array([block.mean() for block in np.array_split(values / expected, 16)])
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert error < 0.05
    assert means.mean() == pytest.approx(1.0, abs=4.0 * error)


@pytest.mark.parametrize("engine", ["ase", pytest.param("lammps", marks=needs_lammps)])
def test_npt_scales_cells(engine: str, argon_file: Path) -> None:
    atoms = argon()
    cell = atoms.cell.array.copy()
    cell[1] += 0.2 * cell[0]
    atoms.set_cell(cell, scale_atoms=True)
    unit = simulator(
        engine, argon_file, ensemble="npt", pressure=2.0, structure=atoms, steps=200, every=50
    )
    found, state = run(unit)
    assert found.origins[0].pressure == 2.0
    assert found.volumes[-1] < 0.97 * atoms.get_volume()
    shapes = found.cells / np.cbrt(found.volumes)[:, None, None]
    np.testing.assert_allclose(shapes, [cell / np.cbrt(atoms.get_volume())] * 4, atol=1e-9)
    np.testing.assert_allclose(state.members[0].cell, found.cells[-1], atol=1e-12)
    models.forget()
    for frame, energy in zip(found.to_ase(), found.energies, strict=True):
        expected = LennardJonesOracle(
            types=[18], epsilon=[0.0104], sigma=[3.4], cutoff=6.5
        ).evaluate(frame)
        assert energy == pytest.approx(expected.energy, rel=ENERGY_RTOL)


def test_many_temperatures(argon_file: Path) -> None:
    options = {"model": argon_file, "structure": argon(), "steps": 20}
    units_ = multi_temperature(AseSimulator, [30.0, 60.0], "argon", n=2, **options)
    assert [u.name for u in units_] == ["argon.0.0", "argon.0.1", "argon.1.0", "argon.1.1"]
    assert [u.temperature for u in units_] == [30.0, 30.0, 60.0, 60.0]
    assert units_[0].observables == ("trajectory.AseSimulator.argon.0.0",)
    joined = Trajectory.concatenate([run(u)[0] for u in units_])
    np.testing.assert_array_equal(joined.temperatures, [30.0] * 4 + [60.0] * 4)
    assert len(np.unique(joined.energies)) == 8
    names = [u.name for u in multi_temperature(AseSimulator, [30.0, 60.0], "a", **options)]
    assert names == ["a.0", "a.1"]
    with pytest.raises(ConfigurationError, match="at least one"):
        multi_temperature(AseSimulator, [], "a", **options)


def test_shorter_equilibration_of_later_runs(argon_file: Path) -> None:
    unit = simulator("ase", argon_file, again=2)
    first, state = run(unit)
    second, state = run(unit, parameters(), state)
    np.testing.assert_array_equal(first.times[[0, -1]], [80.0, 200.0])
    np.testing.assert_array_equal(second.times[[0, -1]], [248.0, 368.0])
    assert state.run == 1


@every_engine
def test_dynamics_that_blow_up(engine: str, argon_file: Path) -> None:
    """Two atoms nearly at the same place: said with the simulation's name, and the step."""
    atoms = argon()
    atoms.positions[1] = atoms.positions[0] + [1e-3, 0.0, 0.0]
    unit = simulator(engine, argon_file, "broken", structure=atoms, ensemble="nve", steps=200)
    with pytest.raises(EvaluationError, match=r"simulator 'broken'.*step"):
        run(unit)
    # the worker is still good for others
    assert len(run(simulator(engine, argon_file))[0]) == 4


def test_what_can_not_be_simulated(argon_file: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"timestep": 0.0}, "timestep of simulator 'sim'"),
        ({"steps": 0}, "steps"),
        ({"steps": 10.5}, "steps"),
        ({"every": 50}, "every"),
        ({"equilibration": -1}, "equilibration"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"friction": 0.0}, "friction"),
        ({"ensemble": "nvt"}, "nvt-langevin, nve, npt"),
        ({"ensemble": "npt"}, "pressure"),
        ({"pressure": 1.0}, "pressure"),
        ({"replicas": 0}, "replicas"),
        ({"again": -5}, "again"),
        ({"again": 2.5}, "again"),
        ({"again": "x"}, "again"),
        ({"seed": "x"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"continue_from_last": "no"}, "continue_from_last"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            simulator("ase", argon_file, **changes)
    slab = argon()
    slab.pbc = (True, True, False)
    with pytest.raises(ConfigurationError, match="periodic in three"):
        simulator("ase", argon_file, ensemble="npt", pressure=1.0, structure=slab)
    alone = bulk("Ar", "fcc", a=5.3)
    for engine in ("ase", "lammps"):
        with pytest.raises(ConfigurationError, match="at least two atoms"):
            simulator(engine, argon_file, ensemble="npt", pressure=1.0, structure=alone)
    with pytest.raises(ConfigurationError, match="which nvalchemi has"):
        simulator("nvalchemi", argon_file, ensemble="npt", pressure=1.0)
    charged = zoo.save(zoo.extra_inputs("charge"), tmp_path, "charged")
    with pytest.raises(ConfigurationError, match=r"simulator 'sim'.*one that reads charge"):
        simulator("ase", charged).check()
    with pytest.raises(StructureFileError, match="nowhere"):
        simulator("ase", argon_file, structure=tmp_path / "nowhere.xyz")
    with pytest.raises(SpeciesError, match=r"\[29\]"):
        simulator("ase", argon_file, structure=bulk("Cu", cubic=True)).check()
    with pytest.raises(ModelLoadError, match="nowhere"):
        simulator("ase", tmp_path / "nowhere.pt").check()
    fixed = argon()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigurationError, match="FixAtoms"):
        simulator("lammps", argon_file, structure=fixed)
    with pytest.raises(ConfigurationError, match=r"constant pressure.*FixAtoms"):
        simulator("ase", argon_file, structure=fixed, ensemble="npt", pressure=1.0)
    held, _ = run(simulator("ase", argon_file, structure=fixed))
    np.testing.assert_array_equal(held.positions[:, 0], [fixed.positions[0]] * 4)
    isotopes = argon()
    isotopes.set_masses([36.0, *[40.0] * (len(isotopes) - 1)])
    with pytest.raises(ConfigurationError, match="masses"):
        simulator("lammps", argon_file, structure=isotopes)


@pytest.mark.parametrize(
    ("kind", "why"),
    [(LammpsSimulator, lammps_missing()), (NvalchemiSimulator, nvalchemi_version.missing())],
)
def test_engines_that_are_not_there(
    kind: Any, why: str | None, argon_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = kind(name="sim", model=argon_file, structure=argon(), temperature=30.0)
    if not why:
        monkeypatch.setattr(kind, "unavailable", lambda self: "it is not installed")
    with pytest.raises(BridgeError, match=rf"'{kind.engine}' of simulator 'sim'.*installed"):
        unit.check()
