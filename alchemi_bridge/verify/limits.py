"""Tolerances that fit a model's precision and a system's own scale."""

from __future__ import annotations

import numpy as np
import torch

from alchemi_bridge.parity import tolerances


class Limits:
    """Limits for two evaluations of what should be the same.

    Parameters
    ----------
    dtype
        The precision that the model computes in.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        #: Whether the model computes in float64.
        self.double = dtype == torch.float64
        #: Unit roundoff of that precision.
        self.roundoff = torch.finfo(dtype).eps / 2

    def of(self, name: str) -> float:
        """The constant ``name`` of :mod:`alchemi_bridge.parity.tolerances` for this precision."""
        return float(getattr(tolerances, f"{name}_{'F64' if self.double else 'F32'}"))

    def energy_per_atom(self, energy: float, n_atoms: int) -> float:
        """Limit for the energy per atom, eV."""
        return self.of("SAME_ENERGY") * max(abs(energy) / max(n_atoms, 1), 1.0)

    def force(self, forces: np.ndarray) -> float:
        """Limit for a component of a force, eV/Å."""
        return self.of("SAME_FORCE") * max(float(np.abs(forces).max(initial=0.0)), 1.0)

    def virial_per_atom(self, virial: np.ndarray, n_atoms: int) -> float:
        """Limit for a component of the virial per atom, eV."""
        largest = float(np.abs(virial).max(initial=0.0)) / max(n_atoms, 1)
        return self.of("SAME_VIRIAL") * max(largest, 1.0)
