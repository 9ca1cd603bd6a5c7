"""Which rank has which atoms: a grid of domains with equal numbers of atoms.

The cell is cut into slabs along the first direction, each slab into columns along the second, each
column into domains along the third, at planes that leave the same number of atoms on both sides in
proportion to the ranks there. Planes of neighbouring slabs do not meet: a staggered grid, which
divides a droplet or a slab as evenly as a liquid.

Coordinates are fractional in periodic directions, and lengths in open ones. Planes are found by
bisection on counts, so that atoms may be spread over the ranks while they are found: only counts
are added up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import ConfigurationError

#: Adds up (``"sum"``) or takes the smallest (``"min"``) of an array over all ranks.
Reduce = Callable[[np.ndarray, str], np.ndarray]

#: Bisections of an interval until its ends are neighbouring floats, or nearly.
BISECTIONS = 60


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Domains of all ranks.

    Rank ``(ix * ny + iy) * nz + iz`` has the domain ``(ix, iy, iz)``.

    Attributes
    ----------
    grid
        Number of domains along each direction.
    planes
        (nx - 1,), (nx, ny - 1) and (nx, ny, nz - 1) coordinates of the planes between domains,
        ascending.
    """

    grid: tuple[int, int, int]
    planes: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def n_ranks(self) -> int:
        """Number of domains."""
        nx, ny, nz = self.grid
        return nx * ny * nz

    def owner(self, coordinates: np.ndarray) -> np.ndarray:
        """(n,) int64 rank of each of (n, 3) wrapped coordinates, see :func:`wrap`."""
        owner, n_groups = np.zeros(len(coordinates), dtype=np.int64), 1
        for k, count in enumerate(self.grid):
            planes = self.planes[k].reshape(n_groups, count - 1)
            owner = owner * count + _part(owner, coordinates[:, k], planes)
            n_groups *= count
        return owner


