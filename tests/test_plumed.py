"""The library behind PLUMED's interface, against the NumPy oracles and in an engine of ctypes."""

from __future__ import annotations

import itertools
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import known_potentials
import numpy as np
import pytest
import zoo
from ase import Atoms
from ase.build import bulk
from cli_runs import Cli
from kernel_parts import needs_compiler
from plumed_engine import Engine, PlumedError, energies_in, engine, told

from alchemi_bridge.engines import plumed_plugin
from alchemi_bridge.parity import oracles
from alchemi_bridge.provider import MetatomicForceProvider

pytestmark = needs_compiler

#: eV in kJ/mol (elementary charge and Avogadro's number, exact in the SI of 2019) and Å in nm.
EV, ANGSTROM = 1.602176634e-19 * 6.02214076e23 / 1000, 0.1

#: In eV and Å: the oracle sums in another order.
FLOAT64_TOLERANCE = 1e-9

#: Forces of 1 eV/Å in float32, and coordinates of 1 nm in it through a stiff potential.
FLOAT32_TOLERANCE = 2e-4

#: Engines whose numbers differ in size: energy in kJ/mol, length in nm, time in ps.
UNITS = {
    "GROMACS": (1.0, 1.0, 1.0),
    "LAMMPS real": (4.184, 0.1, 0.001),
    "LAMMPS metal": (96.48530749925792, 0.1, 1.0),
    "atomic units": (2625.4996394798254, 0.0529177210903, 2.418884326509e-5),
}

LJ = {"truncation": "energy-shift"}


@pytest.fixture(scope="module")
def library() -> Path:
    return plumed_plugin.build()


@pytest.fixture
def argon(model_file: Callable[..., Path]) -> Path:
    return model_file("lennard-jones", **LJ)


@pytest.fixture
def setup(argon: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a setup file."""

    def write(*lines: str, model: Path = argon) -> Path:
        path = tmp_path / "bridge.dat"
        path.write_text("\n".join([f"model '{model}'", *lines]) + "\n")
        return path

    return write


def lattice(atoms: Atoms) -> Atoms:
    """With a lower triangular cell, as GROMACS has it."""
    cell, rotation = atoms.cell.standard_form()
    turned = atoms.copy()
    turned.set_cell(cell)
    turned.positions = atoms.positions @ rotation.T
    return turned


def species(atoms: Atoms) -> str:
    return "species " + " ".join(atoms.get_chemical_symbols())


def nm(atoms: Atoms) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and box."""
    box = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0) * ANGSTROM
    return atoms.positions * ANGSTROM, box if atoms.pbc.any() else None


def expected(atoms: Atoms, name: str = "lennard-jones") -> Any:
    return oracles.build(name, **(LJ if name == "lennard-jones" else {})).evaluate(atoms)


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("precision", [4, 8])
@pytest.mark.parametrize("shape", ["small", "triclinic", "slab", "molecule", "outside"])
def test_forces_energy_and_virial(
    library: Path, setup: Callable[..., Path], shape: str, precision: int, typed: bool
) -> None:
    atoms = known_potentials.structure(shape, "lennard-jones")
    wanted = expected(atoms)
    positions, box = nm(atoms)
    with engine(library, len(atoms), precision=precision, typed=typed) as run:
        run.start(path := setup(species(atoms)))
        for number in (0, 1):
            forces, virial = run.step(number, positions, box)
            close = FLOAT64_TOLERANCE if precision == 8 else FLOAT32_TOLERANCE
            scale = max(1.0, float(np.abs(wanted.forces).max()))
            found = forces / EV * ANGSTROM
            np.testing.assert_allclose(found, wanted.forces, rtol=0, atol=close * scale)
            scale = max(1.0, float(np.abs(wanted.virial).max()))
            np.testing.assert_allclose(virial / EV, wanted.virial, rtol=0, atol=close * scale)
    found = energies_in(path.parent / "bridge.energies")
    np.testing.assert_allclose(found[:, :2], [[0, 0], [1, 0.002]], rtol=1e-7)
    np.testing.assert_allclose(found[:, 2] / EV, wanted.energy, rtol=0, atol=close * len(atoms))


