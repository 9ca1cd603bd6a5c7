"""Pair lists as counts and a padded matrix: what engines keep on a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import ConfigurationError, NonFiniteError, PairListError
from alchemi_bridge.native import launcher_for
from alchemi_bridge.pairs.edge import Edge, candidates_up_to_edge
from alchemi_bridge.pairs.engine_checks import (
    Check,
    entry_checks,
    flat,
    itself_error,
    require,
    require_count,
    require_mask,
    require_newton,
    signed_mask,
)
from alchemi_bridge.pairs.engine_rows import (
    INDEX_DTYPES,
    NO_PADDING,
    EngineRows,
    Rule,
    Seen,
    candidates_from_rows,
)
from alchemi_bridge.pairs.ghosts import FLOATS, Ghosts, decode_with_owners
from alchemi_bridge.pairs.images import cell_frame, cells_of, image_rounding, nearest_images
from alchemi_bridge.pairs.lists import check_reach
from alchemi_bridge.pairs.rows import MAX_GRID, Candidates, ShiftTable, numbered
from alchemi_bridge.pairs.search import MAX_SHIFT

NAME = "neighbor matrix"


@dataclass(frozen=True, eq=False)
class NeighborMatrix:
    """The neighbours of atom i in row i of a matrix.

    What an index means is said in one of four ways:

    - ``shifts``: the atom itself, plus a cell shift (nvalchemi);
    - ``owners`` and ``positions``: a local or ghost atom (LAMMPS with Kokkos), all as in
      :class:`~alchemi_bridge.pairs.ghosts.GhostPairs`; rows beyond the local atoms are those of
      ghosts;
    - ``positions`` alone: the image of the atom that is nearest to the row's atom at the search
      (HOOMD-blue, GPUMD). The cell must be wider than twice the reach in periodic directions;
    - none of these: the atom itself, without a shift; in cells without periodic directions only.

    Attributes
    ----------
    matrix
        (n_rows, width) int32 or int64 indices, with any strides: a matrix kept in column-major
        order (neighbours of different atoms side by side) is handed over transposed.
    counts
        (n_rows,) int32 or int64 number of neighbours in each row; what is beyond is not read.
        ``None`` if padding tells, see ``fill_value``.
    full
        Whether every pair is in the rows of both atoms.
    reach
        Distance in the engine's length unit up to which the list is complete at the search.
    shifts
        (n_rows, width, 3) int32 or int64, with any strides.
    owners, positions, newton, index_mask
        See :class:`~alchemi_bridge.pairs.ghosts.GhostPairs`.
    n_local
        Number of local atoms, with ``owners``; without it every row is that of a local atom.
    fill_value
        Without ``counts``: entries of this value are none (nvalchemi pads with the number of
        atoms). Each row must end with at least one, for a row without may have been cut off.

    All arrays are anything that :meth:`DeviceBuffer.of <alchemi_bridge.device.DeviceBuffer.of>`
    reads, on the provider's device; they stay the engine's and are read during the call only.
    """

    matrix: Any
    counts: Any
    full: bool
    reach: float
    shifts: Any = None
    owners: Any = None
    positions: Any = None
    n_local: int | None = None
    newton: bool | None = None
    index_mask: int | None = None
    fill_value: int | None = None

    def __post_init__(self) -> None:
        check_reach(self.reach)
        require_mask(self.index_mask)
        if self.n_local is not None:
            require_count("number of local atoms", self.n_local)
        with_owners = self.owners is not None
        require_newton(self.full, self.newton if with_owners else True)
        if self.shifts is not None and (with_owners or self.positions is not None):
            raise _contradiction("shifts, or positions", "both", "leave one of the two out")
        if with_owners and self.positions is None:
            raise _contradiction(
                "positions with owners", "owners alone", "hand over the positions at the search"
            )
        if not with_owners and (self.n_local is not None or self.newton is not None):
            raise _contradiction(
                "n_local and newton together with owners",
                "them without",
                "hand over the owners, or leave them out",
            )
        if self.counts is None and not _is_word(self.fill_value):
            raise _contradiction(
                "counts, or the 32-bit number with which rows are padded",
                f"fill_value={self.fill_value!r}",
                "hand over the counts of the search",
            )


def decode_matrix(
    pairs: NeighborMatrix,
    *,
    n_atoms: int,
    device: torch.device,
    reach: float,
    subset: torch.Tensor | None = None,
    cell: Cell,
) -> Candidates:
    """Turn a padded matrix into candidates.

    Parameters and errors are those of :func:`~alchemi_bridge.pairs.ghosts.decode_ghosts`; a count
    beyond the width of the matrix is a :class:`PairListError`, too: the engine ran out of room.
    """
    seen = Seen.of(subset, n_atoms, device)
    rows, matrix, checks = _read(pairs, n_atoms, device)
    if pairs.owners is not None:
        n_local = len(rows) if pairs.n_local is None else pairs.n_local
        ghosts = Ghosts(
            pairs.owners, pairs.positions, n_local, pairs.full, bool(pairs.newton), pairs.reach,
            cell,
        )  # fmt: skip
        return decode_with_owners(
            rows.atoms.long(), rows, checks, ghosts, seen, n_atoms=n_atoms, reach=reach
        )
    shifts = None
    if pairs.shifts is None and pairs.positions is None and any(cell.pbc):
        raise PairListError(
            NAME,
            expected="shifts, owners of ghosts, or positions to find the nearest images, since the "
            "cell is periodic",
            got="indices that do not tell which image is meant",
            fix="hand over what the engine has of these, or shifts of zero",
        )
    if pairs.shifts is not None:
        shifts = DeviceBuffer.of(pairs.shifts, "cell shifts of the " + NAME).require(
            "cell shifts of the " + NAME,
            shape=(*matrix.shape, 3),
            dtypes=INDEX_DTYPES,
            device=device,
        )
    checks += entry_checks(rows, n_atoms, alone=shifts is None)
    edge = None
    if pairs.positions is not None:
        edge, shifts = _nearest(pairs, rows, n_atoms, matrix.shape[1], cell, checks)
    else:
        require(checks)
    rows = rows.narrowed()
    if shifts is None:
        table, codes = ShiftTable.grid((0, 0, 0), device).table, None
    else:
        table, codes = _numbered(rows, shifts)
    rule = Rule(pairs.full, len(table), codes=codes)
    if edge is None:
        return candidates_from_rows(rows, rule, seen, table, reach=reach, name=NAME)
    return candidates_up_to_edge(rows, rule, seen, table, edge, reach=reach, name=NAME)


def _read(
    pairs: NeighborMatrix, n_atoms: int, device: torch.device
) -> tuple[EngineRows, torch.Tensor, list[Check]]:
    """The rows cut to the width of the matrix, the matrix, and what is to be checked."""
    wanted = None if pairs.owners is not None else n_atoms
    matrix = DeviceBuffer.of(pairs.matrix, NAME).require(
        NAME, shape=(wanted, None), dtypes=INDEX_DTYPES, device=device
    )
    n_rows, width = matrix.shape
    numbers = torch.arange(n_rows, device=device)
    if pairs.counts is None:
        counts = torch.full_like(numbers, width)
        assert pairs.fill_value is not None
        padding = int(pairs.fill_value)
    else:
        name, padding = "counts of the " + NAME, NO_PADDING
        counts = DeviceBuffer.of(pairs.counts, name).require(
            name, shape=(n_rows,), dtypes=INDEX_DTYPES, device=device
        )
    held = counts.clamp(0, width)
    rows = EngineRows(
        numbers.to(torch.int32),
        numbers * matrix.stride(0),
        held.to(torch.int32),
        flat(matrix),
        matrix.stride(1),
        signed_mask(pairs.index_mask),
        padding,
    )
    checks = [
        Check(
            counts < 0,
            lambda k: PairListError(
                f"counts of the {NAME}",
                expected="numbers of neighbours",
                got=f"{int(counts[k])} for atom {k}",
                fix="hand over the counts of the search, once it is complete",
            ),
        ),
        Check(counts > width, lambda k: _overflow(k, f"{int(counts[k])} neighbours", width)),
    ]
    if pairs.counts is None:
        checks.append(
            Check(
                ~_ends(matrix, padding),
                lambda k: _overflow(k, "a row without padding, which may be cut off,", width),
            )
        )
    return rows, matrix, checks


def _ends(matrix: torch.Tensor, padding: int) -> torch.Tensor:
    """(n_rows,) whether the last entry of each row is padding."""
    if matrix.shape[1] == 0:
        return torch.zeros(len(matrix), dtype=torch.bool, device=matrix.device)
    return matrix[:, -1] == padding


def _overflow(row: int, got: str, width: int) -> PairListError:
    return PairListError(
        f"neighbors of atom {row}",
        expected=f"all of them in the {NAME}",
        got=f"{got} in a matrix of width {width}",
        fix="let the engine search again with a wider matrix, or hand over the counts if none "
        "are missing",
    )


def _nearest(
    pairs: NeighborMatrix,
    rows: EngineRows,
    n_atoms: int,
    width: int,
    cell: Cell,
    checks: list[Check],
) -> tuple[Edge, torch.Tensor]:
    """Where the list ends, and the shifts to the nearest images."""
    device, name = rows.atoms.device, "positions of the pair list"
    if not 2.0 * pairs.reach <= cell.heights.min():
        raise PairListError(
            NAME,
            expected="periodic faces at least twice the reach apart, for indices to mean the "
            "nearest image",
            got=f"faces {cell.heights.tolist()} apart with a reach of {pairs.reach:g}",
            fix="hand over shifts, or ghosts with their owners; or use a larger cell",
        )
    positions = DeviceBuffer.of(pairs.positions, name).require(
        name, shape=(n_atoms, 3), dtypes=FLOATS, device=device
    )
    wide, frame = positions.to(torch.float64).contiguous(), cell_frame(cell, device)
    # half the limit: two atoms are twice as far from each other as each is from the origin
    lost = ~(cells_of(wide, frame).abs() < MAX_SHIFT / 4).all(dim=1)
    lost |= ~torch.isfinite(wide).all(dim=1)
    checks.append(
        Check(
            lost,
            lambda k: NonFiniteError(
                name,
                expected="finite positions, not many cells away",
                got=f"{wide[k].tolist()} for atom {k}",
                fix="check for lost atoms and for the length unit",
            ),
        )
    )
    require(checks)
    edge = Edge(wide, cell, pairs.reach, image_rounding(positions.dtype))
    return edge, nearest_images(rows.narrowed(), wide, frame, width)


def _numbered(rows: EngineRows, shifts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A table of shifts, and (n_rows, width) int32 numbers of those of all entries."""
    facts = shift_facts(rows, shifts)
    low, high = facts[:, :3], facts[:, 3:6]
    require(
        [
            Check(
                ((low <= -MAX_SHIFT) | (high >= MAX_SHIFT)).any(dim=1),
                lambda k: PairListError(
                    f"cell shifts of atom {k}'s neighbours",
                    expected="cell shifts of a few cells",
                    got=f"shifts from {low[k].tolist()} to {high[k].tolist()}",
                    fix="check that the shifts are integers in units of cell vectors",
                ),
            ),
            Check(facts[:, 6] != 0, lambda k: itself_error(rows, k)),
        ]
    )
    codes = torch.zeros(shifts.shape[:2], dtype=torch.int32, device=shifts.device)
    if len(rows) == 0:
        return ShiftTable.grid((0, 0, 0), shifts.device).table, codes
    a, b, c = torch.maximum(high.amax(dim=0), -low.amin(dim=0)).tolist()
    if math.prod((2 * a + 1, 2 * b + 1, 2 * c + 1)) <= MAX_GRID:
        grid = ShiftTable.grid((a, b, c), shifts.device)
        shift_codes(rows, shifts, grid, codes)
        return grid.table, codes
    row, place, _ = rows.expanded()
    table, numbers = numbered(shifts[row, place].to(torch.int32))
    codes[row, place] = numbers
    return table, codes


