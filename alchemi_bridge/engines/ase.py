"""The bridge as an ASE calculator (https://ase-lib.org), in place of metatomic-ase's.

Conservative forces and stress come with the energy in one evaluation; the pair list is kept from
step to step and searched again when atoms or cell moved too far.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)
from metatensor.torch import Labels, TensorMap
from metatomic.torch import AtomisticModel, ModelMetadata

from alchemi_bridge.batch import Structure, StructureResult, evaluate_structures, prepare
from alchemi_bridge.contract import Atoms, Cell, ForceBuffers, Step
from alchemi_bridge.engines.ase_inputs import quantities, watched_arrays, watched_info
from alchemi_bridge.engines.ase_values import (
    as_array,
    as_float,
    ase_results,
    check_selection,
    model_outputs,
    plain_outputs,
    properties_of,
    same_values,
)
from alchemi_bridge.errors import (
    ConfigurationError,
    ProtocolError,
    UnsupportedOutputError,
)
from alchemi_bridge.model import LoadedModel, NoGradientError, OutputPlan, Wanted, evaluate
from alchemi_bridge.model.outputs import NonConservative, plan_extra
from alchemi_bridge.pairs import Search
from alchemi_bridge.provider import MetatomicForceProvider
from alchemi_bridge.uncertainty import warn_if_uncertain
from alchemi_bridge.units import conversion_factor

ENERGY_PROPERTIES = ("energy", "free_energy", "energies")


class UnavailablePropertyError(UnsupportedOutputError, PropertyNotImplementedError):
    """A property that this model, or this structure, does not have."""


class BridgeCalculator(Calculator):
    """ASE calculator for any metatomic model.

    Takes the place of ``metatomic_ase.MetatomicCalculator``: same keywords where the meaning is
    the same. Energies in eV, lengths in Å.

    Parameters
    ----------
    model
        Path of a metatomic model, or a model in memory.
    additional_outputs
        Names of further outputs, or names with the ``ModelOutput`` to request; evaluated each
        time, see :attr:`additional_outputs`.
    extensions_directory
        The only folder from which compiled extensions of the model are loaded.
    check_consistency
        Let metatomic check inputs and outputs (slow).
    device
        Device to run on; the model's first choice by default.
    variants
        Variant of outputs, e.g. ``{"energy": "pbe"}``; uncertainty and non-conservative outputs
        follow the energy unless they are named.
    non_conservative
        ``True``, ``"forces"`` or ``"stress"``: take these directly from the model.
    do_gradients_with_energy
        Compute forces (and stress) whenever the energy is asked for; they are cached.
    uncertainty_threshold
        Warn about atoms whose energy is more uncertain than this (eV), if the model knows;
        ``None`` leaves the uncertainty out.
    neighbor_skin
        How far the pair list reaches beyond the cutoff, in Å; a new search is made when half of
        it may be used up.
    sha256
        Expected hash of the model file.

    Attributes
    ----------
    additional_outputs
        ``{name: TensorMap}`` of the last calculation.
    uncertainty
        (n_atoms,) float64 in eV of the last calculation, ``None`` if the model has none.
    """

    # each instance says what its model can do
    implemented_properties: list[str] = []  # noqa: RUF012 (ASE's own declaration)

    def __init__(
        self,
        model: str | os.PathLike[str] | AtomisticModel | torch.jit.RecursiveScriptModule,
        *,
        additional_outputs: Iterable[str] | Mapping[str, Any] | None = None,
        extensions_directory: str | os.PathLike[str] | None = None,
        check_consistency: bool = False,
        device: str | torch.device | None = None,
        variants: Mapping[str, str | None] | None = None,
        non_conservative: NonConservative = False,
        do_gradients_with_energy: bool = True,
        uncertainty_threshold: float | None = 0.1,
        neighbor_skin: float = 2.0,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        extra = model_outputs(additional_outputs)
        directory = None if extensions_directory is None else str(extensions_directory)
        self.provider = MetatomicForceProvider(
            model,
            device=device,
            variants=variants,
            non_conservative=non_conservative,
            uncertainty_threshold=uncertainty_threshold,
            extra_outputs=extra,
            extensions_directory=extensions_directory,
            sha256=sha256,
            check_consistency=check_consistency,
        )
        self._search = Search(neighbor_skin)
        self._with_gradients = bool(do_gradients_with_energy)
        self._threshold = uncertainty_threshold
        self._numbers: np.ndarray | None = None  # what the provider knows of the atoms
        self._pbc: tuple[bool, ...] | None = None
        self.additional_outputs: dict[str, TensorMap] = {}
        self.uncertainty: np.ndarray | None = None
        requested = self.loaded.requested_inputs
        self._info, self._arrays = watched_info(requested), watched_arrays(requested)
        self.ignored_changes = {"initial_magmoms", "initial_charges"} - set(self._arrays)
        self.implemented_properties = properties_of(self.provider.plan)
        self.parameters.update(
            model=None if self.loaded.path is None else str(self.loaded.path),
            additional_outputs=plain_outputs(extra),
            extensions_directory=directory,
            check_consistency=bool(check_consistency),
            device=None if device is None else str(device),
            variants=None if variants is None else dict(variants),
            non_conservative=non_conservative,
            do_gradients_with_energy=self._with_gradients,
            uncertainty_threshold=uncertainty_threshold,
            neighbor_skin=float(self._search.skin),
            sha256=sha256,
        )

    @property
    def loaded(self) -> LoadedModel:
        """The model with its facts."""
        return self.provider.loaded

    def model(self) -> AtomisticModel:
        """The metatomic model itself."""
        return self.loaded.module

    def metadata(self) -> ModelMetadata:
        """Name, authors, description and references of the model."""
        return self.loaded.metadata

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Keywords that make this calculator again, as plain data (see :meth:`fromdict`).

        ``model`` is ``None`` for a model that was handed over in memory: ASE writes this into its
        trajectories and databases, where it is a description, not a way back.
        """
        return dict(self.parameters)

    @classmethod
    def fromdict(cls, data: Mapping[str, Any]) -> BridgeCalculator:
        """Make the calculator that :meth:`todict` described.

        Raises
        ------
        ProtocolError
            If its model was handed over in memory: there is no file to load.
        """
        if data.get("model") is None:
            raise ProtocolError(
                "description of a calculator",
                expected="one that was made from a model file",
                got="a model in memory",
                fix="save the model and pass its path",
            )
        return cls(**data)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its keywords: a loaded model can not be, its path can."""
        return type(self).fromdict, (self.todict(),)

    def __copy__(self) -> BridgeCalculator:
        """The same as a deep copy: two calculators can not share one pair list."""
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> BridgeCalculator:
        """A calculator of its own, with its own pair list, on the same loaded model."""
        keywords = {**self.parameters, "model": self.loaded}
        # these belong to loading, which is done
        keywords.update(extensions_directory=None, sha256=None, device=None)
        made = type(self)(**keywords)
        made.parameters.update(self.parameters)
        return made

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refused: the parameters belong to the loaded model. Make a new calculator."""
        if not kwargs:
            return {}
        raise ConfigurationError(
            "parameters of the calculator",
            expected="to stay as they were given to the constructor",
            got=f"set({', '.join(sorted(kwargs))})",
            fix="make a new BridgeCalculator",
        )

    # --- one structure, ASE's way --------------------------------------------------------------

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, data that the model requests included."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if self.atoms is not None:
            for key in self._info:
                if not same_values(self.atoms.info.get(key), atoms.info.get(key)):
                    changes.append(f"info[{key}]")
            for key in self._arrays:
                if not same_values(self.atoms.arrays.get(key), atoms.arrays.get(key)):
                    changes.append(f"arrays[{key}]")
        return changes

    def reset(self) -> None:
        """Forget all results."""
        super().reset()
        self.additional_outputs, self.uncertainty = {}, None

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute ``properties`` and whatever comes for free with them."""
        if atoms is None and self.atoms is None:
            raise ProtocolError(
                "calculate",
                expected="atoms",
                got="none, now or before",
                fix="pass the atoms, or attach the calculator to them",
            )
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        # ASE's copy shares the values in info: one that is changed in place would pass for itself
        watched = {key: self.atoms.info[key] for key in self._info if key in self.atoms.info}
        self.atoms.info.update(copy.deepcopy(watched))
        # if anything fails below, no result of other atoms must be left behind for these
        self.results, self.additional_outputs, self.uncertainty = {}, {}, None
        wanted = self._wanted(properties, all(self.atoms.pbc))
        self._update_provider(self.atoms)
        try:
            self._compute(wanted)
        except NoGradientError:
            if set(properties) & {"forces", "stress"}:
                raise
            # nobody asked for them: they were to come along with the energy
            self._with_gradients = False
            self._compute(self._wanted(properties, all(self.atoms.pbc)))

    def _compute(self, wanted: Wanted) -> None:
        assert self.atoms is not None
        n_atoms, dtype = len(self.atoms), torch.float64
        device = self.loaded.device
        buffers = {
            "forces": torch.zeros((n_atoms, 3), dtype=dtype, device=device),
            "energy": torch.zeros(1, dtype=dtype, device=device),
            "virial": torch.zeros((3, 3), dtype=dtype, device=device),
            "energies": torch.zeros(n_atoms, dtype=dtype, device=device),
        }
        self.provider.compute(
            Step(
                positions=self._positions(self.atoms),
                cell=Cell.of(self.atoms.cell.array, self.atoms.pbc),
                energy=wanted.energy,
                forces=wanted.forces,
                virial=wanted.virial,
                energies=wanted.energies,
                inputs=quantities(self.atoms, self.loaded.requested_inputs),
            ),
            ForceBuffers(**buffers),
        ).synchronize()
        found = {n: t if getattr(wanted, n) else None for n, t in buffers.items()}
        self.results = ase_results(
            StructureResult(
                energy=None if found["energy"] is None else found["energy"][0],
                forces=found["forces"],
                virial=found["virial"],
                energies=found["energies"],
                uncertainty=None,
            ),
            self.atoms,
        )
        self._keep_extras(n_atoms)

    def _keep_extras(self, n_atoms: int) -> None:
        if n_atoms:
            self.additional_outputs = self.provider.results.extra
            uncertainty = self.provider.results.uncertainty
            if uncertainty is not None:
                to_ev = conversion_factor(self.loaded.energy_unit, "eV")
                self.uncertainty = as_array(uncertainty) * to_ev

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

    def _update_provider(self, atoms: ase.Atoms) -> None:
        # compared with what the provider was told, not with ASE's list of changes: that one is
        # empty when a calculation that failed is tried again
        pbc = tuple(bool(p) for p in atoms.pbc)
        numbers = np.array(atoms.numbers, dtype=np.int64)
        if self._numbers is None or not np.array_equal(numbers, self._numbers):
            self._numbers = self._pbc = None
            self.provider.set_atoms(Atoms(types=numbers))
            self._numbers = numbers
        if self._pbc != pbc:
            self.provider.set_pairs(self._search, Cell.of(atoms.cell.array, atoms.pbc))
            self._pbc = pbc

    def _positions(self, atoms: ase.Atoms) -> torch.Tensor:
        # float64 even where somebody put an array of integers in
        positions = np.require(atoms.positions, dtype=np.float64, requirements=["C", "W"])
        return torch.from_numpy(positions).to(self.loaded.device)

    # --- several structures at once ------------------------------------------------------------

    def evaluate(
        self,
        structures: ase.Atoms | Iterable[ase.Atoms],
        properties: str | Iterable[str] = ("energy", "forces", "stress"),
    ) -> list[dict[str, Any]]:
        """Evaluate the model on several structures at once.

        Those that are periodic in three directions, and the others, are each one evaluation.
        Additional outputs are not kept; see :meth:`run_model`.

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
        periodic = [all(s.pbc) for s in structures]
        merged: dict[int, dict[str, Any]] = {}
        for flag in (True, False):
            group = [k for k, p in enumerate(periodic) if p is flag]
            names = asked if flag else asked - {"stress"}
            if not group:
                continue
            wanted = self._wanted(names, flag) if names else Wanted(False, False)
            chosen = [structures[k] for k in group]
            inputs = [self._structure(s) for s in chosen]
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

    def compute_energy(
        self,
        atoms: ase.Atoms | Sequence[ase.Atoms],
        compute_forces_and_stresses: bool = False,
        *,
        per_atom: bool = False,
    ) -> dict[str, Any]:
        """Energies of one structure or several, as metatomic-ase's method of this name.

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
            self.provider, [self._structure(s) for s in structures], wanted
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
        return evaluate(
            self.loaded,
            OutputPlan(
                energy=None,
                energy_per_atom=False,
                extra=plan_extra(self.loaded.capabilities, model_outputs(outputs)),
            ),
            prepare(self.provider, [self._structure(s) for s in structures]),
            Wanted(energy=False, forces=False),
            selected=None if selected_atoms is None else selected_atoms.to(self.loaded.device),
            route=self.provider.route,
            check_consistency=bool(self.parameters["check_consistency"]),
        ).extra

    def _structure(self, atoms: ase.Atoms) -> Structure:
        return Structure(
            types=np.asarray(atoms.numbers, dtype=np.int64),
            positions=self._positions(atoms),
            cell=Cell.of(atoms.cell.array, atoms.pbc),
            inputs=quantities(atoms, self.loaded.requested_inputs),
        )


def _as_list(atoms: ase.Atoms | Iterable[ase.Atoms]) -> list[ase.Atoms]:
    return [atoms] if isinstance(atoms, ase.Atoms) else list(atoms)
