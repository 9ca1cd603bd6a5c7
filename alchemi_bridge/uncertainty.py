"""A warning that names the atoms for which the model says that it is uncertain."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

#: Atoms that a warning names; the number of all is given.
MAX_NAMED = 20


class UncertaintyWarning(UserWarning):
    """The uncertainty of some atoms' energy is above the threshold."""


_of_thread = threading.local()


@contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """Tell a function what this thread would warn of.

    What Python has for that, ``warnings.catch_warnings``, is for all threads at once, and engines
    may serve several providers in threads of their own.
    """
    before = getattr(_of_thread, "listener", None)
    _of_thread.listener = listener
    try:
        yield
    finally:
        _of_thread.listener = before


def warn_if_uncertain(
    uncertainty: torch.Tensor,
    threshold: float,
    names: torch.Tensor | None = None,
    *,
    structure: int | None = None,
    stacklevel: int = 3,
) -> None:
    """Warn if an atom's uncertainty is above the threshold; see also :func:`heard_by`.

    Parameters
    ----------
    uncertainty
        (n_atoms,) uncertainty of each atom's energy, in eV.
    threshold
        In eV.
    names
        (n_atoms,) the engine's indices of the atoms; ``None`` if they are 0, 1, ...
    structure
        Number of the structure in a batch.
    stacklevel
        Of the caller that the warning points to.
    """
    above = torch.nonzero(uncertainty > threshold).squeeze(1)
    if len(above) == 0:
        return
    largest = float(uncertainty.max())
    atoms = above if names is None else names[above]
    named = ", ".join(str(i) for i in atoms[:MAX_NAMED].tolist())
    more = "" if len(atoms) <= MAX_NAMED else f" and {len(atoms) - MAX_NAMED} more"
    where = "" if structure is None else f"structure {structure}: "
    said = (
        f"{where}the energy uncertainty of {len(atoms)} atoms is above the threshold of "
        f"{threshold:g} eV (largest: {largest:.3g} eV): atoms {named}{more}"
    )
    listener = getattr(_of_thread, "listener", None)
    if listener is not None:
        listener(said)
    else:
        warnings.warn(said, UncertaintyWarning, stacklevel=stacklevel)
