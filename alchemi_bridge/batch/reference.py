"""The geometry of the pair searches of a batch, and how far its atoms have moved since.

The same criterion as for one system (:class:`alchemi_bridge.neighbors.Reference`), for all systems
in common tensors. No drift is left out of the displacements.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from alchemi_bridge.batch.cells import Cells
from alchemi_bridge.cell import upload
from alchemi_bridge.neighbors.reframe import reframe


@dataclass(frozen=True, eq=False)
class Displaced:
    """Positions of a step in the frame of the pair lists.

    Attributes
    ----------
    positions
        (n_atoms, 3); atoms that were wrapped by whole cells since the search are put back.
    squares
        (n_systems,) float64, largest squared displacement in each system.
    allowed
        (n_systems,) how large it may be; negative where the list can not be used at all.
    """

    positions: torch.Tensor
    squares: torch.Tensor
    allowed: np.ndarray


class BatchReference:
    """Where atoms and cells were at the searches, which need not be of the same step.

    Parameters
    ----------
    positions
        (n_atoms, 3) in the working precision, memory of its own.
    cells
        Of the same step.
    system
        (n_atoms,) int64 system of each atom.
    sizes
        Number of atoms of each system.
    """

    def __init__(
        self, positions: torch.Tensor, cells: Cells, system: torch.Tensor, sizes: list[int]
    ) -> None:
        self.positions, self.system, self.sizes = positions, system, list(sizes)
        self._offsets = list(accumulate(sizes, initial=0))
        self._lengths = torch.tensor(sizes, device=positions.device)
        self._vectors, self._pbc = cells.vectors.copy(), cells.pbc.copy()
        self._inverse = cells.inverse.copy()
        self._frames: tuple[Cells, _Frames] | None = None

    def nearest(self, positions: torch.Tensor, sizes: list[int]) -> list[int]:
        """For each of other systems, that of the same size whose atoms are nearest, or -1.

        Parameters
        ----------
        positions
            (n_atoms, 3) of the other systems, like those of this object.
        sizes
            Number of atoms of each.
        """
        found = [-1] * len(sizes)
        mine, others = self.positions.split(self.sizes), positions.split(sizes)
        for size in set(sizes) & set(self.sizes):
            old = [m for m, known in enumerate(self.sizes) if known == size]
            new = [k for k, own in enumerate(sizes) if own == size]
            distances = torch.cdist(
                torch.stack([others[k].flatten() for k in new]),
                torch.stack([mine[m].flatten() for m in old]),
            )
            for k, place in zip(new, distances.argmin(dim=1).tolist(), strict=True):
                found[k] = old[place]
        return found

    def _rows(self, k: int) -> slice:
        return slice(self._offsets[k], self._offsets[k + 1])

    def take(self, k: int, other: BatchReference, m: int) -> None:
        """Let the search of system ``k`` be that of system ``m`` of another batch."""
        self.positions[self._rows(k)] = other.positions[other._rows(m)]
        self._vectors[k], self._pbc[k] = other._vectors[m], other._pbc[m]
        self._inverse[k] = other._inverse[m]
        self._frames = None

    def replace(self, k: int, positions: torch.Tensor, cells: Cells) -> None:
        """Let the search of system ``k`` be of now, with these positions of all and cells."""
        rows = self._rows(k)
        self.positions[rows] = positions[rows]
        self._vectors[k], self._pbc[k] = cells.vectors[k], cells.pbc[k]
        self._inverse[k] = cells.inverse[k]
        self._frames = None

    def displaced(
        self, positions: torch.Tensor, cells: Cells, reach: float, cutoff: float
    ) -> Displaced:
        """How far the atoms are from where the cells' deformation would have put them.

        Parameters
        ----------
        positions
            (n_atoms, 3) of this step, in the working precision.
        cells
            Of this step.
        reach, cutoff
            How far the lists reach, and how far they have to.
        """
        frames = self._frames_of(cells)
        framed, squares = reframe(
            positions, self.positions, self.system, frames.matrices, frames.deformed
        )
        largest = torch.segment_reduce(squares, "max", lengths=self._lengths)
        return Displaced(framed, largest, frames.allowance(reach, cutoff))

    def _frames_of(self, cells: Cells) -> _Frames:
        if self._frames is None or self._frames[0] is not cells:
            self._frames = (cells, self._make_frames(cells))
        return self._frames[1]

    def _make_frames(self, cells: Cells) -> _Frames:
        changed = (cells.vectors != self._vectors).any(axis=(1, 2))
        smallest = np.ones(len(cells))
        deformations = np.tile(np.eye(3), (len(cells), 1, 1))
        if changed.any():
            deformations[changed] = self._inverse[changed] @ cells.completed[changed]
            smallest[changed] = np.linalg.svd(deformations[changed], compute_uv=False)[:, -1]
        other = (cells.pbc != self._pbc).any(axis=1)
        inverse = cells.inverse * cells.pbc[:, None, :]  # columns belong to cell vectors
        numbers = np.stack([deformations, inverse, cells.vectors], axis=1).reshape(-1, 27)
        return _Frames(
            upload(torch.from_numpy(numbers), self.positions.device),
            bool(changed.any()),
            np.where(other, -1.0, smallest),
        )


@dataclass(frozen=True, eq=False)
class _Frames:
    """What the cells of a step mean for the lists; ``matrices`` are those of ``reframe``.

    ``smallest`` are the smallest singular values of the deformations, (n_systems,), below zero for
    a system that is periodic in other directions than before.
    """

    matrices: torch.Tensor
    deformed: bool
    smallest: np.ndarray

    def allowance(self, reach: float, cutoff: float) -> np.ndarray:
        """(n_systems,), see :class:`Displaced`."""
        return np.where(self.smallest < 0.0, -1.0, (self.smallest * reach - cutoff) / 2.0)
