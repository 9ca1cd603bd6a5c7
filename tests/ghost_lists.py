"""An engine with ghost atoms, in NumPy: images as atoms of their own, and lists over them.

Nothing of the systems is shared with the bridge. Which pairs a half list has follows the
descriptions in LAMMPS' ``npair_nsq.cpp`` and ``npair_bin_ghost.cpp``: "pair stored once if i,j are
both owned and i < j", and with a ghost j "stored by me (also stored by proc owning j)" without
newton, "exactly once by some processor" with it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alchemi_bridge import Cell
from alchemi_bridge.native import using
from alchemi_bridge.pairs import Candidates
from alchemi_bridge.pairs.ghosts import GhostPairs, decode_ghosts

CPU = torch.device("cpu")

PBC = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Ghosted:
    """Atoms of one rank.

    Attributes
    ----------
    tags, images
        (n_all,) which atom of the whole system each one is, and (n_all, 3) which image of it.
    owners
        (n_all,) index of the owner.
    positions
        (n_all, 3).
    n_local, cell, pbc
        Of the whole system.
    """

    tags: np.ndarray
    images: np.ndarray
    owners: np.ndarray
    positions: np.ndarray
    n_local: int
    cell: np.ndarray
    pbc: PBC

    @property
    def n_all(self) -> int:
        return len(self.tags)

    @property
    def atoms(self) -> np.ndarray:
        """Indices of those that are their own owner."""
        return np.flatnonzero(self.owners == np.arange(self.n_all))

    def box(self) -> Cell:
        return Cell.of(self.cell, self.pbc)


def images_within(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: PBC,
    low: np.ndarray,
    high: np.ndarray,
    halo: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Tags and images of all atoms in a box of fractional coordinates, and ``halo`` around it.

    In directions that are not periodic every atom is inside.
    """
    periodic = np.array(pbc)
    full = np.where(periodic[:, None], cell, np.eye(3) * 1e3)
    fractional = positions @ np.linalg.inv(full)
    margin = halo * np.linalg.norm(np.linalg.inv(full), axis=0)
    spread = np.abs(fractional).max(initial=0.0)
    reach = [int(np.ceil(m + spread + 1)) if p else 0 for m, p in zip(margin, pbc, strict=True)]
    tags, images = [], []
    for image in itertools.product(*(range(-n, n + 1) for n in reach)):
        place = fractional + np.array(image)
        inside = (place >= low - margin) & (place < high + margin) | ~periodic
        found = np.flatnonzero(inside.all(axis=1))
        tags.append(found)
        images.append(np.tile(image, (len(found), 1)))
    return np.concatenate(tags), np.concatenate(images)


def one_rank(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: PBC,
    reach: float,
    rng: np.random.Generator,
) -> Ghosted:
    """All atoms are local; ghosts are the images around them, in no particular order.

    Atoms may be anywhere: ghosts surround the box that the atoms fill.
    """
    n = len(positions)
    full = np.where(np.array(pbc)[:, None], cell, np.eye(3) * 1e3)
    fractional = positions @ np.linalg.inv(full)
    low, high = fractional.min(axis=0, initial=0.0), fractional.max(axis=0, initial=1.0)
    tags, images = images_within(positions, cell, pbc, low, high + 1e-9, reach)
    ghost = (images != 0).any(axis=1)
    order = rng.permutation(int(ghost.sum()))
    tags = np.concatenate([np.arange(n), tags[ghost][order]])
    images = np.concatenate([np.zeros((n, 3), dtype=int), images[ghost][order]])
    at = positions[tags] + images @ np.where(np.array(pbc)[:, None], cell, 0.0)
    return Ghosted(tags, images, tags.copy(), at, n, cell, pbc)


def one_of_several(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: PBC,
    *,
    low: np.ndarray,
    high: np.ndarray,
    halo: float,
    rng: np.random.Generator,
    closest: bool = True,
) -> Ghosted:
    """One rank's box of the cell, in fractional coordinates; atoms are inside the cell.

    The images of a halo atom are owned by the one closest to the middle of the box, or by any.
    """
    full = np.where(np.array(pbc)[:, None], cell, np.eye(3) * 1e3)
    fractional = positions @ np.linalg.inv(full)
    home = ((fractional >= low) & (fractional < high) | ~np.array(pbc)).all(axis=1)
    tags, images = images_within(positions, cell, pbc, low, high, halo)
    local = home[tags] & (images == 0).all(axis=1)
    ghosts = rng.permutation(np.flatnonzero(~local))
    order = np.concatenate([np.flatnonzero(local), ghosts])
    tags, images, n_local = tags[order], images[order], int(local.sum())
    at = positions[tags] + images @ np.where(np.array(pbc)[:, None], cell, 0.0)
    middle = fractional[tags] + images - (low + high) / 2
    away = np.where(np.array(pbc), np.abs(middle), 0.0).max(axis=1)
    owners = np.arange(len(tags))
    for tag in np.unique(tags):
        same = np.flatnonzero(tags == tag)
        chosen = same[0] if home[tag] else same[np.argmin(away[same])]
        if not home[tag] and not closest:
            chosen = rng.choice(same)
        owners[same] = chosen
    return Ghosted(tags, images, owners, at, n_local, cell, pbc)


def neighbors_of(
    system: Ghosted, reach: float, *, kind: str, rows: np.ndarray | None = None
) -> list[np.ndarray]:
    """Rows of neighbours: of ``kind`` full, newton_off or newton_on; of local atoms or ``rows``."""
    x, n_local = system.positions, system.n_local
    listed = []
    for i in np.arange(n_local) if rows is None else rows:
        inside = ((x - x[i]) ** 2).sum(axis=1) < reach**2
        inside[i] = False
        j = np.flatnonzero(inside)
        if kind != "full":
            j = j[j > i]
        if kind == "newton_on":
            j = np.array([k for k in j if k < n_local or _mine(system, i, k)], dtype=int)
        listed.append(j)
    return listed