def _part(group: np.ndarray, values: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Between which planes of its group each value is."""
    found = np.zeros(len(values), dtype=np.int64)
    if planes.shape[1] == 0:
        return found
    for number, row in enumerate(planes):
        mine = group == number
        found[mine] = np.searchsorted(row, values[mine], side="right")
    return found


def wrap(positions: np.ndarray, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in the cell, and how many cells away the positions were.

    Parameters
    ----------
    positions
        (n, 3) anywhere.
    cell
        In the same unit.

    Returns
    -------
    coordinates
        (n, 3), from 0 to below 1 in periodic directions; in open ones lengths, not wrapped.
    cells
        (n, 3) int64; ``positions - cells @ cell.vectors`` has these coordinates.
    """
    coordinates = positions @ cell.inverse
    cells = np.where(cell.pbc, np.floor(coordinates), 0.0)
    coordinates = coordinates - cells
    at_the_end = (coordinates >= 1.0) & np.array(cell.pbc)  # a tiny negative one is rounded to 1
    coordinates[at_the_end] = 0.0
    return coordinates, (cells + at_the_end).astype(np.int64)


def choose_grid(
    n_ranks: int, extents: Sequence[float] | np.ndarray, halo: float = 0.0
) -> tuple[int, int, int]:
    """The grid whose domains have the smallest halo.

    Parameters
    ----------
    n_ranks
        Number of domains.
    extents
        (3,) distances between opposite faces of the cell, or of what it holds in open directions.
    halo
        How far the halo reaches, in the same unit; zero for the smallest surface.

    Raises
    ------
    ConfigurationError
        If there is no rank.
    """
    if n_ranks < 1:
        raise ConfigurationError(
            "number of ranks", expected="at least one", got=str(n_ranks), fix="start one"
        )
    lengths = np.maximum(np.nan_to_num(np.asarray(extents, dtype=np.float64)), 1e-12)
    # a halo of nothing has no shape: take one that is thin against every domain
    width = halo if halo > 0.0 else 1e-3 * float(lengths.min()) / n_ranks

    def size(grid: tuple[int, int, int]) -> float:
        parts = lengths / np.array(grid)
        # an atom is in a halo once: never more than there are along a direction
        around = np.minimum(parts + 2.0 * width, lengths)
        return float(np.prod(around / lengths))

    grids = [
        (nx, ny, n_ranks // (nx * ny))
        for nx, ny in itertools.product(range(1, n_ranks + 1), repeat=2)
        if n_ranks % (nx * ny) == 0
    ]
    return min(grids, key=lambda grid: (round(size(grid), 12), max(grid), [-n for n in grid]))


def alone(array: np.ndarray, operation: str) -> np.ndarray:
    """The :data:`Reduce` for who has all atoms."""
    return array


def over(comm: Any) -> Reduce:
    """The :data:`Reduce` for atoms that are spread over the ranks of a communicator."""

    def reduce(array: np.ndarray, operation: str) -> np.ndarray:
        from mpi4py import MPI

        found = np.ascontiguousarray(array)
        comm.Allreduce(MPI.IN_PLACE, found, op=MPI.SUM if operation == "sum" else MPI.MIN)
        return found

    return reduce


def decompose(
    coordinates: np.ndarray,
    grid: tuple[int, int, int],
    pbc: Sequence[bool],
    reduce: Reduce = alone,
) -> Decomposition:
    """Domains with equal numbers of atoms.

    Atoms with equal coordinates stay together: a perfect crystal can not be cut within a layer.

    Parameters
    ----------
    coordinates
        (n, 3) of this rank's atoms, see :func:`wrap`.
    grid
        From :func:`choose_grid`.
    pbc
        Which directions are periodic.
    reduce
        :func:`over` a communicator if every rank has some of the atoms.
    """
    group = np.zeros(len(coordinates), dtype=np.int64)
    n_groups, planes = 1, []
    for k, count in enumerate(grid):
        values = coordinates[:, k]
        if pbc[k]:
            low, high = 0.0, 1.0
        else:
            ends = np.array([values.min(initial=np.inf), -values.max(initial=-np.inf)])
            low, minus_high = (float(end) for end in reduce(ends, "min"))
            low, high = (low, -minus_high) if np.isfinite(low) else (0.0, 0.0)
        found = _planes(values, group, n_groups, count, (low, high), reduce)
        planes.append(found)
        group = group * count + _part(group, values, found)
        n_groups *= count
    nx, ny, nz = grid
    shapes = ((nx - 1,), (nx, ny - 1), (nx, ny, nz - 1))
    x, y, z = (found.reshape(shape) for found, shape in zip(planes, shapes, strict=True))
    return Decomposition(grid, (x, y, z))


def _planes(
    values: np.ndarray,
    group: np.ndarray,
    n_groups: int,
    count: int,
    ends: tuple[float, float],
    reduce: Reduce,
) -> np.ndarray:
    """(n_groups, count - 1) planes that cut each group of values into equal parts."""
    rows = [np.sort(values[group == number]) for number in range(n_groups)]
    totals = reduce(np.array([len(row) for row in rows], dtype=np.int64), "sum")
    wanted = totals[:, None] * np.arange(1, count) // count
    shape = wanted.shape

    def below(places: np.ndarray) -> np.ndarray:
        """How many values of each group are below each place."""
        found = [np.searchsorted(row, at) for row, at in zip(rows, places, strict=True)]
        return reduce(np.array(found, dtype=np.int64).reshape(shape), "sum")

    def gap(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Between which places exactly, or as nearly as can be, so many values are below."""
        first = _bisect(lambda at: below(at) >= target, shape, ends)
        last = _bisect(lambda at: below(at) > target, shape, ends)
        return first, last

    if wanted.size == 0:
        return np.zeros(shape)
    first, last = gap(wanted)
    # a layer of equal values is in the way: to which side with it?
    lower, upper = below(np.nextafter(first, -np.inf)), below(np.nextafter(first, np.inf))
    nearest = np.where(wanted - lower < upper - wanted, lower, upper)
    exact = below(0.5 * (first + last)) == wanted
    first, last = gap(np.where(exact, wanted, nearest))
    return np.maximum.accumulate(0.5 * (first + last), axis=1)


def _bisect(
    holds: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], ends: tuple[float, float]
) -> np.ndarray:
    """The smallest places where a condition holds that stays true from there on."""
    low, high = np.full(shape, ends[0]), np.full(shape, np.nextafter(ends[1], np.inf))
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        true = holds(middle)
        low, high = np.where(true, low, middle), np.where(true, middle, high)
    return high
