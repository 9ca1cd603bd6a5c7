"""Lennard-Jones energies, forces and virial in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from alchemi_bridge.parity.oracles.images import (
    Array,
    OracleResult,
    check_species,
    find_pairs,
)


class LennardJonesOracle:
    """u(r) = 4 epsilon [(sigma/r)^12 - (sigma/r)^6] within the cutoff, truncated in one of 3 ways.

    Parameters
    ----------
    types, epsilon, sigma
        Atomic numbers, well depths (eV) and diameters (Å); unlike types mix by the geometric and
        the arithmetic mean. Defaults: argon and krypton, doi:10.1103/PhysRev.112.1534.
    pairs
        ``(type, type): (epsilon, sigma)`` where the mixing rule does not hold.
    cutoff
        Å.
    truncation
        ``"force-shift"``, ``"energy-shift"`` or ``"none"``.
    """

    def __init__(
        self,
        *,
        types: Sequence[int] = (18, 36),
        epsilon: Sequence[float] = (0.01042332, 0.01404340),
        sigma: Sequence[float] = (3.40, 3.65),
        pairs: Mapping[tuple[int, int], tuple[float, float]] | None = None,
        cutoff: float = 8.5,
        truncation: str = "force-shift",
    ) -> None:
        self.types = tuple(types)
        self.cutoff = float(cutoff)
        self.truncation = truncation
        self._epsilon: dict[tuple[int, int], float] = {}
        self._sigma: dict[tuple[int, int], float] = {}
        for a, eps_a, sig_a in zip(types, epsilon, sigma, strict=True):
            for b, eps_b, sig_b in zip(types, epsilon, sigma, strict=True):
                self._epsilon[a, b] = float(np.sqrt(eps_a * eps_b))
                self._sigma[a, b] = 0.5 * (sig_a + sig_b)
        for (a, b), (eps, sig) in (pairs or {}).items():
            self._epsilon[a, b] = self._epsilon[b, a] = float(eps)
            self._sigma[a, b] = self._sigma[b, a] = float(sig)

    def evaluate(self, atoms: Atoms) -> OracleResult:
        """Evaluate ``atoms``; each pair's energy is shared equally by its two atoms."""
        check_species(atoms, self.types)
        pairs = find_pairs(atoms, self.cutoff)
        numbers = np.asarray(atoms.numbers)
        z_first, z_second = numbers[pairs.first], numbers[pairs.second]
        energy = np.zeros(len(pairs.lengths))
        slope = np.zeros(len(pairs.lengths))
        for (a, b), epsilon in self._epsilon.items():
            these = (z_first == a) & (z_second == b)
            r = pairs.lengths[these]
            energy[these], slope[these] = self._pair(r, epsilon, self._sigma[a, b])
        # every pair appears in both directions, each carries half
        energies = pairs.sum_first(0.5 * energy)
        gradients = (0.5 * slope / pairs.lengths)[:, None] * pairs.vectors
        return pairs.result(energies, gradients)

    def _pair(self, r: Array, epsilon: float, sigma: float) -> tuple[Array, Array]:
        """Energy and its derivative at the distances ``r``."""

        def plain(x: Array) -> tuple[Array, Array]:
            s6 = (sigma / x) ** 6
            return 4.0 * epsilon * (s6**2 - s6), -24.0 * epsilon * (2.0 * s6**2 - s6) / x

        u, du = plain(r)
        [u_cut], [du_cut] = plain(np.array([self.cutoff]))
        if self.truncation == "none":
            return u, du
        if self.truncation == "energy-shift":
            return u - u_cut, du
        return u - u_cut - (r - self.cutoff) * du_cut, du - du_cut
