"""What an evaluation gives, and how two of them are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alchemi_bridge.verify.check import Measure
from alchemi_bridge.verify.limits import Limits


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one structure.

    Attributes
    ----------
    energy
        eV.
    forces
        (n_atoms, 3), eV/Å.
    virial
        (3, 3), dE/d(strain), eV; None where it was not asked for.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None = None


def compare(reference: Evaluation, other: Evaluation, limits: Limits) -> tuple[Measure, ...]:
    """Energy, forces and (if both have it) virial of what should be the same system.

    Parameters
    ----------
    reference, other
        Forces and virial in the same order of atoms and the same axes.
    limits
        For the model's precision; the scales are the reference's.
    """
    n_atoms = len(reference.forces)
    measures = [
        Measure(
            "energy per atom",
            abs(other.energy - reference.energy) / n_atoms,
            "eV",
            limits.energy_per_atom(reference.energy, n_atoms),
        ),
        Measure(
            "force",
            largest(other.forces - reference.forces),
            "eV/Å",
            limits.force(reference.forces),
        ),
    ]
    if reference.virial is not None and other.virial is not None:
        measures.append(
            Measure(
                "virial per atom",
                largest(other.virial - reference.virial) / n_atoms,
                "eV",
                limits.virial_per_atom(reference.virial, n_atoms),
            )
        )
    return tuple(measures)


def worst_of(findings: Sequence[tuple[Measure, ...]]) -> tuple[Measure, ...]:
    """For each quantity, the measure that is worst among several repetitions."""
    worst: dict[str, Measure] = {}
    for measures in findings:
        for measure in measures:
            known = worst.get(measure.quantity)
            if known is None or measure.excess > known.excess:
                worst[measure.quantity] = measure
    return tuple(worst.values())


def largest(array: np.ndarray) -> float:
    """Largest absolute component; 0 for an empty array, NaN if there is one."""
    return float(np.abs(array).max(initial=0.0))
