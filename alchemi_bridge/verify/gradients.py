"""Forces and stress against finite differences of the energy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms

from alchemi_bridge.parity import tolerances
from alchemi_bridge.verify.check import Finding, Measure, NotApplicable, Severity, register
from alchemi_bridge.verify.differences import Derivative, derivative
from alchemi_bridge.verify.evaluation import largest
from alchemi_bridge.verify.generate import pair_distances, scaled
from alchemi_bridge.verify.subject import Subject

#: Displacements, Å. float64: from where the sixth order dominates down to where rounding does.
STEPS_F64 = np.array([2e-2, 8e-3, 3.2e-3, 1.28e-3, 5e-4, 2e-4])
#: float32: only large steps change the energy by more than its last digits.
STEPS_F32 = np.array([0.12, 0.08, 0.053, 0.036])
#: Strains; atoms a few Å apart move against each other by about as much as above.
STRAINS_F64 = np.array([2e-3, 8e-4, 3.2e-4, 1.28e-4, 5e-5, 2e-5])
STRAINS_F32 = np.array([2e-2, 1.3e-2, 9e-3, 6e-3])

#: Pairs this close to a cutoff, Å, would cross it: the energy has a kink there for many models.
CLEARANCE = 1e-3

#: Scales that are tried to find a structure with no pair at a cutoff.
CLEARING_TRIES = 24


def _n_components(n_atoms: int) -> int:
    """Components of the force that are checked, fewer of large systems."""
    return min(3 * n_atoms, 15) if n_atoms <= 300 else 10 if n_atoms <= 3000 else 5


@register("forces", "forces are the negative gradient of the energy (finite differences)")
def forces(subject: Subject) -> Finding:
    """Compare random components of the force with finite differences, crystal and cluster."""
    random = subject.random("forces")
    structures = [subject.atoms]
    if subject.atoms.pbc.any():
        structures.append(subject.cluster)
    measures = []
    noise = 0.0
    for atoms in structures:
        reference = subject.evaluate(atoms).forces
        name = "force" if atoms is subject.atoms else "force in a cluster"
        value, tolerance, unresolved = _force_error(subject, atoms, reference, random)
        noise = max(noise, unresolved)
        measures.append(Measure(name, value, "relative", tolerance))
    conserves, _ = subject.conserves_energy
    message = "largest error of a component over the rms force"
    if not conserves:
        return Finding(
            tuple(measures),
            f"{message}; the forces are the model's own output, not the gradient",
            Severity.REPORT,
        )
    return _finish(subject, tuple(measures), message, noise)


def _force_error(
    subject: Subject, atoms: Atoms, reference: np.ndarray, random: np.random.Generator
) -> tuple[float, float, float]:
    """Largest error relative to the rms force, its tolerance, and the part of that due to noise."""
    limits = subject.limits
    floor = limits.of("DIFFERENCE_FORCE_FLOOR")
    scale = max(float(np.sqrt(np.mean(reference**2))), floor)
    energy, noise = _energy_function(subject, atoms)
    steps = STEPS_F64 if limits.double else STEPS_F32
    error = 0.0
    for atom, axis in _components(atoms, subject.cutoffs, random):

        def moved(values: np.ndarray, atom: int = atom, axis: int = axis) -> np.ndarray:
            structures = [atoms.copy() for _ in values]
            for structure, h in zip(structures, values.tolist(), strict=True):
                structure.positions[atom, axis] += h
            return energy(structures)

        found = derivative(moved, steps)
        error = max(error, abs(found.value + reference[atom, axis]) / scale)
    unresolved = noise / float(steps[-1]) / scale
    return error, _tolerance(limits.of("DIFFERENCE_FORCE"), unresolved), unresolved


def _tolerance(resolved: float, unresolved: float) -> float:
    return min(max(resolved, unresolved), tolerances.DIFFERENCE_UNRESOLVED)


def _components(
    atoms: Atoms, cutoffs: tuple[float, ...], random: np.random.Generator
) -> list[tuple[int, int]]:
    """Random (atom, axis); atoms with no neighbour right at a cutoff come first."""
    gaps = np.full(len(atoms), np.inf)
    for cutoff in cutoffs:
        first, distance = pair_distances(atoms, cutoff + CLEARANCE)
        np.minimum.at(gaps, first, np.abs(distance - cutoff))
    every = [(atom, axis) for atom in range(len(atoms)) for axis in range(3)]
    order = random.permutation(len(every))
    shuffled = [every[k] for k in order]
    # sorted() is stable: random within the clear and within the others
    clear_first = sorted(shuffled, key=lambda component: bool(gaps[component[0]] < CLEARANCE))
    return clear_first[: _n_components(len(atoms))]


#: Energies of several structures, eV.
EnergyFunction = Callable[[list[Atoms]], np.ndarray]


def _energy_function(subject: Subject, atoms: Atoms) -> tuple[EnergyFunction, float]:
    """The energy to differentiate, and its noise, eV.

    In float32 the sum of the per-atom energies, done in float64 here, resolves what the model's own
    sum rounds away. Where there are none, the noise of the sum is allowed for.
    """
    limits = subject.limits
    if limits.double:
        return subject.energy_of_many, 0.0
    total = subject.energy(atoms)
    if subject.has_energies:
        energies = subject.energies(atoms)
        # only if they are what they claim to be; see the check of the per-atom energies
        if abs(energies.sum() - total) / len(atoms) <= limits.energy_per_atom(total, len(atoms)):
            local = tolerances.ENERGY_NOISE_F32 * limits.roundoff * largest(energies)
            return subject.summed_energies_of_many, local
    return subject.energy_of_many, tolerances.ENERGY_NOISE_F32 * limits.roundoff * abs(total)


@register("stress", "stress is the derivative of the energy with respect to strain")
def stress(subject: Subject) -> Finding | NotApplicable:
    """Compare the virial with finite differences of the energy under all (in-plane) strains."""
    pbc = subject.atoms.pbc
    if not pbc.any():
        return NotApplicable("a molecule has no volume, and no stress")
    atoms = _clear_of_cutoffs(subject.atoms, subject.cutoffs)
    reference = subject.evaluate(atoms, virial=True)
    if reference.virial is None:
        return NotApplicable("the model gives no stress for this structure")
    limits = subject.limits
    floor = limits.of("DIFFERENCE_VIRIAL_FLOOR") * len(atoms)
    scale = max(largest(reference.virial), floor)
    energy, noise = _energy_function(subject, atoms)
    steps = STRAINS_F64 if limits.double else STRAINS_F32
    error = 0.0
    strains = _strains(atoms)
    for strain in strains:
        found = _strain_derivative(energy, atoms, strain, steps)
        error = max(error, abs(found.value - float(np.sum(strain * reference.virial))) / scale)
    unresolved = noise / float(steps[-1]) / scale
    asymmetry = largest(reference.virial - reference.virial.T) / scale
    tolerance = _tolerance(limits.of("DIFFERENCE_VIRIAL"), unresolved)
    measures = (
        Measure("virial", error, "relative", tolerance),
        Measure("asymmetry of the virial", asymmetry, "relative", tolerance),
    )
    where = "" if pbc.all() else " in the periodic directions"
    message = f"{len(strains)} strains{where}; error over the largest component of the virial"
    if not subject.conserves_energy[1]:
        return Finding(
            measures,
            f"{message}; the stress is the model's own output, not a derivative",
            Severity.REPORT,
        )
    return _finish(subject, measures, message, unresolved)


def _strain_derivative(
    energy: EnergyFunction, atoms: Atoms, strain: np.ndarray, steps: np.ndarray
) -> Derivative:
    def strained(values: np.ndarray) -> np.ndarray:
        structures = [atoms.copy() for _ in values]
        for structure, h in zip(structures, values.tolist(), strict=True):
            deformation = np.eye(3) + h * strain
            structure.set_cell(atoms.cell.array @ deformation)
            structure.positions = atoms.positions @ deformation
        return energy(structures)

    return derivative(strained, steps)


def _strains(atoms: Atoms) -> list[np.ndarray]:
    """Symmetric unit strains within the space that the periodic cell vectors span.

    For a 3D-periodic system the six of Voigt's notation; three for a slab, one for a wire.
    """
    periodic = atoms.cell.array[atoms.pbc]
    axes = np.eye(3) if atoms.pbc.all() else np.linalg.qr(periodic.T)[0].T
    strains = []
    for i in range(len(axes)):
        for j in range(i, len(axes)):
            outer = np.outer(axes[i], axes[j])
            strains.append(0.5 * (outer + outer.T))
    return strains


def _clear_of_cutoffs(atoms: Atoms, cutoffs: tuple[float, ...]) -> Atoms:
    """The structure, scaled a little such that no pair is close to a cutoff."""
    best, best_gap = atoms, -1.0
    for trial in range(CLEARING_TRIES):
        candidate = scaled(atoms, 1.0 + 1e-4 * trial) if trial else atoms
        gap = np.inf
        for cutoff in cutoffs:
            _, distance = pair_distances(candidate, cutoff + CLEARANCE)
            gap = min(gap, float(np.abs(distance - cutoff).min(initial=np.inf)))
        if gap > best_gap:
            best, best_gap = candidate, gap
        if gap >= CLEARANCE:
            break
    return best


def _finish(subject: Subject, measures: tuple[Measure, ...], message: str, noise: float) -> Finding:
    if subject.limits.double:
        return Finding(measures, message)
    message += "; float32: large steps, tolerance by the noise of the energy"
    if noise > tolerances.DIFFERENCE_UNRESOLVED:
        return Finding(
            measures,
            f"{message}, which is too large here to resolve a derivative",
            Severity.REPORT,
        )
    return Finding(measures, message)
