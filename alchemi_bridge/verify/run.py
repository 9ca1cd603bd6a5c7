"""Verify a model: build the subject, run the checks, collect a report."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from alchemi_bridge.engines.ase import BridgeCalculator
from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    InputError,
    SpeciesError,
    UnsupportedOutputError,
)
from alchemi_bridge.interrupts import Interrupts
from alchemi_bridge.model.outputs import NonConservative
from alchemi_bridge.units import conversion_factor
from alchemi_bridge.verify import generate
from alchemi_bridge.verify.check import CHECKS, Check, Outcome, Status, conclude
from alchemi_bridge.verify.subject import Subject

#: A structure whose largest force is below this, eV/Å, is taken to be at rest by symmetry.
AT_REST = 1e-3


@dataclass(frozen=True)
class Report:
    """Outcomes of a verification.

    Attributes
    ----------
    model, sha256
        Name or path of the model, and the hash of its file (None for a model in memory).
    dtype, device
        What the model computes in, and where it ran.
    structure
        What it was verified on, in words.
    seed
        Of all random choices.
    outcomes
        One for each check, in the order in which they ran.
    seconds
        Wall time.
    """

    model: str
    sha256: str | None
    dtype: str
    device: str
    structure: str
    seed: int
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no check failed or ended in an error."""
        return not any(outcome.failed for outcome in self.outcomes)

    def outcome(self, name: str) -> Outcome:
        """The outcome of one check.

        Raises
        ------
        ConfigurationError
            If that check did not run.
        """
        for outcome in self.outcomes:
            if outcome.name == name:
                return outcome
        raise _unknown_check(name, [outcome.name for outcome in self.outcomes])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "sha256": self.sha256,
            "dtype": self.dtype,
            "device": self.device,
            "structure": self.structure,
            "seed": self.seed,
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "checks": [outcome.as_dict() for outcome in self.outcomes],
        }


def verify(
    model: Any,
    atoms: Atoms | None = None,
    *,
    checks: Sequence[str] | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: Callable[[Sequence[Check]], Iterable[Check]] | None = None,
    **options: Any,
) -> Report:
    """Run verification checks on a model.

    Parameters
    ----------
    model
        Path of a metatomic model, or a model in memory.
    atoms
        Structure to verify it on, periodic or not; made from the model's types if None. A structure
        that is at rest by symmetry is rattled, since a force of zero tells little.
    checks
        Names of checks to run, see :data:`~alchemi_bridge.verify.check.CHECKS`; all if None.
    device
        torch device; the model's first choice if None.
    seed
        Of all random choices; a check gives the same numbers whichever others run.
    progress
        Wraps the sequence of checks, to show how far it is.
    options
        ``variants``, ``non_conservative``, ``extensions_directory`` and ``sha256`` as in
        :class:`~alchemi_bridge.engines.ase.BridgeCalculator`.

    Returns
    -------
    Report

    Raises
    ------
    BridgeError
        If the model can not be loaded, has no energy, or does not know an atom of the structure;
        if a check is unknown. Errors of single checks are part of the report instead.
    """
    start = time.perf_counter()
    selected = select_checks(checks)
    subject = make_subject(model, atoms, device=device, seed=seed, **options)
    runs = selected if progress is None else progress(selected)
    outcomes = tuple(run_check(check, subject) for check in runs)
    loaded = subject.loaded
    name = str(loaded.path) if loaded.path is not None else loaded.metadata.name or "in memory"
    return Report(
        model=name,
        sha256=loaded.sha256,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        structure=subject.description,
        seed=seed,
        outcomes=outcomes,
        seconds=time.perf_counter() - start,
    )


def select_checks(names: Sequence[str] | None) -> list[Check]:
    """Checks by name, in the order of the registry; all if None.

    Raises
    ------
    ConfigurationError
        If a name is unknown.
    """
    if names is None:
        return list(CHECKS.values())
    for name in names:
        if name not in CHECKS:
            raise _unknown_check(name, list(CHECKS))
    return [check for check in CHECKS.values() if check.name in names]


