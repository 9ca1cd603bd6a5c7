"""Which rank has which atoms: a staggered grid of sub-domains with equal numbers of atoms.

The cell is cut into slabs along the first vector, each slab into columns along the second, and each
column along the third, every cut where it leaves the same number of atoms to every rank. Cuts are
found from integer counts that are summed over the ranks, so that atoms may be anywhere, none of
them travels, and all ranks find the same cuts, bit by bit.

Cuts are tilted by a hair (:data:`TILT`): in a perfect crystal all atoms of a layer have the same
coordinate, and an upright cut could only take all or none of them. Where a clear gap is near, a cut
goes into its middle instead. Only atoms on one and the same point can not be divided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alchemi_bridge.cell import Cell
from alchemi_bridge.domain.abort import waiting
from alchemi_bridge.domain.cuts import N_KEYS, Total, cut, select
from alchemi_bridge.errors import ConfigurationError, NonFiniteError, ShapeError

#: How much later a cut comes, as a share of the cell, at the far end of the next direction; a power
#: of two, and far above the noise of single precision.
TILT = 2.0**-14

#: A part of a periodic direction that is empty over this share of the cell is vacuum.
VACUUM_SHARE = 0.25

#: Extents below this share of the largest are none.
TINY_EXTENT = 1e-6

#: Coordinates beyond this many cells have no digits left within the cell.
MAX_WRAPS = 2.0**40

#: Where periodic directions begin if there is no vacuum: just before zero, since a layer of a
#: crystal at zero has, after rounding, atoms on either side of it.
_BEFORE_ZERO = -(2.0**-20)

_UNIT = N_KEYS / 2  # keys reach from 0 to a little above this
_VACUUM_BINS = 256


def wrap(positions: np.ndarray, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Fractional coordinates, in the cell where it is periodic.

    The result for an atom does not depend on the atoms that come with it, not even in its last bit.

    Parameters
    ----------
    positions
        (n, 3), in the cell's length unit.
    cell
        The cell.

    Returns
    -------
    fractional
        (n, 3) float64; at least 0 and below 1 in periodic directions, a plain length in open ones.
    wraps
        (n, 3) int64, zero in open directions: ``positions - wraps @ cell.vectors`` has these
        fractional coordinates.

    Raises
    ------
    ShapeError, NonFiniteError
        If positions are not (n, 3), or not finite; more than 2**40 cells away counts as that, too.
    """
    positions = np.asarray(positions, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ShapeError(
            "positions", expected="shape (n, 3)", got=f"{positions.shape}", fix="reshape them"
        )
    inverse, pbc = cell.inverse, np.array(cell.pbc)
    with np.errstate(over="ignore", invalid="ignore"):
        # no matrix product: its rounding depends on the place of a row among the others
        x, y, z = positions.T
        fractional = np.stack([x * a + y * b + z * c for a, b, c in inverse.T], axis=1)
        far = ~np.isfinite(fractional) | (pbc & (np.abs(fractional) > MAX_WRAPS))
    if far.any():
        row = int(np.flatnonzero(far.any(axis=1))[0])
        raise NonFiniteError(
            "positions",
            expected="finite coordinates within 2**40 cells",
            got=f"{positions[row].tolist()} for atom {row}",
            fix="check the simulation that moved the atom there",
        )
    wraps = np.where(pbc, np.floor(fractional), 0.0)
    fractional -= wraps
    rounded = pbc & (fractional >= 1.0)  # was a hair below zero
    fractional[rounded] = 0.0
    return fractional, wraps.astype(np.int64) + rounded


def choose_grid(
    n_ranks: int, extents: Any, pbc: Any = True, halo: float = 0.0
) -> tuple[int, int, int]:
    """Number of sub-domains along each direction, so that their halos are small.

    Directions that are not divided need no halo: their periodic images are cell shifts. Of grids
    that are equally good, that with more sub-domains along the first direction is taken.

    Parameters
    ----------
    n_ranks
        Number of sub-domains.
    extents
        (3,) how far the atoms reach along each direction, in a length unit: heights of the cell, or
        less if there is vacuum.
    pbc
        Which directions are periodic, one flag or three.
    halo
        Width of the halo; zero for one that is thin against the sub-domains.

    Returns
    -------
    tuple
        Three positive numbers whose product is ``n_ranks``. Directions with a vanishing extent get
        1, unless all vanish.

    Raises
    ------
    ConfigurationError, ShapeError
        If there is no rank, the halo is negative or not finite, or there are not three extents.
    """
    lengths = np.asarray(extents, dtype=np.float64)
    if n_ranks < 1 or not 0.0 <= halo < math.inf:
        raise ConfigurationError(
            "grid of sub-domains",
            expected="at least one rank, and a halo of finite width",
            got=f"{n_ranks} ranks, halo {halo}",
            fix="check the number of ranks and the model's interaction range",
        )
    if lengths.shape != (3,) or not (np.isfinite(lengths).all() and (lengths >= 0.0).all()):
        raise ShapeError(
            "extents",
            expected="three finite lengths; of open directions, how far the atoms reach",
            got=f"{lengths.tolist()}",
            fix="measure the atoms where the cell is open",
        )
    flags = np.broadcast_to(np.asarray(pbc, dtype=bool), 3)
    longest = float(lengths.max())
    flat = lengths <= TINY_EXTENT * longest
    lengths = np.maximum(lengths, TINY_EXTENT * longest) if longest > 0.0 else np.ones(3)
    sizes = [
        (a, b, n_ranks // (a * b)) for a in _divisors(n_ranks) for b in _divisors(n_ranks // a)
    ]
    sizes = [n for n in sizes if not ((np.array(n) > 1) & flat).any()] or [(n_ranks, 1, 1)]
    # equal ones shall stay equal after rounding
    return min(sizes, key=lambda n: (*_costs(np.array(n), lengths, flags, halo), [-i for i in n]))


def _divisors(number: int) -> list[int]:
    small = [k for k in range(1, math.isqrt(number) + 1) if number % k == 0]
    return sorted({*small, *(number // k for k in small)})


def _costs(
    grid: np.ndarray, lengths: np.ndarray, pbc: np.ndarray, halo: float
) -> tuple[float, float]:
    """Volume of the halo, and area of the cuts, of an inner sub-domain, to nine digits.

    The volume is that of all points within ``halo`` of a box (Steiner's formula), less the box.
    """
    size = lengths / grid
    divided = grid > 1
    sides = np.where(divided, np.where(~pbc & (grid == 2), 1, 2), 0)
    width = np.minimum(halo * sides, lengths - size) / 2.0
    (a, b, c), (u, v, w) = size, width
    faces = 2.0 * (u * b * c + v * c * a + w * a * b)
    edges = math.pi * (v * w * a + w * u * b + u * v * c)
    volume = faces + edges + 4.0 / 3.0 * math.pi * u * v * w
    area = float((sides / size).sum()) * a * b * c
    return float(f"{volume:.9e}"), float(f"{area:.9e}")


@dataclass(frozen=True, eq=False)
class Decomposition:
    """A staggered grid of sub-domains; the same on all ranks.

    The sub-domain ``(ix, iy, iz)`` belongs to rank ``(ix * ny + iy) * nz + iz``.

    Attributes
    ----------
    grid
        Number of sub-domains along each direction, (nx, ny, nz).
    pbc
        Which directions are periodic.
    origin
        (3,) float64 where the first slab begins, as a fractional coordinate: in the middle of the
        vacuum of a periodic direction, at the first atom of an open one.
    scale
        (3,) float64 from there to the end of the last slab; 1 in periodic directions.
    x_planes, y_planes, z_planes
        (nx-1,), (nx, ny-1), (nx, ny, nz-1) float64, ascending along the last axis: cuts as shares
        of ``scale``, where they meet the lower faces; further up they come earlier, by up to
        ``TILT + TILT**2``.
    """

    grid: tuple[int, int, int]
    pbc: tuple[bool, bool, bool]
    origin: np.ndarray
    scale: np.ndarray
    x_planes: np.ndarray
    y_planes: np.ndarray
    z_planes: np.ndarray

    @property
    def n_ranks(self) -> int:
        """Number of sub-domains."""
        return math.prod(self.grid)

    @property
    def divided(self) -> np.ndarray:
        """(3,) bool: directions with more than one sub-domain."""
        return np.array(self.grid) > 1

    def owner(self, fractional: np.ndarray) -> np.ndarray:
        """Rank of each atom.

        Parameters
        ----------
        fractional
            (n, 3) float64 from :func:`wrap`. Atoms beyond the open ends belong to the outermost
            sub-domains. Coordinates that are not finite count as zero: positions are checked
            elsewhere, and a rank that stopped here would leave the others waiting.

        Returns
        -------
        numpy.ndarray
            (n,) int64.
        """
        shares = _shares(fractional, self.pbc, self.origin, self.scale)
        found = np.zeros(len(shares), dtype=np.int64)
        for k, planes in enumerate((self.x_planes, self.y_planes, self.z_planes)):
            found = _place(_keys(shares, k), found, _as_keys(planes))
        return found

    @cached_property
    def bounds(self) -> np.ndarray:
        """(n_ranks, 3, 2) float64 lower and upper bounds of each sub-domain, fractional.

        Every atom of a rank is within its bounds, in periodic directions perhaps only after one
        cell is added or taken away: they reach from ``origin`` to ``origin + 1``. Neighbouring
        bounds overlap by the tilt of the cuts. Outer bounds of open directions are infinite, those
        of directions that are periodic and not divided are 0 and 1.
        """
        nx, ny, nz = self.grid
        all_planes = (
            np.broadcast_to(self.x_planes, (nx, ny, nz, nx - 1)),
            np.broadcast_to(self.y_planes[:, None, None], (nx, ny, nz, ny - 1)),
            np.broadcast_to(self.z_planes[:, :, None], (nx, ny, nz, nz - 1)),
        )
        found = np.empty((nx, ny, nz, 3, 2))
        places = np.indices(self.grid)
        slack = TILT + TILT**2 + 2.0 / _UNIT
        for k, planes in enumerate(all_planes):
            ends = np.full((nx, ny, nz, 1), 0.0 if self.pbc[k] else -np.inf)
            last = np.full((nx, ny, nz, 1), 1.0 if self.pbc[k] else np.inf)
            edges = [
                np.concatenate([ends, planes - slack], axis=-1),
                np.concatenate([planes + 1.0 / _UNIT, last], axis=-1),
            ]
            for side in (0, 1):
                share = np.take_along_axis(edges[side], places[k][..., None], axis=-1)[..., 0]
                found[..., k, side] = share * self.scale[k] + self.origin[k]
            if self.pbc[k] and self.grid[k] == 1:
                found[..., k, :] = 0.0, 1.0
        return found.reshape(self.n_ranks, 3, 2)


def decompose(
    fractional: np.ndarray,
    ranks: int | tuple[int, int, int],
    pbc: Sequence[bool],
    *,
    heights: Any = 1.0,
    halo: float = 0.0,
    total: Total = lambda counts: counts,
) -> Decomposition:
    """Divide atoms into sub-domains with equal numbers of atoms; collective.

    Parameters
    ----------
    fractional
        (n, 3) float64 from :func:`wrap`: the atoms of this rank, which may be none, or all atoms.
    ranks
        Number of ranks, for which the grid is chosen with regard to vacuum; or the grid.
    pbc
        Which directions are periodic.
    heights
        (3,) length of a unit of each periodic coordinate, :attr:`~alchemi_bridge.cell.Cell.heights`
        for example (open directions are not read), to choose the grid.
    halo
        Width of the halo in the same unit, likewise.
    total
        Sums an int64 array over all ranks, see :func:`over`; the default is for a rank that has all
        atoms.

    Returns
    -------
    Decomposition
        No rank has more than 1.13 times the mean, rounded up in each direction, unless more atoms
        than that are on one point. The same on all ranks, and for every division of the atoms among
        them.
    """
    flags = (bool(pbc[0]), bool(pbc[1]), bool(pbc[2]))
    if isinstance(ranks, tuple) and (len(ranks) != 3 or min(ranks) < 1):
        raise ConfigurationError(
            "grid of sub-domains",
            expected="three positive numbers, or the number of ranks",
            got=str(ranks),
            fix="pass for example (2, 1, 1)",
        )
    origin, scale, occupied = _frame(fractional, flags, total)
    if isinstance(ranks, tuple):
        grid = ranks
    else:
        lengths = np.broadcast_to(np.asarray(heights, dtype=np.float64), 3)
        extents = np.where(flags, occupied * np.where(flags, lengths, 1.0), scale * occupied)
        grid = choose_grid(ranks, extents, flags, halo)
    shares = _shares(fractional, flags, origin, scale)
    groups = np.zeros(len(shares), dtype=np.int64)
    n_groups, found = 1, []
    for k, parts in enumerate(grid):
        keys = _keys(shares, k)
        planes = cut(_by_group(keys, groups, n_groups), parts, int(_UNIT), total)
        groups, n_groups = _place(keys, groups, planes), n_groups * parts
        found.append((planes / _UNIT).reshape(*grid[:k], parts - 1))
    return Decomposition(grid, flags, origin, scale, *found)


# --- coordinates and keys -----------------------------------------------------------------------


def _frame(
    fractional: np.ndarray, pbc: Sequence[bool], total: Total
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin and scale of the shares, and which share of a direction has atoms; (3,) each."""
    origin, scale, occupied = np.zeros(3), np.ones(3), np.ones(3)
    flags = np.array(pbc)
    finite = _finite(fractional)
    if not flags.all():
        origin[~flags], scale[~flags] = _open_ends(finite[:, ~flags], total)
        occupied[scale <= 0.0] = 0.0
        scale[scale <= 0.0] = 1.0
    if flags.any():
        places = np.floor((finite - np.floor(finite)) * _VACUUM_BINS).astype(np.int64)
        places = np.minimum(places, _VACUUM_BINS - 1) + _VACUUM_BINS * np.arange(3)
        counts = total(np.bincount(places.ravel(), minlength=3 * _VACUUM_BINS))
        for k in np.flatnonzero(flags):
            begin, length = _longest_gap(counts.reshape(3, -1)[k] == 0)
            vacuum = VACUUM_SHARE * _VACUUM_BINS <= length < _VACUUM_BINS
            occupied[k] = 1.0 - length / _VACUUM_BINS if vacuum else 1.0
            origin[k] = (begin + length / 2) / _VACUUM_BINS if vacuum else _BEFORE_ZERO
            origin[k] -= np.floor(origin[k] + 0.5)
    return origin, scale, occupied


def _longest_gap(empty: np.ndarray) -> tuple[int, int]:
    """First bin and length of the longest run of empty bins on a circle."""
    full = np.flatnonzero(~empty)
    if len(full) == 0:
        return 0, len(empty)
    lengths = np.diff(np.append(full, full[0] + len(empty))) - 1
    longest = int(np.argmax(lengths))
    return int(full[longest]) + 1, int(lengths[longest])


def _open_ends(values: np.ndarray, total: Total) -> tuple[np.ndarray, np.ndarray]:
    """Smallest value of each column and distance to the largest, a little outside of the atoms."""
    count = int(total(np.array([len(values)]))[0])
    if count == 0:
        return np.zeros(values.shape[1]), np.zeros(values.shape[1])
    # the bits of floating-point numbers are in the order of the numbers, but for the sign
    bits = (values + 0.0).view(np.int64)
    keys = (np.where(bits < 0, -(bits & (2**63 - 1)), bits) >> 14) + N_KEYS // 2
    ranks = np.tile([[1, count]], (values.shape[1], 1))
    ends = select(list(np.sort(keys, axis=0).T), ranks, total) - N_KEYS // 2
    same = ends[:, 0] == ends[:, 1]
    ends[:, 1] += 1
    found = np.copysign((np.abs(ends) << 14).view(np.float64), ends)
    return found[:, 0], np.where(same, 0.0, found[:, 1] - found[:, 0])


def _finite(fractional: np.ndarray) -> np.ndarray:
    """A copy with everything finite and of a size that can be squared."""
    values = np.nan_to_num(np.asarray(fractional, dtype=np.float64), posinf=0.0, neginf=0.0)
    return np.ascontiguousarray(np.clip(values, -1e100, 1e100))


def _shares(
    fractional: np.ndarray, pbc: Sequence[bool], origin: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """(n, 3) way from the first end of the atoms to the last, 0 to 1."""
    shares = (_finite(fractional) - origin) / scale
    shares -= np.where(pbc, np.floor(shares), 0.0)
    return np.clip(shares, 0.0, 1.0)


def _keys(shares: np.ndarray, k: int) -> np.ndarray:
    """(n,) int64 coordinate along the slightly tilted direction ``k``."""
    a, b, c = shares[:, k], shares[:, (k + 1) % 3], shares[:, (k + 2) % 3]
    return np.floor((a + TILT * b + TILT**2 * c) * _UNIT).astype(np.int64)


def _as_keys(planes: np.ndarray) -> np.ndarray:
    """(groups, cuts) int64; exact, since the unit is a power of two."""
    return (planes * _UNIT).astype(np.int64).reshape(math.prod(planes.shape[:-1]), planes.shape[-1])


def _place(keys: np.ndarray, groups: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Number of the part, among those of all groups, in which each atom is."""
    n_planes = planes.shape[1]
    passed = np.zeros(len(keys), dtype=np.int64)
    for bit in reversed(range(n_planes.bit_length())):
        probe = passed + (1 << bit)
        behind = keys >= planes[groups, np.minimum(probe, n_planes) - 1]
        passed = np.where(behind & (probe <= n_planes), probe, passed)
    return groups * (n_planes + 1) + passed


def _by_group(keys: np.ndarray, groups: np.ndarray, n_groups: int) -> list[np.ndarray]:
    """Keys of each group, ascending."""
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=n_groups))[:-1]
    return [np.sort(part) for part in np.split(keys[order], ends)]


def over(comm: Any) -> Total:
    """Sum over the ranks of a communicator, for atoms that are spread over them."""

    def total(counts: np.ndarray) -> np.ndarray:
        from mpi4py import MPI

        found = np.ascontiguousarray(counts)
        with waiting(comm):
            comm.Allreduce(MPI.IN_PLACE, found, op=MPI.SUM)
        return found

    return total
