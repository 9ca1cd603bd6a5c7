"""Candidate pairs: the one form that every pair list ends in, once per pair search.

Rows of a CSR array, one for each atom, hold both directions of every pair, and for each entry the
place of its reverse. So a step needs no sort and no search: vectors are made row by row, and the
force on an atom is gathered from its row and the reverses of its row, in a fixed order, without
atomics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from alchemi_bridge.errors import PairListError
from alchemi_bridge.native import launcher_for

#: Shifts are numbered by a dense grid up to this size, beyond it (atoms that are many cells away)
#: by a list of those that occur.
MAX_GRID = 65536

#: Entries are counted in int32.
MAX_ROWS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Candidates:
    """Both directions of every pair, by rows.

    The order depends on the set of pairs alone, not on who found them or where the atoms were at
    the search, so that sums over pairs give the same bits whatever the history. Made by
    :func:`assemble` or :func:`candidates_from_pairs`.

    Attributes
    ----------
    n_atoms
        Number of atoms that the indices refer to.
    starts
        (n_atoms + 1,) int32; entries of atom i are those from ``starts[i]`` to ``starts[i + 1]``.
    second
        (n_rows,) int32 other atom of each entry; every row is sorted by ``(second, code)``.
    code
        (n_rows,) int32 number of the cell shift in ``table``.
    reverse
        (n_rows,) int32 place of the entry with the pair backwards.
    table
        (n_codes, 3) int32 shifts in lexicographic order; that of ``n_codes - 1 - c`` is minus that
        of ``c`` (unless there is ``table_system``).
    reach
        Distance up to which the list was complete at the search, in the model's length unit.
    margin
        (n_atoms,) float64, or ``None``: neighbours of atom i are of interest in lists whose cutoff
        is at most ``margin[i]``, the interaction range minus how far the atom is from those whose
        energy counts. The rows of other atoms are left out of a list, though they may be the
        second atom of a pair; so is a pair of a half list if it is in no row of interest.
    begin
        (n_atoms,) int32 first atom of the system that each atom belongs to, where there are
        several (:mod:`alchemi_bridge.pairs.joined`), else ``None``.
    table_system
        (n_codes,) int64 system whose cell each shift is counted in, where there are several.
    """

    n_atoms: int
    starts: torch.Tensor
    second: torch.Tensor
    code: torch.Tensor
    reverse: torch.Tensor
    table: torch.Tensor
    reach: float
    margin: torch.Tensor | None = None
    begin: torch.Tensor | None = None
    table_system: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.second)

    @property
    def n_pairs(self) -> int:
        """Number of distinct pairs; every one has two entries."""
        return len(self.second) // 2

    @cached_property
    def first(self) -> torch.Tensor:
        """(n_rows,) int32 atom whose row each entry is in."""
        atoms = torch.arange(self.n_atoms, dtype=torch.int32, device=self.starts.device)
        counts = (self.starts[1:] - self.starts[:-1]).long()
        return torch.repeat_interleave(atoms, counts, output_size=len(self))

    def of_interest(self, cutoff: float, full_list: bool) -> torch.Tensor | None:
        """(n_rows,) bool, entries that a list with this cutoff may have; ``None`` for all."""
        if self.margin is None:
            return None
        rows = self.margin >= cutoff
        first = rows[self.first.long()]
        return first if full_list else first | rows[self.second.long()]

    @property
    def shifts(self) -> torch.Tensor:
        """(n_rows, 3) int32."""
        return self.table.index_select(0, self.code)

    @cached_property
    def canonical(self) -> torch.Tensor:
        """(n_rows,) bool, true for one of the two entries of each pair."""
        positive = 2 * self.code > len(self.table) - 1
        return (self.first < self.second) | ((self.first == self.second) & positive)

    @cached_property
    def samples(self) -> torch.Tensor:
        """(n_rows, 5) int32 rows ``(first, second, shift)``, as metatomic wants them."""
        return torch.cat([self.first[:, None], self.second[:, None], self.shifts], dim=1)


@dataclass(frozen=True, eq=False)
class ShiftTable:
    """Numbers for cell shifts.

    Attributes
    ----------
    table
        (n_codes, 3) int32, as in :class:`Candidates`.
    half_widths
        Largest shift along each vector, where all up to it are in the table.
    """

    table: torch.Tensor
    half_widths: tuple[int, int, int]

    @classmethod
    def grid(cls, half_widths: tuple[int, int, int], device: torch.device) -> ShiftTable:
        """All shifts up to these."""
        axes = [torch.arange(-m, m + 1, dtype=torch.int32, device=device) for m in half_widths]
        table = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
        return cls(table.contiguous(), half_widths)

    def numbers(self, shifts: torch.Tensor) -> torch.Tensor:
        """(n,) int32 numbers of (n, 3) shifts, which must be in the grid."""
        _, ny, nz = (2 * m + 1 for m in self.half_widths)
        mx, my, mz = self.half_widths
        x, y, z = shifts.unbind(dim=1)
        return (((x + mx) * ny + (y + my)) * nz + (z + mz)).to(torch.int32)


def numbered(shifts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A table of the (n, 3) shifts that occur, with all their reverses, and the number of each."""
    if len(shifts) == 0:
        grid = ShiftTable.grid((0, 0, 0), shifts.device)
        return grid.table, shifts.new_zeros(0, dtype=torch.int32)
    widths = torch.maximum(shifts.amax(dim=0), -shifts.amin(dim=0)).tolist()
    if math.prod(2 * m + 1 for m in widths) <= MAX_GRID:
        a, b, c = widths
        grid = ShiftTable.grid((a, b, c), shifts.device)
        return grid.table, grid.numbers(shifts)
    table, inverse = torch.unique(torch.cat([shifts, -shifts]), dim=0, return_inverse=True)
    return table.to(torch.int32).contiguous(), inverse[: len(shifts)].to(torch.int32)


