"""Smoothness of energy and force where neighbours come and go.

A pair of atoms, alone and with a third atom beside it, is pulled apart through every requested
cutoff and the interaction range. An interval [a, b] of the distance r is suspicious if

    E(b) - E(a) - (b - a) (E'(a) + E'(b)) / 2      (jump of the energy)
    E'(b) - E'(a)                                  (jump of the force)

does not vanish as the interval shrinks; suspicious intervals are bisected until what is left over
can only be a jump, wherever it is: not only at the cutoffs that the model declares.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from alchemi_bridge.verify.check import Finding, Measure, NotApplicable, Severity, register
from alchemi_bridge.verify.generate import neighbor_distance
from alchemi_bridge.verify.subject import Subject

#: Pairs of atomic types that are scanned, at most; each with and without a third atom.
MAX_PAIRS = 3

#: Points of a scan, before those around the cutoffs.
GRID_POINTS = 80

#: Scans start at this fraction of the smallest cutoff, end this far (Å) beyond the last.
START = 0.6
BEYOND = 0.5

#: Points are put this far, Å, from every cutoff, on both sides.
BRACKET = 0.01

#: Where the force exceeds this, eV/Å, atoms nearly overlap: not part of a scan.
STEEP = 10.0

#: Suspicious intervals that are bisected, besides those around the cutoffs; for energy and force.
SUSPECTS = 2

#: Bisection also ends where this fraction of the limit is all that a jump could have.
NEGLIGIBLE = 1e-2

#: Jumps of this fraction of the largest one are as large.
EQUAL = 0.999

#: Bisection ends at this width, Å.
WIDTH_F64 = 1e-10
WIDTH_F32 = 1e-4


@dataclass(frozen=True)
class Jump:
    """The largest jump that was found.

    Attributes
    ----------
    size
        eV or eV/Å.
    distance
        Where, Å.
    name
        Of what.
    """

    size: float
    distance: float
    name: str


@dataclass(frozen=True)
class _Family:
    """Structures with one distance as their parameter; atom 1 moves along x, away from atom 0."""

    name: str
    atoms: Atoms

    def at(self, distance: float) -> Atoms:
        atoms = self.atoms.copy()
        atoms.positions[1, 0] = distance
        return atoms


@dataclass
class _Interval:
    """An interval under bisection: distance, energy and slope at both ends."""

    family: _Family
    ends: np.ndarray  # (2, 3): r, E, E'
    of_energy: bool

    @property
    def width(self) -> float:
        return float(self.ends[1, 0] - self.ends[0, 0])

    def residual(self, ends: np.ndarray) -> float:
        return float(abs(_residuals(ends, self.of_energy)[0]))

    @property
    def jump(self) -> Jump:
        return Jump(self.residual(self.ends), float(self.ends[:, 0].mean()), self.family.name)

    def split(self, middle: np.ndarray) -> None:
        left = np.stack([self.ends[0], middle])
        right = np.stack([middle, self.ends[1]])
        # NaN (a model that gives none is caught elsewhere) compares false and keeps the right half
        self.ends = left if self.residual(left) > self.residual(right) else right


def _residuals(points: np.ndarray, of_energy: bool) -> np.ndarray:
    """(n - 1,) what remains of each interval between n rows of r, E, E'."""
    step, energy, slope = np.diff(points, axis=0).T
    if not of_energy:
        return slope
    return energy - 0.5 * step * (points[1:, 2] + points[:-1, 2])


@register("cutoff-energy", "the energy has no jump where neighbours come and go")
def cutoff_energy(subject: Subject) -> Finding | NotApplicable:
    """Largest jump of the energy along the scans."""
    return _jump_finding(subject, of_energy=True)


@register("cutoff-force", "the force has no jump where neighbours come and go", Severity.WARNING)
def cutoff_force(subject: Subject) -> Finding | NotApplicable:
    """Largest jump of the force along the scans; many published models have one."""
    return _jump_finding(subject, of_energy=False)


def _jump_finding(subject: Subject, *, of_energy: bool) -> Finding | NotApplicable:
    targets = _targets(subject)
    if not targets:
        return NotApplicable("the model requests no neighbour list and has no finite range")
    if "jumps" not in subject.memo:
        subject.memo["jumps"] = _find_jumps(subject, targets)
    energy_jump, force_jump, scale, steepest = subject.memo["jumps"]
    jump: Jump = energy_jump if of_energy else force_jump
    limits = subject.limits
    if of_energy:
        tolerance = limits.of("JUMP_ENERGY") * max(1.0, scale)
        measure = Measure("jump of the energy", jump.size, "eV", tolerance)
    else:
        tolerance = limits.of("JUMP_FORCE")
        measure = Measure("jump of the force", jump.size, "eV/Å", tolerance)
    scanned = ", ".join(f"{target:.4g}" for target in targets)
    message = f"pairs and triplets scanned through {scanned} Å (forces up to {steepest:.2g} eV/Å)"
    if measure.exceeded:
        message += f"; jump where the {jump.name} is {jump.distance:.6g} Å long"
    return Finding((measure,), message)


