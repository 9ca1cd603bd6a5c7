# ruff: noqa: UP006, UP035, UP045  (TorchScript and metatomic compare against typing's classes)
"""A small message-passing net with fixed weights, whose range is several cutoffs."""

from collections.abc import Sequence
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)

from alchemi_bridge.potentials import _options
from alchemi_bridge.potentials._interface import (
    concatenated_types,
    energy_map,
    gather_pairs,
    no_energy,
)

TYPES = (1, 6, 7, 8, 14, 18, 29, 36)
N_ELEMENTS = (
    119  # rows of the embedding: atomic numbers 0 to 118, whatever types the model declares
)
#: half-widths of the uniform distributions that the weights are drawn from, before 1/sqrt(fan_in)
GAIN_EMBEDDING = 1.0
GAIN_FILTER = 6.0
GAIN_HIDDEN = 1.5
GAIN_READOUT = 1.0
#: repulsion at short distance, CORE_ENERGY * exp(-r / CORE_LENGTH), eV and Å
CORE_ENERGY = 300.0
CORE_LENGTH = 0.13


class _Draws:
    """Uniform numbers in (-1, 1) from the raw stream of PCG64, which NumPy keeps stable."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def array(self, *shape: int, gain: float) -> torch.Tensor:
        """Return the next float64 array, filled in C order, scaled by ``gain/sqrt(shape[0])``."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
        fan_in = shape[0] if len(shape) > 1 else 1
        return torch.from_numpy(uniform.reshape(shape) * (gain / fan_in**0.5))


