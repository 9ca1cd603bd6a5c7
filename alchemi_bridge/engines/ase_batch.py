"""Several structures at once, as methods of the ASE calculator."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from metatensor.torch import Labels, TensorMap

from alchemi_bridge.batch import Structure, evaluate_structures, of_system, prepare
from alchemi_bridge.contract import Cell
from alchemi_bridge.domain.leading import AnyProvider
from alchemi_bridge.engines.ase_inputs import quantities
from alchemi_bridge.engines.ase_values import (
    as_array,
    as_float,
    ase_results,
    check_selection,
    model_outputs,
)
from alchemi_bridge.errors import UnsupportedOutputError
from alchemi_bridge.model import LoadedModel, NoGradientError, OutputPlan, Wanted, evaluate
from alchemi_bridge.model.outputs import plan_extra
from alchemi_bridge.uncertainty import warn_if_uncertain

ENERGY_PROPERTIES = ("energy", "free_energy", "energies")


class UnavailablePropertyError(UnsupportedOutputError, PropertyNotImplementedError):
    """A property that this model, or this structure, does not have."""


class ManyStructures:
    """What :class:`~alchemi_bridge.engines.ase.BridgeCalculator` does with several structures.

    None of it touches the results of the calculator itself.
    """

    provider: AnyProvider
    parameters: dict[str, Any]
    implemented_properties: list[str]
    _with_gradients: bool
    _threshold: float | None
    _apart: Any = None

    @property
    def loaded(self) -> LoadedModel:
        """The model with its facts."""
        return self.provider.loaded

    def _wanted(self, properties: Iterable[str], periodic: bool) -> Wanted:
        properties = set(properties)
        unknown = properties - set(self.implemented_properties)
        if unknown:
            raise UnavailablePropertyError(
                f"property '{sorted(unknown)[0]}'",
                expected=f"one of {', '.join(self.implemented_properties)}",
                got="a property that this model does not give",
                fix="see calculator.implemented_properties",
            )
        if "stress" in properties and not periodic:
            raise UnavailablePropertyError(
                "stress",
                expected="a cell that is periodic in all three directions (stress = virial/volume)",
                got="a system that is not",
                fix="make it periodic, or take the virial from the provider",
            )
        can = set(self.implemented_properties)
        energy = "energy" in can and bool(properties & {*ENERGY_PROPERTIES, "forces", "stress"})
        gradients = bool(properties & {"forces", "stress"}) or (energy and self._with_gradients)
        return Wanted(
            energy=energy,
            forces="forces" in can and gradients,
            virial="stress" in can and gradients and periodic,
            energies="energies" in properties,
        )

    def evaluate(
        self,
        structures: ase.Atoms | Iterable[ase.Atoms],
        properties: str | Iterable[str] = ("energy", "forces", "stress"),
    ) -> list[dict[str, Any]]:
        """Evaluate the model on several structures at once.

        Those that are periodic in three directions, and the others, are each one evaluation; on
        several ranks each structure is, by all ranks together. Additional outputs are not kept;
        see :meth:`run_model`.

        Parameters
        ----------
        structures
            Each with its own numbers, cell and periodicity.
        properties
            ASE properties; the stress is left out for structures that are not periodic in three
            directions.

        Returns
        -------
        list of dict
            Per structure at least what was asked for of ``energy``, ``free_energy`` (float, eV),
            ``forces`` (n, 3) eV/Å, ``stress`` (6,) Voigt eV/Å^3, ``energies`` (n,) eV; the energy
            comes with any of them, and ``uncertainty`` (n,) eV with it if the model has it. The
            results of the calculator itself are left alone.
        """
        structures = _as_list(structures)
        asked = {properties} if isinstance(properties, str) else set(properties)
        if getattr(self.provider, "n_ranks", 1) > 1:
            return [self._evaluate_apart(atoms, asked) for atoms in structures]
        periodic = [all(s.pbc) for s in structures]
        merged: dict[int, dict[str, Any]] = {}
        for flag in (True, False):
            group = [k for k, p in enumerate(periodic) if p is flag]
            names = asked if flag else asked - {"stress"}
            if not group:
                continue
            wanted = self._wanted(names, flag) if names else Wanted(False, False)
            chosen = [structures[k] for k in group]
            inputs = _structures_of(chosen, self.loaded, group)
            try:
                found, _ = evaluate_structures(self.provider, inputs, wanted, numbers=group)
            except NoGradientError:
                if names & {"forces", "stress"}:
                    raise
                self._with_gradients = False  # as in calculate: nobody asked for them
                wanted = self._wanted(names, flag)
                found, _ = evaluate_structures(self.provider, inputs, wanted, numbers=group)
            for k, result, atoms in zip(group, found, chosen, strict=True):
                merged[k] = ase_results(result, atoms)
                if result.uncertainty is not None and self._threshold is not None:
                    warn_if_uncertain(result.uncertainty, self._threshold, structure=k)
        return [merged[k] for k in range(len(structures))]

    def _evaluate_apart(self, atoms: ase.Atoms, asked: set[str]) -> dict[str, Any]:
        """One structure on all ranks, by a calculator whose results are nobody's."""
        if self._apart is None:
            self._apart = copy.deepcopy(self)
        other = self._apart
        other.calculate(atoms, sorted(asked if all(atoms.pbc) else asked - {"stress"}))
        found = dict(other.results)
        if other.uncertainty is not None and "energy" in found:
            found["uncertainty"] = other.uncertainty
        return found

    def compute_energy(
        self,
        atoms: ase.Atoms | Sequence[ase.Atoms],
        compute_forces_and_stresses: bool = False,
        *,
        per_atom: bool = False,
    ) -> dict[str, Any]:
        """Energies of one structure or several, as metatomic-ase's method of this name.

        On several ranks, the one that calls it evaluates all by itself.

        Returns
        -------
        dict
            ``energy`` in eV; with ``compute_forces_and_stresses`` also ``forces`` and, if all
            structures are periodic in three directions, ``stress`` (3, 3) in eV/Å^3; with
            ``per_atom`` also ``energies``. Lists of these for a list of structures.
        """
        single = isinstance(atoms, ase.Atoms)
        structures = _as_list(atoms)
        stress = compute_forces_and_stresses and all(all(s.pbc) for s in structures)
        wanted = Wanted(True, compute_forces_and_stresses, stress, per_atom)
        found, _ = evaluate_structures(
            self.provider, _structures_of(structures, self.loaded), wanted
        )
        results: dict[str, Any] = {"energy": [as_float(r.energy) for r in found]}
        if per_atom:
            results["energies"] = [as_array(r.energies) for r in found]
        if compute_forces_and_stresses:
            results["forces"] = [as_array(r.forces) for r in found]
        if stress:
            both = zip(found, structures, strict=True)
            results["stress"] = [as_array(r.virial) / s.get_volume() for r, s in both]
        return {name: values[0] for name, values in results.items()} if single else results

    def run_model(
        self,
        atoms: ase.Atoms | Sequence[ase.Atoms],
        outputs: Iterable[str] | Mapping[str, Any],
        selected_atoms: Labels | None = None,
    ) -> dict[str, TensorMap]:
        """Any outputs of the model, as metatensor ``TensorMap`` on the model's device.

        On several ranks, the one that calls it evaluates all by itself.

        Parameters
        ----------
        atoms
            One structure or several.
        outputs
            Names, or names with the ``ModelOutput`` to request.
        selected_atoms
            Labels ``["system", "atom"]``; ``None`` for all atoms.
        """
        structures = _as_list(atoms)
        check_selection(selected_atoms, [len(s) for s in structures])
        given = _structures_of(structures, self.loaded)
        return evaluate(
            self.loaded,
            OutputPlan(
                energy=None,
                energy_per_atom=False,
                extra=plan_extra(self.loaded.capabilities, model_outputs(outputs)),
            ),
            prepare(self.provider, given) if given else [],
            Wanted(energy=False, forces=False),
            selected=None if selected_atoms is None else selected_atoms.to(self.loaded.device),
            route=self.provider.route,
            check_consistency=bool(self.parameters["check_consistency"]),
        ).extra


