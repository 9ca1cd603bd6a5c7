"""Systems that move as engines move them: steps, wraps, drift, boxes that deform."""

from __future__ import annotations

from dataclasses import dataclass

import ase
import brute_force
import numpy as np
import torch
from worlds import liquid

from alchemi_bridge.cell import Cell
from alchemi_bridge.geometry import StepGeometry

TRICLINIC = np.array([[6.1, 0.3, -0.4], [1.9, 5.6, 0.5], [-1.2, 0.9, 6.8]])

BOXES = {
    "triclinic": Cell.of(TRICLINIC),
    "orthorhombic": Cell.of([5.9, 6.4, 7.1]),
    "slab": Cell.of(TRICLINIC, (True, True, False)),
    "molecule": Cell.open(),
}

#: How far a box goes from where it began, as compression, stretch or shear.
MOST_STRAIN = 0.05

#: Atoms do not sit on each other (angstrom).
LEAST_DISTANCE = 0.3

#: Coordinates stay within this distance of the origin (angstrom), as in a simulation.
MOST_DRIFT = 20.0


#: What happens, and how often.
EVENTS = {
    "step": 0.55,
    "wrap some": 0.1,
    "wrap all": 0.08,
    "drift": 0.07,
    "creep": 0.08,
    "squeeze": 0.03,
    "shear": 0.03,
    "relax": 0.03,
    "jump": 0.03,
}


class Moving:
    """Atoms and a box; :meth:`move` lets something happen to them.

    Parameters
    ----------
    cell
        At the start.
    seed
        Of everything that happens.
    dtype
        Precision in which the engine holds the positions; they are always what it can hold.
    within
        Pairs closer than this are known by brute force, as ``pairs``.
    """

    def __init__(
        self, cell: Cell, seed: int, dtype: type, within: float, n_atoms: int = 14
    ) -> None:
        self.rng, self.dtype, self.within = np.random.default_rng(seed), dtype, within
        self.start = self.cell = cell
        self.periodic = np.array(cell.pbc)
        self.strain = np.zeros((3, 3))
        self.positions = liquid(seed, n_atoms, cell, apart=1.0)
        self.pairs = self._look()

    def _look(self) -> brute_force.PairSet:
        self.positions = self.positions.astype(self.dtype).astype(np.float64)
        return brute_force.find(self.positions, self.cell.vectors, self.cell.pbc, self.within)

    def move(self) -> str:
        """One random event; returns its name."""
        while True:
            name = str(self.rng.choice(list(EVENTS), p=list(EVENTS.values())))
            before = self.positions, self.cell, self.strain
            getattr(self, "_" + name.replace(" ", "_"))()
            found = self._look()
            if found.distances.min(initial=1.0) > LEAST_DISTANCE:
                self.pairs = found
                return name
            self.positions, self.cell, self.strain = before

    def _step(self) -> None:
        self.positions = self.positions + self.rng.normal(0.0, 0.03, self.positions.shape)

    def _wrap_some(self) -> None:
        """Some atoms, each by a lattice vector of its own."""
        self._step()
        chosen = self.rng.random(len(self.positions)) < 0.4
        cells = self.rng.integers(-2, 3, self.positions.shape) * self.periodic
        home = np.floor(self.positions @ self.cell.inverse) * self.periodic
        self.positions = self.positions + (chosen[:, None] * (cells - home)) @ self.cell.vectors

    def _wrap_all(self) -> None:
        """Into the cell, by ASE."""
        self._step()
        atoms = ase.Atoms(
            numbers=np.full(len(self.positions), 18),
            positions=self.positions,
            cell=self.cell.completed,
            pbc=self.cell.pbc,
        )
        atoms.wrap()
        self.positions = atoms.get_positions()

    def _drift(self) -> None:
        middle = self.positions.mean(axis=0)
        self.positions = self.positions + self.rng.uniform(-MOST_DRIFT, MOST_DRIFT, 3) / 2 - middle

    def _deform(self, strain: np.ndarray) -> None:
        """To a box at this strain from the first one; the atoms follow, or they do not."""
        self.strain = np.clip(strain, -MOST_STRAIN, MOST_STRAIN)
        before = self.cell
        vectors = self.start.vectors @ (np.eye(3) + self.strain)
        self.cell = Cell.of(vectors, self.start.pbc)
        if self.rng.random() < 0.7:
            self.positions = self.positions @ self.cell.deformation_from(before)

    def _creep(self) -> None:
        """A little more strain: it accumulates."""
        self._step()
        self._deform(self.strain + self.rng.uniform(-0.01, 0.01, (3, 3)))

    def _squeeze(self) -> None:
        """Compression by up to 5 % at once, all directions or one."""
        amounts = self.rng.uniform(0.0, MOST_STRAIN, 3) * (self.rng.random(3) < 0.7)
        self._deform(self.strain * 0.0 - np.diag(amounts))

    def _shear(self) -> None:
        shear = self.rng.uniform(-MOST_STRAIN, MOST_STRAIN, (3, 3))
        self._deform(shear * (1.0 - np.eye(3)))

    def _relax(self) -> None:
        self._deform(np.zeros((3, 3)))

    def _jump(self) -> None:
        """One atom farther than a skin allows."""
        chosen = self.rng.integers(len(self.positions))
        self.positions = self.positions.copy()
        self.positions[chosen] += self.rng.normal(0.0, 0.5, 3)

    def tensor(self) -> torch.Tensor:
        """(n_atoms, 3) as the engine holds them."""
        return torch.from_numpy(self.positions.astype(self.dtype))