def _targets(subject: Subject) -> list[float]:
    targets = {round(cutoff, 9) for cutoff in subject.cutoffs}
    if not subject.is_long_ranged and subject.interaction_range > 0.0:
        targets.add(round(subject.interaction_range, 9))
    return sorted(targets)


def _find_jumps(subject: Subject, targets: list[float]) -> tuple[Jump, Jump, float, float]:
    """Largest jump of the energy, of the force; largest energy and force of the scans."""
    families = _families(subject, targets[0])
    grid = _grid(targets)
    intervals: list[_Interval] = []
    scale = steepest = 0.0
    for family in families:
        points = _measure(subject, [(family, r) for r in grid])
        points = _gentle(points)
        scale = max(scale, float(np.abs(points[:, 1]).max()))
        steepest = max(steepest, float(np.abs(points[:, 2]).max()))
        for of_energy in (True, False):
            for start in _suspects(points, targets, of_energy):
                ends = points[start : start + 2].copy()
                intervals.append(_Interval(family, ends, of_energy))
    width = WIDTH_F64 if subject.limits.double else WIDTH_F32
    limits = (subject.limits.of("JUMP_FORCE"), subject.limits.of("JUMP_ENERGY"))
    # what is left over of an interval bounds the jump in it: far below the limit there is none
    while wide := [
        one
        for one in intervals
        if one.width > width and one.jump.size > NEGLIGIBLE * limits[one.of_energy]
    ]:
        middles = [(one.family, float(one.ends[:, 0].mean())) for one in wide]
        for interval, middle in zip(wide, _measure(subject, middles), strict=True):
            interval.split(middle)
    jumps = []
    for of_energy in (True, False):
        found = [interval.jump for interval in intervals if interval.of_energy is of_energy]
        size = max(jump.size for jump in found)
        # the first of equals: a pair before the triplet that contains it
        jumps.append(next(jump for jump in found if not jump.size < EQUAL * size))
    return jumps[0], jumps[1], scale, steepest


def _families(subject: Subject, cutoff: float) -> list[_Family]:
    types = sorted(set(subject.atoms.numbers.tolist()))
    families = []
    pairs = itertools.combinations_with_replacement(types, 2)
    for first, second in itertools.islice(pairs, MAX_PAIRS):
        pair = Atoms(numbers=[first, second], positions=np.zeros((2, 3)))
        families.append(_Family(f"pair {pair.get_chemical_formula()}", pair))
        # beside the pair and off its axis, such that all angles change and none is special
        arm = min(neighbor_distance(first, first), 0.45 * cutoff)
        third = Atoms(numbers=[first], positions=[[0.5 * arm, 0.8 * arm, 0.3 * arm]])
        triplet = pair + third
        families.append(_Family(f"triplet {triplet.get_chemical_formula()}", triplet))
    return families


def _grid(targets: list[float]) -> np.ndarray:
    around = [target + side * BRACKET for target in targets for side in (-1.0, 1.0)]
    even = np.linspace(START * targets[0], targets[-1] + BEYOND, GRID_POINTS)
    # even points inside a bracket would leave a cutoff on an interval's end
    outside = np.min(np.abs(even[:, None] - np.array(targets)), axis=1) > BRACKET
    return np.unique(np.concatenate([even[outside], around]))


def _measure(subject: Subject, points: list[tuple[_Family, float]]) -> np.ndarray:
    """(n, 3): distance, energy, and its slope with respect to the distance."""
    found = subject.evaluate_many([family.at(r) for family, r in points])
    rows = [(r, one.energy, -one.forces[1, 0]) for (_, r), one in zip(points, found, strict=True)]
    return np.array(rows)


def _gentle(points: np.ndarray) -> np.ndarray:
    """The points from the outside up to where atoms nearly overlap; at least the outer half."""
    steep = np.flatnonzero(np.abs(points[:, 2]) > STEEP)
    start = min(int(steep[-1]) + 1, len(points) // 2) if len(steep) else 0
    return points[start:]


def _suspects(points: np.ndarray, targets: list[float], of_energy: bool) -> list[int]:
    """First points of the intervals to bisect: around the targets, and the least smooth ones."""
    r = points[:, 0]
    residual = _residuals(points, of_energy)
    step = np.diff(r)
    # a slope is suspicious if it changes faster than in the intervals beside it
    rate = residual if of_energy else residual / step
    padded = np.pad(rate, 1, mode="edge")
    unusual = np.abs(rate - 0.5 * (padded[:-2] + padded[2:])) * (1.0 if of_energy else step)
    chosen = set(np.argsort(unusual)[-SUSPECTS:].tolist())
    for target in targets:
        start = int(np.searchsorted(r, target)) - 1
        if 0 <= start < len(r) - 1:
            chosen.add(start)
    return sorted(chosen)
