"""Invariance: translation, rotation, inversion, permutation of atoms, and wrapping."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from alchemi_bridge.verify.check import Finding, NotApplicable, Severity, register
from alchemi_bridge.verify.evaluation import Evaluation, compare, worst_of
from alchemi_bridge.verify.subject import Subject

#: Random rotations, permutations and shifts that are tried.
REPETITIONS = 3

#: Atoms are moved by up to this many lattice vectors.
LARGEST_SHIFT = 3

BY_DESIGN = "not invariant; an external field or an unconstrained architecture does that by design"


@register("translation", "nothing changes when all atoms move together", Severity.REPORT)
def translation(subject: Subject) -> Finding:
    """Move all atoms by the same random vector; the cell stays."""
    return _finding(subject.translation_change, "all atoms moved by up to 3 Å along each axis")


@register("rotation", "energy is invariant, forces and stress rotate", Severity.REPORT)
def rotation(subject: Subject) -> Finding:
    """Rotate atoms and cell together by random proper rotations."""
    random = subject.random("rotation")
    # normalised normal deviates are quaternions of uniformly distributed rotations
    matrices = Rotation.from_quat(random.normal(size=(REPETITIONS, 4))).as_matrix()
    changes = [_orthogonal_change(subject, matrix, rotate_cell=True) for matrix in matrices]
    return _finding(worst_of(changes), f"{REPETITIONS} random proper rotations of atoms and cell")


@register("inversion", "energy is invariant, forces turn round, stress stays", Severity.REPORT)
def inversion(subject: Subject) -> Finding:
    """Turn all positions round the origin; every lattice is its own mirror image in a point."""
    change = _orthogonal_change(subject, -np.eye(3), rotate_cell=False)
    return _finding(change, "all positions multiplied by -1")


def _orthogonal_change(subject: Subject, matrix: np.ndarray, *, rotate_cell: bool) -> tuple:
    """What changes under ``r -> matrix @ r``, with forces and virial turned back."""
    turned = subject.atoms.copy()
    turned.positions = turned.positions @ matrix.T
    if rotate_cell:
        turned.set_cell(turned.cell.array @ matrix.T)
    if turned.has("momenta"):
        turned.set_momenta(turned.get_momenta() @ matrix.T)
    found = subject.evaluate(turned, virial=True)
    virial = None if found.virial is None else matrix.T @ found.virial @ matrix
    back = Evaluation(found.energy, found.forces @ matrix, virial)
    return compare(subject.base, back, subject.limits)


def _finding(measures: tuple, message: str) -> Finding:
    if any(measure.exceeded for measure in measures):
        return Finding(measures, f"{message}: {BY_DESIGN}")
    return Finding(measures, message)


@register("permutation", "the order of atoms does not matter, like atoms are alike")
def permutation(subject: Subject) -> Finding | NotApplicable:
    """Exchange atoms of one type, then reorder all atoms."""
    atoms = subject.atoms
    if len(atoms) < 2:
        return NotApplicable("there is one atom")
    random = subject.random("permutation")
    changes = []
    for reorder in (_permute_like, _permute_all):
        for _ in range(REPETITIONS):
            changes.append(_reordered_change(subject, reorder(atoms, random)))
    message = f"{REPETITIONS} random exchanges of like atoms and {REPETITIONS} of all atoms"
    return Finding(worst_of(changes), message)


def _permute_like(atoms: Atoms, random: np.random.Generator) -> np.ndarray:
    order = np.arange(len(atoms))
    for number in np.unique(atoms.numbers):
        members = np.flatnonzero(atoms.numbers == number)
        order[members] = random.permutation(members)
    return order


def _permute_all(atoms: Atoms, random: np.random.Generator) -> np.ndarray:
    return random.permutation(len(atoms))


def _reordered_change(subject: Subject, order: np.ndarray) -> tuple:
    found = subject.evaluate(subject.atoms[order], virial=True)
    forces = np.empty_like(found.forces)
    forces[order] = found.forces
    back = Evaluation(found.energy, forces, found.virial)
    return compare(subject.base, back, subject.limits)


@register("wrapping", "atoms may be in any periodic image, inside or outside the cell")
def wrapping(subject: Subject) -> Finding | NotApplicable:
    """Move atoms by random lattice vectors, and wrap all of them into the cell."""
    atoms = subject.atoms
    if not atoms.pbc.any():
        return NotApplicable("no direction is periodic")
    random = subject.random("wrapping")

    def shifted(structure: Atoms) -> Atoms:
        shifts = random.integers(-LARGEST_SHIFT, LARGEST_SHIFT + 1, (len(structure), 3))
        structure.positions += (shifts * structure.pbc) @ structure.cell.array
        return structure

    def wrapped(structure: Atoms) -> Atoms:
        structure.wrap(pretty_translation=False)
        return structure

    moves: list[Callable[[Atoms], Atoms]] = [*([shifted] * REPETITIONS), wrapped]
    changes = [
        compare(subject.base, subject.evaluate(move(atoms.copy()), virial=True), subject.limits)
        for move in moves
    ]
    measures = worst_of(changes)
    message = f"atoms moved by up to {LARGEST_SHIFT} lattice vectors each, and all wrapped"
    if any(measure.exceeded for measure in measures) and subject.sees_absolute_positions:
        return Finding(
            measures,
            f"{message}: differs, as the model reads absolute positions (see translation)",
            Severity.REPORT,
        )
    return Finding(measures, message)
