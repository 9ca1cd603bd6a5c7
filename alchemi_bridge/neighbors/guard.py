"""What must hold in every step before the model is asked, in one read from the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alchemi_bridge.errors import NonFiniteError, OverlapError
from alchemi_bridge.neighbors.advance import FACTS, Moved, Reference
from alchemi_bridge.pairs import Candidates

#: Atoms closer than this (in angstrom) sit on the same point: no potential is defined there, and
#: directions between them are rounding noise.
MIN_DISTANCE_ANGSTROM = 1e-3


@dataclass(frozen=True)
class StepFacts:
    """What one read from the device says about a step.

    Attributes
    ----------
    displacement
        Largest since the pair search, beyond deformation and drift.
    finite
        Whether all coordinates are.
    shortest
        Length of the shortest candidate.
    n_rows
        How many rows each of the lists has that are to be cut.
    """

    displacement: float
    finite: bool
    shortest: float
    n_rows: tuple[int, ...]


def read_facts(
    moved: Moved,
    reference: Reference | None,
    shortest: torch.Tensor | None = None,
    n_rows: Sequence[torch.Tensor] = (),
) -> StepFacts:
    """Read what the kernels found: the only time that the host waits for the device in a step.

    Parameters
    ----------
    moved
        Coordinates of the step, with their facts.
    reference
        Its drift follows the atoms.
    shortest
        (n_atoms,) float64, minus the squared length of the shortest pair of each row.
    n_rows
        Scalar tensors.
    """
    with_pairs = shortest is not None and len(shortest) > 0
    columns = [moved.facts]
    if shortest is not None and with_pairs:
        columns.append(shortest.amax().reshape(1))
    columns += [n.reshape(1).double() for n in n_rows]
    found = (torch.cat(columns) if len(columns) > 1 else moved.facts).tolist()
    if not with_pairs:
        found.insert(FACTS, -math.inf)
    if reference is not None and found[1] == 0.0 and len(moved.positions):
        reference.follow([-v for v in found[5:8]], found[2:5])
    return StepFacts(
        displacement=math.sqrt(found[0]),
        finite=found[1] == 0.0,
        shortest=math.sqrt(max(-found[FACTS], 0.0)),
        n_rows=tuple(int(n) for n in found[FACTS + 1 :]),
    )


def require_finite(
    positions: torch.Tensor, facts: StepFacts, names: torch.Tensor | None = None
) -> None:
    """Raise :class:`NonFiniteError` naming the first atoms with NaN or infinite coordinates.

    ``names`` maps rows of ``positions`` to the engine's indices.
    """
    if facts.finite:
        return
    rows = torch.nonzero(~torch.isfinite(positions).all(dim=1)).squeeze(1)
    bad = (rows if names is None else names[rows]).tolist()
    named = ", ".join(str(i) for i in bad[:5]) + (", ..." if len(bad) > 5 else "")
    raise NonFiniteError(
        "positions",
        expected="finite coordinates",
        got=f"NaN or infinite values for {len(bad)} atoms ({named})",
        fix="look for a blown-up step before this one",
    )


def require_apart(
    candidates: Candidates,
    positions: torch.Tensor,
    offsets: torch.Tensor,
    facts: StepFacts,
    minimum: float,
    unit: str,
    names: torch.Tensor | None = None,
) -> None:
    """Raise :class:`OverlapError` naming the atoms if a pair is closer than ``minimum``.

    Parameters
    ----------
    positions, offsets
        Of this step, see :class:`Moved` and :func:`~alchemi_bridge.neighbors.cut.shift_vectors`.
    names
        Maps the candidates' indices to the engine's.
    """
    if facts.shortest >= minimum:
        return
    first, second = candidates.first.long(), candidates.second.long()
    vectors = positions[second] - positions[first] + offsets[candidates.code.long()]
    k = int(torch.argmin((vectors.double() ** 2).sum(dim=1)))
    pair = torch.stack([first[k], second[k]])
    if names is not None:
        pair = names[pair]
    i, j = pair.tolist()
    error = OverlapError(
        f"atoms {i} and {j}",
        expected=f"a distance of at least {minimum:g} {unit}",
        got=f"{facts.shortest:.3g} {unit} (cell shift {tuple(candidates.shifts[k].tolist())})",
        fix="remove one of the atoms or move them apart",
    )
    error.atoms = (i, j)
    raise error
