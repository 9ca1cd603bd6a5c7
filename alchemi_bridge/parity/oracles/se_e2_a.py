"""DeePMD's se_e2_a with an energy fitting net in NumPy: forward pass and backpropagation by hand.

Formulas: L. Zhang, J. Han, H. Wang, W. A. Saidi, R. Car, W. E, Adv. Neural Inf. Process. Syst. 31
(2018), https://arxiv.org/abs/1805.09003; switching function, statistics and the empty rows as in
DeePMD-kit 3.2.0, whose results are in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from alchemi_bridge.parity.oracles.dense import Net
from alchemi_bridge.parity.oracles.images import (
    Array,
    OracleResult,
    Pairs,
    check_species,
    find_pairs,
)

_MODEL = "atomic_model."
_DESCRIPTOR = f"{_MODEL}descriptor.sea."
_FITTING = f"{_MODEL}fitting_net."
_TRAINED = Path(__file__).resolve().parents[2] / "potentials" / "trained"


@dataclass(frozen=True)
class _Rows:
    """Rows of the environment matrix of P neighbours.

    ``values`` (P, 4) are normalised, ``slopes`` (P, 4, 3) their derivatives with respect to the
    vector to the neighbour; ``net`` (P,) is the number of the embedding.
    """

    values: Array
    slopes: Array
    net: NDArray[np.int64]


class SeE2AOracle:
    """E = Σ_i N_i(D_i), with D_i = A_iᵀ A_i(first columns) and A_i = Σ_j R_ijᵀ G(s_ij) / n.

    With the switching function w, which falls from 1 to 0 between ``rcut_smth`` and ``rcut``:

    - R_ij = (s, s x/r, s y/r, s z/r) with s = w(r)/r, less the mean and over the deviation of all
      rows around atoms of the type of i;
    - an atom has n = Σ ``sel`` rows: nearer neighbours are taken first, and rows without a
      neighbour are those of s = 0;
    - G are nets for the type of j (and of i), N_i nets for the type of i, with an energy added.

    Parameters
    ----------
    definition
        Section ``model`` of DeePMD-kit's input.
    weights
        Arrays by DeePMD-kit's names; any precision, the sums are in float64.

    Raises
    ------
    ConfigurationError
        If an activation function is not known here.
    """

    def __init__(self, definition: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
        descriptor, fitting = definition["descriptor"], definition["fitting_net"]
        self.types = [atomic_numbers[name] for name in definition["type_map"]]
        self.cutoff = float(descriptor["rcut"])
        self._smooth = float(descriptor["rcut_smth"])
        self._protection = float(descriptor.get("env_protection", 0.0))
        self._sel = np.array(descriptor["sel"])
        self._axis = int(descriptor.get("axis_neuron", 4))
        self._one_side = bool(descriptor.get("type_one_side", False))
        n_types = len(self.types)
        self._sees = np.ones((n_types, n_types), dtype=bool)
        for a, b in descriptor.get("exclude_types", []):
            self._sees[a, b] = self._sees[b, a] = False
        # the file has statistics for each row, which are the same
        self._mean = np.asarray(weights[f"{_DESCRIPTOR}mean"], dtype=np.float64)[:, 0]
        self._deviation = np.asarray(weights[f"{_DESCRIPTOR}stddev"], dtype=np.float64)[:, 0]

        def nets(where: str, number: int, activation: str, last_is_linear: bool) -> list[Net]:
            heads = [f"{where}filter_layers.networks.{k}." for k in range(number)]
            return [
                Net(
                    {key.removeprefix(h): v for key, v in weights.items() if key.startswith(h)},
                    activation,
                    last_is_linear,
                )
                for h in heads
            ]

        activation = descriptor.get("activation_function", "tanh")
        n_nets = n_types if self._one_side else n_types**2
        self._embedding = nets(_DESCRIPTOR, n_nets, activation, False)
        activation = fitting.get("activation_function", "tanh")
        self._fitting = nets(_FITTING, n_types, activation, True)
        known = list(fitting.get("atom_ener") or [])
        self._subtracts_empty = [
            any(e is not None for e in known) and (t >= len(known) or known[t] is not None)
            for t in range(n_types)
        ]
        self._bias = np.asarray(weights[f"{_FITTING}bias_atom_e"], dtype=np.float64).ravel()
        self._bias = self._bias + np.asarray(weights[f"{_MODEL}out_bias"]).ravel()

    @classmethod
    def read(cls, path: Path) -> SeE2AOracle:
        """From a file of NumPy with ``definition`` (JSON) and the arrays ``weights/NAME``."""
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
        weights = {
            key.removeprefix("weights/"): value
            for key, value in found.items()
            if key.startswith("weights/")
        }
        return cls(json.loads(str(found["definition"])), weights)

    def evaluate(self, atoms: Atoms) -> OracleResult:
        """Evaluate ``atoms``."""
        check_species(atoms, self.types)
        kind = np.array([self.types.index(number) for number in atoms.numbers], dtype=np.int64)
        pairs = self._nearest(find_pairs(atoms, self.cutoff), kind)
        neighbor_kind = kind[pairs.second]
        rows = self._rows(pairs, kind[pairs.first], neighbor_kind)
        n_rows = self._sel.sum()

        embedded, slopes = self._embed(rows)
        moments = pairs.sum_first(rows.values[:, :, None] * embedded[:, None, :])
        counts = pairs.sum_first(np.eye(len(self.types))[neighbor_kind])
        moments = (moments + self._empty(counts, kind)) / n_rows

        energies, moments_bar = self._fit(moments, kind)
        moments_bar = moments_bar[pairs.first] / n_rows
        embedded_bar = np.matmul(rows.values[:, None, :], moments_bar)[:, 0]
        rows_bar = np.matmul(moments_bar, embedded[:, :, None])[:, :, 0]
        for number, (these, kept) in slopes.items():
            rows_bar[these, 0] += self._embedding[number].backward(embedded_bar[these], kept)[:, 0]
        return pairs.result(energies, np.matmul(rows_bar[:, None, :], rows.slopes)[:, 0])

    def _nearest(self, pairs: Pairs, kind: NDArray[np.int64]) -> Pairs:
        """Neighbours that an atom has room for: Σ sel of all types first, then sel of each."""
        first, neighbor_kind, r = pairs.first, kind[pairs.second], pairs.lengths
        kept = np.lexsort((r, first))
        kept = kept[_places(first[kept]) < self._sel.sum()]
        kept = kept[np.lexsort((r[kept], neighbor_kind[kept], first[kept]))]
        group = first[kept] * len(self.types) + neighbor_kind[kept]
        kept = np.sort(kept[_places(group) < self._sel[neighbor_kind[kept]]])
        return Pairs(first[kept], pairs.second[kept], pairs.vectors[kept], r[kept], pairs.n_atoms)

    def _rows(
        self, pairs: Pairs, center_kind: NDArray[np.int64], neighbor_kind: NDArray[np.int64]
    ) -> _Rows:
        vectors, r = pairs.vectors, pairs.lengths
        w, w_slope = self._switch(r)
        apart = r + self._protection
        s, s_slope = w / apart, w_slope / apart - w / apart**2
        t, t_slope = s / apart, s_slope / apart - s / apart**2
        direction = vectors / r[:, None]
        values = np.concatenate([s[:, None], t[:, None] * vectors], axis=1)
        slopes = np.empty((len(r), 4, 3))
        slopes[:, 0] = s_slope[:, None] * direction
        slopes[:, 1:] = vectors[:, :, None] * (t_slope[:, None] * direction)[:, None, :]
        slopes[:, 1:] += t[:, None, None] * np.eye(3)
        values = (values - self._mean[center_kind]) / self._deviation[center_kind]
        slopes = slopes / self._deviation[center_kind][:, :, None]
        # a neighbour that is not seen has a row all the same, which is zero
        seen = self._sees[center_kind, neighbor_kind]
        net = neighbor_kind if self._one_side else self._number(neighbor_kind, center_kind)
        return _Rows(values * seen[:, None], slopes * seen[:, None, None], net)

    def _number(self, neighbor: Any, center: Any) -> Any:
        return neighbor * len(self.types) + center

    def _switch(self, r: Array) -> tuple[Array, Array]:
        width = self.cutoff - self._smooth
        u = np.clip((r - self._smooth) / width, 0.0, 1.0)
        return 1.0 - 10.0 * u**3 + 15.0 * u**4 - 6.0 * u**5, -30.0 * (u * (1.0 - u)) ** 2 / width

    def _embed(self, rows: _Rows) -> tuple[Array, dict[int, tuple[NDArray[np.int64], list[Array]]]]:
        """(P, M) embeddings, and for each net its rows and what its backpropagation needs."""
        width = self._embedding[0].layers[-1].matrix.shape[1]
        embedded, slopes = np.zeros((len(rows.values), width)), {}
        for number, net in enumerate(self._embedding):
            these = np.flatnonzero(rows.net == number)
            embedded[these], kept = net.forward(rows.values[these, :1])
            slopes[number] = (these, kept)
        return embedded, slopes

    def _empty(self, counts: Array, kind: NDArray[np.int64]) -> Array:
        """(N, 4, M) sums over rows without a neighbour."""
        row = -self._mean / self._deviation
        parts = []
        for center in range(len(self.types)):
            for neighbor in range(len(self.types)):
                net = neighbor if self._one_side else self._number(neighbor, center)
                embedded, _ = self._embedding[net].forward(row[center : center + 1, :1])
                parts.append(np.outer(row[center], embedded[0]))
        n_types = len(self.types)
        products = np.array(parts).reshape(n_types, n_types, 4, -1)
        return np.asarray(np.einsum("nt,ntkm->nkm", self._sel - counts, products[kind]))

    def _fit(self, moments: Array, kind: NDArray[np.int64]) -> tuple[Array, Array]:
        """(N,) energies and their derivatives with respect to the moments, (N, 4, M)."""
        n, _, width = moments.shape
        descriptors = np.einsum("nkm,nka->nma", moments, moments[:, :, : self._axis])
        energies, descriptors_bar = np.zeros(n), np.zeros_like(descriptors)
        for t, net in enumerate(self._fitting):
            these = np.flatnonzero(kind == t)
            x = descriptors[these].reshape(len(these), width * self._axis)
            y, slopes = net.forward(x)
            if self._subtracts_empty[t]:
                y = y - net.forward(np.zeros((1, width * self._axis)))[0]
            energies[these] = y[:, 0] + self._bias[t]
            bar = net.backward(np.ones_like(y), slopes)
            descriptors_bar[these] = bar.reshape(len(these), width, self._axis)
        moments_bar = np.einsum("nma,nka->nkm", descriptors_bar, moments[:, :, : self._axis])
        moments_bar[:, :, : self._axis] += np.einsum("nma,nkm->nka", descriptors_bar, moments)
        return energies, moments_bar


def copper() -> SeE2AOracle:
    """The trained copper model, by the weights that are stored beside its file."""
    return SeE2AOracle.read(_TRAINED / "copper.npz")


def _places(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each entry within its group; the groups stand one behind the other."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(starts, append=len(group))
    return np.arange(len(group)) - np.repeat(starts, sizes)
