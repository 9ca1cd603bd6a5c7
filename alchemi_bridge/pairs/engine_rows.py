"""Rows of neighbours in an engine's memory, CSR or matrix, and their way into candidate rows.

Each kernel stands beside its torch reference; which of the two runs makes no difference to the
result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from alchemi_bridge.native import launcher_for
from alchemi_bridge.pairs.rows import Candidates, assemble, place_entries

INDEX_DTYPES = (torch.int32, torch.int64)

#: Stands for "no entry is padding": a value that no 32-bit entry has.
NO_PADDING = 2**40

#: Stands for "all bits belong to the index".
ALL_BITS = -1

#: What :func:`entry_facts` says of a row without entries.
NO_LOWEST, NO_HIGHEST = 2**31 - 1, -(2**31)


@dataclass(frozen=True, eq=False)
class EngineRows:
    """Rows of neighbours: entry e of row r is ``entries[begin[r] + e * step]``.

    Attributes
    ----------
    atoms
        (n_rows,) int32 atom whose neighbours each row lists.
    begin
        (n_rows,) int64.
    counts
        (n_rows,) int32; all places up to the counts are within ``entries``.
    entries
        (n,) int32 or int64, contiguous, in the engine's memory.
    step
        Distance of a row's entries.
    mask
        Bits that belong to the index; others are the engine's flags.
    padding
        Entries of this value are none.
    """

    atoms: torch.Tensor
    begin: torch.Tensor
    counts: torch.Tensor
    entries: torch.Tensor
    step: int = 1
    mask: int = ALL_BITS
    padding: int = NO_PADDING

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def arguments(self) -> tuple[torch.Tensor | int, ...]:
        """The parameters with which the kernels for rows begin."""
        arrays = (self.atoms, self.begin, self.counts, self.entries)
        return (*arrays, self.step, self.mask, self.padding)

    def narrowed(self) -> EngineRows:
        """The same with 32-bit entries, for kernels; only after the indices were checked."""
        if self.entries.dtype == torch.int32:
            return self
        return replace(self, entries=self.entries.to(torch.int32))

    def expanded(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(n,) int64 row, place in the row, and index of every entry, without padding."""
        device = self.atoms.device
        counts = self.counts.long()
        rows = torch.repeat_interleave(torch.arange(len(self), device=device), counts)
        begin = torch.cumsum(counts, 0) - counts
        places = torch.arange(len(rows), device=device) - begin[rows]
        raw = self.entries[self.begin[rows] + places * self.step].long()
        index = raw if self.mask == ALL_BITS else raw & self.mask
        if self.padding == NO_PADDING:
            return rows, places, index
        listed = raw != self.padding
        return rows[listed], places[listed], index[listed]


@dataclass(frozen=True, eq=False)
class Seen:
    """The atoms that the model sees.

    Attributes
    ----------
    n_atoms
        How many; the atoms of the candidates.
    place
        (n_atoms of the engine,) int32 place of each atom among them, -1 for those that are not;
        ``None`` if the model sees all.
    subset
        (n_atoms,) int64 the other way round, or ``None``.
    """

    n_atoms: int
    place: torch.Tensor | None = None
    subset: torch.Tensor | None = None

    @classmethod
    def of(cls, subset: torch.Tensor | None, n_atoms: int, device: torch.device) -> Seen:
        """From (n_subset,) int64 indices, ``None`` for all ``n_atoms``."""
        if subset is None:
            return cls(n_atoms)
        place = torch.full((n_atoms,), -1, dtype=torch.int32, device=device)
        place[subset] = torch.arange(len(subset), dtype=torch.int32, device=device)
        return cls(len(subset), place, subset)

    def among(self, n: int) -> torch.Tensor | bool:
        """Which of the first ``n`` atoms the model sees: (n,) bool, or ``True`` for all."""
        return True if self.place is None else self.place[:n] >= 0


@dataclass(frozen=True, eq=False)
class GhostMap:
    """What the indices of a list over local and ghost atoms stand for.

    Attributes
    ----------
    owner
        (n_all,) int32 atom that each atom is, or is an image of.
    code
        (n_all,) int32 number of the image's shift.
    row_of
        (n_all,) int32 row of each atom, -1 for those without.
    n_local
        Number of local atoms; an owner beyond them is a halo atom.
    newton
        Whether a half list has every pair once, or pairs through ghosts from both sides.
    """

    owner: torch.Tensor
    code: torch.Tensor
    row_of: torch.Tensor
    n_local: int
    newton: bool


@dataclass(frozen=True, eq=False)
class Rule:
    """How entries become candidates.

    Attributes
    ----------
    full
        Whether the list has both directions of every pair.
    n_codes
        Length of the shift table.
    ghosts
        ``None`` for lists that name atoms proper.
    codes
        (n_rows, width) int32 shift number of each entry, or ``None``: that of ``ghosts``, or none.
    """

    full: bool
    n_codes: int
    ghosts: GhostMap | None = None
    codes: torch.Tensor | None = None

    @property
    def own_row_only(self) -> bool:
        """Whether every row is written from one row of the engine, and from nowhere else."""
        return self.full and self.ghosts is None

    @property
    def mirrored(self) -> bool:
        """Whether every entry is written together with its reverse."""
        return not self.full and (self.ghosts is None or self.ghosts.newton)