@pytest.mark.parametrize("potential", ["stillinger-weber", "message-passing"])
def test_other_models(
    library: Path, setup: Callable[..., Path], model_file: Callable[..., Path], potential: str
) -> None:
    atoms = known_potentials.structure("triclinic", potential)
    wanted = expected(atoms, potential)
    with engine(library, len(atoms)) as run:
        run.start(setup(species(atoms), model=model_file(potential)))
        forces, virial = run.step(0, *nm(atoms))
        np.testing.assert_allclose(
            forces / EV * ANGSTROM, wanted.forces, rtol=0, atol=FLOAT64_TOLERANCE
        )
        np.testing.assert_allclose(virial / EV, wanted.virial, rtol=0, atol=1e-8)
        assert run.bias() / EV == pytest.approx(wanted.energy, abs=FLOAT64_TOLERANCE)


@pytest.mark.parametrize("units", UNITS.values(), ids=list(UNITS))
def test_units_of_engines(
    library: Path, setup: Callable[..., Path], units: tuple[float, float, float]
) -> None:
    energy, length, time = units
    atoms = known_potentials.structure("triclinic", "lennard-jones")
    wanted = expected(atoms)
    positions, box = nm(atoms)
    with engine(library, len(atoms), units=units, timestep=0.5) as run:
        run.start(path := setup(species(atoms)))
        forces, virial = run.step(4, positions / length, box / length)
        found = forces * (energy / length) / EV * ANGSTROM
        np.testing.assert_allclose(found, wanted.forces, rtol=0, atol=FLOAT64_TOLERANCE)
        np.testing.assert_allclose(virial * energy / EV, wanted.virial, rtol=0, atol=1e-8)
        assert run.bias() * energy / EV == pytest.approx(wanted.energy, abs=FLOAT64_TOLERANCE)
    assert energies_in(path.parent / "bridge.energies")[0] == pytest.approx(
        [4, 2.0 * time, wanted.energy * EV], rel=1e-6
    )


@pytest.mark.parametrize(
    "lines",
    [
        ["atoms 3-7,9", "species Ar"],
        ["group index.ndx 'The middle'", "species Ar Ar Ar Ar Ar Ar"],
        ["atoms 3-5 6,7 9", "structure all.xyz"],
    ],
)
def test_a_region(
    library: Path, setup: Callable[..., Path], tmp_path: Path, lines: list[str]
) -> None:
    """Forces of others stay as they are; forces and virial are added."""
    atoms = lattice(known_potentials.structure("triclinic", "lennard-jones"))
    atoms.numbers[:] = 10
    region = [2, 3, 4, 5, 6, 8]
    atoms.numbers[region] = 18
    (tmp_path / "index.ndx").write_text("[ System ]\n1 2\n[ The middle ]\n 9 3 4 5\n6 7 ; more\n")
    atoms.write(tmp_path / "all.xyz", format="extxyz")
    wanted = expected(atoms[region])
    with engine(library, len(atoms)) as run:
        run.start(setup(*lines))
        forces, virial = run.step(0, *nm(atoms), fill=0.25)
    close = {"rtol": 0, "atol": FLOAT64_TOLERANCE}
    np.testing.assert_allclose((forces[region] - 0.25) / EV * ANGSTROM, wanted.forces, **close)
    np.testing.assert_allclose((virial - 0.25) / EV, wanted.virial, rtol=0, atol=1e-8)
    others = np.setdiff1d(np.arange(len(atoms)), region)
    np.testing.assert_array_equal(forces[others], 0.25)


