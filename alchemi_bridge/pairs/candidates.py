"""Candidate pairs: the one form that every pair list is decoded into, once per pair search.

Every pair once; the reverse of a pair has the same vector with the other sign, so that all work
per pair is done once, and both directions are written only where the model wants them. This is the
torch reference; it works on any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import PairListError
from alchemi_bridge.pairs.lists import FullPairs, HalfPairs

INDEX_DTYPES = (torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Every pair once, sorted by ``(first, second, shift)``.

    The order depends on the set of pairs alone, not on who found them or where the atoms were at
    the search, so that sums over pairs give the same bits whatever the history. Made by
    :func:`sorted_candidates`.

    Attributes
    ----------
    n_atoms
        Number of atoms that the indices refer to.
    first, second
        (n_pairs,) int64, ``first <= second``.
    shifts
        (n_pairs, 3) int32.
    reach
        Distance up to which the list was complete at the search, in the model's length unit.
    """

    n_atoms: int
    first: torch.Tensor
    second: torch.Tensor
    shifts: torch.Tensor
    reach: float

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def samples(self) -> torch.Tensor:
        """(n_pairs, 5) int32 rows ``(first, second, shift)``, as metatomic wants them."""
        return torch.cat([_column(self.first), _column(self.second), self.shifts], dim=1)

    @cached_property
    def reversed_samples(self) -> torch.Tensor:
        """(n_pairs, 5) int32 rows of the same pairs backwards, ``(second, first, -shift)``."""
        return torch.cat([_column(self.second), _column(self.first), -self.shifts], dim=1)


def _column(index: torch.Tensor) -> torch.Tensor:
    return index.to(torch.int32)[:, None]


def decode(
    pairs: HalfPairs | FullPairs,
    *,
    n_atoms: int,
    device: torch.device,
    reach: float,
    subset: torch.Tensor | None = None,
) -> Candidates:
    """Turn an engine's list into candidates.

    Parameters
    ----------
    pairs
        The list, in the engine's indices.
    n_atoms
        Number of atoms of the engine.
    device
        Device of the provider; the arrays must be there.
    reach
        The list's reach in the model's length unit.
    subset
        (n_subset,) int64 indices of the atoms that the model sees. Pairs with any other atom are
        left out, and the candidates refer to positions in ``subset``.

    Raises
    ------
    ShapeError, DtypeError, DeviceMismatchError
        If an array does not fit.
    PairListError
        If an index is out of range, an atom is paired with itself without a shift, a full list
        lacks the reverse of a pair, or a pair is listed twice.
    """
    first, second, shifts = _read(pairs, device)
    _check_indices(first, second, shifts, n_atoms)
    if subset is not None:
        place = torch.full((n_atoms,), -1, dtype=torch.int64, device=device)
        place[subset] = torch.arange(len(subset), device=device)
        first, second = place[first], place[second]
        inside = (first >= 0) & (second >= 0)
        first, second, shifts = first[inside], second[inside], shifts[inside]
        n_atoms = len(subset)
    merge = _one_direction if isinstance(pairs, FullPairs) else sorted_candidates
    found = merge(first, second, shifts, n_atoms=n_atoms, reach=reach)
    _check_unique(found)
    return found


def sorted_candidates(
    first: torch.Tensor,
    second: torch.Tensor,
    shifts: torch.Tensor,
    *,
    n_atoms: int,
    reach: float,
) -> Candidates:
    """Candidates from int64 pairs that are listed once, in either direction and any order."""
    swap = ~_is_canonical(first, second, shifts)
    first, second = torch.where(swap, second, first), torch.where(swap, first, second)
    shifts = torch.where(swap[:, None], -shifts, shifts)
    if len(first):
        # stable sorts from the last key to the first; columns without variety need none
        order = torch.arange(len(first), device=first.device)
        spread = (shifts.amax(dim=0) > shifts.amin(dim=0)).tolist()
        keys = [shifts[:, k] for k in (2, 1, 0) if spread[k]] + [first * n_atoms + second]
        for key in keys:
            order = order[torch.argsort(key[order], stable=True)]
        first, second, shifts = first[order], second[order], shifts[order]
    return Candidates(n_atoms, first, second, shifts.to(torch.int32), reach)