def candidates_from_rows(
    rows: EngineRows, rule: Rule, seen: Seen, table: torch.Tensor, *, reach: float, name: str
) -> Candidates:
    """Candidates from an engine's checked rows; see :func:`assemble`."""
    rows = rows.narrowed()

    def count(counts: torch.Tensor) -> None:
        count_entries(rows, rule, seen, counts)

    def fill(cursor: torch.Tensor, second: torch.Tensor, code: torch.Tensor) -> None:
        fill_entries(rows, rule, seen, cursor, second, code)

    return assemble(
        seen.n_atoms, table, count, fill, reach=reach, name=name, mirrored=rule.mirrored
    )


# --- kernels with their torch reference ----------------------------------------------------------


def entry_facts(rows: EngineRows) -> torch.Tensor:
    """(n_rows, 4) lowest and highest index, whether its own atom is listed, number of paddings.

    int32, or int64 for 64-bit entries.
    """
    device, dtype = rows.atoms.device, rows.entries.dtype
    facts = torch.empty((len(rows), 4), dtype=dtype, device=device)
    run = launcher_for(device)
    if run is not None and dtype == torch.int32:
        run.launch("entry_facts", len(rows), *rows.arguments, facts)
        return facts
    row, _, index = rows.expanded()
    index = index.to(dtype)
    low, high = facts.new_full((len(rows),), NO_LOWEST), facts.new_full((len(rows),), NO_HIGHEST)
    itself = torch.bincount(row[rows.atoms[row] == index], minlength=len(rows)) > 0
    listed = torch.bincount(row, minlength=len(rows))
    facts[:, 0] = low.scatter_reduce(0, row, index, "amin")
    facts[:, 1] = high.scatter_reduce(0, row, index, "amax")
    facts[:, 2] = itself.to(dtype)
    facts[:, 3] = (rows.counts - listed).to(dtype)
    return facts


def count_entries(rows: EngineRows, rule: Rule, seen: Seen, counts: torch.Tensor) -> None:
    """Add to ``counts``, (n_atoms,) int32, how many candidates each row gets."""
    if _visit(rows, rule, seen, counts, None, None):
        return
    first, _, _ = listed_candidates(rows, rule, seen)
    counts += torch.bincount(first, minlength=len(counts)).to(torch.int32)


def fill_entries(
    rows: EngineRows,
    rule: Rule,
    seen: Seen,
    cursor: torch.Tensor,
    second: torch.Tensor,
    code: torch.Tensor,
) -> None:
    """Write the candidates to where ``cursor`` points, and move it on."""
    if not _visit(rows, rule, seen, cursor, second, code):
        place_entries(*listed_candidates(rows, rule, seen), cursor, second, code)


def _visit(
    rows: EngineRows,
    rule: Rule,
    seen: Seen,
    cursor: torch.Tensor,
    second: torch.Tensor | None,
    code: torch.Tensor | None,
) -> bool:
    run = launcher_for(cursor.device)
    if run is None:
        return False
    ghosts, codes = rule.ghosts, rule.codes
    owners: tuple[torch.Tensor | None, ...] = (None, None, None)
    if ghosts is not None:
        owners = (ghosts.owner, ghosts.row_of, ghosts.code)
    run.launch(
        "visit_rows",
        len(rows),
        *rows.arguments,
        *owners,
        codes,
        0 if codes is None else codes.shape[1],
        0 if ghosts is None else ghosts.n_local,
        int(rule.full),
        int(ghosts is not None and ghosts.newton),
        rule.n_codes,
        seen.place,
        cursor,
        second,
        code,
        serial=not rule.own_row_only,
    )
    return True


def listed_candidates(
    rows: EngineRows, rule: Rule, seen: Seen
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reference of the kernel: int32 (first, second, code) of all candidates."""
    row, place_in_row, b = rows.expanded()
    a, last, ghosts = rows.atoms.long()[row], rule.n_codes - 1, rule.ghosts
    backward = torch.full_like(a, int(not rule.full), dtype=torch.bool)
    if ghosts is not None:
        code, owner = ghosts.code.long()[b], ghosts.owner.long()
        keep, backward = _through_ghosts(rows, rule, ghosts, a, b)
        a, b, code, backward = a[keep], owner[b[keep]], code[keep], backward[keep]
    elif rule.codes is not None:
        code = rule.codes[row, place_in_row].long()
    else:
        code = torch.full_like(a, last // 2)
    if seen.place is not None:
        a, b = seen.place.long()[a], seen.place.long()[b]
        inside = (a >= 0) & (b >= 0)
        a, b, code, backward = a[inside], b[inside], code[inside], backward[inside]
    first, second = torch.cat([a, b[backward]]), torch.cat([b, a[backward]])
    code = torch.cat([code, last - code[backward]])
    return first.to(torch.int32), second.to(torch.int32), code.to(torch.int32)


def _through_ghosts(
    rows: EngineRows, rule: Rule, ghosts: GhostMap, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which entries (a, b) are kept, and which of them need their reverse; see the kernel."""
    owner, code, n_local, last = (
        ghosts.owner.long(),
        ghosts.code.long(),
        ghosts.n_local,
        rule.n_codes - 1,
    )
    o, n_all = owner[b], len(owner)
    a_home, o_home = a < n_local, o < n_local
    keep = (owner[a] == a) & (a_home | ~o_home)
    backward = ~o_home
    if not rule.full:
        backward = backward | (b < n_local) | ghosts.newton
    halo = keep & ~a_home
    if bool(halo.any()):
        listed = (a[halo] * n_all + o[halo]) * rule.n_codes + code[b[halo]]
        wanted = (o[halo] * n_all + a[halo]) * rule.n_codes + (last - code[b[halo]])
        lonely = torch.where(
            o[halo] == b[halo], ghosts.row_of[o[halo]] < 0, ~torch.isin(wanted, listed)
        )
        backward[halo] = lonely
    return keep, backward