def test_a_trajectory_with_a_box_that_changes(library: Path, setup: Callable[..., Path]) -> None:
    """Atoms wander, are wrapped by the engine, and the box breathes."""
    rng = np.random.default_rng(3)
    atoms = lattice(known_potentials.structure("triclinic", "lennard-jones"))
    with engine(library, len(atoms)) as run:
        run.start(setup(species(atoms)))
        for number in range(30):
            atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
            atoms.set_cell(atoms.cell.array * (1 + 0.01 * rng.normal()), scale_atoms=True)
            if number % 7 == 3:
                atoms.wrap()
            wanted = expected(atoms)
            forces, _ = run.step(number, *nm(atoms))
            scale = max(1.0, float(np.abs(wanted.forces).max()))
            np.testing.assert_allclose(
                forces / EV * ANGSTROM, wanted.forces, rtol=0, atol=FLOAT64_TOLERANCE * scale
            )
            assert run.bias() / EV == pytest.approx(wanted.energy, rel=1e-10, abs=1e-9)


def test_atoms_in_the_order_of_the_engine(library: Path, setup: Callable[..., Path]) -> None:
    atoms = known_potentials.structure("triclinic", "lennard-jones")
    order = np.random.default_rng(0).permutation(len(atoms)).astype(np.int32)
    wanted = expected(atoms)
    positions, box = nm(atoms)
    with engine(library, len(atoms)) as run:
        run.start(setup(species(atoms)))
        for command, first in (("setAtomsGatindex", 0), ("setAtomsFGatindex", 1)):
            run.whole("setAtomsNlocal", len(atoms))
            run.cmd(command, order + np.int32(first))
            forces, _ = run.step(0, positions[order], box)
            np.testing.assert_allclose(
                forces / EV * ANGSTROM, wanted.forces[order], rtol=0, atol=FLOAT64_TOLERANCE
            )
        run.whole("setAtomsContiguous", 0)
        forces, _ = run.step(0, positions, box)
        np.testing.assert_allclose(
            forces / EV * ANGSTROM, wanted.forces, rtol=0, atol=FLOAT64_TOLERANCE
        )
        run.cmd("setAtomsGatindex", np.zeros(len(atoms), dtype=np.int32))
        with told("each once", "atom 1 again"):  # all of them atom 0
            run.cmd("performCalc")
        run.cmd("setAtomsGatindex", order + np.int32(7))
        with told("index of a local atom", f"0 to {len(atoms) - 1}"):
            run.cmd("performCalc")


def test_other_ways_to_say_it(library: Path, argon: Path, tmp_path: Path) -> None:
    """Lines of input instead of a file, components by themselves, calc, updates by hand."""
    atoms = known_potentials.structure("triclinic", "lennard-jones")
    wanted = expected(atoms)
    positions, box = nm(atoms)
    output = tmp_path / "by hand"
    with engine(library, len(atoms)) as run:
        run.cmd("setNoVirial")
        run.cmd("init")
        for line in (f"model '{argon}'", species(atoms), f"energies '{output}'"):
            run.text("readInputLine", line)
        forces, virial = np.zeros((3, len(atoms))), np.zeros((3, 3))
        for axis, letter in enumerate("XYZ"):
            run.cmd(f"setPositions{letter}", np.ascontiguousarray(positions[:, axis]))
            run.cmd(f"setForces{letter}", forces[axis])
        needed = np.ones(1, dtype=np.int32)
        run.cmd("isEnergyNeeded", needed)
        assert needed[0] == 0
        run.cmd("setBox", box)
        run.cmd("setVirial", virial)
        run.whole("setStep", 5)
        run.cmd("prepareDependencies")
        run.cmd("shareData")
        run.cmd("performCalcNoUpdate")
        run.whole("doCheckPoint", 1)
        assert len(energies_in(output)) == 0
        run.cmd("update")
        run.cmd("runFinalJobs")
        assert energies_in(output)[:, 0].tolist() == [5]
        run.cmd("calc")
        run.whole("doCheckPoint", 1)
        assert len(energies_in(output)) == 2
        with told("all of it in one place"):
            run.text("readInputLine", "species Ar")
    found = forces.T / 2 / EV * ANGSTROM  # added twice
    np.testing.assert_allclose(found, wanted.forces, rtol=0, atol=FLOAT64_TOLERANCE)
    np.testing.assert_array_equal(virial, 0.0)


