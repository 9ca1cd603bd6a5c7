"""From what an engine hands over to candidate pairs, once per pair search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import PairListError
from alchemi_bridge.pairs.clusters import ClusterPairs, decode_clusters, searched_at
from alchemi_bridge.pairs.engine_rows import INDEX_DTYPES
from alchemi_bridge.pairs.ghosts import GhostPairs, decode_ghosts
from alchemi_bridge.pairs.lists import FullPairs, HalfPairs, Search
from alchemi_bridge.pairs.matrix import NeighborMatrix, decode_matrix
from alchemi_bridge.pairs.rows import Candidates, candidates_from_pairs

#: What an engine can hand over; several cluster lists are those of one rank. Candidates are a list
#: that was decoded before, in the model's length unit.
PairList = HalfPairs | FullPairs | GhostPairs | NeighborMatrix | ClusterPairs | Candidates
Pairs = PairList | Search | Sequence[ClusterPairs]


def is_pairs(value: Any) -> bool:
    """Whether this is something that :class:`Pairs` stands for."""
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(isinstance(one, ClusterPairs) for one in value)
    return isinstance(value, PairList | Search)


def reach_of(pairs: PairList | Sequence[ClusterPairs]) -> float:
    """Distance up to which a list is complete, in the engine's length unit."""
    return min(one.reach for one in pairs) if isinstance(pairs, Sequence) else pairs.reach


def decode(
    pairs: PairList | Sequence[ClusterPairs],
    *,
    n_atoms: int,
    device: torch.device,
    reach: float,
    cell: Cell | None = None,
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
    cell
        The engine's cell that the list belongs to, in its unit; open if there is none.
    subset
        (n_subset,) int64 indices of the atoms that the model sees. Pairs with any other atom are
        left out, and the candidates refer to positions in ``subset``.

    Raises
    ------
    ShapeError, DtypeError, DeviceMismatchError
        If an array does not fit.
    PairListError
        If an index is out of range, an atom is paired with itself without a shift, a full list
        lacks the reverse of a pair, or a pair is listed twice; and what the functions for each
        kind of list say.
    """
    if isinstance(pairs, Candidates):
        return _decoded(pairs, n_atoms=n_atoms, device=device, subset=subset)
    if isinstance(pairs, HalfPairs | FullPairs):
        return decode_indices(pairs, n_atoms=n_atoms, device=device, reach=reach, subset=subset)
    rest: dict[str, Any] = {
        "n_atoms": n_atoms,
        "device": device,
        "reach": reach,
        "subset": subset,
        "cell": cell or Cell.open(),
    }
    if isinstance(pairs, GhostPairs):
        return decode_ghosts(pairs, **rest)
    if isinstance(pairs, NeighborMatrix):
        return decode_matrix(pairs, **rest)
    return decode_clusters(pairs, **rest)


def reference_of(
    pairs: Pairs,
    *,
    n_atoms: int,
    device: torch.device,
    subset: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Positions for which a list was made, if it has those of all atoms.

    Parameters are those of :func:`decode`, which must have accepted the list.

    Returns
    -------
    torch.Tensor or None
        (n_seen, 3) float32 or float64 of the atoms that the model sees, in the engine's unit.
    """
    if not isinstance(pairs, ClusterPairs | Sequence):
        return None
    return searched_at(pairs, n_atoms=n_atoms, device=device, subset=subset)


def _decoded(
    found: Candidates, *, n_atoms: int, device: torch.device, subset: torch.Tensor | None
) -> Candidates:
    """Candidates as they are, if they belong to these atoms."""
    wanted = n_atoms if subset is None else len(subset)
    if found.n_atoms == wanted and found.starts.device == device:
        return found
    raise PairListError(
        "candidates",
        expected=f"those of the {wanted} atoms that the model sees, on {device}",
        got=f"those of {found.n_atoms} atoms, on {found.starts.device}",
        fix="decode the list of these atoms",
    )


def decode_indices(
    pairs: HalfPairs | FullPairs,
    *,
    n_atoms: int,
    device: torch.device,
    reach: float,
    subset: torch.Tensor | None = None,
) -> Candidates:
    """Candidates from index lists with shifts; see :func:`decode`."""
    first, second, shifts = _read(pairs, device)
    _check_indices(first, second, shifts, n_atoms)
    if subset is not None:
        place = torch.full((n_atoms,), -1, dtype=torch.int64, device=device)
        place[subset] = torch.arange(len(subset), device=device)
        first, second = place[first], place[second]
        inside = (first >= 0) & (second >= 0)
        first, second, shifts = first[inside], second[inside], shifts[inside]
        n_atoms = len(subset)
    full = isinstance(pairs, FullPairs)
    name = "full pair list" if full else "pair list"
    return candidates_from_pairs(
        first, second, shifts, n_atoms=n_atoms, reach=reach, both=not full, name=name
    )


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
