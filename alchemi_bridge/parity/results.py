"""What a path hands back, and the frames that it was computed for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Quantities that paths compute.
QUANTITIES = ("energy", "forces", "virial", "energies")


@dataclass(frozen=True)
class PathResult:
    """Numbers of one path for one structure, float64 on the host, in eV and Å.

    Attributes
    ----------
    energy
        Total energy, eV.
    forces
        Forces, shape (N, 3), eV/Å.
    virial
        dE/d(strain), shape (3, 3), eV, symmetric, tensile positive; None where not computed.
    energies
        Per-atom energies, shape (N,), eV; None where not computed.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None = None
    energies: np.ndarray | None = None

    def value(self, quantity: str) -> np.ndarray | None:
        """One of :data:`QUANTITIES` as an array, or None where it was not computed."""
        found = getattr(self, quantity)
        return None if found is None else np.asarray(found, dtype=np.float64)

    @property
    def quantities(self) -> frozenset[str]:
        """Names of what is there."""
        return frozenset(q for q in QUANTITIES if getattr(self, q) is not None)


def rms(values: np.ndarray) -> float:
    """Root of the mean square of all elements; 0 for none."""
    return float(np.sqrt(np.mean(np.square(values)))) if np.size(values) else 0.0
