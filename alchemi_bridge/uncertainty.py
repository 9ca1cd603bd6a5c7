"""A warning that names the atoms for which the model says that it is uncertain."""

from __future__ import annotations

import warnings

import torch

#: Atoms that a warning names; the number of all is given.
MAX_NAMED = 20


class UncertaintyWarning(UserWarning):
    """The uncertainty of some atoms' energy is above the threshold."""


def warn_if_uncertain(
    uncertainty: torch.Tensor, threshold: float, names: torch.Tensor | None = None
) -> None:
    """Warn if an atom's uncertainty is above the threshold.

    Parameters
    ----------
    uncertainty
        (n_atoms,) uncertainty of each atom's energy, in eV.
    threshold
        In eV.
    names
        (n_atoms,) the engine's indices of the atoms; ``None`` if they are 0, 1, ...
    """
    above = torch.nonzero(uncertainty > threshold).squeeze(1)
    if len(above) == 0:
        return
    largest = float(uncertainty.max())
    atoms = above if names is None else names[above]
    named = ", ".join(str(i) for i in atoms[:MAX_NAMED].tolist())
    more = "" if len(atoms) <= MAX_NAMED else f" and {len(atoms) - MAX_NAMED} more"
    warnings.warn(
        f"the energy uncertainty of {len(atoms)} atoms is above the threshold of {threshold:g} eV "
        f"(largest: {largest:.3g} eV): atoms {named}{more}",
        UncertaintyWarning,
        stacklevel=3,
    )
