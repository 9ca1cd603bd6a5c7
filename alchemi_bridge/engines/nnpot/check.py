"""A file for GROMACS against the provider, on one small structure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch

from alchemi_bridge.engines.ase import BridgeCalculator
from alchemi_bridge.engines.nnpot.reach import pair_cutoff
from alchemi_bridge.engines.nnpot.search import find_pairs
from alchemi_bridge.errors import BridgeError, EvaluationError, last_line
from alchemi_bridge.model import LoadedModel
from alchemi_bridge.units import conversion_factor

LOGGER = logging.getLogger(__name__)

#: Largest difference of energy and forces, relative to the largest of its kind. Both ways cut the
#: same pairs, but add up in another order: a few ulp of a sum of many terms.
RTOL = {torch.float32: 2e-5, torch.float64: 1e-6}


def compare(
    file: Path,
    contract: str,
    loaded: LoadedModel,
    skin: float,
    variants: Mapping[str, str | None] | None,
    non_conservative: bool,
) -> float | None:
    """Largest relative difference of energy and forces; None if the model fails on the structure.

    Raises
    ------
    EvaluationError
        If the difference is above :data:`RTOL`, or the file can not be evaluated.
    """
    atoms = small_structure(loaded)
    atoms.calc = BridgeCalculator(
        loaded,
        comm=None,
        variants=variants,
        non_conservative="forces" if non_conservative else False,
        uncertainty_threshold=None,
    )
    try:
        energy = atoms.get_potential_energy() * conversion_factor("eV", "kJ/mol")
        forces = atoms.get_forces() * conversion_factor("eV/angstrom", "kJ/mol/nm")
    except BridgeError as error:
        LOGGER.warning("the file was not compared with the provider: %s", last_line(error))
        return None
    try:
        found = torch.jit.load(str(file))(*inputs(atoms, contract, loaded, skin))
    except Exception as error:  # TorchScript raises what it likes
        raise EvaluationError(
            f"'{file}'", expected="results", got=last_line(error), fix="please report this"
        ) from error
    worst = max(
        _difference(found[0].numpy(), np.asarray(energy)), _difference(found[1].numpy(), forces)
    )
    if not worst < RTOL[loaded.dtype]:
        raise EvaluationError(
            f"'{file}'",
            expected=f"energy and forces of the provider within {RTOL[loaded.dtype]:g}",
            got=f"a relative difference of {worst:.1e}",
            fix="please report this with the model",
        )
    return worst


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest number; numbers below 1 are compared as they are."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def small_structure(loaded: LoadedModel) -> ase.Atoms:
    """27 atoms in a slanted box, in a disorder that most models can evaluate."""
    cutoff = loaded.cutoff * conversion_factor(loaded.length_unit, "angstrom")
    spacing = max(2.2, 0.5 * cutoff)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    vectors = 3 * spacing * np.array([[1.0, 0.0, 0.0], [0.5, 0.9, 0.0], [-0.5, 0.4, 0.95]])
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, grid.shape)
    # what GROMACS hands over is in single precision
    positions = np.float32(((grid + noise) / 3.0) @ vectors / 10.0).astype(np.float64) * 10.0
    cell = np.float32(vectors / 10.0).astype(np.float64) * 10.0
    types = sorted(loaded.atomic_types)
    return ase.Atoms(np.resize(types[:3], len(grid)), positions, cell=cell, pbc=True)


def inputs(atoms: ase.Atoms, contract: str, loaded: LoadedModel, skin: float) -> list[Any]:
    """Arguments for the file, as GROMACS makes them; ``skin`` is the file's, nm."""
    box = torch.tensor(atoms.cell.array / 10.0)
    positions = torch.tensor(atoms.positions / 10.0)
    pbc = torch.tensor(atoms.pbc)
    arguments = [positions.float(), torch.tensor(atoms.numbers, dtype=torch.int32)]
    if contract == "2026":
        cutoff = loaded.cutoff * conversion_factor(loaded.length_unit, "nm")
        first, second, shifts = find_pairs(positions, box, pbc, pair_cutoff(cutoff, skin))
        arguments.append(torch.stack([first, second], dim=1).to(torch.int32))
        arguments.append((-shifts.double() @ box).float())
    return [*arguments, box.float(), pbc]
