"""Neighbour lists that come with a batch: read, and not believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from alchemi_bridge.batch import BatchGeometry, Systems
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import PairListError, ShapeError
from alchemi_bridge.model import LoadedModel
from alchemi_bridge.model.joined import JoinedInput, JoinedPairs
from alchemi_bridge.pairs import FullPairs
from alchemi_bridge.pairs.candidates import INDEX_DTYPES

#: Pairs whose distance is this close to the cutoff, relative to it, may be in one list and not in
#: the other: positions are wrapped and rounded in other ways.
EDGE = 1e-5

#: The own lists reach this far beyond the cutoff at least, or all of them were searched anew in
#: every step.
LEAST_SKIN = 1.0  # Å


NAME = "neighbor_list of the batch"
SHIFTS = "neighbor_list_shifts of the batch"

#: What makes a list that can be used.
MAKE = "compute_neighbors(batch, config=model.model_config.neighbor_config) makes one"


def read_list(batch: Any, reach: float, device: torch.device) -> FullPairs:
    """The neighbour list of a batch.

    Parameters
    ----------
    batch
        With ``neighbor_list``, (n_pairs, 2) int32 or int64, and, if a system is periodic,
        ``neighbor_list_shifts``, (n_pairs, 3) integers, which may be of a float dtype.
    reach
        Distance in Å up to which it should be complete; if it says that it was made for less, that
        is what counts.
    device
        Where it must be.

    Raises
    ------
    PairListError, ShapeError, DtypeError, DeviceMismatchError
        If it is not there or can not be used.
    """
    found = getattr(batch, "neighbor_list", None)
    if found is None:
        raise PairListError(
            NAME,
            expected="a COO list of nvalchemi (neighbor_list, neighbor_list_shifts)",
            got="none",
            fix="register the model's make_neighbor_hooks() with the dynamics and call prime, call "
            "compute_neighbors, or let the model search (neighbors='own')",
        )
    _require_shape(found, NAME, None, 2)
    DeviceBuffer.of(found, NAME).require(NAME, shape=(None, 2), dtypes=INDEX_DTYPES, device=device)
    n_pairs = len(found)
    shifts, pbc = getattr(batch, "neighbor_list_shifts", None), getattr(batch, "pbc", None)
    if shifts is not None:
        _require_shape(shifts, SHIFTS, n_pairs, 3)
        shifts = _integers(shifts)
        DeviceBuffer.of(shifts, SHIFTS).require(
            SHIFTS, shape=(n_pairs, 3), dtypes=INDEX_DTYPES, device=device
        )
    elif pbc is not None and bool(pbc.any()):
        periodic = int(torch.nonzero(pbc.any(dim=1))[0])
        raise PairListError(
            SHIFTS,
            expected=f"cell shifts, since system {periodic} is periodic",
            got="none",
            fix=f"hand over the shifts of the list; {MAKE}",
        )
    built = getattr(batch, "_neighbor_list_cutoff", None)
    reach = reach if built is None else min(reach, float(built))
    return FullPairs(found[:, 0].contiguous(), found[:, 1].contiguous(), shifts, reach)


def _require_shape(values: torch.Tensor, name: str, n_pairs: int | None, columns: int) -> None:
    shape = tuple(values.shape)
    if len(shape) != 2 or shape[1] != columns or n_pairs not in (None, shape[0]):
        raise ShapeError(
            name,
            expected=f"shape ({n_pairs or 'n_pairs'}, {columns}), a row for each pair",
            got=f"shape {shape}",
            fix=f"hand over a COO list, without padding and not transposed; {MAKE}",
        )


def _integers(shifts: torch.Tensor) -> torch.Tensor:
    """Shifts of a float dtype as integers, which they must be; others as they are."""
    if not shifts.is_floating_point():
        return shifts
    whole = shifts.round()
    # also false for NaN
    if not bool((shifts == whole).all() & (whole.abs() < 2**30).all()):
        raise PairListError(
            SHIFTS,
            expected="integers, in units of the cell vectors",
            got=f"numbers such as {float(shifts[shifts != whole][:1].sum()):g}",
            fix="hand over how many cells away the second atom is, and not the vector in Å",
        )
    return whole.to(torch.int32)


@contextmanager
def explained(systems: Systems, pairs: FullPairs) -> Iterator[None]:
    """Let errors about the entries of a list say which system it is, and what nvalchemi can do."""
    try:
        yield
    except PairListError as error:
        wrong = _wrong_entry(systems, pairs)
        raise error if wrong is None else wrong from None


def _wrong_entry(systems: Systems, pairs: FullPairs) -> PairListError | None:
    """The first entry that no list can have, if that is what is wrong."""
    first, second = pairs.first.long(), pairs.second.long()
    n_atoms, device = len(systems.types), first.device
    sizes = torch.tensor(systems.sizes, device=device)
    system = torch.arange(len(sizes), device=device).repeat_interleave(sizes)
    shifts = first.new_zeros((len(first), 3)) if pairs.shifts is None else pairs.shifts.long()
    there = (first >= 0) & (first < n_atoms) & (second >= 0) & (second < n_atoms)
    known = [system[atoms.clamp(0, n_atoms - 1)] for atoms in (first, second)]
    rows = torch.cat([first[:, None], second[:, None], shifts], dim=1)
    back = torch.cat([second[:, None], first[:, None], -shifts], dim=1)
    _, number, counts = torch.unique(
        torch.cat([rows, back]), dim=0, return_inverse=True, return_counts=True
    )
    listed, reverse = number[: len(rows)], number[len(rows) :]
    often = torch.bincount(listed, minlength=len(counts))
    for wrong, expected, fix in (
        (~there, f"atoms from 0 to {n_atoms - 1}, and no padding", MAKE),
        (known[0] != known[1], "pairs of atoms of the same system", f"search anew; {MAKE}"),
        (
            (rows == back).all(dim=1),
            "no atom paired with itself in the same cell",
            f"leave these pairs out, and see that the list is not transposed; {MAKE}",
        ),
        (often[listed] > 1, "every pair once", f"leave out what is listed twice; {MAKE}"),
        (
            often[reverse] == 0,
            "with every pair (i, j, S) also (j, i, -S)",
            f"use full lists (half_list=False): {MAKE}; or let the model search "
            "(neighbors='own'), since nvalchemi 0.2's hook loses pairs when a batch is refilled",
        ),
    ):
        if not bool(wrong.any()):
            continue
        k = int(torch.nonzero(wrong)[0])
        i, j, *shift = rows[k].tolist()
        # the system of the atom that there is, or of none
        inside = [int(known[m][k]) for m, a in enumerate((i, j)) if 0 <= a < n_atoms]
        others = f" of system {inside[-1]}" if len(set(inside)) > 1 else ""
        return PairListError(
            f"neighbor_list of system {systems.number(inside[0])}" if inside else NAME,
            expected=expected,
            got=f"{int(wrong.sum())} others, such as atom {i} of the batch with atom {j}{others} "
            f"and shift {tuple(shift)}",
            fix=fix,
        )
    return None


class ListGuard:
    """Finds lists that miss pairs, by a list of the bridge's own in every evaluation.

    nvalchemi's ``NeighborListHook`` looks at how far atoms moved, not at the cells, and lays out
    its search by the cells and sizes that it saw first for as many atoms and systems: when cells
    change, or a batch is refilled, pairs can be missing without an error. It does not run at all
    where it is registered with a part of a ``FusedStage``, and a list that somebody made before the
    atoms moved looks like any other. No list tells by itself, so that each is compared.

    Parameters
    ----------
    loaded, length, skin
        See :class:`~alchemi_bridge.batch.BatchGeometry`.
    """

    def __init__(self, loaded: LoadedModel, *, length: float, skin: float) -> None:
        self._loaded, self._length = loaded, length
        self._own = BatchGeometry(loaded, length=length, skin=max(skin, LEAST_SKIN))

    def require_complete(self, systems: Systems, joined: JoinedInput) -> None:
        """Raise :class:`PairListError` for the first system whose list misses pairs.

        Parameters
        ----------
        systems
            What the batch has.
        joined
            What was made of it and of its list.
        """
        own = self._own.step(systems)
        if all(a.counts == b.counts for a, b in zip(joined.pairs, own.pairs, strict=True)):
            return  # no pair of theirs is too long, or there twice
        # The own lists may be of an earlier step, and name images by where the atoms were then.
        own = BatchGeometry(self._loaded, length=self._length, skin=0.0).step(systems)
        for request, theirs, ours in zip(
            self._loaded.requests, joined.pairs, own.pairs, strict=True
        ):
            missing = _missing(theirs, ours, float(request.cutoff))
            if len(missing):
                k, i, j, *shift = missing[0].tolist()
                raise PairListError(
                    f"neighbor_list of system {systems.number(k)}",
                    expected="all pairs within the model's cutoff",
                    got=f"a list without {int((missing[:, 0] == k).sum())} of them, such as atoms "
                    f"{i} and {j} with shift {tuple(shift)}: nvalchemi did not renew it when "
                    "atoms, cells or systems changed, or laid it out for other systems",
                    fix="let the model search, without a hook (neighbors='own'); or see that the "
                    "hook is registered with the dynamics that are run, for a fused stage with "
                    "that and not with its parts, and call compute_neighbors for new positions",
                )


def _missing(theirs: JoinedPairs, ours: JoinedPairs, cutoff: float) -> torch.Tensor:
    """(n, 6) rows ``(system, first, second, shift)`` of ours that are not among theirs.

    Pairs at the very edge of the cutoff are left out.
    """
    inner = ours.pairs.vectors.double().square().sum(dim=1) < (cutoff * (1.0 - EDGE)) ** 2
    known, wanted = _rows(theirs), _rows(ours)[inner]
    _, number = torch.unique(torch.cat([known, wanted]), dim=0, return_inverse=True)
    return wanted[~torch.isin(number[len(known) :], number[: len(known)])]


def _rows(joined: JoinedPairs) -> torch.Tensor:
    samples = joined.pairs.samples
    counts = torch.tensor(joined.counts, device=samples.device)
    numbers = torch.arange(len(counts), dtype=samples.dtype, device=samples.device)
    return torch.cat([numbers.repeat_interleave(counts)[:, None], samples], dim=1)
