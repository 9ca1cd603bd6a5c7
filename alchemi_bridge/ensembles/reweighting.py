"""Averages over one ensemble from frames of others, by their Boltzmann weights.

A frame drawn at inverse temperature ``beta`` with energy ``U_gen`` counts
``exp(-beta (U - U_gen))`` in the ensemble of ``U``. Weights are normalised in each generating
ensemble (one temperature, one set of parameters): its partition function is unknown, and must not
decide how much its frames count. ``pV`` of constant pressure is the same in both ensembles and
cancels.

Source: S. Thaler and J. Zavadlav, Nature Communications 12, 6884 (2021),
doi:10.1038/s41467-021-27241-4
(DiffTRe; N_eff = exp(-sum w ln w)).
"""

from __future__ import annotations

from dataclasses import dataclass

import ase.units
import torch

#: A fraction of effective frames that is nearer to one is one: what is missing is roundoff of the
#: logarithms (10^-15). It is of second order in the differences of energies, which are then below
#: 10^-6 kT.
EQUAL_WEIGHTS = 1e-12


@dataclass(frozen=True, eq=False)
class Ensembles:
    """Which frames were drawn from the same ensemble.

    Attributes
    ----------
    index
        (n_frames,) int64 ensemble of each frame.
    temperatures
        (n_ensembles,) float64, K.
    """

    index: torch.Tensor
    temperatures: torch.Tensor

    @property
    def sizes(self) -> torch.Tensor:
        """(n_ensembles,) int64 number of frames."""
        return torch.bincount(self.index, minlength=len(self.temperatures))

    def frames(self, ensemble: int) -> torch.Tensor:
        """(n_frames,) bool, those of one ensemble."""
        return self.index == ensemble


def log_weights(
    energies: torch.Tensor, generating: torch.Tensor, ensembles: Ensembles
) -> torch.Tensor:
    """Logarithms of the weights, which sum to one in each ensemble.

    Parameters
    ----------
    energies
        (n_frames,) float64, eV, of the ensembles that are asked for; may have a graph.
    generating
        (n_frames,) float64, eV, of those that the frames were drawn from.
    ensembles
        Temperatures are those of both.

    Returns
    -------
    torch.Tensor
        (n_frames,) float64; never overflows, whatever the energies.
    """
    found = torch.empty_like(energies)
    for number, temperature in enumerate(ensembles.temperatures.tolist()):
        mine = ensembles.frames(number)
        exponent = (generating[mine] - energies[mine]) / (ase.units.kB * temperature)
        found = found.masked_scatter(mine, torch.log_softmax(exponent, dim=0))
    return found


def effective_fractions(logarithms: torch.Tensor, ensembles: Ensembles) -> torch.Tensor:
    """(n_ensembles,) effective number of frames over their number, ``exp(-sum w ln w) / N``.

    Exactly one if all weights are equal to ``EQUAL_WEIGHTS``, ``1 / N`` if one frame has all the
    weight.

    Parameters
    ----------
    logarithms
        Of :func:`log_weights`.
    ensembles
        The same.
    """
    # relative to equal weights, so that these lose nothing to roundoff; a weight that underflows
    # counts nothing: 0 ln 0 = 0
    logarithms = logarithms.detach()
    relative = logarithms.clamp(min=-1e300) + ensembles.sizes.double().log()[ensembles.index]
    terms = logarithms.exp() * relative
    entropies = torch.zeros(len(ensembles.temperatures), dtype=torch.float64)
    entropies.index_add_(0, ensembles.index, -terms)
    found = entropies.exp()
    return torch.where(1.0 - found < EQUAL_WEIGHTS, 1.0, found)


def shares(ensembles: Ensembles, temperature: float) -> torch.Tensor:
    """(n_frames,) by which weights are multiplied for an average at one temperature, K.

    Ensembles of this temperature that were generated with different parameters count by their
    numbers of frames; frames of other temperatures do not.
    """
    counted = ensembles.sizes.double() * (ensembles.temperatures == temperature)
    return (counted / counted.sum())[ensembles.index]


def averages(values: torch.Tensor, logarithms: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Average of an observable.

    Parameters
    ----------
    values
        (n_frames, ...) float64.
    logarithms, share
        Of :func:`log_weights` and :func:`shares`.
    """
    return torch.tensordot(share * logarithms.exp(), values, dims=1)
