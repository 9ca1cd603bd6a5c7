# ruff: noqa: UP006, UP035, UP045  (TorchScript and metatomic compare against typing's classes)
"""Lennard-Jones atoms of several species."""

from collections.abc import Mapping, Sequence
from typing import Any, Dict, List, Optional, Tuple

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
from alchemi_bridge.potentials._interface import (
    concatenated_types,
    energy_map,
    gather_pairs,
    no_energy,
)

#: argon and krypton, N. Bernardes, Phys. Rev. 112, 1534 (1958): 167e-16 erg and 225e-16 erg, in eV
TYPES = (18, 36)
EPSILON = (0.01042332, 0.01404340)
SIGMA = (3.40, 3.65)
TRUNCATIONS = ("force-shift", "energy-shift", "none")


def coefficients_of(
    epsilon: torch.Tensor, sigma: torch.Tensor, cutoff: float, truncation: str
) -> torch.Tensor:
    """Table that a step reads, from (T, T) tables in eV and Å.

    Returns
    -------
    torch.Tensor
        (4, T * T), one column per ordered pair of species: u(r) = c12/r^12 - c6/r^6 - slope*r -
        constant, and half of it for each of the two atoms.
    """
    c6 = 4.0 * epsilon * sigma**6
    c12 = 4.0 * epsilon * sigma**12
    shift = torch.zeros_like(c6)
    slope = torch.zeros_like(c6)
    if truncation != "none":
        shift = c12 * cutoff**-12 - c6 * cutoff**-6
    if truncation == "force-shift":
        slope = -12.0 * c12 * cutoff**-13 + 6.0 * c6 * cutoff**-7
    return 0.5 * torch.stack([c12, c6, slope, shift - slope * cutoff]).reshape(4, -1)


