"""Structures of the built-in cases: seeded, the same every time, made in well under a second."""

from __future__ import annotations

import itertools

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

#: Random displacement of the atoms from one step to the next, Å. As in a time step of molecular
#: dynamics: far below any skin, so that what may be reused is reused, and nothing is cached.
STEP = 0.02


def liquid_argon() -> Atoms:
    """256 argon atoms at the density of the liquid (0.0213 atoms per Å^3).

    Hard-sphere Monte Carlo melts the fcc lattice: a move is taken if no pair comes closer than the
    hard core, which keeps every energy in the range of a liquid's.
    """
    atoms = bulk("Ar", "fcc", a=5.726, cubic=True).repeat(4)
    hard_sphere_melt(atoms, core=3.2, sweeps=40, seed=1)
    return atoms


def hard_sphere_melt(atoms: Atoms, *, core: float, sweeps: int, seed: int) -> None:
    """Move every atom at random, in place, without letting any pair closer than ``core`` (Å).

    The box must be orthogonal, periodic, and larger than twice the core.
    """
    rng = np.random.default_rng(seed)
    box = atoms.cell.lengths()
    positions = atoms.positions
    for _ in range(sweeps):
        moves = rng.uniform(-0.7, 0.7, positions.shape)
        for i, move in enumerate(moves):
            trial = positions[i] + move
            apart = positions - trial
            apart -= box * np.round(apart / box)
            squared = np.einsum("ij,ij->i", apart, apart)
            squared[i] = np.inf
            if squared.min() > core**2:
                positions[i] = trial


def silicon() -> Atoms:
    """1000 silicon atoms in the diamond structure, each moved by some 0.1 Å."""
    return rattled(bulk("Si", "diamond", a=5.431, cubic=True).repeat(5), 0.1, seed=2)


def triclinic() -> Atoms:
    """64 atoms of four kinds in a cell with angles of 51, 125 and 52 degrees."""
    cell = np.array([[11.0, 0.0, 0.0], [7.0, 9.0, 0.0], [-8.0, 5.0, 10.0]])
    return random_packing(cell, ["H", "C", "N", "O"], 64, core=1.6, seed=3)


def slab() -> Atoms:
    """A (001) silicon slab, periodic in x and y only, with two atoms above and below its box."""
    atoms = bulk("Si", "diamond", a=5.431, cubic=True).repeat((3, 3, 2))
    atoms.pbc = (True, True, False)
    atoms = rattled(atoms, 0.1, seed=4)
    top, bottom = atoms.positions[:, 2].argmax(), atoms.positions[:, 2].argmin()
    atoms.positions[top, 2] += 0.8
    atoms.positions[bottom, 2] -= 0.8
    return atoms


def fullerene() -> Atoms:
    """C60, no cell, no periodic direction."""
    return rattled(molecule("C60"), 0.05, seed=5)


def small_cell() -> Atoms:
    """Two argon atoms in a sheared cell with edges of 4 to 5 Å: a pair meets dozens of images."""
    cell = np.array([[4.1, 0.2, -0.1], [1.9, 4.4, 0.3], [-0.4, 0.8, 5.2]])
    return Atoms("Ar2", scaled_positions=[[0.1, 0.2, 0.3], [0.55, 0.72, 0.84]], cell=cell, pbc=True)


def one_atom() -> Atoms:
    """One argon atom in a primitive fcc cell: all its neighbours are its own images."""
    return bulk("Ar", "fcc", a=5.26)


def mixture() -> Atoms:
    """96 atoms of four kinds in an orthogonal box, many of them several boxes away from it."""
    atoms = random_packing(np.diag([11.0, 12.0, 13.0]), ["H", "C", "N", "O"], 96, core=1.6, seed=6)
    hops = np.random.default_rng(7).integers(-3, 4, (len(atoms), 3))
    atoms.positions += hops @ atoms.cell.array
    return atoms


def left_handed() -> Atoms:
    """216 silicon atoms in a sheared cell whose rows form a left-handed system."""
    atoms = bulk("Si", "diamond", a=5.431, cubic=True).repeat(3)
    rows = atoms.cell.array[[1, 0, 2]]
    # a vector of the lattice: the sheared cell holds the same crystal
    rows[2] += rows[0] / 3
    atoms.set_cell(rows)
    return rattled(atoms, 0.1, seed=8)


def copper() -> Atoms:
    """108 copper atoms as at a high temperature, in a cell that is strained by some per cent."""
    atoms = bulk("Cu", "fcc", a=3.61, cubic=True).repeat(3)
    strain = np.array([[0.02, 0.01, 0.0], [0.01, -0.01, -0.015], [0.0, -0.015, 0.01]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return rattled(atoms, 0.1, seed=9)


def random_packing(
    cell: np.ndarray, symbols: list[str], n_atoms: int, *, core: float, seed: int
) -> Atoms:
    """Atoms placed at random, one after the other, none closer than ``core`` (Å) to another.

    Parameters
    ----------
    cell
        Rows are the vectors, shape (3, 3), Å; periodic in all directions.
    symbols
        Kinds of atoms, dealt out in turn.
    n_atoms
        Number of atoms; the packing must be loose (no more than a quarter of the volume).
    core
        Smallest distance, Å.
    seed
        Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    # two images in each direction are enough: a skewed cell's nearest image is not the first one
    images = np.array(list(itertools.product(range(-2, 3), repeat=3))) @ cell
    placed: list[np.ndarray] = []
    while len(placed) < n_atoms:
        trial = rng.random(3) @ cell
        if placed:
            apart = np.asarray(placed)[:, None] - trial + images
            if np.min(np.einsum("ijk,ijk->ij", apart, apart)) < core**2:
                continue
        placed.append(trial)
    kinds = [symbols[i % len(symbols)] for i in range(n_atoms)]
    return Atoms(kinds, positions=np.asarray(placed), cell=cell, pbc=True)


def rattled(atoms: Atoms, amplitude: float, seed: int) -> Atoms:
    """A copy with every coordinate moved by a normal deviate of ``amplitude`` (Å)."""
    moved = atoms.copy()
    rng = np.random.default_rng(seed)
    moved.positions += rng.normal(0.0, amplitude, moved.positions.shape)
    return moved


def stepped(atoms: Atoms, number: int) -> Atoms:
    """The structure as it might look ``number`` steps later; not further away with every step."""
    moved = atoms.copy()
    rng = np.random.default_rng([number, len(atoms)])
    moved.positions += rng.uniform(-STEP, STEP, moved.positions.shape)
    return moved


def single_precision(atoms: Atoms) -> Atoms:
    """A copy whose coordinates and cell are numbers of single precision.

    A model in float32 then starts from the very same structure as its float64 reference.
    """
    rounded = atoms.copy()
    rounded.set_cell(atoms.cell.array.astype(np.float32).astype(np.float64))
    rounded.positions = atoms.positions.astype(np.float32).astype(np.float64)
    return rounded
