"""Stillinger-Weber energies, forces and virial in NumPy, by explicit triplets."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from alchemi_bridge.parity.oracles.images import (
    Array,
    OracleResult,
    Pairs,
    check_species,
    find_pairs,
)


class StillingerWeberOracle:
    """Two- and three-body potential of doi:10.1103/PhysRevB.31.5262; defaults are silicon's.

    Parameters
    ----------
    atomic_type
        The one atomic number it describes.
    epsilon, sigma
        eV and Å.
    a, lam, gamma, costheta0, A, B, p, q
        Dimensionless parameters of the publication; the cutoff is ``a * sigma``.
    """

    def __init__(
        self,
        *,
        atomic_type: int = 14,
        epsilon: float = 2.1683,
        sigma: float = 2.0951,
        a: float = 1.80,
        lam: float = 21.0,
        gamma: float = 1.20,
        costheta0: float = -1.0 / 3.0,
        A: float = 7.049556277,
        B: float = 0.6022245584,
        p: float = 4.0,
        q: float = 0.0,
    ) -> None:
        self.types = (atomic_type,)
        self.epsilon, self.sigma, self.a, self.lam, self.gamma = epsilon, sigma, a, lam, gamma
        self.costheta0, self.A, self.B, self.p, self.q = costheta0, A, B, p, q
        self.cutoff = a * sigma

    def evaluate(self, atoms: Atoms) -> OracleResult:
        """Evaluate ``atoms``.

        Pairs are shared equally by their atoms; a triplet belongs to the atom in the middle.
        """
        check_species(atoms, self.types)
        pairs = find_pairs(atoms, self.cutoff)
        pair_energy, pair_slope = self._two_body(pairs.lengths)
        unit = pairs.vectors / pairs.lengths[:, None]
        energies = pairs.sum_first(0.5 * pair_energy)
        gradients = 0.5 * pair_slope[:, None] * unit
        triplet_energies, triplet_gradients = self._three_body(pairs, unit)
        return pairs.result(energies + triplet_energies, gradients + triplet_gradients)

    def _tail(self, r: Array, strength: float) -> tuple[Array, Array]:
        """exp(strength / (r - cutoff)) and its derivative, both zero where they underflow."""
        gap = np.minimum(r - self.cutoff, -1e-4 * strength)
        value = np.exp(strength / gap)
        return value, -value * strength / gap**2

    def _two_body(self, r: Array) -> tuple[Array, Array]:
        tail, tail_slope = self._tail(r, self.sigma)
        x = self.sigma / r
        shape = self.B * x**self.p - x**self.q
        shape_slope = (-self.p * self.B * x**self.p + self.q * x**self.q) / r
        factor = self.A * self.epsilon
        return factor * shape * tail, factor * (shape_slope * tail + shape * tail_slope)

    def _three_body(self, pairs: Pairs, unit: Array) -> tuple[Array, Array]:
        one, two = _triplets(pairs)
        tail, tail_slope = self._tail(pairs.lengths, self.gamma * self.sigma)
        cosine = np.einsum("ta,ta->t", unit[one], unit[two])
        excess = cosine - self.costheta0
        strength = self.lam * self.epsilon
        energy = strength * excess**2 * tail[one] * tail[two]
        per_atom = np.zeros(pairs.n_atoms)
        np.add.at(per_atom, pairs.first[one], energy)

        gradients = np.zeros_like(unit)
        angular = 2.0 * strength * excess * tail[one] * tail[two]
        for this, other in ((one, two), (two, one)):
            radial = strength * excess**2 * tail_slope[this] * tail[other]
            bend = unit[other] - cosine[:, None] * unit[this]
            part = radial[:, None] * unit[this] + (angular / pairs.lengths[this])[:, None] * bend
            for axis in range(3):
                gradients[:, axis] += np.bincount(
                    this, weights=part[:, axis], minlength=len(gradients)
                )
        return per_atom, gradients


def _triplets(pairs: Pairs) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of pairs (p, q), p < q, that share their first atom; pairs are sorted by first."""
    n_pairs = len(pairs.first)
    index = np.arange(n_pairs)
    ends = np.cumsum(np.bincount(pairs.first, minlength=pairs.n_atoms))
    partners = ends[pairs.first] - index - 1
    one = np.repeat(index, partners)
    begin = np.cumsum(partners) - partners
    two = one + 1 + np.arange(len(one)) - np.repeat(begin, partners)
    return one, two
