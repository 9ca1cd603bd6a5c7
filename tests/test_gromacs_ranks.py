"""GROMACS on two ranks with domain decomposition: atoms of the model come from both."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gromacs_runs import deck, needs_gromacs, run
from plumed_engine import energies_in

from alchemi_bridge.engines import gromacs_packages, plumed_plugin
from alchemi_bridge.engines.gromacs_commands import environment
from alchemi_bridge.errors import EvaluationError

#: Only the fetched GROMACS is known to have a program for MPI, and what starts its ranks.
FOLDER = gromacs_packages.folder()
pytestmark = [
    needs_gromacs,
    pytest.mark.slow,
    pytest.mark.skipif(not (FOLDER / "mpirun").is_file(), reason="GROMACS was not fetched"),
]

#: Relative, mixed precision: forces are summed in another order.
TOLERANCE = 1e-6


@pytest.fixture
def argon(tmp_path: Path) -> Callable[..., None]:
    """Writes a deck of 64 atoms in a box that can be divided, for a model."""
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    rng = np.random.default_rng(0)

    def write(model: Path, against: float = 0.0) -> None:
        velocities = rng.normal(0.0, 0.5, (64, 3))
        velocities[:2] = [[0.0, 0.0, against], [0.0, 0.0, -against]]  # neighbours along z
        deck(
            tmp_path,
            ["Ar"] * 64,
            0.4 * grid + 0.1 + rng.normal(0.0, 0.01, (64, 3)),
            f"model '{model}'",
            "species Ar",
            velocities=velocities,
            box=1.6,
        )

    return write


def on_two_ranks(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run what is there; a run that hangs fails."""
    variables = {
        **environment(),
        "PLUMED_KERNEL": str(plumed_plugin.build()),
        "OMP_NUM_THREADS": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    launch = [str(FOLDER / "mpirun"), "--map-by", ":OVERSUBSCRIBE", "-n", "2"]
    program = [str(FOLDER / "gmx_mpi"), "mdrun", "-s", "run.tpr", "-deffnm", "mpi"]
    return subprocess.run(
        [*launch, *program, "-plumed", "bridge.dat", "-ntomp", "1"],
        cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", timeout=120, check=False,
    )  # fmt: skip


def test_the_same_run_on_one_rank_and_on_two(
    argon: Callable[..., None], model_file: Callable[..., Path], tmp_path: Path
) -> None:
    argon(model_file("lennard-jones", cutoff=5.0))
    run(tmp_path)
    serial = energies_in(tmp_path / "bridge.energies")
    done = on_two_ranks(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Domain decomposition grid 2 x 1 x 1" in (tmp_path / "mpi.log").read_text()
    found = energies_in(tmp_path / "bridge.energies")
    np.testing.assert_array_equal(found[:, 0], serial[:, 0])
    np.testing.assert_allclose(found[:, 2], serial[:, 2], rtol=TOLERANCE)
    assert np.ptp(serial[:, 2]) > 100 * TOLERANCE * abs(serial[0, 2])


def test_a_model_that_fails_in_the_middle(
    argon: Callable[..., None], models: Callable[[str], Path], tmp_path: Path
) -> None:
    argon(models("nan_energy"), against=10.0)
    with pytest.raises(EvaluationError, match=r"alchemi_bridge: .*finite"):
        run(tmp_path)
    steps = len(energies_in(tmp_path / "bridge.energies"))
    assert 5 < steps < 20
    done = on_two_ranks(tmp_path)
    assert done.returncode != 0
    assert "alchemi_bridge: " in done.stdout
    assert not (tmp_path / "mpi.gro").exists()
    assert len(energies_in(tmp_path / "bridge.energies")) == steps
