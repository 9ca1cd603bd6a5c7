"""Energies of frames that an engine recorded, by the bridge."""

from __future__ import annotations

import ase
import numpy as np

from alchemi_bridge.engines.ase import BridgeCalculator
from alchemi_bridge.ensembles.models import WorkerModel
from alchemi_bridge.ensembles.simulators.plan import Recorded

#: Atoms in one evaluation of frames: enough to be fast, and little enough memory for any model.
ATOMS_AT_ONCE = 20_000


def energies_of(model: WorkerModel, atoms: ase.Atoms, part: Recorded) -> np.ndarray:
    """(n_frames,) float64 energies of the frames in eV, some frames at once."""
    calculator = BridgeCalculator(model.loaded, comm=None, uncertainty_threshold=None)
    at_once = max(1, ATOMS_AT_ONCE // max(1, len(atoms)))
    found: list[float] = []
    for first in range(0, len(part.positions), at_once):
        frames = []
        for positions, cell in zip(
            part.positions[first : first + at_once],
            part.cells[first : first + at_once],
            strict=True,
        ):
            frames.append(ase.Atoms(atoms.numbers, positions, cell=cell, pbc=atoms.pbc))
        found += [float(e) for e in calculator.compute_energy(frames)["energy"]]
    return np.array(found)
