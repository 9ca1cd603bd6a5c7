"""The library behind PLUMED's interface in an engine of several ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import known_potentials
import numpy as np
import pytest
from kernel_parts import needs_compiler
from mpi_runs import needs_mpi, run_ranks, slow
from plumed_engine import energies_in

from alchemi_bridge.engines import plumed_plugin
from alchemi_bridge.parity import oracles

pytestmark = [needs_compiler, needs_mpi]

SCRIPT = Path(__file__).parent / "plumed_ranks_run.py"

#: eV in kJ/mol and Å in nm.
EV, ANGSTROM = 1.602176634e-19 * 6.02214076e23 / 1000, 0.1


@pytest.mark.parametrize("n_ranks", [2, slow(1), slow(3)])
def test_forces_of_atoms_that_are_spread(
    n_ranks: int, model_file: Callable[..., Path], tmp_path: Path
) -> None:
    atoms = known_potentials.structure("triclinic", "lennard-jones")
    wanted = oracles.build("lennard-jones").evaluate(atoms)
    setup = tmp_path / "bridge.dat"
    symbols = " ".join(atoms.get_chemical_symbols())
    setup.write_text(f"model '{model_file('lennard-jones')}'\nspecies {symbols}\n")
    np.savez(
        tmp_path / "system.npz",
        positions=atoms.positions * ANGSTROM,
        box=atoms.cell.array * ANGSTROM,
        forces=wanted.forces * EV / ANGSTROM,
        virial=wanted.virial * EV,
    )
    done = run_ranks(n_ranks, SCRIPT, plumed_plugin.build(), setup, tmp_path / "system.npz")
    assert (done.returncode, done.stdout.split("\n")[-2:-1]) == (0, ["all right"]), done.stdout
    found = energies_in(tmp_path / "bridge.energies")  # of the last run: a step failed in between
    assert len(found) == 2
    np.testing.assert_allclose(found[:, 2], wanted.energy * EV, rtol=1e-12)