@dataclass
class Differences:
    """Between the pairs of a model and those of brute force.

    Attributes
    ----------
    compared
        Number of pairs within the cutoff.
    shell
        Pairs on one side only, all of them at the very cutoff.
    distance
        Largest distance of those from the cutoff.
    vector
        Largest deviation of a component of a vector.
    """

    compared: int = 0
    shell: int = 0
    distance: float = 0.0
    vector: float = 0.0


def compare(
    step: StepGeometry,
    world: Moving,
    cutoff: float,
    *,
    shell: float,
    full_list: bool,
    into: Differences,
) -> None:
    """Require the pairs within the cutoff, no matter in which image their atoms are held.

    A pair is ``(i, j, r)``. Its shift in the frame of the engine's positions follows from ``r``,
    which has to be a vector between images of the two atoms to within ``shell``; so wraps do
    not matter, and neither does what the bridge calls the shift. Only at distances from the cutoff
    of no more than ``shell`` may both differ.
    """
    pairs = step.pairs[0]
    first, second = pairs.first.long().numpy(), pairs.second.long().numpy()
    vectors = pairs.vectors.double().numpy()
    straight = world.positions[second] - world.positions[first]
    away = (vectors - straight) @ world.cell.inverse
    shifts = np.where(world.periodic, np.rint(away), 0.0)
    wrong = np.abs(straight + shifts @ world.cell.vectors - vectors)
    into.vector = max(into.vector, float(wrong.max(initial=0.0)))
    assert into.vector <= shell

    rows = np.column_stack([first, second, shifts.astype(np.int64)])
    listed = brute_force.keys(rows) if full_list else brute_force.one_direction(rows)
    wide = world.pairs if full_list else world.pairs.half()
    lengths = dict(zip(map(tuple, wide.samples.tolist()), wide.distances.tolist(), strict=True))
    within = {key for key, length in lengths.items() if length < cutoff}
    into.compared += len(within)
    for key in within ^ listed:
        assert key in lengths, f"{key} is too long"
        assert abs(lengths[key] - cutoff) <= shell, f"{key} at {lengths[key]}"
        into.shell += 1
        into.distance = max(into.distance, abs(lengths[key] - cutoff))