# --- the file with energies --------------------------------------------------------------------


@pytest.fixture
def pair() -> Atoms:
    return Atoms("Ar2", positions=[[0.0, 0.0, 0.0], [3.7, 0.0, 0.0]])


def run_steps(library: Path, path: Path, atoms: Atoms, steps: range, *, restart: bool) -> None:
    with engine(library, len(atoms)) as run:
        run.whole("setRestart", int(restart))
        run.start(path)
        for number in steps:
            run.step(number, *nm(atoms))
        run.whole("doCheckPoint", 1)


def test_energies_of_a_run_that_goes_on(
    library: Path, setup: Callable[..., Path], pair: Atoms, tmp_path: Path
) -> None:
    path = setup("species Ar")
    output = tmp_path / "bridge.energies"
    run_steps(library, path, pair, range(8), restart=False)
    with output.open("a") as file:
        file.write("8 0.01")  # killed while it wrote
    run_steps(library, path, pair, range(5, 11), restart=True)
    assert energies_in(output)[:, 0].tolist() == list(range(11))
    run_steps(library, path, pair, range(2), restart=False)
    assert energies_in(output)[:, 0].tolist() == [0, 1]
    assert energies_in(tmp_path / "#bridge.energies.1#")[:, 0].tolist() == list(range(11))
    run_steps(library, path, pair, range(1), restart=False)
    assert (tmp_path / "#bridge.energies.2#").is_file()
    output.unlink()
    run_steps(library, path, pair, range(3, 5), restart=True)
    assert energies_in(output)[:, 0].tolist() == [3, 4]


def test_which_energies(
    library: Path, setup: Callable[..., Path], pair: Atoms, tmp_path: Path
) -> None:
    run_steps(library, setup("species Ar", "every 3"), pair, range(10, 18), restart=False)
    assert energies_in(tmp_path / "bridge.energies")[:, 0].tolist() == [12, 15]
    before = sorted(tmp_path.iterdir())
    run_steps(library, setup("species Ar", "energies none"), pair, range(3), restart=False)
    assert sorted(tmp_path.iterdir()) == before
    with told("expected to be able to write", "no/where", "keyword energies"):
        run_steps(library, setup("species Ar", "energies no/where"), pair, range(1), restart=False)


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_not_ours_is_left_alone(
    library: Path, setup: Callable[..., Path], pair: Atoms, tmp_path: Path, restart: bool
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes").write_text("of years\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("notes")
    for name in ("folder", "notes", "pipe", "link", "bridge.dat", "''", "/dev/null"):
        path = setup("species Ar", f"energies {name}")
        before = sorted(tmp_path.iterdir())
        with told("there is something else of that name"):
            run_steps(library, path, pair, range(1), restart=restart)
        assert [p for p in sorted(tmp_path.iterdir()) if p.suffix != ".log"] == [
            p for p in before if p.suffix != ".log"
        ]
    assert (tmp_path / "notes").read_text() == "of years\n"
    assert Path("/dev/null").is_char_device()
    # an empty file and a link to one of ours are all right
    (tmp_path / "empty").touch()
    run_steps(library, setup("species Ar", "energies empty"), pair, range(2), restart=restart)
    (tmp_path / "ours").symlink_to("empty")
    run_steps(library, setup("species Ar", "energies ours"), pair, range(2), restart=restart)
    assert energies_in(tmp_path / "empty")[:, 0].tolist() == [0, 1]


def test_a_disk_that_is_full(library: Path, setup: Callable[..., Path], pair: Atoms) -> None:
    path = setup("species Ar", "energies out")
    with engine(library, 2) as run:
        run.start(path)
        run.step(0, *nm(pair))
        with small_files(), told("alchemi_bridge: energies", "able to write", "too large"):
            run.whole("doCheckPoint", 1)


@contextmanager
def small_files() -> Iterator[None]:
    """Files can not grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_log_names_the_model(
    library: Path, setup: Callable[..., Path], pair: Atoms, tmp_path: Path
) -> None:
    run_steps(library, setup("species Ar", "atoms 1"), pair, range(1), restart=False)
    said = (tmp_path / "bridge.log").read_text()
    assert "Lennard-Jones" in said
    assert "1 of 2 atoms" in said
    assert f"Energies of the model: {tmp_path}/bridge.energies" in said
    assert "Periodic directions: none, after the box" in said
    run_steps(library, setup("species Ar", "periodic off"), pair, range(1), restart=False)
    assert (
        "Periodic directions: none, as the setup file says" in (tmp_path / "bridge.log").read_text()
    )


# --- what it costs ------------------------------------------------------------------------------

#: Microseconds of a step of 648 atoms outside the provider.
OUTSIDE = 300.0

#: Others use the machine, too: one quiet moment is enough.
SECONDS = 10.0


def test_cost_of_a_step(
    library: Path, setup: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the evaluation takes but for the provider's own time. (The other commands hand over
    addresses; here most of them is ctypes.)"""
    spent: list[float] = []
    compute = MetatomicForceProvider.compute

    def timed(self: MetatomicForceProvider, *arguments: Any) -> Any:
        begin = time.thread_time()
        result = compute(self, *arguments)
        spent.append(time.thread_time() - begin)
        return result

    monkeypatch.setattr(MetatomicForceProvider, "compute", timed)
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True).repeat((6, 9, 3))
    assert len(atoms) == 648
    found = math.inf
    with engine(library, len(atoms), precision=4) as run:
        run.start(setup("species Ar"))
        until = time.perf_counter() + SECONDS
        for number in itertools.count():
            run.step(number, *nm(atoms))
            spent.clear()
            begin = time.thread_time()
            run.cmd("performCalc")
            found = min(found, 1e6 * (time.thread_time() - begin - sum(spent)))
            if number > 20 and (found < OUTSIDE or time.perf_counter() > until):
                break
    assert found < OUTSIDE


