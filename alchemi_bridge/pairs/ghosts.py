"""Pair lists over local and ghost atoms: CSR, with a map from each atom to its owner.

What LAMMPS and other engines with domain decomposition hold: periodic images are atoms of their
own, and indices say which image is meant. Here every image becomes its owner and a cell shift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import NonFiniteError, PairListError, ShapeError
from alchemi_bridge.pairs.edge import Edge, candidates_up_to_edge
from alchemi_bridge.pairs.engine_checks import (
    Check,
    entry_checks,
    flat,
    require,
    require_count,
    require_mask,
    require_newton,
    row_checks,
    signed_mask,
)
from alchemi_bridge.pairs.engine_rows import (
    INDEX_DTYPES,
    NO_LOWEST,
    EngineRows,
    GhostMap,
    Rule,
    Seen,
)
from alchemi_bridge.pairs.images import image_rounding, image_shifts
from alchemi_bridge.pairs.lists import check_reach
from alchemi_bridge.pairs.row_pointers import RowPointers
from alchemi_bridge.pairs.rows import Candidates, numbered

#: Bits of LAMMPS' neighbour indices that are the index; the others hold special bonds (the two
#: highest) and contact history (NEIGHMASK in lmptype.h).
LAMMPS_NEIGHMASK = 0x1FFFFFFF

FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class GhostPairs:
    """Rows of neighbours over local and ghost atoms.

    Atoms are numbered as the engine numbers them: local atoms first, then ghosts. A ghost is an
    image of a local atom, a halo atom (one of another rank), or another image of a halo atom; all
    images of an atom on this rank must have the same owner. Candidates are pairs of owners with the
    cell shifts of the images, so every owner must be one of the ``n_atoms`` atoms that were set
    with ``set_atoms``, and an image among those must not be in the model's subset:

    - one rank: ``n_atoms == n_local``, all ghosts are images of local atoms;
    - several ranks: ``n_atoms`` counts local and ghost atoms, the subset is all atoms that are
      their own owners.

    Which pairs a half list has depends on Newton's third law across ghosts (the ``newton`` command
    of LAMMPS, https://docs.lammps.org/newton.html, and the comments of its ``npair_nsq.cpp``): two
    local atoms are listed once. A local atom and a ghost are listed once by some rank with
    ``newton``, and by both owners without, so that on one rank a pair across the boundary is there
    once or twice. With halo atoms a half list with newton lacks the pairs that other ranks
    list: it is refused. Rows of ghosts are read in full lists only: those of images are left out
    (their owner's row has the same pairs), and so are their pairs with local atoms.

    Attributes
    ----------
    starts
        (n_rows + 1,) int32 or int64, or (n_rows,) together with ``counts``: where each row begins.
    neighbors
        (n,) int32 or int64 indices of local and ghost atoms; or
        :class:`~alchemi_bridge.pairs.row_pointers.RowPointers` together with ``counts``, and
        ``None`` for ``starts``.
    owners
        (n_all,) int32 or int64: for local and halo atoms themselves, for images the local or halo
        atom of which they are one.
    positions
        (n_all, 3) float32 or float64 at the pair search, in the engine's length unit, with any
        strides (float4 rows are a view of width 3).
    n_local
        Number of local atoms.
    full
        Whether every pair is in the rows of both atoms.
    reach
        Distance in the engine's length unit up to which the list is complete at the search.
    newton
        Of half lists, which must say it: whether pairs through ghosts are listed once.
    counts
        (n_rows,) number of entries of each row, where rows do not follow one another. With
        ``RowPointers`` that of atom a's row at place a, as LAMMPS' ``numneigh``.
    rows
        (n_rows,) atom of each row (LAMMPS' ``ilist``); without it row k is that of atom k.
    index_mask
        Bits of ``neighbors`` that are the index, where the engine keeps flags in the others;
        :data:`LAMMPS_NEIGHMASK` for LAMMPS.
    margin
        (n_all,) float64 on several ranks: in the engine's length unit, the model's interaction
        range minus how far each atom is, and can come until the next search, from the nearest one
        whose energy counts; of its images the nearest counts, for its row has the pairs of all.
        Rows of atoms whose margin is below a list's cutoff are not evaluated: their messages can
        not reach. ``None`` to evaluate all.

    All arrays are anything that :meth:`DeviceBuffer.of <alchemi_bridge.device.DeviceBuffer.of>`
    reads, on the provider's device; they stay the engine's and are read during the call only.
    """

    starts: Any
    neighbors: Any
    owners: Any
    positions: Any
    n_local: int
    full: bool
    reach: float
    newton: bool | None = None
    counts: Any = None
    rows: Any = None
    index_mask: int | None = None
    margin: Any = None

    def __post_init__(self) -> None:
        check_reach(self.reach)
        require_newton(self.full, self.newton)
        require_mask(self.index_mask)
        require_count("number of local atoms", self.n_local)
        if isinstance(self.neighbors, RowPointers) and self.counts is None:
            raise PairListError(
                "counts of the pair list",
                expected="the number of entries of each row, since rows are told by address",
                got="None",
                fix="pass counts (numneigh of LAMMPS)",
            )


def decode_ghosts(
    pairs: GhostPairs,
    *,
    n_atoms: int,
    device: torch.device,
    reach: float,
    subset: torch.Tensor | None = None,
    cell: Cell,
) -> Candidates:
    """Turn a list over local and ghost atoms into candidates.

    Parameters
    ----------
    pairs
        The list.
    n_atoms
        Number of atoms of the engine, see :class:`GhostPairs`.
    device
        Device of the provider; the arrays must be there.
    reach
        The list's reach in the model's length unit.
    subset
        (n_subset,) int64 indices of the atoms that the model sees; pairs with any other are left
        out, and the candidates refer to positions in ``subset``.
    cell
        Cell of the pair search in the engine's length unit.

    Raises
    ------
    ShapeError, DtypeError, DeviceMismatchError
        If an array does not fit.
    PairListError
        If rows are not within the arrays, an index is out of range, a row is missing or doubled,
        owners contradict each other, a ghost is no image of its owner, a half list can not be
        complete, a pair is listed twice or lacks its reverse.
    """
    n_all = len(DeviceBuffer.of(pairs.owners, "owners of the atoms").tensor)
    atoms, rows, checks = _read(pairs, n_all, device)
    ghosts = Ghosts(
        pairs.owners, pairs.positions, int(pairs.n_local), pairs.full, bool(pairs.newton),
        pairs.reach, cell,
    )  # fmt: skip
    seen = Seen.of(subset, n_atoms, device)
    found = decode_with_owners(atoms, rows, checks, ghosts, seen, n_atoms=n_atoms, reach=reach)
    if pairs.margin is None:
        return found
    margin = DeviceBuffer.of(pairs.margin, "margin of the atoms").require(
        "margin of the atoms", shape=(n_all,), dtypes=(torch.float64,), device=device
    )
    if bool(torch.isnan(margin).any()):
        # a row without a margin would be left out without a word
        raise NonFiniteError(
            "margin of the atoms",
            expected="distances",
            got="NaN",
            fix="hand over infinity for atoms whose rows must be there",
        )
    # copied: the engine's array is read during the call only
    of_seen = margin[:n_atoms].clone() if subset is None else margin[subset]
    return replace(found, margin=of_seen * (reach / pairs.reach))


@dataclass(frozen=True, eq=False)
class Ghosts:
    """What tells which pairs the indices stand for: fields of :class:`GhostPairs`, and the cell."""

    owners: Any
    positions: Any
    n_local: int
    full: bool
    newton: bool
    reach: float
    cell: Cell


def decode_with_owners(
    atoms: torch.Tensor,
    rows: EngineRows,
    checks: list[Check],
    ghosts: Ghosts,
    seen: Seen,
    *,
    n_atoms: int,
    reach: float,
) -> Candidates:
    """From rows of any form whose entries may be ghosts.

    ``atoms`` are those of the rows as int64; ``checks`` is what is to be checked of the rows' form.
    """
    device, n_local, full, cell = atoms.device, ghosts.n_local, ghosts.full, ghosts.cell
    owners = DeviceBuffer.of(ghosts.owners, "owners of the atoms").require(
        "owners of the atoms", shape=(None,), dtypes=INDEX_DTYPES, device=device
    )
    n_all = len(owners)
    if not n_local <= n_atoms <= n_all:
        raise ShapeError(
            "owners of the atoms",
            expected=f"owners of all local and ghost atoms: of no fewer than the {n_atoms} "
            f"atoms of set_atoms, which include the {n_local} local ones",
            got=f"owners of {n_all} atoms",
            fix="call set_atoms with the current atoms, and hand over one owner for each atom",
        )
    positions = DeviceBuffer.of(ghosts.positions, "positions of the pair list").require(
        "positions of the pair list", shape=(n_all, 3), dtypes=FLOATS, device=device
    )
    owners = owners.long()
    row_of, of_rows = row_checks(atoms, n_all=n_all, n_local=n_local, full=full, seen=seen)
    once = ghosts.newton and not full
    require(
        [
            *checks,
            *of_rows,
            *entry_checks(rows, n_all, alone=True),
            *_owner_checks(owners, n_local=n_local, n_atoms=n_atoms, once=once, seen=seen),
        ]
    )
    owner = owners.to(torch.int32)
    table, code = numbered(image_shifts(owner, positions, cell))
    rule = Rule(full, len(table), GhostMap(owner, code, row_of, n_local, ghosts.newton))
    edge = Edge(positions.double(), cell, ghosts.reach, image_rounding(positions.dtype))
    name = "pair list over ghosts"
    return candidates_up_to_edge(rows, rule, seen, table, edge, reach=reach, name=name)


def _read(
    pairs: GhostPairs, n_all: int, device: torch.device
) -> tuple[torch.Tensor, EngineRows, list[Check]]:
    """Atoms of the rows, the rows cut to what is there, and what is to be checked."""

    def vector(source: Any, name: str, n: int | None = None) -> torch.Tensor:
        return DeviceBuffer.of(source, name).require(
            name, shape=(n,), dtypes=INDEX_DTYPES, device=device
        )

    if isinstance(pairs.neighbors, RowPointers):
        return _read_pointers(pairs, pairs.neighbors, n_all, vector)
    neighbors = vector(pairs.neighbors, "neighbors of the pair list")
    starts = vector(pairs.starts, "starts of the pair list").long()
    if pairs.counts is None:
        if len(starts) == 0:
            raise ShapeError(
                "starts of the pair list",
                expected="one number more than rows: where each begins, and where the last ends",
                got="an empty array",
                fix="pass [0] for no rows, or counts together with starts",
            )
        begin, counts = starts[:-1], starts[1:] - starts[:-1]
    else:
        begin = starts
        counts = vector(pairs.counts, "counts of the pair list", len(starts)).long()
    n_rows, n = len(begin), min(len(neighbors), NO_LOWEST)
    if pairs.rows is None:
        atoms = torch.arange(n_rows, device=device)
    else:
        atoms = vector(pairs.rows, "rows of the pair list", n_rows).long()
    safe = begin.clamp(0, n)
    held = torch.minimum(counts.clamp(0, n), n - safe)
    rows = EngineRows(
        atoms.to(torch.int32),
        (safe * neighbors.stride(0)).contiguous(),
        held.to(torch.int32),
        flat(neighbors),
        neighbors.stride(0),
        signed_mask(pairs.index_mask),
    )
    outside = Check(
        (safe != begin) | (held != counts),
        lambda k: PairListError(
            f"row {k} of the pair list",
            expected=f"starts that never decrease, and entries within the {n} of the list",
            got=f"{int(counts[k])} entries from {int(begin[k])} on",
            fix="hand over all arrays of the same search",
        ),
    )
    return atoms, rows, [outside]


def _read_pointers(
    pairs: GhostPairs, pointers: RowPointers, n_all: int, vector: Callable[..., torch.Tensor]
) -> tuple[torch.Tensor, EngineRows, list[Check]]:
    """The same for rows that are told by address; nobody can say where their memory ends."""
    by_atom = vector(pairs.counts, "counts of the pair list")
    if pairs.rows is None:
        atoms = torch.arange(len(by_atom), device=by_atom.device)
    else:
        atoms = vector(pairs.rows, "rows of the pair list").long()
    # what is out of range is refused below, before a row of it is read
    inside = (atoms >= 0) & (atoms < min(n_all, len(by_atom)))
    counts = by_atom.new_zeros(len(atoms), dtype=torch.int64)
    counts[inside] = by_atom[atoms[inside]].long()
    wrong = (counts < 0) | (counts > NO_LOWEST)
    held = counts.masked_fill(wrong, 0).to(torch.int32)
    rows = pointers.rows(atoms, held, signed_mask(pairs.index_mask))
    missing = Check(
        (atoms >= len(by_atom)) & (atoms < n_all),
        lambda k: PairListError(
            f"row of atom {int(atoms[k])}",
            expected=f"one of the {len(by_atom)} atoms that have counts",
            got="none for it",
            fix="hand over counts up to the last atom that has a row",
        ),
    )
    number = Check(
        wrong,
        lambda k: PairListError(
            f"row {k} of the pair list",
            expected=f"a number of entries from 0 to {NO_LOWEST}",
            got=str(int(counts[k])),
            fix="hand over all arrays of the same search",
        ),
    )
    return atoms, rows, [missing, number]


def _owner_checks(
    owners: torch.Tensor, *, n_local: int, n_atoms: int, once: bool, seen: Seen
) -> list[Check]:
    n_all, device = len(owners), owners.device
    numbers = torch.arange(n_all, device=device)
    outside = (owners < 0) | (owners >= n_atoms)
    own = owners == numbers
    chained = ~own & ~own[owners.clamp(0, max(n_all - 1, 0))]

    def error(k: int, expected: str, fix: str) -> PairListError:
        got = f"owner {int(owners[k])}"
        return PairListError(f"owner of atom {k}", expected=expected, got=got, fix=fix)

    checks = [
        Check(
            outside,
            lambda k: error(
                k,
                f"one of the atoms of set_atoms, an index from 0 to {n_atoms - 1}",
                "name the atom itself for local and halo atoms, the atom it is an image of for "
                "others",
            ),
        ),
        Check(
            ~own[:n_local],
            lambda k: error(k, "the atom itself, since it is local", "correct owners or n_local"),
        ),
        Check(
            chained,
            lambda k: error(
                k,
                "an atom that is its own owner",
                "name the local or halo atom, not another image of it",
            ),
        ),
        Check(
            ~own[:n_atoms] & seen.among(n_atoms),
            lambda k: error(
                k,
                "the atom itself, since it is one of the atoms that the model sees",
                "leave images out with the subset of set_atoms, or set fewer atoms",
            ),
        ),
    ]
    if once:
        checks.append(
            Check(
                owners >= n_local,
                lambda k: error(
                    k,
                    "a local atom: other ranks list pairs with halo atoms, and a half list with "
                    "newton on lacks those",
                    "ask the engine for a full list, or a half list with newton off",
                ),
            )
        )
    return checks