def _mine(system: Ghosted, i: int, j: int) -> bool:
    """LAMMPS' choice of who lists a pair with a ghost: parity of the tags, then coordinates."""
    mine, other = int(system.tags[i]), int(system.tags[j])
    if mine != other:
        return (mine + other) % 2 == int(mine > other)
    return tuple(system.positions[j][::-1]) > tuple(system.positions[i][::-1])


def csr(
    system: Ghosted,
    reach: float,
    kind: str = "full",
    *,
    rows: np.ndarray | None = None,
    dtype: type = np.int32,
    **options: object,
) -> GhostPairs:
    """The list as an engine hands it over."""
    listed = neighbors_of(system, reach, kind=kind, rows=rows)
    starts = np.concatenate([[0], np.cumsum([len(j) for j in listed])])
    arrays: dict[str, object] = {
        "starts": starts.astype(dtype),
        "neighbors": np.concatenate([*listed, np.empty(0, dtype=int)]).astype(dtype),
        "owners": system.owners.astype(dtype),
        "positions": system.positions,
        "n_local": system.n_local,
        "full": kind == "full",
        "newton": None if kind == "full" else kind == "newton_on",
        "reach": reach,
        "rows": None if rows is None else rows.astype(dtype),
    }
    return GhostPairs(**(arrays | options))


def padded(
    listed: list[np.ndarray],
    width: int,
    rng: np.random.Generator,
    dtype: type = np.int32,
    fill: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Counts and a matrix, with rubbish (or ``fill``) beyond the counts."""
    matrix = rng.integers(-(2**31), 2**31 - 1, (len(listed), width)).astype(dtype)
    if fill is not None:
        matrix[:] = fill
    for row, j in zip(matrix, listed, strict=True):
        row[: len(j)] = j
    return np.array([len(j) for j in listed], dtype=dtype), matrix


# --- systems -------------------------------------------------------------------------------------

SYSTEMS: dict[str, tuple[int, np.ndarray, PBC, float]] = {
    "cubic": (60, np.eye(3) * 9.0, (True, True, True), 3.1),
    "triclinic": (
        70,
        np.array([[9.0, 0.0, 0.0], [3.1, 8.5, 0.0], [-2.7, 2.2, 9.4]]),
        (True, True, True),
        3.3,
    ),
    "small": (5, np.array([[2.1, 0.0, 0.0], [0.4, 2.3, 0.0], [0.3, -0.5, 2.6]]), (True,) * 3, 4.15),
    "one atom": (1, np.eye(3) * 2.0, (True, True, True), 4.1),
    "slab": (50, np.diag([8.0, 7.5, 0.0]) + np.eye(3, k=-1), (True, True, False), 3.0),
    "wire": (30, np.diag([0.0, 0.0, 4.0]), (False, False, True), 3.5),
    "molecule": (20, np.zeros((3, 3)), (False, False, False), 3.0),
}


def random_atoms(name: str, rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    """Positions for one of the systems; with a spread above 1 some are outside the cell."""
    n, cell, pbc, _ = SYSTEMS[name]
    full = np.where(np.array(pbc)[:, None], cell, np.eye(3) * 6.0)
    return rng.uniform(0.5 - spread / 2, 0.5 + spread / 2, (n, 3)) @ full


KINDS = ["full", "newton_off", "newton_on"]


def system_of(name: str, seed: int = 0, spread: float = 1.0) -> Ghosted:
    rng = np.random.default_rng(seed)
    _, cell, pbc, reach = SYSTEMS[name]
    return one_rank(random_atoms(name, rng, spread), cell, pbc, reach, rng)


GRIDS = {
    "two along x": np.array([2, 1, 1]),
    "two along y": np.array([1, 2, 1]),
    "four": np.array([1, 2, 2]),
    "twelve": np.array([2, 3, 2]),
}


def ranks(
    name: str, grid: np.ndarray, halo: float, seed: int, closest: bool = True
) -> list[Ghosted]:
    rng = np.random.default_rng([23, seed])
    _, cell, pbc, _ = SYSTEMS[name]
    positions = random_atoms(name, rng)
    grid = np.where(pbc, grid, 1)
    found = []
    for corner in np.ndindex(*grid):
        low = np.array(corner) / grid
        found.append(
            one_of_several(
                positions, cell, pbc, low=low, high=low + 1.0 / grid, halo=halo, rng=rng,
                closest=closest,
            )
        )  # fmt: skip
    assert sum(rank.n_local for rank in found) == len(positions)
    return found


# --- comparison ---------------------------------------------------------------------------------


def decoded(pairs: GhostPairs, system: Ghosted, **options: Any) -> Candidates:
    """Both ways of running give the same bits."""
    settings: dict[str, Any] = {
        "n_atoms": system.n_local,
        "device": CPU,
        "reach": pairs.reach,
        "cell": system.box(),
    }
    settings |= options
    with using("native"):
        found = decode_ghosts(pairs, **settings)
    with using("torch"):
        require_equal(found, decode_ghosts(pairs, **settings))
    return found


def require_equal(a: Candidates, b: Candidates) -> None:
    assert a.n_atoms == b.n_atoms
    for name in ("starts", "second", "code", "reverse", "table"):
        one, other = getattr(a, name), getattr(b, name)
        assert one.dtype == other.dtype == torch.int32
        assert torch.equal(one, other), name