# --- kernels with their torch reference ----------------------------------------------------------


def shift_facts(rows: EngineRows, shifts: torch.Tensor) -> torch.Tensor:
    """(n_rows, 7) lowest and highest shifts, and whether its own atom is listed without one.

    int32, or int64 for 64-bit shifts; zero counts as one of the shifts.
    """
    run = launcher_for(shifts.device)
    facts = torch.zeros((len(rows), 7), dtype=shifts.dtype, device=shifts.device)
    if run is not None and shifts.dtype == torch.int32:
        strides = shifts.stride()
        run.launch("shift_facts", len(rows), *rows.arguments, flat(shifts), *strides, facts)
        return facts
    row, place, index = rows.expanded()
    values = shifts[row, place]
    at = row[:, None].expand(-1, 3)
    facts[:, :3].scatter_reduce_(0, at, values, "amin")
    facts[:, 3:6].scatter_reduce_(0, at, values, "amax")
    itself = (values == 0).all(dim=1) & (rows.atoms.long()[row] == index)
    facts[row[itself], 6] = 1
    return facts


def shift_codes(
    rows: EngineRows, shifts: torch.Tensor, grid: ShiftTable, codes: torch.Tensor
) -> None:
    """Write the number of each entry's shift to (n_rows, width) int32 ``codes``."""
    run = launcher_for(shifts.device)
    if run is not None:
        narrow = shifts.to(torch.int32)
        read = (rows.begin, rows.counts, rows.entries, rows.step, rows.padding)
        widths = (*grid.half_widths, codes.shape[1])
        run.launch("shift_codes", len(rows), *read, flat(narrow), *narrow.stride(), *widths, codes)
        return
    row, place, _ = rows.expanded()
    codes[row, place] = grid.numbers(shifts[row, place])


def _is_word(value: Any) -> bool:
    is_integer = hasattr(value, "__index__") and not isinstance(value, (bool, torch.Tensor))
    return is_integer and -(2**31) <= int(value) < 2**31


def _contradiction(expected: str, got: str, fix: str) -> ConfigurationError:
    return ConfigurationError(NAME, expected=expected, got=got, fix=fix)