Count = Callable[[torch.Tensor], None]
Fill = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


def candidates_from_pairs(
    first: torch.Tensor,
    second: torch.Tensor,
    shifts: torch.Tensor,
    *,
    n_atoms: int,
    reach: float,
    both: bool,
    name: str = "pair list",
) -> Candidates:
    """Candidates from a list of pairs in any order.

    Parameters
    ----------
    first, second
        (n_pairs,) integers below ``n_atoms``.
    shifts
        (n_pairs, 3) integers.
    n_atoms, reach, name
        See :func:`assemble`.
    both
        Whether each pair is listed once, and its reverse has to be added.
    """
    first, second = first.to(torch.int32).contiguous(), second.to(torch.int32).contiguous()
    table, code = numbered(shifts)

    def count(counts: torch.Tensor) -> None:
        count_pairs(first, second, both, counts)

    def fill(cursor: torch.Tensor, row_second: torch.Tensor, row_code: torch.Tensor) -> None:
        fill_pairs(first, second, code, both, len(table), cursor, row_second, row_code)

    return assemble(n_atoms, table, count, fill, reach=reach, name=name, mirrored=both)


def assemble(
    n_atoms: int,
    table: torch.Tensor,
    count: Count,
    fill: Fill,
    *,
    reach: float,
    name: str = "pair list",
    mirrored: bool = False,
) -> Candidates:
    """Candidates from a list that is counted first and then written.

    Parameters
    ----------
    n_atoms
        Number of atoms.
    table
        (n_codes, 3) int32 shifts, see :class:`Candidates`; its device is that of all arrays.
    count
        Called with (n_atoms,) int32 zeros, to which it adds the number of entries of each row.
    fill
        Called with (n_atoms,) int32 places where the rows begin, and with the int32 arrays for
        ``second`` and ``code``, into which it writes the same entries, in any order within a row.
    reach
        Distance up to which the list is complete, in the model's length unit.
    name
        What to call the list in errors.
    mirrored
        Whether ``fill`` writes the reverse of every entry, too, whatever the list is. Sorting is
        then faster on a host.

    Raises
    ------
    PairListError
        If a pair is listed twice, lacks its reverse, or there are too many.
    """
    device = table.device
    counts = torch.zeros(n_atoms, dtype=torch.int32, device=device)
    count(counts)
    starts = torch.zeros(n_atoms + 1, dtype=torch.int64, device=device)
    torch.cumsum(counts, 0, out=starts[1:])
    total = int(starts[-1])
    if total > MAX_ROWS:
        raise PairListError(
            name,
            expected=f"at most {MAX_ROWS // 2} pairs",
            got=f"{total // 2} pairs",
            fix="use a smaller cutoff or skin, or spread the atoms over more ranks",
        )
    starts = starts.to(torch.int32)
    second = torch.empty(total, dtype=torch.int32, device=device)
    code = torch.empty(total, dtype=torch.int32, device=device)
    if total:  # else nobody would wait for what reads the engine's arrays
        fill(starts[:-1].clone(), second, code)
    if mirrored:
        second, code = transpose_rows(starts, second, code, len(table))
    repeated = sort_rows(starts, second, code)
    reverse = reverse_rows(starts, second, code, len(table))
    found = Candidates(n_atoms, starts, second, code, reverse, table, reach)
    if total:
        _check(found, repeated, name)
    return found