def run_check(check: Check, subject: Subject) -> Outcome:
    """Run one check; an error of the bridge becomes its outcome."""
    start = time.perf_counter()
    try:
        with Interrupts():
            found = check.function(subject)
    except BridgeError as error:
        seconds = time.perf_counter() - start
        message = f"{type(error).__name__}: {error}"
        return Outcome(check.name, check.title, Status.ERROR, message, seconds=seconds)
    return conclude(check, found, time.perf_counter() - start)


def make_subject(
    model: Any,
    atoms: Atoms | None = None,
    *,
    device: str | None = None,
    seed: int = 0,
    variants: dict[str, str | None] | None = None,
    non_conservative: NonConservative = False,
    extensions_directory: str | Path | None = None,
    sha256: str | None = None,
) -> Subject:
    """Load the model and prepare the structures; see :func:`verify`."""
    calculator = BridgeCalculator(
        model,
        device=device,
        variants=variants,
        non_conservative=non_conservative,
        extensions_directory=extensions_directory,
        sha256=sha256,
        do_gradients_with_energy=False,
        uncertainty_threshold=None,
    )
    if "energy" not in calculator.implemented_properties:
        raise UnsupportedOutputError(
            "energy of the model",
            expected="an energy output, which every check is about",
            got=f"outputs {sorted(calculator.loaded.capabilities.outputs)}",
            fix="verify a model that predicts an energy",
        )
    random = np.random.default_rng(seed)
    if atoms is None:
        structure, how = _made_structure(calculator, random), "made from the model's types"
    else:
        structure, how = _given_structure(calculator, atoms, random)
    cluster = generate.cluster_of(structure)
    return Subject(
        calculator,
        structure,
        cluster,
        description=generate.describe(structure, how),
        seed=seed,
        route_options={"variants": variants, "non_conservative": non_conservative},
    )


def _made_structure(calculator: BridgeCalculator, random: np.random.Generator) -> Atoms:
    loaded = calculator.loaded
    if not loaded.atomic_types:
        raise SpeciesError(
            "atomic types of the model",
            expected="at least one",
            got="none",
            fix="export the model with the types that it was made for",
        )
    cutoff = loaded.cutoff * conversion_factor(loaded.length_unit, "angstrom")
    types = generate.choose_types(sorted(loaded.atomic_types), random)
    atoms = generate.crystal(types, cutoff, random)
    largest_force = functools.partial(_largest_force, calculator)
    return generate.expanded_until_sane(atoms, largest_force, cutoff)


def _given_structure(
    calculator: BridgeCalculator, atoms: Atoms, random: np.random.Generator
) -> tuple[Atoms, str]:
    """The user's structure without constraints and calculator, rattled if it is at rest."""
    if len(atoms) == 0:
        raise InputError(
            "structure", expected="at least one atom", got="none", fix="choose another frame"
        )
    known = sorted(calculator.loaded.atomic_types)
    unknown = sorted(set(atoms.numbers.tolist()) - set(known))
    if unknown:
        raise SpeciesError(
            "structure",
            expected=f"atomic types that the model knows ({known})",
            got=f"types {unknown}",
            fix="choose a structure of these types, or none: one is made from the model's types",
        )
    structure = atoms.copy()
    structure.set_constraint()
    # also finds out what is wrong with the structure, if anything is
    at_rest = _largest_force(calculator, structure) < AT_REST
    can_move = len(structure) > 1 or structure.pbc.any()
    if at_rest and can_move:
        structure = generate.without_symmetry(structure, random)
        return structure, "as given, rattled since its forces vanish"
    return structure, "as given"


def _largest_force(calculator: BridgeCalculator, atoms: Atoms) -> float:
    """Largest component of the forces, eV/Å; infinite where the model gives none."""
    try:
        return float(np.abs(calculator.evaluate([atoms], ("forces",))[0]["forces"]).max())
    except InputError:
        raise
    except BridgeError:
        # the checks will tell; it is not this structure's fault
        return float("inf")


def _unknown_check(name: str, known: Sequence[str]) -> ConfigurationError:
    return ConfigurationError(
        "check", expected=f"one of {', '.join(known)}", got=f"'{name}'", fix="correct the name"
    )
