# ruff: noqa: UP006, UP035, UP045  (TorchScript and metatomic compare against typing's classes)
"""The modules behind the Lennard-Jones potential, in TorchScript."""

from typing import Dict, List, Optional, Tuple

import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import ModelOutput, NeighborListOptions, System

from alchemi_bridge.potentials._interface import (
    concatenated_types,
    energy_map,
    gather_pairs,
    no_energy,
)


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
        See :func:`.lennard_jones.lennard_jones`.
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
    """The module behind :func:`.lennard_jones.lennard_jones`, with a table that is made once.

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
