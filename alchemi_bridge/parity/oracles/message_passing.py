"""The message-passing net in NumPy: weights, forward pass and backpropagation written out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from alchemi_bridge.parity.oracles.images import (
    Array,
    OracleResult,
    Pairs,
    check_species,
    find_pairs,
)


@dataclass(frozen=True)
class _Layer:
    filter: Array  # (basis, features)
    send: Array  # (features, features)
    update: Array  # (features, features)
    bias: Array  # (features,)


def _uniform(seed: int) -> Iterator[float]:
    """Endless numbers in [-1, 1): the upper 53 bits of PCG64's 64-bit outputs."""
    generator = np.random.PCG64(seed)
    while True:
        yield (int(generator.random_raw()) // 2**11) / 2**52 - 1.0


class MessagePassingOracle:
    """Continuous-filter convolutions with seeded weights.

    With the envelope f(d) = 1 - 28 d^6 + 48 d^7 - 21 d^8 of d = r/rc:

    - radial basis b_k = f exp(-(r - k w)^2 / (2 w^2)), k = 1..n_basis, w = rc / n_basis;
    - x_i = embedding of the species; per layer m_i = sum_j (x_j S) (b_ij F), elementwise, and
      x_i <- x_i + tanh(m_i U + u);
    - e_i = energy_scale tanh(x_i R + q) . o + 1/2 sum_j f 300 eV exp(-r_ij / 0.13 Å).

    Weights are uniform, half-width gain/sqrt(rows): embedding (119 rows, half-width 1), then F
    (gain 6), S, U, u (1.5) of each layer, then R, q (1.5), o (1). Vectors count as one row.

    Parameters
    ----------
    types
        Atomic numbers that are accepted; they do not change the numbers.
    cutoff
        Å.
    n_layers, n_features, n_basis, energy_scale, seed
        As for the potential.
    """

    def __init__(
        self,
        *,
        types: Sequence[int] = (1, 6, 7, 8, 14, 18, 29, 36),
        cutoff: float = 4.0,
        n_layers: int = 3,
        n_features: int = 16,
        n_basis: int = 8,
        energy_scale: float = 1.0,
        seed: int = 2024,
    ) -> None:
        self.types = tuple(types)
        self.cutoff = float(cutoff)
        self.energy_scale = float(energy_scale)
        self.n_basis = n_basis
        numbers = _uniform(seed)

        def matrix(rows: int, columns: int, half_width: float) -> Array:
            entries = [next(numbers) * half_width for _ in range(rows * columns)]
            return np.array(entries).reshape(rows, columns)

        hidden = 1.5 / math.sqrt(n_features)
        self.embedding = matrix(119, n_features, 1.0)
        self.layers = [
            _Layer(
                filter=matrix(n_basis, n_features, 6.0 / math.sqrt(n_basis)),
                send=matrix(n_features, n_features, hidden),
                update=matrix(n_features, n_features, hidden),
                bias=matrix(1, n_features, 1.5)[0],
            )
            for _ in range(n_layers)
        ]
        self.readout = matrix(n_features, n_features, hidden)
        self.readout_bias = matrix(1, n_features, 1.5)[0]
        self.out = matrix(n_features, 1, 1.0 / math.sqrt(n_features))[:, 0]

    def evaluate(self, atoms: Atoms) -> OracleResult:
        """Evaluate ``atoms``."""
        check_species(atoms, self.types)
        pairs = find_pairs(atoms, self.cutoff)
        r = pairs.lengths
        basis, basis_slope = self._basis(r)
        core, core_slope = self._core(r)

        x = self.embedding[np.asarray(atoms.numbers)]
        sent_of, step_of = [], []
        for layer in self.layers:
            sent = x @ layer.send
            messages = pairs.sum_first(sent[pairs.second] * (basis @ layer.filter))
            step = np.tanh(messages @ layer.update + layer.bias)
            x = x + step
            sent_of.append(sent)
            step_of.append(step)
        top = np.tanh(x @ self.readout + self.readout_bias)
        energies = self.energy_scale * (top @ self.out) + pairs.sum_first(0.5 * core)

        x_bar = ((1.0 - top**2) * (self.energy_scale * self.out)) @ self.readout.T
        basis_bar = self._backward(pairs, basis, x_bar, sent_of, step_of)
        slope = (basis_bar * basis_slope).sum(axis=1) + 0.5 * core_slope
        return pairs.result(energies, (slope / r)[:, None] * pairs.vectors)

    def _backward(
        self,
        pairs: Pairs,
        basis: Array,
        x_bar: Array,
        sent_of: list[Array],
        step_of: list[Array],
    ) -> Array:
        """Derivative of the energy with respect to the radial basis, (P, n_basis)."""
        basis_bar = np.zeros_like(basis)
        for layer, sent, step in zip(
            reversed(self.layers), reversed(sent_of), reversed(step_of), strict=True
        ):
            message_bar = ((1.0 - step**2) * x_bar) @ layer.update.T
            pair_bar = message_bar[pairs.first]
            basis_bar += (pair_bar * sent[pairs.second]) @ layer.filter.T
            sent_bar = pairs.sum_second(pair_bar * (basis @ layer.filter))
            x_bar = x_bar + sent_bar @ layer.send.T
        return basis_bar

    def _envelope(self, r: Array) -> tuple[Array, Array]:
        d = r / self.cutoff
        value = 1.0 - 28.0 * d**6 + 48.0 * d**7 - 21.0 * d**8
        return value, -168.0 * d**5 * (1.0 - d) ** 2 / self.cutoff

    def _basis(self, r: Array) -> tuple[Array, Array]:
        """Radial basis and its derivative, both (P, n_basis)."""
        width = self.cutoff / self.n_basis
        offset = (r[:, None] - width * np.arange(1, self.n_basis + 1)) / width
        bell = np.exp(-0.5 * offset**2)
        f, df = self._envelope(r)
        return f[:, None] * bell, (df[:, None] - f[:, None] * offset / width) * bell

    def _core(self, r: Array) -> tuple[Array, Array]:
        """Repulsion of a pair and its derivative, both (P,)."""
        f, df = self._envelope(r)
        wall = 300.0 * np.exp(-r / 0.13)
        return f * wall, (df - f / 0.13) * wall
