"""The model under test, the structures that it is tested on, and ways to evaluate it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from alchemi_bridge.errors import BridgeError
from alchemi_bridge.units import Units, conversion_factor
from alchemi_bridge.verify.check import Measure
from alchemi_bridge.verify.evaluation import Evaluation, compare
from alchemi_bridge.verify.limits import Limits
from alchemi_bridge.verify.route import ProviderRoute

#: Atoms in a batch, at most, where a batch only saves time.
BATCH_ATOMS = 1000


class Subject:
    """A model with the structures it is verified on.

    Parameters
    ----------
    calculator
        :class:`~alchemi_bridge.engines.ase.BridgeCalculator` that does not compute gradients
        unless asked to.
    atoms
        The structure, in general position (no atom at rest by symmetry).
    cluster
        A few atoms without periodic directions; ``atoms`` itself if that is a molecule.
    description
        The structure in words.
    seed
        Of all random choices.
    route_options
        Keywords for :class:`~alchemi_bridge.verify.route.ProviderRoute`.
    """

    def __init__(
        self,
        calculator: Any,
        atoms: Atoms,
        cluster: Atoms,
        *,
        description: str,
        seed: int,
        route_options: dict[str, Any] | None = None,
    ) -> None:
        self.calculator = calculator
        self.loaded = calculator.loaded
        self.atoms = atoms
        self.cluster = cluster
        self.description = description
        self.seed = seed
        self.limits = Limits(self.loaded.dtype)
        #: Results that several checks share.
        self.memo: dict[str, Any] = {}
        self._route_options = route_options or {}
        self._routes: dict[Units, ProviderRoute] = {}

    # --- what the model is ------------------------------------------------------------------------

    @cached_property
    def cutoffs(self) -> tuple[float, ...]:
        """Requested cutoffs, Å, ascending, each once."""
        factor = conversion_factor(self.loaded.length_unit, "angstrom")
        return tuple(sorted({float(one.cutoff) * factor for one in self.loaded.requests}))

    @cached_property
    def interaction_range(self) -> float:
        """Interaction range, Å; infinite for long-range models."""
        factor = conversion_factor(self.loaded.length_unit, "angstrom")
        return float(self.loaded.interaction_range) * factor

    @property
    def reach(self) -> float:
        """Distance beyond which atoms should not know of each other, Å (a guess if infinite)."""
        largest = max(self.cutoffs, default=0.0)
        if math.isfinite(self.interaction_range):
            return max(self.interaction_range, largest)
        return 3.0 * max(largest, 5.0)

    @property
    def is_long_ranged(self) -> bool:
        """Whether the model declares an infinite interaction range."""
        return not math.isfinite(self.interaction_range)

    @property
    def has_energies(self) -> bool:
        """Whether the model has per-atom energies."""
        return "energies" in self.calculator.implemented_properties

    @property
    def conserves_energy(self) -> tuple[bool, bool]:
        """Whether forces, and stress, are taken from the gradient of the energy."""
        choice = self.calculator.parameters.get("non_conservative", False)
        return choice not in (True, "forces"), choice not in (True, "stress")

    # --- evaluation -------------------------------------------------------------------------------

    def random(self, name: str) -> np.random.Generator:
        """Generator of one check: its numbers do not depend on which other checks run."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def energy(self, atoms: Atoms) -> float:
        """Energy alone, eV."""
        return float(self.calculator.evaluate([atoms], ("energy",))[0]["energy"])

    def energies(self, atoms: Atoms) -> np.ndarray:
        """(n_atoms,) per-atom energies alone, eV."""
        return np.asarray(self.calculator.evaluate([atoms], ("energies",))[0]["energies"])

    def energy_of_many(self, structures: Sequence[Atoms]) -> np.ndarray:
        """Energies alone, eV; in batches where the model can do that."""
        return np.array([found["energy"] for found in self._in_batches(structures, ("energy",))])

    def summed_energies_of_many(self, structures: Sequence[Atoms]) -> np.ndarray:
        """Per-atom energies summed in float64, eV; in batches where the model can do that."""
        results = self._in_batches(structures, ("energies",))
        return np.array([np.sum(found["energies"], dtype=np.float64) for found in results])

    def evaluate(self, atoms: Atoms, *, virial: bool = False) -> Evaluation:
        """Energy, forces and, if asked for, the virial."""
        with_stress = virial and bool(atoms.pbc.all())
        properties = ("energy", "forces", "stress") if with_stress else ("energy", "forces")
        result = self.calculator.evaluate([atoms], properties)[0]
        found = self._evaluation(result, atoms, with_stress)
        if virial and not with_stress and atoms.pbc.any():
            found = Evaluation(found.energy, found.forces, self.route().evaluate(atoms).virial)
        return found

    def step(self, atoms: Atoms) -> Evaluation:
        """Energy, forces and virial as in a simulation: the pair list lives from step to step."""
        properties = ["energy", "forces", "stress"] if atoms.pbc.all() else ["energy", "forces"]
        copy = atoms.copy()
        self.calculator.calculate(copy, properties, self.calculator.check_state(copy))
        return self._evaluation(self.calculator.results, copy, "stress" in properties)

    def evaluate_many(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        """Energy and forces; in batches where the model can do that."""
        results = self._in_batches(structures, ("energy", "forces"))
        pairs = zip(results, structures, strict=True)
        return [self._evaluation(result, atoms, False) for result, atoms in pairs]

    def _in_batches(
        self, structures: Sequence[Atoms], properties: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        size = 1
        if self._batches_agree:
            size = max(1, BATCH_ATOMS // max(len(atoms) for atoms in structures))
        results: list[dict[str, Any]] = []
        for start in range(0, len(structures), size):
            results += self.calculator.evaluate(structures[start : start + size], properties)
        return results

    def route(self, units: Units | None = None) -> ProviderRoute:
        """The model behind the provider itself, in other units; made once per unit pair."""
        units = units or Units()
        if units not in self._routes:
            self._routes[units] = ProviderRoute(self.loaded, units, **self._route_options)
        return self._routes[units]

    def _evaluation(self, result: dict[str, Any], atoms: Atoms, with_stress: bool) -> Evaluation:
        virial = None
        if with_stress:
            stress = np.asarray(result["stress"], dtype=float)
            full = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress
            virial = full * atoms.get_volume()
        return Evaluation(float(result["energy"]), np.asarray(result["forces"]), virial)

    # --- what several checks need to know ---------------------------------------------------------

    @cached_property
    def base(self) -> Evaluation:
        """The structure as it is, with its virial."""
        return self.evaluate(self.atoms, virial=True)

    @cached_property
    def translation_change(self) -> tuple[Measure, ...]:
        """What changes when all atoms are moved by the same vector."""
        moved = self.atoms.copy()
        moved.positions += self.random("translation").uniform(-3.0, 3.0, 3)
        return compare(self.base, self.evaluate(moved, virial=True), self.limits)

    @property
    def sees_absolute_positions(self) -> bool:
        """Whether the model is not invariant under translation."""
        return any(measure.exceeded for measure in self.translation_change)

    @cached_property
    def _batches_agree(self) -> bool:
        """Whether two structures in one call give what they give one by one."""
        moved = self.cluster.copy()
        moved.positions[0] += 0.01
        pair = [self.cluster, moved]
        try:
            results = self.calculator.evaluate(pair, ("energy", "forces"))
        except BridgeError:
            return False
        for result, atoms in zip(results, pair, strict=True):
            together, alone = self._evaluation(result, atoms, False), self.evaluate(atoms)
            if any(m.exceeded for m in compare(alone, together, self.limits)):
                return False
        return True
