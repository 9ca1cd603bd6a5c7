"""What a model learns from its data before the training: davg, dstd and the energy bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.potentials.deepmd.definition import Definition
from alchemi_bridge.potentials.deepmd.environment import (
    both_directions,
    environment_rows,
    nearest,
)
from alchemi_bridge.potentials.deepmd.model import SeE2A

#: Smallest standard deviation, and that of a type of which there is no atom, as in DeePMD-kit.
LEAST_DEVIATION = 1e-2
DEVIATION_WITHOUT_DATA = 1e-1


class EnvironmentStatistics:
    """Mean and standard deviation of the environment matrix, for each type of central atom.

    Rows that are empty count as zeros, as in DeePMD-kit. The three components of the direction are
    taken as one sample, and their mean as zero.

    Parameters
    ----------
    definition
        Of the model.

    Attributes
    ----------
    sums
        (T, 5) float64: number of rows, sums of s and s², sums of the other three components and of
        their squares. They may be added over ranks before :meth:`davg_and_dstd`.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.sums = torch.zeros(definition.n_types, 5, dtype=torch.float64)

    def add(
        self,
        vectors: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        types: torch.Tensor,
    ) -> None:
        """Count a batch; arguments as of :meth:`SeE2A.forward`."""
        definition = self.definition
        n_types = definition.n_types
        sel = torch.tensor(definition.sel, device=first.device)
        vectors, first, second = both_directions(vectors.detach(), first, second)
        kept = nearest(vectors, first, types[second], len(types), sel)
        first, second = first[kept], second[kept]
        rows = environment_rows(
            vectors[kept].to(torch.float64),
            definition.rcut_smth,
            definition.rcut,
            definition.env_protection,
        )
        for one, other in definition.exclude_types:
            for i, j in {(one, other), (other, one)}:
                rows[(types[first] == i) & (types[second] == j)] = 0.0
        s, rest = rows[:, 0], rows[:, 1:]
        terms = torch.stack(
            [torch.zeros_like(s), s, s * s, rest.sum(dim=1), (rest * rest).sum(dim=1)], dim=1
        )
        sums = torch.zeros(n_types, 5, dtype=torch.float64, device=rows.device)
        sums.index_add_(0, types[first], terms)
        sums[:, 0] = torch.bincount(types, minlength=n_types) * sum(definition.sel)
        self.sums += sums.cpu()

    def davg_and_dstd(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, 4) mean and standard deviation, float64."""
        n, s, ss, a, aa = self.sums.unbind(1)
        counted = n > 0
        n = n.clamp(min=1.0)
        mean = s / n
        radial = (ss / n - mean**2).clamp(min=0.0).sqrt().clamp(min=LEAST_DEVIATION)
        angular = (aa / (3 * n) - (a / (3 * n)) ** 2).clamp(min=0.0).sqrt()
        angular = angular.clamp(min=LEAST_DEVIATION)
        none = torch.full_like(radial, DEVIATION_WITHOUT_DATA)
        radial, angular = torch.where(counted, radial, none), torch.where(counted, angular, none)
        zero = torch.zeros_like(mean)
        davg = torch.stack([mean, zero, zero, zero], dim=1)
        if self.definition.set_davg_zero:
            davg = torch.zeros_like(davg)
        return davg, torch.stack([radial, angular, angular, angular], dim=1)

    def store(self, model: SeE2A) -> None:
        """Write davg and dstd into a model."""
        davg, dstd = self.davg_and_dstd()
        model.davg.copy_(davg)
        model.dstd.copy_(dstd)


def energy_bias(
    counts: np.ndarray,
    energies: np.ndarray,
    *,
    assigned: Sequence[float | None] = (),
    rcond: float | None = None,
) -> np.ndarray:
    """Energies per type that, summed over the atoms of a frame, come closest to its energy.

    Parameters
    ----------
    counts
        (F, T) numbers of atoms of each type.
    energies
        (F,) eV.
    assigned
        Energies of types that are given, eV, None where not.
    rcond
        Smallest singular value, relative to the largest, that is not taken as zero; numpy's choice
        if None. Where the data do not determine the energies, the smallest ones are taken.

    Returns
    -------
    np.ndarray
        (T,) float64, eV.

    Raises
    ------
    ConfigurationError
        If the shapes do not fit, or a number is not finite.
    """
    matrix = np.array(counts, dtype=np.float64)
    rest = np.array(energies, dtype=np.float64)
    if matrix.ndim != 2 or rest.shape != matrix.shape[:1] or not np.isfinite(rest).all():
        raise ConfigurationError(
            "energies of the frames",
            expected="one finite number for each row of the counts (F, T)",
            got=f"shapes {rest.shape} and {matrix.shape}, {np.isfinite(rest).sum()} finite",
            fix="check energy.npy",
        )
    fixed = {t: e for t, e in enumerate(assigned) if e is not None}
    for t, energy in fixed.items():
        rest -= matrix[:, t] * energy
        matrix[:, t] = 0.0
    bias = np.linalg.lstsq(matrix, rest, rcond=rcond)[0]
    for t, energy in fixed.items():
        bias[t] = energy
    return bias
