"""Checks of cluster pair lists: all on the device, with one read, before anything is decoded.

Kernels of ``clusters.cuh`` say whether anything is wrong; they never follow an index before they
have looked at it. The torch reference beside them says what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import NonFiniteError, PairListError
from alchemi_bridge.native import Launcher, elements, launcher_for
from alchemi_bridge.pairs.cluster_arrays import CENTRAL_SHIFT, SHIFTS, ClusterArrays

#: What is read from the device for one list.
Facts = dict[str, torch.Tensor]


def check(
    lists: Sequence[ClusterArrays], n_atoms: int, subset: torch.Tensor | None, cell: Cell
) -> list[torch.Tensor]:
    """Raise if a list can not be what an engine made for these atoms and this cell.

    Returns
    -------
    list of torch.Tensor
        For each list the (n_groups,) int32 entry that each group belongs to, -1 for none.

    Raises
    ------
    PairListError, NonFiniteError
        See :func:`~alchemi_bridge.pairs.clusters.decode_clusters`.
    """
    run = launcher_for(lists[0].sci.device)
    if run is not None:
        owners, wrong = _check_native(run, lists, n_atoms, subset, cell)
        if not wrong:
            return owners
    # the torch reference finds out what to say
    owners = _check_torch(lists, n_atoms, subset, cell)
    if run is None:
        return owners
    raise PairListError(
        "cluster pair list",
        expected="arrays that nobody changes while they are read",
        got="arrays that were inconsistent at first, and are not any more",
        fix="hand over the event after which they may be read",
    )


def _check_native(
    run: Launcher,
    lists: Sequence[ClusterArrays],
    n_atoms: int,
    subset: torch.Tensor | None,
    cell: Cell,
) -> tuple[list[torch.Tensor], bool]:
    """Entries of the groups, and whether anything is wrong at all."""
    device = lists[0].sci.device
    owners, flags = [], torch.zeros(1, dtype=torch.int32, device=device)
    slots = torch.zeros((len(lists), n_atoms), dtype=torch.int32, device=device)
    open_directions = sum(1 << k for k in range(3) if not cell.pbc[k])
    for arrays, slots_of_list in zip(lists, slots, strict=True):
        n_groups, sizes = len(arrays.cj), _Sizes.of(arrays)
        claims = torch.zeros(n_groups, dtype=torch.int32, device=device)
        owner = torch.full((n_groups,), -1, dtype=torch.int32, device=device)
        run.launch(
            "check_entries",
            len(arrays.sci),
            arrays.sci,
            sizes.n_supers,
            sizes.n_shifts,
            open_directions,
            n_groups,
            claims,
            owner,
            flags,
            serial=True,
        )
        run.launch(
            "check_groups",
            n_groups,
            arrays.cj,
            arrays.imask,
            arrays.excl_ind,
            claims,
            sizes.n_clusters,
            0 if arrays.excl is None else len(arrays.excl),
            arrays.layout.super_bits,
            arrays.layout.split,
            flags,
            serial=True,
        )
        run.launch(
            "check_slots_f" if arrays.x.dtype == torch.float32 else "check_slots_d",
            len(arrays.atom_index),
            arrays.atom_index,
            elements(arrays.x),
            *arrays.x.stride(),
            n_atoms,
            slots_of_list,
            flags,
            serial=True,
        )
        owners.append(owner)
    seen = slots[0] if len(lists) == 1 else slots.amax(dim=0)
    wanted = seen if subset is None else seen[subset]
    lacking = (wanted == 0).any()
    return owners, bool((flags != 0) | lacking)  # the one read


@dataclass(frozen=True)
class _Sizes:
    """How many there are of what a list points at."""

    n_supers: int
    n_clusters: int
    n_shifts: int

    @classmethod
    def of(cls, arrays: ClusterArrays) -> _Sizes:
        layout, n_slots = arrays.layout, len(arrays.atom_index)
        return cls(
            n_slots >> (layout.super_bits + layout.cluster_bits),
            n_slots >> layout.cluster_bits,
            CENTRAL_SHIFT + 1 if arrays.intra_grid else len(SHIFTS),
        )


def _check_torch(
    lists: Sequence[ClusterArrays], n_atoms: int, subset: torch.Tensor | None, cell: Cell
) -> list[torch.Tensor]:
    owners, facts = [], []
    seen = torch.zeros(n_atoms, dtype=torch.bool, device=lists[0].sci.device)
    for arrays in lists:
        owner, of_groups = _groups(arrays)
        found = {**_entries(arrays, cell), **of_groups, **_slots(arrays, n_atoms, seen)}
        owners.append(owner)
        facts.append(found)
    wanted = seen if subset is None else seen[subset]
    values = [torch.stack(list(found.values())) for found in facts]
    missing = (~wanted).sum()
    *numbers, lacking = torch.cat([*values, missing[None]]).tolist()  # the one read
    begin = 0
    for arrays, found in zip(lists, facts, strict=True):
        end = begin + len(found)
        _raise_if_wrong(arrays, dict(zip(found, numbers[begin:end], strict=True)), n_atoms)
        begin = end
    if lacking:
        raise PairListError(
            "atom_index of the cluster pair list",
            expected="a slot for every atom",
            got=f"{lacking} atoms without one",
            fix="hand over the list of the current atoms, with halo atoms if there are any",
        )
    return owners


def _range(name: str, values: torch.Tensor, used: torch.Tensor | None = None) -> Facts:
    """Smallest and largest of those used, and of 0 and -1: no values at all are in any range."""
    values = values.to(torch.int64)
    low = values if used is None else torch.where(used, values, 0)
    high = values if used is None else torch.where(used, values, -1)
    ends = torch.tensor([0, -1], device=values.device)
    return {
        f"{name} low": torch.cat([low.reshape(-1), ends[:1]]).amin(),
        f"{name} high": torch.cat([high.reshape(-1), ends[1:]]).amax(),
    }


def _entries(arrays: ClusterArrays, cell: Cell) -> Facts:
    supers, shift, begin, end = arrays.sci.unbind(dim=1)
    closed = torch.tensor(
        [all(p or not n for p, n in zip(cell.pbc, s, strict=True)) for s in SHIFTS],
        device=shift.device,
    )
    known = shift[:, None] == torch.arange(len(SHIFTS), device=shift.device)
    return {
        **_range("super-cluster", supers),
        **_range("shift", shift),
        **_range("first group", begin),
        **_range("last group", end),
        "backwards": (begin > end).sum(),
        "open": (known & ~closed).sum(),
    }


def _groups(arrays: ClusterArrays) -> tuple[torch.Tensor, Facts]:
    """The entry of each group, and what can be wrong with groups."""
    device, n_groups = arrays.sci.device, len(arrays.cj)
    begin, end = arrays.sci[:, 2].long(), arrays.sci[:, 3].long()
    begin, end = begin.clamp(0, n_groups), end.clamp(0, n_groups)
    number = torch.arange(1, len(begin) + 1, device=device)
    # +1 (and the number of the entry) from its first group on, -1 after its last
    steps = torch.zeros((2, n_groups + 1), dtype=torch.int64, device=device)
    for row, amount in enumerate((torch.ones_like(number), number)):
        steps[row].index_add_(0, begin, amount)
        steps[row].index_add_(0, end, -amount)
    covered, entry = torch.cumsum(steps, 1)[:, :n_groups]
    owner = torch.where(covered == 1, entry - 1, -1).to(torch.int32)
    any_half = (
        arrays.imask[:, 0]
        if arrays.layout.split == 1
        else (arrays.imask[:, 0] | arrays.imask[:, 1])
    )
    bits = torch.arange(arrays.layout.group_size, device=device) << arrays.layout.super_bits
    byte = (any_half[:, None] >> bits) & ((1 << arrays.layout.n_clusters) - 1)
    used = byte != 0
    facts = {
        # where the mask is empty the engine leaves cj undefined
        **_range("j cluster", arrays.cj, used),
        "overlap": (covered > 1).sum(),
        "left out": ((covered == 0) & (any_half != 0)).sum(),
    }
    if arrays.excl_ind is not None:
        facts.update(_range("exclusion", arrays.excl_ind))
    return owner, facts


def _slots(arrays: ClusterArrays, n_atoms: int, seen: torch.Tensor) -> Facts:
    """What can be wrong with slots; marks atoms that have one in ``seen``."""
    index = arrays.atom_index
    real = index >= 0
    sound = real & (index < n_atoms)
    # one more place, for what is no atom
    slots = torch.bincount(torch.where(sound, index, n_atoms), minlength=n_atoms + 1)[:n_atoms]
    seen |= slots > 0
    finite = torch.isfinite(arrays.x).all(dim=1)
    return {
        **_range("atom", index),
        "twice": (slots > 1).sum(),
        "not finite": (real & ~finite).sum(),
    }


def _raise_if_wrong(arrays: ClusterArrays, facts: dict[str, int], n_atoms: int) -> None:
    n_groups, sizes = len(arrays.cj), _Sizes.of(arrays)
    _require_range(facts, "super-cluster", "super-clusters of sci", sizes.n_supers)
    _require_range(facts, "shift", "shift numbers of sci", sizes.n_shifts)
    _require_range(facts, "first group", "first groups of sci", n_groups + 1)
    _require_range(facts, "last group", "ends of groups of sci", n_groups + 1)
    _require_none(facts, "backwards", "entries of sci", "whose groups end before they begin")
    _require_none(facts, "overlap", "groups", "that more than one entry of sci claims")
    _require_none(facts, "left out", "groups", "with a mask that no entry of sci claims")
    _require_none(facts, "open", "entries of sci", "with a shift along an open direction")
    _require_range(facts, "j cluster", "j clusters", sizes.n_clusters)
    if arrays.excl is not None:
        _require_range(facts, "exclusion", "excl_ind", len(arrays.excl))
    _require_range(facts, "atom", "atom_index", n_atoms, lowest=-1)
    _require_none(facts, "twice", "atoms", "with more than one slot")
    if facts["not finite"]:
        raise NonFiniteError(
            "x of the cluster pair list",
            expected="finite coordinates",
            got=f"{facts['not finite']} atoms with NaN or infinite ones",
            fix="wait for the coordinates of the search, those of halo atoms too",
        )


def _require_range(
    facts: dict[str, int], name: str, what: str, n_values: int, lowest: int = 0
) -> None:
    low, high = facts[f"{name} low"], facts[f"{name} high"]
    if low < lowest or high >= n_values:
        raise PairListError(
            f"{what} of the cluster pair list",
            expected=f"values from {lowest} to {n_values - 1}",
            got=f"values from {low} to {high}",
            fix=CUT_SHORT,
        )


def _require_none(facts: dict[str, int], name: str, what: str, problem: str) -> None:
    if facts[name]:
        raise PairListError(
            "cluster pair list",
            expected=f"no {what} {problem}",
            got=str(facts[name]),
            fix=CUT_SHORT,
        )


CUT_SHORT = "hand over all arrays of one search, in their full length and with the right layout"
