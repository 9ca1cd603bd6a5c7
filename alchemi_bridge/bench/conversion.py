"""How long a cluster pair list takes to become candidates, against two other ways to get them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from alchemi_bridge.bench import cluster_lists
from alchemi_bridge.bench.paths import synchronize
from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import PairListError
from alchemi_bridge.native import using
from alchemi_bridge.pairs import (
    Candidates,
    ClusterPairs,
    cluster_arrays,
    cluster_checks,
    cluster_rows,
    decode,
    find_pairs,
)
from alchemi_bridge.pairs.clusters import expansion

#: Atoms for each Å^3 of liquid argon, and the radius of a list of cutoff 6 Å with a skin of 1 Å.
DENSITY, REACH = 0.0213, 7.0

REPEATS = 5

#: Bytes of the copy that shows how fast the device's memory is: beyond all caches.
COPIED = 256 << 20


@dataclass
class ConversionRow:
    """Conversion of one list.

    Attributes
    ----------
    ms
        Median milliseconds from the engine's arrays to candidates: checked, both directions,
        sorted rows, with the reverse of each entry.
    ms_sort_dedup, ratio_to_sort_dedup
        The same checks and the same compiled expansion of the list, then in torch one key for each
        entry, a sort, and the removal of repeated keys. Its time over ``ms``: larger is better.
    ms_sort_alone, ratio_to_sort_alone
        Only the last part of that, from the pairs that are within reach: keys, sort, removal.
    ms_torch, ratio_to_torch
        All of it without compiled code.
    ms_vesin, ratio_to_vesin
        A search from scratch with vesin, on the host, and its conversion to candidates.
    megabytes, ms_floor, ratio_to_floor
        The list's arrays, coordinates, and the candidates, each counted once; the time in which the
        device copies as many (read and written); and how many times that ``ms`` is: smaller is
        better.
    """

    atoms: int
    pairs: int
    device: str
    threads: int
    ms: float
    ms_sort_dedup: float
    ratio_to_sort_dedup: float
    ms_sort_alone: float
    ratio_to_sort_alone: float
    ms_torch: float
    ratio_to_torch: float
    ms_vesin: float
    ratio_to_vesin: float
    megabytes: float
    ms_floor: float
    ratio_to_floor: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def measure_conversion(n_atoms: int, device: torch.device, repeats: int = REPEATS) -> ConversionRow:
    """Time the conversion of a list of ``n_atoms`` atoms at the density of a liquid.

    Raises
    ------
    PairListError
        If the ways do not find the same pairs.
    """
    edge = (n_atoms / DENSITY) ** (1.0 / 3.0)
    listed = cluster_lists.build(_lattice(n_atoms, edge), np.eye(3) * edge, REACH)
    pairs, cell = on_device(listed, device), Cell.of(np.eye(3) * edge)
    # the list's coordinates are rounded to float32: a pair at its very edge is in both or in none
    positions = torch.from_numpy(listed.positions.astype(np.float32).astype(np.float64)).to(device)

    def convert() -> Candidates:
        return decode(pairs, n_atoms=n_atoms, device=device, reach=REACH, cell=cell)

    found = convert()
    half = found.canonical
    first, second, code = found.first[half], found.second[half], found.code[half]
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(0)).to(device)
    arrays = (first[order].long(), second[order].long(), code[order].long())
    n_codes = len(found.table)

    def sort_alone() -> torch.Tensor:
        return _sorted_unique(*arrays, n_atoms, n_codes)

    def sort_dedup() -> torch.Tensor:
        i, j, t = _entries(pairs, n_atoms, device, cell)
        return _unique((i * n_atoms + j) * n_codes + t, n_atoms, n_codes)

    def in_torch() -> torch.Tensor:
        with using("torch"):
            parts = list(expanded(pairs, n_atoms, device, cell))
        i, j, t = (torch.cat(column).long() for column in zip(*parts, strict=True))
        return _sorted_unique(i, j, t, n_atoms, n_codes)

    def search() -> Candidates:
        return find_pairs(positions, cell, REACH)

    sizes = [len(search()), len(found), sort_dedup().shape[1], in_torch().shape[1]]
    if len(set(sizes)) > 1:
        raise PairListError(
            "pairs of the cluster list",
            expected=f"{sizes[0]}, as a search finds",
            got=f"{sizes[1]}, and {sizes[2]} and {sizes[3]} after sorting",
            fix="report this: the times mean nothing",
        )
    block = torch.empty(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)

    def copy() -> torch.Tensor:
        return target.copy_(block)

    ways = [convert, sort_dedup, sort_alone, search, copy, in_torch]
    times = _interleaved(ways, device, repeats)
    moved = _bytes(pairs, found)
    floor = times[4] * moved / (2 * COPIED)
    return ConversionRow(
        atoms=n_atoms,
        pairs=found.n_pairs,
        device=str(device),
        threads=torch.get_num_threads(),
        ms=times[0],
        ms_sort_dedup=times[1],
        ratio_to_sort_dedup=times[1] / times[0],
        ms_sort_alone=times[2],
        ratio_to_sort_alone=times[2] / times[0],
        ms_torch=times[5],
        ratio_to_torch=times[5] / times[0],
        ms_vesin=times[3],
        ratio_to_vesin=times[3] / times[0],
        megabytes=moved / 1e6,
        ms_floor=floor,
        ratio_to_floor=times[0] / floor,
    )


def _entries(
    pairs: ClusterPairs, n_atoms: int, device: torch.device, cell: Cell
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both directions of the pairs within reach, by the compiled expansion, in no order."""
    size, table, count, fill = expansion(pairs, n_atoms=n_atoms, device=device, cell=cell)
    counts = torch.zeros(size, dtype=torch.int32, device=table.device)
    count(counts)
    starts = torch.zeros(size + 1, dtype=torch.int64, device=table.device)
    torch.cumsum(counts, 0, out=starts[1:])
    total = int(starts[-1])
    second, code = (torch.empty(total, dtype=torch.int32, device=table.device) for _ in range(2))
    fill(starts[:-1].to(torch.int32), second, code)
    atoms = torch.arange(size, device=table.device)
    first = torch.repeat_interleave(atoms, counts.long(), output_size=total)
    return first, second.long(), code.long()


