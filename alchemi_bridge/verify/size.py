"""Systems of other sizes: supercells, copies, single atoms, distant atoms, per-atom energies."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from alchemi_bridge.errors import NonFiniteResultError
from alchemi_bridge.verify.check import Finding, Measure, NotApplicable, Severity, register
from alchemi_bridge.verify.evaluation import Evaluation, compare, largest
from alchemi_bridge.verify.subject import Subject

#: A supercell of up to this many atoms is made by doubling all periodic directions, else one.
MAX_SUPERCELL = 600

#: Atoms that are put far apart from each other.
DISTANT_ATOMS = 4

#: Atomic types that are evaluated as isolated atoms, at most.
MAX_ISOLATED = 10


def _unless_absolute(subject: Subject, measures: tuple[Measure, ...], message: str) -> Finding:
    """A finding that is only reported where a field acts on single atoms."""
    if any(measure.exceeded for measure in measures):
        if subject.sees_absolute_positions:
            message += ": differs, as the model reads absolute positions (see translation)"
            return Finding(measures, message, Severity.REPORT)
        if subject.is_long_ranged:
            message += ": differs; the model declares an infinite interaction range"
            return Finding(measures, message, Severity.WARNING)
    return Finding(measures, message)


@register("extensivity", "n copies have n times the energy, and the same forces")
def extensivity(subject: Subject) -> Finding | NotApplicable:
    """Compare with a supercell, or for molecules with two copies out of each other's reach."""
    atoms = subject.atoms
    if atoms.pbc.any():
        copies, message = _supercell(atoms)
    else:
        copies, message = _two_copies(atoms, subject.reach)
    n_copies = len(copies) // len(atoms)
    base = subject.base
    expected = Evaluation(
        n_copies * base.energy,
        np.tile(base.forces, (n_copies, 1)),
        None if base.virial is None or not atoms.pbc.any() else n_copies * base.virial,
    )
    found = subject.evaluate(copies, virial=expected.virial is not None)
    return _unless_absolute(subject, compare(expected, found, subject.limits), message)


def _supercell(atoms: Atoms) -> tuple[Atoms, str]:
    periodic = np.flatnonzero(atoms.pbc)
    repeats = np.ones(3, dtype=int)
    if len(atoms) * 2 ** len(periodic) <= MAX_SUPERCELL:
        repeats[periodic] = 2
    else:
        repeats[periodic[0]] = 2
    return atoms.repeat(repeats), "supercell " + "x".join(str(n) for n in repeats)


def _two_copies(atoms: Atoms, reach: float) -> tuple[Atoms, str]:
    distance = float(np.ptp(atoms.positions, axis=0).max()) + 2.0 * reach + 1.0
    copy = atoms.copy()
    copy.positions[:, 0] += distance
    return atoms + copy, f"two copies of the molecule, {distance:.1f} Å apart"


@register("per-atom-energies", "per-atom energies sum to the energy")
def per_atom_energies(subject: Subject) -> Finding | NotApplicable:
    """Ask for both separately: an engine may get the one by summing the other."""
    if not subject.has_energies:
        return NotApplicable("the model has no per-atom energies")
    measures = []
    structures = [(subject.atoms, "energy per atom"), (subject.cluster, "per atom of a cluster")]
    if not subject.atoms.pbc.any():
        structures.pop()
    for atoms, name in structures:
        total = subject.energy(atoms)
        difference = abs(float(subject.energies(atoms).sum(dtype=np.float64)) - total)
        tolerance = subject.limits.energy_per_atom(total, len(atoms))
        measures.append(Measure(name, difference / len(atoms), "eV", tolerance))
    return Finding(tuple(measures), "sum of the per-atom energies minus the energy, over the atoms")


@register("isolated-atom", "a single atom has an energy, and no force")
def isolated_atom(subject: Subject) -> Finding:
    """Evaluate single atoms in vacuum, where every neighbour list is empty."""
    types = sorted(set(subject.atoms.numbers.tolist()))[:MAX_ISOLATED]
    force = 0.0
    energies = []
    for number in types:
        try:
            found = subject.evaluate(Atoms(numbers=[number], positions=np.zeros((1, 3))))
        except NonFiniteResultError as error:
            return _not_finite(f"an isolated atom of type {number} ({error.got})")
        energies.append(f"{found.energy:.6g} eV (type {number})")
        force = max(force, largest(found.forces))
    measures = (Measure("force", force, "eV/Å", subject.limits.of("SAME_FORCE")),)
    return _unless_absolute(subject, measures, "energy " + ", ".join(energies))


@register("far-apart", "atoms out of each other's reach do not know of each other")
def far_apart(subject: Subject) -> Finding:
    """Some atoms farther apart than the interaction range: finite, and the sum of single atoms."""
    numbers = subject.atoms.numbers[:DISTANT_ATOMS]
    spacing = 1.5 * subject.reach + 1.0
    offsets = spacing * np.arange(len(numbers))
    positions = np.stack([offsets, 0.3 * offsets, -0.2 * offsets], axis=1)
    try:
        together = subject.evaluate(Atoms(numbers=numbers, positions=positions))
        alone = [
            subject.evaluate(Atoms(numbers=[number], positions=[position]))
            for number, position in zip(numbers, positions, strict=True)
        ]
    except NonFiniteResultError as error:
        return _not_finite(f"atoms {spacing:.1f} Å apart ({error.got})")
    expected = Evaluation(
        sum(one.energy for one in alone), np.concatenate([one.forces for one in alone])
    )
    measures = compare(expected, together, subject.limits)
    message = f"{len(numbers)} atoms {spacing:.1f} Å apart, against one by one"
    return _unless_absolute(subject, measures, message)


def _not_finite(what: str) -> Finding:
    measure = Measure("energy", float("nan"), "eV", 0.0)
    return Finding((measure,), f"no finite energy or force for {what}", Severity.FAIL)


@register("net-force", "forces sum to zero", Severity.REPORT)
def net_force(subject: Subject) -> Finding:
    """The sum of all forces; an external field leaves one."""
    forces = subject.base.forces
    tolerance = subject.limits.force(forces)
    value = largest(forces.sum(axis=0)) / len(forces)
    return Finding((Measure("net force per atom", value, "eV/Å", tolerance),), "sum of all forces")


@register("net-torque", "forces exert no torque on a molecule", Severity.REPORT)
def net_torque(subject: Subject) -> Finding:
    """The torque about the centroid: of the structure, or of a cluster cut from it."""
    atoms = subject.cluster
    forces = subject.evaluate(atoms).forces
    arms = atoms.positions - atoms.positions.mean(axis=0)
    torque = np.cross(arms, forces).sum(axis=0)
    tolerance = subject.limits.force(forces) * max(largest(arms), 1.0)
    value = largest(torque) / len(atoms)
    what = "cluster cut from the structure" if subject.atoms.pbc.any() else "molecule"
    return Finding((Measure("net torque per atom", value, "eV", tolerance),), what)