class MessagePassing(torch.nn.Module):
    """The metatomic module behind :func:`message_passing`.

    With d = r/rc, the envelope f = 1 - 28 d^6 + 48 d^7 - 21 d^8, whose first two derivatives vanish
    at the cutoff, and n_basis functions b_k = f exp(-(r - k w)^2 / (2 w^2)), w = rc / n_basis:

        x_i     = embedding[Z_i]
        m_i     = sum_j (x_j S_l) * (b(r_ij) F_l)             for each layer l, * elementwise
        x_i    <- x_i + tanh(m_i U_l + u_l)
        e_i     = scale * tanh(x_i R + q) . o  +  1/2 sum_j f C exp(-r_ij / rho)

    Arrays are drawn in the order embedding; F_l, S_l, U_l, u_l for l = 1..n; R, q, o.
    """

    embedding: torch.Tensor
    filters: torch.Tensor
    senders: torch.Tensor
    updates: torch.Tensor
    biases: torch.Tensor
    readout: torch.Tensor
    readout_bias: torch.Tensor
    out: torch.Tensor
    centres: torch.Tensor

    def __init__(
        self,
        cutoff: float,
        n_layers: int,
        n_features: int,
        n_basis: int,
        energy_scale: float,
        seed: int,
        strict: bool,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.n_layers = n_layers
        self.n_features = n_features
        self.energy_scale = energy_scale
        self.width = cutoff / n_basis
        self.core_energy = CORE_ENERGY
        self.core_length = CORE_LENGTH
        self.request = NeighborListOptions(cutoff=cutoff, full_list=True, strict=strict)

        draws = _Draws(seed)
        # the embedding's rows are features, not a fan-in, so undo that scaling
        gain = GAIN_EMBEDDING * N_ELEMENTS**0.5
        self.register_buffer("embedding", draws.array(N_ELEMENTS, n_features, gain=gain))
        filters: List[torch.Tensor] = []
        senders: List[torch.Tensor] = []
        updates: List[torch.Tensor] = []
        biases: List[torch.Tensor] = []
        for _ in range(n_layers):
            filters.append(draws.array(n_basis, n_features, gain=GAIN_FILTER))
            senders.append(draws.array(n_features, n_features, gain=GAIN_HIDDEN))
            updates.append(draws.array(n_features, n_features, gain=GAIN_HIDDEN))
            biases.append(draws.array(n_features, gain=GAIN_HIDDEN))
        # all layers' filters in one (n_basis, n_layers * n_features) product
        self.register_buffer("filters", torch.cat(filters, dim=1))
        self.register_buffer("senders", torch.stack(senders))
        self.register_buffer("updates", torch.stack(updates))
        self.register_buffer("biases", torch.stack(biases))
        self.register_buffer("readout", draws.array(n_features, n_features, gain=GAIN_HIDDEN))
        self.register_buffer("readout_bias", draws.array(n_features, gain=GAIN_HIDDEN))
        self.register_buffer("out", draws.array(n_features, 1, gain=GAIN_READOUT))
        centres = torch.arange(1, n_basis + 1, dtype=torch.float64) * self.width
        self.register_buffer("centres", centres)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        """Return the one list that the model reads."""
        return [self.request]

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        """Compute the energy; see :class:`metatomic.torch.ModelInterface`."""
        results: Dict[str, TensorMap] = {}
        if "energy" not in outputs:
            return results
        sample_kind = outputs["energy"].sample_kind
        if len(systems) == 0:
            results["energy"] = no_energy(self.embedding, sample_kind)
            return results

        types = concatenated_types(systems)
        vectors, first, second = gather_pairs(systems, self.request)
        # by columns: a sum over rows of three takes ten times as long on a CPU
        x, y, z = vectors.unbind(1)
        r = (x * x + y * y + z * z).sqrt().unsqueeze(1)
        # clamped, so that pairs beyond the cutoff (strict=False) count for nothing
        d = (r / self.cutoff).clamp(max=1.0)
        # 1 - 28 d^6 + 48 d^7 - 21 d^8, in a form that does not cancel near the cutoff
        series = 1.0 + d * (3.0 + d * (6.0 + d * (10.0 + d * (15.0 + d * 21.0))))
        envelope = (1.0 - d).pow(3) * series
        gaussians = torch.exp(((r - self.centres) / self.width).square() * -0.5)
        filters = (envelope * gaussians) @ self.filters

        x = self.embedding.index_select(0, types)
        zeros = torch.zeros_like(x)
        for layer in range(self.n_layers):
            sent = (x @ self.senders[layer]).index_select(0, second)
            start = layer * self.n_features
            messages = sent * filters[:, start : start + self.n_features]
            gathered = zeros.index_add(0, first, messages)
            x = x + torch.tanh(gathered @ self.updates[layer] + self.biases[layer])
        hidden = torch.tanh(x @ self.readout + self.readout_bias)
        core = (0.5 * self.core_energy) * envelope * torch.exp(-r / self.core_length)
        energies = self.energy_scale * (hidden @ self.out)
        # every atom is updated in every layer; only the report is restricted to the selected ones
        energies = energies.index_add(0, first, core).squeeze(1)
        results["energy"] = energy_map(energies, systems, sample_kind, selected_atoms)
        return results


def message_passing(
    *,
    types: Sequence[int] = TYPES,
    cutoff: float = 4.0,
    n_layers: int = 3,
    n_features: int = 16,
    n_basis: int = 8,
    energy_scale: float = 1.0,
    seed: int = 2024,
    strict: bool = True,
    dtype: str = "float64",
) -> AtomisticModel:
    """Message-passing net of continuous-filter convolutions with fixed, seeded weights.

    It describes no material; it is there because an atom's energy depends on atoms several cutoffs
    away, which is what domain decomposition and halo exchange have to get right. Energies are
    smooth (twice continuously differentiable, also at the cutoff), and a short repulsion keeps
    atoms apart in dynamics.

    Parameters
    ----------
    types
        Atomic numbers that the model accepts. The numbers of one species do not depend on the
        others in the list.
    cutoff
        Range of one layer, Å.
    n_layers
        Layers; the interaction range is ``n_layers * cutoff``.
    n_features, n_basis
        Width of the net and number of radial Gaussians.
    energy_scale
        Factor on the net's energies, eV.
    seed
        Non-negative seed of the weights (PCG64's raw stream, the same on every machine).
    strict
        Ask for a list without pairs beyond the cutoff. The energies are the same.
    dtype
        ``"float64"`` or ``"float32"``; the weights are drawn in float64 and rounded.

    Returns
    -------
    AtomisticModel
        On the CPU, in evaluation mode.

    Raises
    ------
    ConfigurationError
        If an option is out of its range.

    References
    ----------
    K. T. Schuett et al., J. Chem. Phys. 148, 241722 (2018), doi:10.1063/1.5019779.
    """
    known = _options.atomic_types(types)
    rc = _options.number("cutoff", cutoff, above=0.0)
    options: dict[str, Any] = {
        "cutoff": rc,
        "n_layers": _options.count("n_layers", n_layers),
        "n_features": _options.count("n_features", n_features),
        "n_basis": _options.count("n_basis", n_basis),
        "energy_scale": _options.number("energy_scale", energy_scale),
        "seed": _options.count("seed", seed, least=0),
        "strict": bool(strict),
    }
    module = MessagePassing(**options)
    return _options.to_model(
        module.to(_options.torch_dtype(dtype)),
        name="message-passing",
        options={**options, "types": known, "dtype": dtype},
        types=known,
        interaction_range=n_layers * rc,
        dtype=dtype,
        metadata=ModelMetadata(
            name="message-passing net",
            description=(
                f"{n_layers} layers of continuous-filter convolutions, cutoff {rc:g} angstrom, "
                f"weights from seed {seed}; describes no material, meant for tests"
            ),
            references={
                "architecture": [
                    "K. T. Schuett et al., J. Chem. Phys. 148, 241722 (2018), "
                    "https://doi.org/10.1063/1.5019779"
                ]
            },
        ),
    )