# --- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["species Xe"], ["expected types that the model knows", "54"]),
        (["species Ar", "device tpu"], ["device", "tpu"]),
        (["species Ar", "atoms 1-3"], ["numbers from 1 to 2", "got 3"]),
        (["species Ar", "sha256 00"], ["sha256"]),
        (["species Ar", "periodic on"], ["cell"]),
    ],
)
def test_setups_that_do_not_work(
    library: Path, setup: Callable[..., Path], pair: Atoms, lines: list[str], parts: list[str]
) -> None:
    with engine(library, 2) as run, told("alchemi_bridge", *parts):
        run.start(setup(*lines))
        run.step(0, *nm(pair))


def test_a_model_that_fails_in_the_middle(
    library: Path, setup: Callable[..., Path], pair: Atoms, tmp_path: Path
) -> None:
    """Nothing is added, and the log and the engine are told; the next step is another one."""
    model = tmp_path / "nan.pt"
    zoo.nan_energy().save(str(model))
    atoms = Atoms("Si2", positions=pair.positions)
    with engine(library, 2) as run:
        run.start(setup("species Si", model=model))
        run.step(0, *nm(atoms))
        close = atoms.copy()
        close.positions[1] = [0.5, 0.0, 0.0]
        forces = np.zeros((2, 3))
        run.cmd("setForces", forces)
        run.cmd("setPositions", nm(close)[0])
        with told("alchemi_bridge", "finite values"):
            run.cmd("performCalc")
        np.testing.assert_array_equal(forces, 0.0)
        run.step(2, *nm(atoms))
    assert "finite values" in (tmp_path / "bridge.log").read_text()
    assert energies_in(tmp_path / "bridge.energies")[:, 0].tolist() == [0, 2]


