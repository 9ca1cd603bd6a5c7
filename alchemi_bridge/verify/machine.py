"""How the model runs: repeated, in batches, in other units, for long."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms

from alchemi_bridge.parity import tolerances
from alchemi_bridge.units import Units
from alchemi_bridge.verify.check import Finding, Measure, Severity, register
from alchemi_bridge.verify.evaluation import Evaluation, compare, worst_of
from alchemi_bridge.verify.footprint import memory_state
from alchemi_bridge.verify.subject import Subject

#: Evaluations before anything is measured: TorchScript specialises during the first ones.
WARM_UP = 5

#: Repetitions whose bits are compared.
REPETITIONS = 4

#: Units that the model is also asked in.
OTHER_UNITS = Units("nm", "kJ/mol")

#: Evaluations in each of the three windows in which memory is measured, up to a number of atoms.
WINDOWS = ((200, 40), (1000, 20), (math.inf, 10))

#: How often growth is measured, each time over twice as many evaluations, before it is believed.
LONGER_WINDOWS = 3

#: Structures that take turns while memory is measured.
STRUCTURES = 10

RESIDENT = "resident memory"

#: What may grow, its unit, and how much of it is fine; see :func:`memory_state`.
GROWTHS = (
    (RESIDENT, "bytes/evaluation", tolerances.GROWTH_RESIDENT),
    ("heap in use", "bytes/evaluation", tolerances.GROWTH_HEAP),
    ("memory of the GPU", "bytes/evaluation", tolerances.GROWTH_DEVICE),
    ("tensors alive", "1/evaluation", tolerances.GROWTH_TENSORS),
)


@register("repeatability", "the same input gives the same bits")
def repeatability(subject: Subject) -> Finding:
    """Repeat one evaluation with other systems in between; then as a step of a simulation.

    Pairs come in the same order whatever positions their list was made for, so that a CPU has no
    reason to give other bits, be it a batch or a step. A GPU adds in the order in which its threads
    arrive (atomic operations), and several ranks divide the atoms by where they were at the last
    search: there, a difference by rounding is reported and no failure.
    """
    random = subject.random("repeatability")
    for _ in range(WARM_UP):
        moved = _moved(subject.atoms, random, 0.3)
        for atoms in (subject.cluster, moved, subject.atoms):
            subject.evaluate(atoms, virial=atoms is subject.atoms)
        for atoms in (moved, subject.atoms):
            subject.step(atoms)
    first, first_step = subject.evaluate(subject.atoms, virial=True), subject.step(subject.atoms)
    changes, step_changes = [], []
    for _ in range(REPETITIONS):
        moved = _moved(subject.atoms, random, 0.3)
        subject.evaluate(subject.cluster)
        subject.evaluate(moved)
        again = subject.evaluate(subject.atoms, virial=True)
        changes.append(compare(first, again, subject.limits))
        subject.step(moved)
        step_changes.append(compare(first_step, subject.step(subject.atoms), subject.limits))
    steps = tuple(
        dataclasses.replace(measure, quantity=f"{measure.quantity}, step")
        for measure in worst_of(step_changes)
    )
    several = getattr(subject.calculator.provider, "n_ranks", 1) > 1
    exact = subject.loaded.device.type == "cpu" and not several
    return judge_repetitions((*worst_of(changes), *steps), exact)


def judge_repetitions(measures: tuple[Measure, ...], exact: bool) -> Finding:
    """What differences between repetitions mean.

    Parameters
    ----------
    measures
        Largest differences, with the tolerances of rounding.
    exact
        Whether the same bits are expected.
    """
    message = f"{REPETITIONS} repetitions with other systems in between"
    to_the_bit = tuple(dataclasses.replace(measure, tolerance=0.0) for measure in measures)
    if not any(measure.exceeded for measure in to_the_bit):
        return Finding(to_the_bit, f"{message}: the same bits")
    if any(measure.exceeded for measure in measures):
        return Finding(measures, f"{message}: different numbers")
    severity = None if exact else Severity.REPORT
    return Finding(to_the_bit, f"{message}: differs by rounding only", severity)


def _moved(atoms: Atoms, random: np.random.Generator, distance: float) -> Atoms:
    copy = atoms.copy()
    copy.positions += random.uniform(-distance, distance, copy.positions.shape)
    return copy


@register("batch", "several systems in one evaluation give what they give one by one")
def batch(subject: Subject) -> Finding:
    """A batch of the structure, a moved copy, a cluster, and the structure again."""
    random = subject.random("batch")
    systems = [
        subject.atoms,
        _moved(subject.atoms, random, 0.1),
        subject.cluster,
        subject.atoms,
    ]
    results = subject.calculator.evaluate(systems, ("energy", "forces"))
    changes = []
    for atoms, result in zip(systems, results, strict=True):
        together = Evaluation(float(result["energy"]), np.asarray(result["forces"]))
        changes.append(compare(subject.evaluate(atoms), together, subject.limits))
    return Finding(worst_of(changes), f"a batch of {len(systems)} systems, periodic and not")


@register("units", "the same numbers in nm and kJ/mol")
def units(subject: Subject) -> Finding:
    """Ask the provider in nm and kJ/mol, and convert back."""
    found = subject.route(OTHER_UNITS).evaluate(subject.atoms)
    measures = compare(subject.base, found, subject.limits)
    return Finding(measures, "the provider asked in nm and kJ/mol, converted back to Å and eV")


@register("memory", "memory does not grow from evaluation to evaluation")
def memory(subject: Subject) -> Finding:
    """Evaluate moving atoms; growth in three windows, of which the median counts.

    A leak grows in all windows, and as fast in longer ones; an allocator or a compiler that takes
    memory does so now and then. The structures repeat, so that the heap has seen all sizes of
    arrays when the first window begins, and what looks like growth is measured again for longer.
    """
    random = subject.random("memory")
    n_evaluations = next(n for atoms, n in WINDOWS if len(subject.atoms) <= atoms)
    # the last one is farther away than the skin of the pair list allows
    distances = (0.05,) * (STRUCTURES - 1) + (1.0,)
    structures = [_moved(subject.atoms, random, distance) for distance in distances]

    def run(n: int) -> None:
        for k in range(n):
            subject.step(structures[k % STRUCTURES])

    run(WARM_UP + n_evaluations)
    for _ in range(LONGER_WINDOWS):
        measures = _growth(run, n_evaluations, subject.loaded.device)
        message = f"growth over {3 * n_evaluations} steps, {len(subject.atoms)} atoms moving"
        # the other numbers are exact: no need to look twice
        if {measure.quantity for measure in measures if measure.exceeded} != {RESIDENT}:
            break
        n_evaluations *= 2
    return Finding(measures, message)


def _growth(
    run: Callable[[int], None], n_evaluations: int, device: torch.device
) -> tuple[Measure, ...]:
    states = [memory_state(device)]
    for _ in range(3):
        run(n_evaluations)
        states.append(memory_state(device))
    measures = []
    for name, unit, tolerance in GROWTHS:
        values = [state[name] for state in states if name in state]
        if values:
            growth = float(np.median(np.diff(values))) / n_evaluations
            measures.append(Measure(name, max(growth, 0.0), unit, tolerance))
    return tuple(measures)