def mixed(epsilon: torch.Tensor, sigma: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """(T, T) tables after Lorentz and Berthelot, from (T,) values."""
    eps = torch.sqrt(epsilon[:, None] * epsilon[None, :])
    return eps, 0.5 * (sigma[:, None] + sigma[None, :])


class _LennardJones(torch.nn.Module):
    """All but where the table comes from.

    Parameters
    ----------
    types
        The T atomic numbers.
    cutoff
        Å.
    truncation, full_list, strict
        See :func:`lennard_jones`.
    """

    type_index: torch.Tensor

    def __init__(
        self, types: List[int], cutoff: float, truncation: str, full_list: bool, strict: bool
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.truncation = truncation
        self.full_list = full_list
        self.strict = strict
        self.n_types = len(types)
        self.request = NeighborListOptions(cutoff=cutoff, full_list=full_list, strict=strict)

        index = torch.full((max(types) + 1,), -1, dtype=torch.int64)
        index[torch.tensor(types)] = torch.arange(len(types))
        self.register_buffer("type_index", index)

    def table(self) -> torch.Tensor:
        """(4, T * T), see :func:`coefficients_of`."""
        raise NotImplementedError

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
        table = self.table()
        if len(systems) == 0:
            results["energy"] = no_energy(table, sample_kind)
            return results

        types = concatenated_types(systems)
        needs_second = self.n_types > 1 or not self.full_list
        vectors, first, second = gather_pairs(systems, self.request, needs_second)
        repulsion, attraction, slope, constant = table.unbind(0)
        if self.n_types > 1:
            species = self.type_index.index_select(0, types)
            pair = species.index_select(0, first) * self.n_types + species.index_select(0, second)
            repulsion, attraction = (
                repulsion.index_select(0, pair),
                attraction.index_select(0, pair),
            )
            slope, constant = slope.index_select(0, pair), constant.index_select(0, pair)

        # by columns: a sum over rows of three takes ten times as long on a CPU
        x, y, z = vectors.unbind(1)
        r_squared = x * x + y * y + z * z
        r = r_squared.sqrt()
        inverse_6 = r_squared.reciprocal().pow(3)
        half = (repulsion * inverse_6 - attraction) * inverse_6 - slope * r - constant
        if not self.strict:  # the list may hold pairs beyond the cutoff
            half = torch.where(r < self.cutoff, half, 0.0)

        energies = torch.zeros(types.shape[0], dtype=r.dtype, device=r.device)
        energies = energies.index_add(0, first, half)
        if not self.full_list:
            energies = energies.index_add(0, second, half)
        results["energy"] = energy_map(energies, systems, sample_kind, selected_atoms)
        return results


class LennardJones(_LennardJones):
    """The metatomic module behind :func:`lennard_jones`, with a table that is made once.

    Parameters
    ----------
    epsilon, sigma
        (T, T) float64 tables, eV and Å.
    """

    coefficients: torch.Tensor

    def __init__(
        self,
        types: List[int],
        epsilon: torch.Tensor,
        sigma: torch.Tensor,
        cutoff: float,
        truncation: str,
        full_list: bool,
        strict: bool,
    ) -> None:
        super().__init__(types, cutoff, truncation, full_list, strict)
        table = coefficients_of(epsilon, sigma, cutoff, truncation)
        self.register_buffer("coefficients", table)

    def table(self) -> torch.Tensor:
        """(4, T * T), see :func:`coefficients_of`."""
        return self.coefficients


class TrainableLennardJones(_LennardJones):
    """The same with ``epsilon`` and ``sigma`` as parameters, of which each step makes the table.

    Parameters
    ----------
    epsilon, sigma
        (T,) float64, eV and Å.
    """

    def __init__(
        self,
        types: List[int],
        epsilon: torch.Tensor,
        sigma: torch.Tensor,
        cutoff: float,
        truncation: str,
        full_list: bool,
        strict: bool,
    ) -> None:
        super().__init__(types, cutoff, truncation, full_list, strict)
        self.epsilon = torch.nn.Parameter(epsilon)
        self.sigma = torch.nn.Parameter(sigma)

    def table(self) -> torch.Tensor:
        """(4, T * T), see :func:`coefficients_of`."""
        epsilon, sigma = mixed(self.epsilon, self.sigma)
        return coefficients_of(epsilon, sigma, self.cutoff, self.truncation)


def _single(
    types: List[int], epsilon: Sequence[float], sigma: Sequence[float]
) -> Tuple[torch.Tensor, torch.Tensor]:
    for name, values in (("epsilon", epsilon), ("sigma", sigma)):
        if len(values) != len(types):
            raise ConfigurationError(
                name,
                expected=f"one value for each of the {len(types)} types",
                got=f"{len(values)} values",
                fix=f"make types and {name} equally long",
            )
    eps, sig = (
        torch.tensor([_options.number(n, v, above=0.0) for v in values], dtype=torch.float64)
        for n, values in (("epsilon", epsilon), ("sigma", sigma))
    )
    return eps, sig


def _tables(
    types: List[int],
    epsilon: Sequence[float],
    sigma: Sequence[float],
    pairs: Mapping[tuple[int, int], tuple[float, float]],
) -> tuple[torch.Tensor, torch.Tensor]:
    eps_table, sig_table = mixed(*_single(types, epsilon, sigma))
    for (a, b), (e, s) in pairs.items():
        if a not in types or b not in types:
            raise ConfigurationError(
                "pairs",
                expected=f"pairs of the types {types}",
                got=f"the pair ({a}, {b})",
                fix="add the missing type or remove the pair",
            )
        for i, j in ((types.index(a), types.index(b)), (types.index(b), types.index(a))):
            eps_table[i, j] = _options.number("epsilon", e, above=0.0)
            sig_table[i, j] = _options.number("sigma", s, above=0.0)
    return eps_table, sig_table


def lennard_jones(
    *,
    types: Sequence[int] = TYPES,
    epsilon: Sequence[float] = EPSILON,
    sigma: Sequence[float] = SIGMA,
    pairs: Mapping[tuple[int, int], tuple[float, float]] | None = None,
    cutoff: float = 8.5,
    truncation: str = "force-shift",
    full_list: bool = False,
    strict: bool = True,
    dtype: str = "float64",
    trainable: bool = False,
) -> AtomisticModel:
    """Lennard-Jones model, u(r) = 4 epsilon [(sigma/r)^12 - (sigma/r)^6] within the cutoff.

    Parameters
    ----------
    types
        Atomic numbers.
    epsilon, sigma
        Well depth in eV and diameter in Å, one per type. Unlike types mix after Lorentz and
        Berthelot: geometric mean of epsilon, arithmetic mean of sigma.
    pairs
        ``(type, type): (epsilon, sigma)`` for pairs that do not follow the mixing rule.
    cutoff
        Å.
    truncation
        ``"force-shift"``: u(r) - u(rc) - (r - rc) u'(rc), energy and force are continuous;
        ``"energy-shift"``: u(r) - u(rc), the force jumps; ``"none"``: u(r), both jump.
    full_list
        Ask for every pair in both directions instead of once. The energies are the same.
    strict
        Ask for a list without pairs beyond the cutoff. The energies are the same.
    dtype
        ``"float64"`` or ``"float32"``.
    trainable
        Keep ``epsilon`` and ``sigma``, one per type, as the parameters of the model instead of
        a table that is made of them once. The energies are the same; ``pairs`` is refused, since
        those would not follow.

    Returns
    -------
    AtomisticModel
        On the CPU, in evaluation mode; interaction range = cutoff. A pair's energy is shared
        equally by its atoms.

    Raises
    ------
    ConfigurationError
        If an option is out of its range.

    References
    ----------
    J. E. Jones, Proc. R. Soc. A 106, 463 (1924), doi:10.1098/rspa.1924.0082; default parameters of
    argon and krypton: N. Bernardes, Phys. Rev. 112, 1534 (1958), doi:10.1103/PhysRev.112.1534;
    shifted force: S. Toxvaerd and J. C. Dyre, J. Chem. Phys. 134, 081102 (2011),
    doi:10.1063/1.3558787.
    """
    if truncation not in TRUNCATIONS:
        raise ConfigurationError(
            "truncation",
            expected=f"one of {', '.join(TRUNCATIONS)}",
            got=repr(truncation),
            fix="choose one of them",
        )
    known = _options.atomic_types(types)
    rc = _options.number("cutoff", cutoff, above=0.0)
    module: torch.nn.Module
    if trainable:
        if pairs:
            raise ConfigurationError(
                "pairs",
                expected="none in a model whose epsilon and sigma are trainable",
                got=f"{len(pairs)} pairs that do not follow the mixing rule",
                fix="remove 'pairs' or 'trainable'",
            )
        eps, sig = _single(known, epsilon, sigma)
        module = TrainableLennardJones(
            known, eps, sig, rc, truncation, bool(full_list), bool(strict)
        )
    else:
        eps, sig = _tables(known, epsilon, sigma, pairs or {})
        module = LennardJones(known, eps, sig, rc, truncation, bool(full_list), bool(strict))
    options: dict[str, Any] = {
        "types": known,
        "epsilon": [float(e) for e in epsilon],
        "sigma": [float(s) for s in sigma],
        "pairs": [[*key, *value] for key, value in (pairs or {}).items()],
        "cutoff": rc,
        "truncation": truncation,
        "full_list": bool(full_list),
        "strict": bool(strict),
        "dtype": dtype,
        "trainable": bool(trainable),
    }
    return _options.to_model(
        module.to(_options.torch_dtype(dtype)),
        name="lennard-jones",
        options=options,
        types=known,
        interaction_range=rc,
        dtype=dtype,
        metadata=ModelMetadata(
            name="Lennard-Jones",
            description=f"Lennard-Jones atoms, cutoff {rc:g} angstrom, truncation {truncation}",
            references={
                "architecture": [
                    "J. E. Jones, Proc. R. Soc. A 106, 463 (1924), "
                    "https://doi.org/10.1098/rspa.1924.0082"
                ],
                "model": [
                    "N. Bernardes, Phys. Rev. 112, 1534 (1958), "
                    "https://doi.org/10.1103/PhysRev.112.1534"
                ],
            },
        ),
    )
