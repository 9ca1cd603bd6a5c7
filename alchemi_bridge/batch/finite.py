"""Results of a batch that are no numbers, with the system whose they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alchemi_bridge.batch.naming import of_system
from alchemi_bridge.delivery import require_finite_results
from alchemi_bridge.errors import NonFiniteResultError
from alchemi_bridge.model import Evaluation


def require_finite_systems(
    found: Evaluation, sizes: Sequence[int], numbers: Sequence[int] | None = None
) -> None:
    """Raise :class:`NonFiniteResultError` for the first system with NaN or infinite results.

    ``numbers`` are what errors call the systems; from zero by default.
    """
    try:
        require_finite_results(found)
    except NonFiniteResultError:
        by_atom = [found.forces, found.energies, found.virials, found.uncertainty]
        for k in range(len(sizes)):
            begin, end = sum(sizes[:k]), sum(sizes[: k + 1])
            own = [values[begin:end] for values in by_atom if values is not None]
            own += [v[k] for v in (found.energy, found.virial) if v is not None]
            if not all(bool(torch.isfinite(values).all()) for values in own):
                with of_system(k if numbers is None else numbers[k]):
                    raise
        raise