def _sorted_unique(
    first: torch.Tensor, second: torch.Tensor, code: torch.Tensor, n_atoms: int, n_codes: int
) -> torch.Tensor:
    """(2, n_rows) both directions of the pairs, each once, by sorting keys."""
    there = (first * n_atoms + second) * n_codes + code
    back = (second * n_atoms + first) * n_codes + (n_codes - 1 - code)
    return _unique(torch.cat([there, back]), n_atoms, n_codes)


def _unique(keys: torch.Tensor, n_atoms: int, n_codes: int) -> torch.Tensor:
    unique = torch.unique_consecutive(torch.sort(keys).values) // n_codes
    return torch.stack([unique // n_atoms, unique % n_atoms])


def _bytes(pairs: ClusterPairs, found: Candidates) -> int:
    """Of what a conversion must read and write at least."""
    given = (
        pairs.sci,
        pairs.cj,
        pairs.imask,
        pairs.excl_ind,
        pairs.excl,
        pairs.atom_index,
        pairs.x,
    )
    made = (found.starts, found.second, found.code, found.reverse)
    return sum(int(array.nbytes) for array in (*given, *made))


def _lattice(n_atoms: int, edge: float) -> np.ndarray:
    """Atoms on a cubic lattice, some places empty, moved at random."""
    cells = int(np.ceil(n_atoms ** (1.0 / 3.0)))
    rng = np.random.default_rng(0)
    # in the order of the lattice, as engines keep neighbours close in memory
    places = np.sort(rng.permutation(cells**3)[:n_atoms])
    corners = np.stack(np.unravel_index(places, (cells,) * 3), axis=1)
    return (corners + 0.5 + rng.normal(0.0, 0.12, (n_atoms, 3))) * (edge / cells)


def expanded(
    pairs: ClusterPairs, n_atoms: int, device: torch.device, cell: Cell
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Atoms and shift numbers of the pairs within reach, in parts, by torch's own operators."""
    arrays = cluster_arrays.read(pairs, pairs.layout, device)
    place, _ = cluster_arrays.numbering(None, n_atoms, device)
    (owner,) = cluster_checks.check([arrays], n_atoms, None, cell)
    vectors = cluster_rows.shift_vectors(cell).to(device)
    slots = cluster_arrays.places(arrays, place)
    kept = cluster_rows.keep(arrays, owner, slots, vectors, pairs.reach * pairs.reach)
    yield from cluster_rows.listed(kept)


def on_device(listed: cluster_lists.ClusterList, device: torch.device) -> ClusterPairs:
    """The list with its arrays on the device, coordinates in float32 as engines have them."""
    if device.type == "cpu":
        return listed.pairs(np.float32)

    def move(array: np.ndarray) -> torch.Tensor:
        words = array.view(np.int32) if array.dtype == np.uint32 else array
        return torch.from_numpy(np.ascontiguousarray(words)).to(device)

    return ClusterPairs(
        move(listed.sci),
        move(listed.cj),
        move(listed.imask),
        excl_ind=move(listed.excl_ind),
        excl=move(listed.excl),
        atom_index=move(listed.atom_index),
        x=move(listed.x.astype(np.float32)),
        reach=listed.rlist,
        rlist=listed.rlist,
    )


def _interleaved(ways: list[Callable[[], Any]], device: torch.device, repeats: int) -> list[float]:
    """Median milliseconds of each."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, found in zip(ways, seconds, strict=True):
            synchronize(device)
            start = time.perf_counter()
            way()
            synchronize(device)
            found.append(time.perf_counter() - start)
    return [1e3 * statistics.median(found) for found in seconds]
