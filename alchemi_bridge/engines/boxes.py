"""What engines have in common that compute structures of ASE, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import ase
import numpy as np


@dataclass(frozen=True)
class Computed:
    """What an engine computed for a structure, float64, in its order and frame.

    Attributes
    ----------
    energy
        eV.
    forces
        (N, 3), eV/Å.
    virial
        (3, 3) dE/d(strain), eV, tensile positive; None if it was not asked for.
    energies
        (N,) eV; None if they were not asked for.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None = None
    energies: np.ndarray | None = None


def same_system(first: ase.Atoms, other: ase.Atoms) -> bool:
    """Whether two structures differ by their positions only."""
    return (
        np.array_equal(first.numbers, other.numbers)
        and np.array_equal(first.cell.array, other.cell.array)
        and np.array_equal(first.pbc, other.pbc)
    )
