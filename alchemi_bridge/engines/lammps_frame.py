"""Where LAMMPS has a structure: its boxes are lower triangular, with the a vector along x.

Rotations only. A reflection would be shorter for left-handed cells, but a model may tell a
structure from its mirror image; naming the vectors of the lattice in another order is always right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import InputError, NonFiniteError


@dataclass(frozen=True, eq=False)
class Frame:
    """A box of LAMMPS, and the rotation into it: ``x_lammps = x @ rotation``.

    Attributes
    ----------
    lattice
        (3, 3) float64, lower triangular with a positive diagonal; rows are the vectors of the box,
        periodic ones first, with tilts of half a box at most. A direction that is not periodic has
        no tilt, and is as long as the box.
    rotation
        (3, 3) float64, proper.
    origin
        (3,) float64, the lower corner of the box.
    boundary
        ``"p"`` or ``"f"`` (fixed) for each direction.
    """

    lattice: np.ndarray
    rotation: np.ndarray
    origin: np.ndarray
    boundary: tuple[str, str, str]

    @classmethod
    def of(cls, positions: np.ndarray, cell: Cell, room: float) -> Frame:
        """The box for a structure.

        Parameters
        ----------
        positions
            (N, 3) float64, anywhere.
        cell
            Any cell: left-handed, strongly skewed, with any periodic directions.
        room
            Space between the atoms and the faces of directions that are not periodic, in which
            atoms may move: LAMMPS loses those that leave the box.

        Raises
        ------
        InputError, NonFiniteError
            Without atoms, or if a position is no number.
        """
        require_positions(positions)
        periodic = np.array(cell.pbc)
        order = np.argsort(~periodic, kind="stable")
        periodic = periodic[order]
        rows = cell.completed[order]
        if np.linalg.det(rows) < 0.0:
            if periodic.all():
                rows = rows[[1, 0, 2]]
            else:
                rows[2] *= -1.0  # the length of a direction, no vector of the lattice
        lattice, rotation = _triangular(rows)
        _reduce_tilts(lattice, periodic)
        origin = np.zeros(3)
        free = np.flatnonzero(~periodic)
        if len(free):
            rotated = positions @ rotation[:, free]
            origin[free] = rotated.min(axis=0) - room
            lattice[free] = 0.0
            lattice[free, free] = rotated.max(axis=0) + room - origin[free]
        a, b, c = ("p" if flag else "f" for flag in periodic)
        return cls(lattice, rotation, origin, (a, b, c))

    @property
    def periodic(self) -> np.ndarray:
        """(3,) flags."""
        return np.array([kind == "p" for kind in self.boundary])

    @property
    def skewed(self) -> bool:
        """Whether LAMMPS calls the box triclinic."""
        return bool(np.any(self.lattice[[1, 2, 2], [0, 0, 1]]))

    @property
    def volume(self) -> float:
        """Volume of the box as LAMMPS has it, with the room of directions that are not periodic."""
        return float(np.prod(np.diagonal(self.lattice)))

    @cached_property
    def inverse(self) -> np.ndarray:
        """(3, 3): ``(x_lammps - origin) @ inverse`` are fractional coordinates."""
        return np.linalg.inv(self.lattice)

    def same_box(self, other: Frame) -> bool:
        """Whether periodic vectors, rotation and boundaries are equal, bit by bit."""
        flags = self.periodic
        return (
            self.boundary == other.boundary
            and np.array_equal(self.lattice[flags], other.lattice[flags])
            and np.array_equal(self.rotation, other.rotation)
        )

    def into(self, positions: np.ndarray) -> np.ndarray:
        """(N, 3) positions in the frame of LAMMPS, not wrapped."""
        return np.asarray(positions @ self.rotation)

    def wraps(self, inside: np.ndarray) -> np.ndarray:
        """(N, 3) int64: how many boxes each atom of ``into(...)`` is away from the box.

        Zero in directions that are not periodic. ``inside - wraps @ lattice`` is in the box.
        """
        boxes = np.floor((inside - self.origin) @ self.inverse).astype(np.int64)
        boxes[:, ~self.periodic] = 0
        return boxes

    def holds(self, inside: np.ndarray, beyond: float = 0.0) -> bool:
        """Whether all atoms are in the box; by ``beyond`` boxes beyond it where it is periodic."""
        places = (inside - self.origin) @ self.inverse
        margin = np.where(self.periodic, beyond, 0.0)
        return bool(np.all(places >= -margin) and np.all(places <= 1.0 + margin))

    def back(self, vectors: np.ndarray) -> np.ndarray:
        """(N, 3) vectors, forces for example, in the frame of the structure."""
        return np.asarray(vectors @ self.rotation.T)

    def tensor_back(self, tensor: np.ndarray) -> np.ndarray:
        """(3, 3) tensor, a virial for example, in the frame of the structure."""
        return np.asarray(self.rotation @ tensor @ self.rotation.T)


def require_positions(positions: np.ndarray) -> None:
    """Raise :class:`InputError` unless there are atoms, and all of them are somewhere."""
    if len(positions) == 0:
        raise InputError("structure", expected="at least one atom", got="none", fix="leave it out")
    if not np.isfinite(positions).all():
        raise NonFiniteError(
            "positions",
            expected="finite coordinates",
            got="NaN or infinite values",
            fix="check the structure",
        )


def _triangular(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower triangular lattice, and rotation, with ``lattice = rows @ rotation``."""
    if not np.triu(rows, 1).any() and (np.diagonal(rows) > 0.0).all():
        return rows.copy(), np.eye(3)  # LAMMPS' own frame: every bit stays
    q, r = np.linalg.qr(rows.T)
    signs = np.sign(np.diagonal(r))
    return np.tril((signs[:, None] * r).T), q * signs


def _reduce_tilts(lattice: np.ndarray, periodic: np.ndarray) -> None:
    """Take other vectors of the same lattice, in place, such that no tilt exceeds half a box."""
    for row, other in ((2, 1), (2, 0), (1, 0)):
        if periodic[row] and periodic[other]:
            # half a box is left as it is, whatever its last digit: LAMMPS allows it
            ratio = lattice[row, other] / lattice[other, other]
            if abs(ratio) > 0.5 + 1e-12:
                lattice[row] -= np.round(ratio) * lattice[other]