def structure_of(atoms: ase.Atoms, loaded: LoadedModel) -> Structure:
    """A structure for a batch, in Å, with the inputs that the model requests."""
    return Structure(
        types=np.asarray(atoms.numbers, dtype=np.int64),
        positions=positions_of(atoms, loaded.device),
        cell=Cell.of(atoms.cell.array, atoms.pbc),
        inputs=quantities(atoms, loaded.requested_inputs),
    )


def _structures_of(
    structures: Sequence[ase.Atoms], loaded: LoadedModel, numbers: Sequence[int] | None = None
) -> list[Structure]:
    """Errors count them by ``numbers``, or from zero."""
    found = []
    for number, atoms in zip(numbers or range(len(structures)), structures, strict=True):
        with of_system(number):
            found.append(structure_of(atoms, loaded))
    return found


def positions_of(atoms: ase.Atoms, device: torch.device) -> torch.Tensor:
    """(n_atoms, 3) float64 Å on ``device``, even where somebody put an array of integers in."""
    positions = np.require(atoms.positions, dtype=np.float64, requirements=["C", "W"])
    return torch.from_numpy(positions).to(device)


def _as_list(atoms: ase.Atoms | Iterable[ase.Atoms]) -> list[ase.Atoms]:
    return [atoms] if isinstance(atoms, ase.Atoms) else list(atoms)