def _check(found: Candidates, repeated: torch.Tensor, name: str) -> None:
    # one read from the device for both checks
    # the first of all: that of the lower index, as the pair was probably listed
    places = torch.where(repeated >= 0, repeated, MAX_ROWS)
    twice, mirrored = torch.stack([places.amin(), found.reverse.amin()]).tolist()
    if twice < MAX_ROWS:
        i, j, *shift = found.samples[twice].tolist()
        raise PairListError(
            name,
            expected="every pair once",
            got=f"pair ({i}, {j}) with shift {tuple(shift)} listed more than once",
            fix="remove repeated pairs",
        )
    if mirrored < 0:
        lonely = found.reverse < 0
        i, j, *shift = found.samples[lonely][0].tolist()
        raise PairListError(
            name,
            expected="with every pair (i, j, S) also (j, i, -S)",
            got=f"{int(lonely.sum())} pairs without their reverse, such as ({i}, {j}) with shift "
            f"{tuple(shift)}",
            fix="hand over HalfPairs if every pair is listed once",
        )


# --- kernels with their torch reference ----------------------------------------------------------


def count_pairs(
    first: torch.Tensor, second: torch.Tensor, both: bool, counts: torch.Tensor
) -> None:
    """Add to ``counts``, (n_atoms,) int32, how many entries each row gets."""
    run = launcher_for(counts.device)
    if run is not None:
        run.launch("count_pairs", len(first), first, second, int(both), counts, serial=True)
        return
    n_atoms = len(counts)
    counts += torch.bincount(first, minlength=n_atoms).to(torch.int32)
    if both:
        counts += torch.bincount(second, minlength=n_atoms).to(torch.int32)


def fill_pairs(
    first: torch.Tensor,
    second: torch.Tensor,
    code: torch.Tensor,
    both: bool,
    n_codes: int,
    cursor: torch.Tensor,
    row_second: torch.Tensor,
    row_code: torch.Tensor,
) -> None:
    """Write the entries of (n_pairs,) int32 pairs to where ``cursor`` points, and move it on."""
    run = launcher_for(cursor.device)
    if run is not None:
        arrays = (cursor, row_second, row_code)
        run.launch(
            "fill_pairs", len(first), first, second, code, int(both), n_codes, *arrays, serial=True
        )
        return
    if both:
        first, second = torch.cat([first, second]), torch.cat([second, first])
        code = torch.cat([code, n_codes - 1 - code])
    place_entries(first, second, code, cursor, row_second, row_code)