def test_molecules_that_the_engine_has_broken(library: Path, setup: Callable[..., Path]) -> None:
    """In a box that is said not to be periodic: GROMACS puts atoms into it all the same."""
    box = np.array([[2.5, 0.0, 0.0], [0.9, 2.5, 0.0], [0.3, -0.7, 2.5]])  # nm
    atoms = Atoms("Ar2", positions=[[6.0, 6.0, 6.0], [9.9, 6.0, 6.0]])
    wanted = expected(atoms)
    for axis, letters in enumerate(("yz", "xz", "xy")):
        whole = atoms.positions * ANGSTROM
        broken = whole + np.outer([0, 1], box[axis]) * (1 if axis else -1)
        with engine(library, 2) as run:
            run.start(setup("species Ar", f"periodic {letters}", "energies none"))
            forces, _ = run.step(0, whole, box)
            np.testing.assert_allclose(
                forces / EV * ANGSTROM, wanted.forces, rtol=0, atol=FLOAT64_TOLERANCE
            )
            with told("expected room of 0.85", f"along {'xyz'[axis]}", "unchecked"):
                run.step(1, broken, box)
        with engine(library, 2) as run:
            run.start(setup("species Ar", f"periodic {letters} unchecked", "energies none"))
            forces, _ = run.step(0, broken, box)
            np.testing.assert_array_equal(forces, 0.0)


def test_models_that_want_more(
    library: Path, setup: Callable[..., Path], models: Callable[[str], Path]
) -> None:
    model = models("old_plural_names")
    with engine(library, 2) as run, told("atoms and box only", "which is not handed over"):
        run.start(setup("species Ar", model=model))


def test_calls_in_the_wrong_order(
    library: Path, setup: Callable[..., Path], pair: Atoms, tmp_path: Path
) -> None:
    with engine(library, 2) as run:
        with told("'performCalc'", "after init"):
            run.cmd("performCalc")
        with told("'GREX'", "does not know"):
            run.cmd("GREX")
        with told("'setPlumedDat'", "got none"):
            run.cmd("setPlumedDat")
        with told("4 or 8 bytes", "got 16"):
            run.whole("setRealPrecision", 16)
        run.start(setup("species Ar"))
        with told("'setTimestep'", "before init"):
            run.number("setTimestep", 1.0)
        with told("number of atoms", "expected 2", "got 3"):
            run.whole("setNatoms", 3)
        with told("positions", "got none"):
            run.cmd("performCalc")
    with engine(library, 2) as run:
        run.cmd("init")
        with told("setup file", "got none"):
            run.cmd("performCalc")


def test_minimisers_of_gromacs(library: Path, setup: Callable[..., Path], pair: Atoms) -> None:
    """They decide by an energy that is not the model's; some of them tell by their step."""
    with engine(library, 2, name="gromacs") as run:
        run.start(setup("species Ar"))
        with told("a minimiser"):
            run.step(-1, *nm(pair))
    with engine(library, 2) as run:
        run.start(setup("species Ar"))
        run.step(-1, *nm(pair))


def test_times_of_single_precision(
    library: Path, setup: Callable[..., Path], pair: Atoms, tmp_path: Path
) -> None:
    with engine(library, 2, precision=4, timestep=0.007, units=(4.184, 0.1, 0.001)) as run:
        run.start(setup("species Ar"))
        run.step(10, nm(pair)[0] / 0.1, None)
    assert energies_in(tmp_path / "bridge.energies")[0, 1] == 7e-5


def test_several_engines_at_once(library: Path, setup: Callable[..., Path], pair: Atoms) -> None:
    path = setup("species Ar", "energies none")
    runs = [Engine(library, 2, precision=width) for width in (4, 8)]
    try:
        found = [run.start(path).step(0, *nm(pair))[0] for run in runs]
    finally:
        for run in runs:
            run.close()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    with pytest.raises(PlumedError, match="no such file"):
        runs[0] = Engine(library, 2).start(path.parent / "other.dat")


def test_the_command_prints_the_path(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Cli(capsys)("plugin", "plumed")
    assert (done.status, done.stdout) == (0, f"{library}\n")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written without a folder must not land in the checkout."""
    monkeypatch.chdir(tmp_path)
