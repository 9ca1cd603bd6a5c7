"""Systems to which random things happen, and the neighbours that a model gets of them."""

from __future__ import annotations

import brute_force
import echo
import numpy as np
import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.geometry import Geometry, StepGeometry

#: Brute force and bridge may disagree about pairs that are this close to the cutoff, in float64:
#: vectors are good to 1e-14, squares of lengths to 1e-14 of 25.
MARGIN = 1e-9

#: A float32 model leaves out pairs in a shell below the cutoff: 6 eps of the square, that is
#: 3 eps = 3.6e-7 of the length; a rounded vector moves a pair by up to 1e-7 more.
FLOAT32_SHELL = 6e-7

#: An atom is put back by whole cells: a product and a difference of coordinates of up to 1e3.
WHOLE_CELLS = 1e-9

#: The same where the model keeps the positions (up to 1e3) in float32, and for short vectors.
FLOAT32_CELLS = 1e-3
FLOAT32_VECTORS = 1e-6

CUTOFF, SKIN = 3.2, 0.8

CELL = Cell.of([[4.1, 0.3, -0.2], [1.3, 3.9, 0.4], [-0.8, 0.7, 5.2]])


WORLDS = {
    "bulk": Cell.of(CELL.vectors),
    "left-handed": Cell.of(CELL.vectors[[1, 0, 2]]),
    "slab": Cell.of(CELL.vectors, (True, True, False)),
    "layer": Cell.of(CELL.vectors, (True, False, True)),
    "chain": Cell.of(CELL.vectors, (False, False, True)),
    "molecule": Cell.open(),
}


def geometry(*requests: echo.Request, n_atoms: int, **options: object) -> Geometry:
    """For a model that is loaded once per set of requests."""
    loaded = echo.loaded(*requests, **options)
    return Geometry(loaded, n_atoms=n_atoms, subset=None, length=1.0)


def listed(step: StepGeometry, request: int = 0) -> np.ndarray:
    """(n_pairs, 5) of one request, with shifts in the frame of the pair search."""
    pairs = step.pairs[request]
    table = torch.cat([pairs.first[:, None], pairs.second[:, None], pairs.shifts], dim=1)
    return table.cpu().numpy()


def named(step: StepGeometry, positions: np.ndarray, request: int = 0) -> np.ndarray:
    """The same with shifts that belong to the engine's ``positions``, after a check of the vectors.

    An atom that the engine wrapped since the search is put back by whole cells, no more and no
    less; the vectors between the atoms are those of the engine's positions.
    """
    pairs, periodic = step.pairs[request], np.array(step.cell.pbc)
    double = step.positions.dtype == torch.float64
    away = (positions - step.positions.double().cpu().numpy()) @ step.cell.inverse
    cells = np.where(periodic, np.rint(away), 0.0)
    np.testing.assert_allclose(away, cells, rtol=0, atol=WHOLE_CELLS if double else FLOAT32_CELLS)
    table = listed(step, request).astype(np.int64)
    table[:, 2:] += (cells[table[:, 0]] - cells[table[:, 1]]).astype(np.int64)
    expected = positions[table[:, 1]] - positions[table[:, 0]] + table[:, 2:] @ step.cell.vectors
    tolerance = WHOLE_CELLS if double else FLOAT32_VECTORS
    np.testing.assert_allclose(
        pairs.vectors.double().cpu().numpy(), expected, rtol=0, atol=tolerance
    )
    return table


def liquid(seed: int, n_atoms: int, cell: Cell, apart: float = 0.7) -> np.ndarray:
    """Random positions, not on top of each other."""
    rng = np.random.default_rng(seed)
    while True:
        positions = rng.random((n_atoms, 3)) @ np.where(
            np.array(cell.pbc)[:, None], cell.vectors, 6.0 * np.eye(3)
        )
        if len(brute_force.find(positions, cell.vectors, cell.pbc, apart).samples) == 0:
            return positions


class World:
    """A system to which random things happen."""

    def __init__(self, cell: Cell, seed: int, n_atoms: int = 9) -> None:
        self.rng = np.random.default_rng(seed)
        self.start = self.cell = cell
        self.positions = liquid(seed, n_atoms, cell)

    def happen(self) -> str:
        """One event; returns its name."""
        name = str(
            self.rng.choice(
                ["jitter", "kick", "drift", "wrap", "strain", "strain with atoms", "rest", "turn"],
                p=[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05],
            )
        )
        getattr(self, "_" + name.replace(" ", "_"))()
        return name

    def _rest(self) -> None:
        pass

    def _jitter(self) -> None:
        self.positions = self.positions + self.rng.normal(0.0, 0.03, self.positions.shape)

    def _kick(self) -> None:
        k = self.rng.integers(len(self.positions))
        self.positions = self.positions.copy()
        self.positions[k] += self.rng.normal(0.0, 0.5, 3)

    def _drift(self) -> None:
        self.positions = self.positions + self.rng.uniform(-5.0, 5.0, 3)

    def _wrap(self) -> None:
        periodic = np.array(self.cell.pbc)
        cells = np.floor(self.positions @ self.cell.inverse) * periodic
        self.positions = self.positions - cells @ self.cell.vectors

    def _deformation(self) -> np.ndarray:
        """From the first cell: up to 5% of compression and of shear, in any direction."""
        return np.eye(3) + self.rng.uniform(-0.05, 0.05, (3, 3))

    def _strain(self) -> None:
        self.cell = Cell.of(self.start.vectors @ self._deformation(), self.cell.pbc)

    def _strain_with_atoms(self) -> None:
        before = self.cell
        self._strain()
        self.positions = self.positions @ self.cell.deformation_from(before)

    def _turn(self) -> None:
        turn, _ = np.linalg.qr(np.eye(3) + self.rng.normal(0.0, 0.02, (3, 3)))
        turn *= np.sign(np.diag(turn))
        self.cell = Cell.of(self.cell.vectors @ turn, self.cell.pbc)
        self.positions = self.positions @ turn

    def expected(self, cutoff: float) -> set[brute_force.Key] | None:
        """Brute force; ``None`` if a pair is at the very cutoff, or atoms overlap."""
        found = brute_force.find(self.positions, self.cell.vectors, self.cell.pbc, cutoff + MARGIN)
        if np.any(found.distances > cutoff - MARGIN) or np.any(found.distances < 0.01):
            return None
        return found.keys()
