"""``mpiexec -n N alchemi-bridge ...``: the same results, reported and written once."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from mpi_runs import needs_mpi, run_command, run_ranks, slow

from alchemi_bridge.cli.main import main

pytestmark = needs_mpi

CLI = [sys.executable, "-W", "ignore", "-m", "alchemi_bridge.cli.main"]

#: 17 digits are written; sums over ranks differ in the last, which 20 steps of dynamics amplify.
CLOSE = 1e-9


@pytest.fixture
def files(model_file, tmp_path: Path) -> tuple[str, str]:
    atoms = ase.build.bulk("Si", "diamond", a=5.431, cubic=True) * (2, 2, 1)
    atoms.rattle(0.1, seed=1)
    ase.io.write(tmp_path / "frames.xyz", [atoms, atoms * (1, 1, 2)])
    return str(model_file("stillinger-weber")), str(tmp_path / "frames.xyz")


@pytest.mark.slow
def test_dynamics(files: tuple[str, str], tmp_path: Path) -> None:
    options = ["--ensemble", "langevin", "--temperature", "300", "--steps", "20", "--seed", "3",
               "--no-plot"]  # fmt: skip
    assert main(["--quiet", "md", *files, *options, "-o", str(tmp_path / "one")]) == 0
    done = run_command(2, [*CLI, "md", *files, *options, "-o", str(tmp_path / "two")])
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("total energy") == 1
    one, two = (ase.io.read(tmp_path / f"{name}.extxyz", ":") for name in ("one", "two"))
    assert len(one) == len(two) > 1
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, rtol=0, atol=CLOSE)
        np.testing.assert_allclose(a.get_forces(), b.get_forces(), rtol=0, atol=CLOSE)
    with (tmp_path / "two.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(n) for n in range(21)]


#: The command line in this process, which says how many steps of the model its rank made.
COUNTING = """
import sys
from alchemi_bridge.cli.main import main
from alchemi_bridge.domain.evaluator import DomainEvaluator
steps, original = [], DomainEvaluator.evaluate
DomainEvaluator.evaluate = lambda self, *a, **o: (steps.append(1), original(self, *a, **o))[1]
status = main(sys.argv[1:])
sys.stdout.write(f"\\nsteps {len(steps)}\\n")
sys.stdout.flush()
sys.exit(status)
"""


@pytest.mark.parametrize("command", ["evaluate", slow("verify")])
def test_all_ranks_work(command: str, files: tuple[str, str], tmp_path: Path) -> None:
    output = ["-o", str(tmp_path / "out.extxyz")] if command == "evaluate" else []
    done = run_ranks(2, COUNTING, command, *files, *output)
    assert done.returncode == 0, done.stdout
    steps = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("steps")]
    assert len(steps) == 2
    assert min(steps) == max(steps) >= 2


@pytest.mark.slow
def test_doctor() -> None:
    """MPI is there, and in order, also for the process that looks whether it is."""
    done = run_command(2, [*CLI, "doctor"])
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("healthy") == 1


@pytest.mark.slow
def test_evaluation(files: tuple[str, str], tmp_path: Path) -> None:
    output = tmp_path / "out.extxyz"
    done = run_command(3, [*CLI, "evaluate", *files, "--energies", "--json", "-o", str(output)])
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)["frames"]
    assert main(["evaluate", *files, "-o", str(tmp_path / "one.extxyz")]) == 0
    for one, many in zip(ase.io.read(tmp_path / "one.extxyz", ":"), found, strict=True):
        assert many["energy_eV"] == pytest.approx(one.get_potential_energy(), abs=CLOSE)
    assert len(ase.io.read(output, ":")) == 2


@pytest.mark.slow
def test_an_error_is_said_once(files: tuple[str, str], tmp_path: Path) -> None:
    atoms = ase.io.read(files[1], 0)
    atoms.positions[3] = atoms.positions[4]
    atoms.write(tmp_path / "bad.xyz")
    for structure in ("bad.xyz", "no-such-file.xyz"):
        begin = time.time()
        done = run_command(3, [*CLI, "evaluate", files[0], str(tmp_path / structure)])
        assert done.returncode == 2, done.stdout
        assert done.stdout.count("error: ") == 1, done.stdout
        assert "atoms 3 and 4" in done.stdout or "no-such-file" in done.stdout
        assert time.time() - begin < 30.0


@pytest.mark.slow
def test_commands_without_a_calculator(files: tuple[str, str]) -> None:
    done = run_command(2, [*CLI, "inspect", files[0], "--json"])
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)


@pytest.mark.parametrize("n_ranks", [slow(3), slow(1)])
def test_parity(n_ranks: int, tmp_path: Path) -> None:
    """With ranks that it starts, and with those that it was started with."""
    command = [*CLI, "--quiet", "parity", "--case", "triclinic", "--case", "molecule",
               "--path", "bridge-mpi", "--json", "--output", str(tmp_path / "out")]  # fmt: skip
    done = run_command(n_ranks, command)
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout[done.stdout.index("{") :])
    rows = [row for case in document["cases"] for row in case["paths"]]
    mpi = [row for row in rows if row["name"] == "bridge-mpi"]
    assert len(mpi) == 2
    assert all(row["passed"] and row["max_force_error"] > 0.0 for row in mpi), mpi
    assert f"over {max(n_ranks, 2)} MPI ranks" in json.dumps(document)


@pytest.mark.slow
def test_an_unchanged_script_of_ase(files: tuple[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, ase.io, numpy as np\n"
        "from mpi4py import MPI\n"
        "from ase.optimize import BFGS\n"
        "from alchemi_bridge import BridgeCalculator\n"
        "atoms = ase.io.read(sys.argv[2], 0)\n"
        "atoms.calc = BridgeCalculator(sys.argv[1], comm=eval(sys.argv[3]))\n"
        "BFGS(atoms, logfile=None).run(fmax=0.01, steps=60)\n"
        "assert type(atoms.calc.provider).__name__ == sys.argv[4]\n"
        "energies = MPI.COMM_WORLD.gather(atoms.get_potential_energy())\n"
        "if MPI.COMM_WORLD.rank == 0: print(len(set(energies)), energies[0])\n"
    )
    found = []
    for n_ranks, comm, kind in (
        (1, "'auto'", "MetatomicForceProvider"),
        (2, "'auto'", "ReplicatedForceProvider"),
        (2, "None", "MetatomicForceProvider"),
    ):
        command = [sys.executable, "-W", "ignore", str(script), *files, comm, kind]
        done = run_command(n_ranks, command)
        assert done.returncode == 0, done.stdout
        distinct, energy = done.stdout.split()[-2:]
        assert distinct == "1"
        found.append(float(energy))
    assert found == pytest.approx([found[0]] * 3, abs=1e-6)