def place_entries(
    first: torch.Tensor,
    second: torch.Tensor,
    code: torch.Tensor,
    cursor: torch.Tensor,
    row_second: torch.Tensor,
    row_code: torch.Tensor,
) -> None:
    """Torch reference of every fill: write (n,) entries into their rows, in their order."""
    order = torch.argsort(first, stable=True)
    rows = first.long()[order]
    counts = torch.bincount(rows, minlength=len(cursor))
    begin = torch.cumsum(counts, 0) - counts
    place = cursor.long()[rows] + torch.arange(len(rows), device=rows.device) - begin[rows]
    row_second[place] = second[order]
    row_code[place] = code[order]
    cursor += counts.to(torch.int32)


def _row_of_each(starts: torch.Tensor, total: int) -> torch.Tensor:
    atoms = torch.arange(len(starts) - 1, device=starts.device)
    return torch.repeat_interleave(atoms, (starts[1:] - starts[:-1]).long(), output_size=total)


def transpose_rows(
    starts: torch.Tensor, second: torch.Tensor, code: torch.Tensor, n_codes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same rows, nearly sorted, where every entry has its reverse.

    Two passes of a counting sort instead of a sort, on one thread of a host; elsewhere the rows
    come back as they are.
    """
    run = launcher_for(starts.device)
    if run is None or run.device_type != "cpu":
        return second, code
    row_second, row_code = torch.empty_like(second), torch.empty_like(code)
    cursor, n_atoms = starts.clone(), len(starts) - 1
    rows = (starts, second, code, n_codes)
    run.launch("transpose_rows", n_atoms, *rows, cursor, row_second, row_code, serial=True)
    return row_second, row_code


def sort_rows(starts: torch.Tensor, second: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """Sort each row by ``(second, code)`` in place.

    Returns
    -------
    torch.Tensor
        (n_atoms,) int32 place of an entry that equals the one before it, -1 for rows without.
    """
    n_atoms = len(starts) - 1
    repeated = torch.full((n_atoms,), -1, dtype=torch.int32, device=starts.device)
    run = launcher_for(starts.device)
    if run is not None:
        run.launch("sort_rows", n_atoms, starts, second, code, repeated)
        return repeated
    rows = _row_of_each(starts, len(second))
    order = torch.argsort(code, stable=True)
    order = order[torch.argsort((rows * n_atoms + second)[order], stable=True)]
    second.copy_(second[order])
    code.copy_(code[order])
    same = (rows[1:] == rows[:-1]) & (second[1:] == second[:-1]) & (code[1:] == code[:-1])
    places = torch.nonzero(same).squeeze(1) + 1
    repeated[rows[places]] = places.to(torch.int32)
    return repeated


def reverse_rows(
    starts: torch.Tensor, second: torch.Tensor, code: torch.Tensor, n_codes: int
) -> torch.Tensor:
    """(n_rows,) int32 place of the reverse of each entry of sorted rows, -1 where there is none."""
    reverse = torch.full_like(second, -1)
    run = launcher_for(starts.device)
    if run is not None:
        entries = (starts, second, code, n_codes)
        if run.device_type == "cpu":
            run.launch(
                "match_rows", len(starts) - 1, *entries, starts.clone(), reverse, serial=True
            )
            if not len(reverse) or int(reverse.amin()) >= 0:
                return reverse
            # something is missing: find out what
        run.launch("reverse_rows", len(starts) - 1, *entries, reverse)
        return reverse
    if len(second) == 0:
        return reverse
    n_atoms = len(starts) - 1
    rows = _row_of_each(starts, len(second))
    keys = (rows * n_atoms + second) * n_codes + code
    wanted = (second.long() * n_atoms + rows) * n_codes + (n_codes - 1 - code)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, place, -1).to(torch.int32)
