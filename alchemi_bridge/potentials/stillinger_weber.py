# ruff: noqa: UP006, UP035, UP045  (TorchScript and metatomic compare against typing's classes)
"""Stillinger-Weber silicon, a potential with two- and three-body terms."""

from typing import Dict, List, Optional

import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.potentials import _options
from alchemi_bridge.potentials._interface import energy_map, gather_pairs, no_energy

# closer to the cutoff than this (in units of sigma) exp(-sigma/d) is below the smallest double, so
# clamping the distance there changes nothing and keeps the derivatives finite
_CLOSEST = 1e-3


class StillingerWeber(torch.nn.Module):
    """The metatomic module behind :func:`stillinger_weber`.

    The three-body sum is evaluated without triplets. With unit vectors n_j, weights
    g_j = exp(gamma sigma / (r_j - a sigma)) and c = cos(theta0), over the neighbours of one atom:

        sum_{j,k} g_j g_k (n_j.n_k - c)^2 = |M|^2 - 2 c |v|^2 + c^2 s^2,
        M = sum_j g_j n_j n_j^T,  v = sum_j g_j n_j,  s = sum_j g_j,

    from which the terms j = k, (1 - c)^2 sum_j g_j^2, are subtracted; half of it is the sum over
    pairs j < k. This is exact, linear in the number of neighbours, needs no list of triplets whose
    length a GPU would have to report to the host, and takes pairs beyond the cutoff as zero.
    """

    empty: torch.Tensor

    def __init__(
        self,
        parameters: Dict[str, float],
        strict: bool,
    ) -> None:
        super().__init__()
        self.epsilon = parameters["epsilon"]
        self.sigma = parameters["sigma"]
        self.a = parameters["a"]
        self.lam = parameters["lam"]
        self.gamma = parameters["gamma"]
        self.costheta0 = parameters["costheta0"]
        self.A = parameters["A"]
        self.B = parameters["B"]
        self.p = parameters["p"]
        self.q = parameters["q"]
        self.cutoff = self.a * self.sigma
        self.closest = _CLOSEST * self.sigma * min(1.0, self.gamma)
        self.request = NeighborListOptions(cutoff=self.cutoff, full_list=True, strict=strict)
        # carries dtype and device for a call without systems
        self.register_buffer("empty", torch.zeros(0, dtype=torch.float64))

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
            results["energy"] = no_energy(self.empty, sample_kind)
            return results

        vectors, first, _ = gather_pairs(systems, self.request)
        n_atoms = 0
        for system in systems:
            n_atoms += len(system)

        # by columns: a sum over rows of three takes ten times as long on a CPU
        x, y, z = vectors.unbind(1)
        r = (x * x + y * y + z * z).sqrt().unsqueeze(1)
        inverse = r.reciprocal()
        unit = vectors * inverse
        tail = (self.cutoff - r).clamp(min=self.closest).reciprocal()
        x = self.sigma * inverse
        pair = (self.B * x.pow(self.p) - x.pow(self.q)) * torch.exp(-self.sigma * tail)
        g = torch.exp(-self.gamma * self.sigma * tail)
        weighted = g * unit
        outer = (weighted.unsqueeze(2) * unit.unsqueeze(1)).reshape(-1, 9)

        sums = torch.zeros((n_atoms, 15), dtype=r.dtype, device=r.device)
        sums = sums.index_add(0, first, torch.cat([pair, g, g * g, weighted, outer], dim=1))
        square = sums * sums
        three = square[:, 6:].sum(dim=1) - 2.0 * self.costheta0 * square[:, 3:6].sum(dim=1)
        three = three + self.costheta0**2 * square[:, 1] - (1.0 - self.costheta0) ** 2 * sums[:, 2]
        energies = (0.5 * self.epsilon) * (self.A * sums[:, 0] + self.lam * three)
        results["energy"] = energy_map(energies, systems, sample_kind, selected_atoms)
        return results


def stillinger_weber(
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
    strict: bool = True,
    dtype: str = "float64",
) -> AtomisticModel:
    """Stillinger-Weber model of one species, with the published parameters of silicon.

    E = sum_{i<j} A epsilon [B (sigma/r)^p - (sigma/r)^q] exp(sigma/(r - a sigma))
      + sum_i sum_{j<k} lam epsilon (cos(theta_jik) - costheta0)^2
        exp(gamma sigma/(r_ij - a sigma)) exp(gamma sigma/(r_ik - a sigma))

    Parameters
    ----------
    atomic_type
        Atomic number.
    epsilon, sigma
        Energy and length unit of the potential, eV and Å.
    a, lam, gamma, costheta0, A, B, p, q
        Dimensionless parameters; the cutoff is ``a * sigma``, 3.77118 Å.
    strict
        Ask for a list without pairs beyond the cutoff. The energies are the same.
    dtype
        ``"float64"`` or ``"float32"``.

    Returns
    -------
    AtomisticModel
        On the CPU, in evaluation mode; interaction range = cutoff. A pair's energy is shared
        equally by its atoms, a three-body term belongs to the atom in the middle.

    Raises
    ------
    ConfigurationError
        If an option is out of its range.

    References
    ----------
    F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985), doi:10.1103/PhysRevB.31.5262;
    energy scale (4.3366 eV per atom of the diamond crystal) as in LAMMPS' ``Si.sw``.
    """
    [known] = _options.atomic_types([atomic_type])
    parameters = {
        "epsilon": _options.number("epsilon", epsilon, above=0.0),
        "sigma": _options.number("sigma", sigma, above=0.0),
        "a": _options.number("a", a, above=0.0),
        "lam": _options.number("lam", lam),
        "gamma": _options.number("gamma", gamma, above=0.0),
        "costheta0": _options.number("costheta0", costheta0),
        "A": _options.number("A", A),
        "B": _options.number("B", B),
        "p": _options.number("p", p),
        "q": _options.number("q", q),
    }
    if abs(parameters["costheta0"]) > 1.0:
        raise ConfigurationError(
            "costheta0",
            expected="the cosine of an angle, between -1 and 1",
            got=repr(costheta0),
            fix="pass the cosine, not the angle",
        )
    module = StillingerWeber(parameters, bool(strict))
    return _options.to_model(
        module.to(_options.torch_dtype(dtype)),
        name="stillinger-weber",
        options={**parameters, "atomic_type": known, "strict": bool(strict), "dtype": dtype},
        types=[known],
        interaction_range=parameters["a"] * parameters["sigma"],
        dtype=dtype,
        metadata=ModelMetadata(
            name="Stillinger-Weber",
            description="two- and three-body potential of Stillinger and Weber",
            references={
                "architecture": [
                    "F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985), "
                    "https://doi.org/10.1103/PhysRevB.31.5262"
                ],
                "model": ["silicon: the same; energy scale as in LAMMPS' Si.sw"],
            },
        ),
    )
