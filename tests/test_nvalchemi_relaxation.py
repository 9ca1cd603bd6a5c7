"""nvalchemi's optimisers on a model, with atoms alone and with cells: the minima that ASE finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from nvalchemi_parts import QUIET, crystal, engine

from alchemi_bridge import BridgeCalculator

nv = engine()

from nvalchemi.dynamics import (  # noqa: E402
    FIRE,
    FIRE2,
    ConvergenceHook,
    FIRE2VariableCell,
)

ModelFile = Callable[..., Path]

pytestmark = QUIET

#: With a largest force of 1e-4 eV/Å and force constants above 0.1 eV/Å^2 there are less than 1e-7
#: eV left to go, for each of the two optimisers.
SAME_MINIMUM = 2e-7  # eV

FMAX = 1e-4  # eV/Å

#: Stresses below this, under moduli of some 0.5 eV/Å^3, leave strains of 4e-5: 2e-4 Å in cells of
#: 5 to 11 Å, and with the square of the strain 1e-6 eV.
SMAX = 2e-5  # eV/Å^3
SAME_LENGTH, SAME_ENERGY = 5e-4, 2e-6

REPEATS = [(1, 1, 1), (2, 1, 1), (1, 1, 1)]


def converged(variable: bool) -> ConvergenceHook:
    forces = {"key": "forces", "threshold": FMAX, "reduce_op": "norm", "reduce_dims": -1}
    if not variable:
        return ConvergenceHook(forces)

    def small(stress: torch.Tensor) -> torch.Tensor:
        return stress.abs().amax(dim=(1, 2)) < SMAX

    return ConvergenceHook([forces, {"key": "stress", "threshold": SMAX, "custom_op": small}])


@pytest.mark.parametrize("optimiser", [FIRE, FIRE2])
def test_atoms(optimiser: Any, model_file: ModelFile) -> None:
    """Until the forces of all are small, and no longer; each system to its own minimum."""
    path = model_file("stillinger-weber")
    structures = [crystal("stillinger-weber", r, seed=k) for k, r in enumerate(REPEATS)]
    batch = nv.make_batch(structures)
    cells = batch.cell.clone()
    dynamics = optimiser(nv.MetatomicModel(path), dt=0.05, convergence_hook=converged(False))
    nv.prime(dynamics, batch)
    dynamics.run(batch, n_steps=2000)
    assert dynamics.step_count < 2000
    assert float(torch.linalg.vector_norm(batch.forces, dim=1).max()) <= FMAX
    assert torch.equal(batch.cell, cells)
    for k, atoms in enumerate(structures):
        atoms.calc = BridgeCalculator(path)
        before = atoms.get_potential_energy()
        BFGS(atoms, logfile=None).run(fmax=FMAX)
        assert before > atoms.get_potential_energy() + 1e-3
        assert float(batch.energy[k, 0]) == pytest.approx(
            atoms.get_potential_energy(), rel=0, abs=SAME_MINIMUM
        )


def test_atoms_and_cells(model_file: ModelFile) -> None:
    """Energies, and lengths and angles of the cells, are those of ASE with a cell filter."""
    path = model_file("stillinger-weber")
    structures = [crystal("stillinger-weber", r, seed=k) for k, r in enumerate(REPEATS)]
    batch = nv.make_batch(structures, stress=True)
    dynamics = FIRE2VariableCell(
        nv.MetatomicModel(path, stress=True),
        dt=0.05,
        tmax=0.3,
        convergence_hook=converged(True),
    )
    nv.prime(dynamics, batch)
    dynamics.run(batch, n_steps=1500)
    assert dynamics.step_count < 1500
    assert float(batch.stress.abs().max()) < SMAX
    for k, atoms in enumerate(structures):
        start = atoms.cell.lengths()
        atoms.calc = BridgeCalculator(path)
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4)
        assert np.abs(atoms.cell.lengths() - start).max() > 20 * SAME_LENGTH
        found = atoms.copy()
        found.set_cell(batch.cell[k].numpy())
        np.testing.assert_allclose(
            found.cell.lengths(), atoms.cell.lengths(), rtol=0, atol=SAME_LENGTH
        )
        np.testing.assert_allclose(found.cell.angles(), atoms.cell.angles(), rtol=0, atol=0.02)
        assert float(batch.energy[k, 0]) == pytest.approx(
            atoms.get_potential_energy(), rel=0, abs=SAME_ENERGY
        )
