"""The cells of several systems, checked and inverted all at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from alchemi_bridge.batch.naming import of_system
from alchemi_bridge.cell import MAX_LENGTH, MIN_LENGTH, MIN_NORMALISED_VOLUME, Cell


class Cells:
    """Cell vectors and periodic directions of systems, on the host.

    Parameters
    ----------
    vectors
        (n_systems, 3, 3) float64, rows are the vectors; those of directions that are not periodic
        are ignored.
    pbc
        (n_systems, 3) bool.

    Attributes
    ----------
    vectors
        The same with zero rows where not periodic.
    pbc
        The same.

    Raises
    ------
    NonFiniteError, CellError
        What :meth:`Cell.of <alchemi_bridge.cell.Cell.of>` raises, with the number of the system.
    """

    def __init__(self, vectors: np.ndarray, pbc: np.ndarray) -> None:
        self.vectors = np.where(pbc[:, :, None], vectors, 0.0)
        self.pbc = np.array(pbc, dtype=bool)
        for k in np.flatnonzero(self._suspects()):
            with of_system(int(k)):
                Cell.of(self.vectors[k], self.pbc[k])  # which says what is wrong, if anything is

    @classmethod
    def stacked(cls, cells: Sequence[Cell]) -> Cells:
        """Of systems whose cells were checked one by one."""
        made = object.__new__(cls)
        made.vectors = np.stack([cell.vectors for cell in cells])
        made.pbc = np.array([cell.pbc for cell in cells])
        return made

    def _suspects(self) -> np.ndarray:
        """(n_systems,) bool: cells that may be wrong, or are not periodic in all directions."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            longest = np.abs(self.vectors).max(axis=2)
            usual = ((longest >= MIN_LENGTH) & (longest <= MAX_LENGTH)).all(axis=1)
            norms = np.linalg.norm(self.vectors, axis=2, keepdims=True)
            flat = np.abs(np.linalg.det(self.vectors / norms))
            return ~(usual & (flat > MIN_NORMALISED_VOLUME))

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, k: int) -> Cell:
        a, b, c = (bool(p) for p in self.pbc[k])
        return Cell(self.vectors[k], (a, b, c))

    def scaled(self, factor: float) -> Cells:
        """The same cells in another length unit."""
        if factor == 1.0:
            return self
        made = object.__new__(type(self))
        made.vectors, made.pbc = self.vectors * factor, self.pbc
        return made

    @cached_property
    def completed(self) -> np.ndarray:
        """(n_systems, 3, 3), see :attr:`Cell.completed <alchemi_bridge.cell.Cell.completed>`."""
        full = self.vectors.copy()
        for k in np.flatnonzero(~self.pbc.all(axis=1)):
            full[k] = self[int(k)].completed
        return full

    @cached_property
    def inverse(self) -> np.ndarray:
        """(n_systems, 3, 3) inverse of :attr:`completed`."""
        return np.linalg.inv(self.completed)

    @cached_property
    def volumes(self) -> list[float | None]:
        """Of each system; ``None`` where it is not periodic in three directions."""
        found = np.abs(np.linalg.det(self.vectors))
        periodic = [all(flags) for flags in self.pbc]
        return [float(v) if p else None for v, p in zip(found, periodic, strict=True)]