def _read(
    pairs: HalfPairs | FullPairs, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first = DeviceBuffer.of(pairs.first, "first atoms of the pair list").require(
        "first atoms of the pair list", shape=(None,), dtypes=INDEX_DTYPES, device=device
    )
    n_pairs = len(first)
    second = DeviceBuffer.of(pairs.second, "second atoms of the pair list").require(
        "second atoms of the pair list", shape=(n_pairs,), dtypes=INDEX_DTYPES, device=device
    )
    if pairs.shifts is None:
        shifts = torch.zeros((n_pairs, 3), dtype=torch.int64, device=device)
    else:
        shifts = DeviceBuffer.of(pairs.shifts, "cell shifts of the pair list").require(
            "cell shifts of the pair list", shape=(n_pairs, 3), dtypes=INDEX_DTYPES, device=device
        )
    return first.to(torch.int64), second.to(torch.int64), shifts.to(torch.int64)


def _check_indices(
    first: torch.Tensor, second: torch.Tensor, shifts: torch.Tensor, n_atoms: int
) -> None:
    if len(first) == 0:
        return
    lowest = torch.minimum(first.min(), second.min())
    highest = torch.maximum(first.max(), second.max())
    with_itself = ((first == second) & (shifts == 0).all(dim=1)).any()
    # one read from the device for all checks
    low, high, itself, *shift = torch.stack(
        [lowest, highest, with_itself.to(torch.int64), shifts.min(), shifts.max()]
    ).tolist()
    wide = max(abs(s) for s in shift)  # not by torch: the lowest int64 has no absolute value there
    if low < 0 or high >= n_atoms:
        raise PairListError(
            "pair list",
            expected=f"indices from 0 to {n_atoms - 1}",
            got=f"indices from {low} to {high}",
            fix="call set_atoms with the current atoms before set_pairs",
        )
    if itself:
        raise PairListError(
            "pair list",
            expected="no atom paired with itself in the same cell",
            got="pairs with first == second and shift (0, 0, 0)",
            fix="leave these pairs out of the list",
        )
    if wide >= 2**30:
        raise PairListError(
            "pair list",
            expected="cell shifts of a few cells",
            got=f"a shift of {wide}",
            fix="check that the shifts are integers in units of cell vectors",
        )


def _is_canonical(first: torch.Tensor, second: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """True for one of the two directions: first < second, or for images the positive shift."""
    x, y, z = shifts.unbind(dim=1)
    positive = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    return (first < second) | ((first == second) & positive)


def _one_direction(
    first: torch.Tensor,
    second: torch.Tensor,
    shifts: torch.Tensor,
    *,
    n_atoms: int,
    reach: float,
) -> Candidates:
    """Candidates from a full list, after a check that one half of it mirrors the other."""
    keep = _is_canonical(first, second, shifts)
    forward, backward = (
        sorted_candidates(first[k], second[k], shifts[k], n_atoms=n_atoms, reach=reach)
        for k in (keep, ~keep)
    )
    if not torch.equal(forward.samples, backward.samples):
        raise PairListError(
            "full pair list",
            expected="with every pair (i, j, S) also (j, i, -S)",
            got=f"{len(forward)} pairs in one direction that do not mirror {len(backward)} in the "
            "other",
            fix="hand over HalfPairs if every pair is listed once",
        )
    return forward


def _check_unique(found: Candidates) -> None:
    rows = found.samples  # sorted, so that equal ones are neighbours
    repeated = (rows[1:] == rows[:-1]).all(dim=1)
    if bool(repeated.any()):
        i, j, *shift = rows[1:][repeated][0].tolist()
        raise PairListError(
            "pair list",
            expected="every pair once",
            got=f"pair ({i}, {j}) with shift {tuple(shift)} listed more than once",
            fix="remove repeated pairs",
        )


def require_reach(reach: float, cutoff: float, unit: str) -> None:
    """Raise :class:`PairListError` if a list ends before the model's cutoff."""
    # a list cut in float32 at the very cutoff may be handed over with that rounding
    if reach < cutoff * (1.0 - 1e-6):
        raise PairListError(
            "reach of the pair list",
            expected=f"at least the model's cutoff, {cutoff:g} {unit}",
            got=f"{reach:g} {unit}",
            fix="build the list with a larger radius (cutoff plus a skin)",
        )
