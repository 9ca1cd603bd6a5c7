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
    all_changes,
)
from metatensor.torch import TensorMap
from metatomic.torch import AtomisticModel, ModelMetadata

from alchemi_bridge.batch import StructureResult
from alchemi_bridge.contract import Atoms, Cell, ForceBuffers, Step
from alchemi_bridge.domain.leading import AnyProvider, LedForceProvider, provider_for
from alchemi_bridge.engines.ase_batch import ManyStructures, positions_of
from alchemi_bridge.engines.ase_inputs import quantities, watched_arrays, watched_info
from alchemi_bridge.engines.ase_values import (
    as_array,
    ase_results,
    model_outputs,
    plain_outputs,
    properties_of,
    same_values,
)
from alchemi_bridge.errors import (
    ConfigurationError,
    ProtocolError,
)
from alchemi_bridge.model import NoGradientError, Wanted
from alchemi_bridge.model.outputs import NonConservative
from alchemi_bridge.pairs import Search
from alchemi_bridge.units import conversion_factor


class BridgeCalculator(ManyStructures, Calculator):
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
    comm
        Ranks that evaluate the model together, each of which has all atoms and calls this
        calculator with the same ones: an mpi4py communicator, ``"auto"`` for all that were started
        with this process (``mpiexec -n 4 python script.py``), ``None`` for this rank alone.

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
        neighbor_skin: float = 1.0,
        sha256: str | None = None,
        comm: Any = "auto",
    ) -> None:
        super().__init__()
        extra = model_outputs(additional_outputs)
        directory = None if extensions_directory is None else str(extensions_directory)
        self.provider: AnyProvider = provider_for(
            model,
            comm,
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
        self._cell: tuple[np.ndarray, Cell] | None = None
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
        self._comm = comm

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
        if isinstance(self.provider, LedForceProvider):
            keywords["model"] = self.loaded.path  # the other ranks load it anew
        else:
            # these belong to loading, which is done
            keywords.update(extensions_directory=None, sha256=None, device=None)
        keywords["comm"] = self._comm
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
        # Differences of absurd coordinates overflow; they have changed all the same.
        with np.errstate(over="ignore", invalid="ignore"):
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
                positions=positions_of(self.atoms, self.loaded.device),
                cell=self._cell_of(self.atoms),
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

    def _cell_of(self, atoms: ase.Atoms) -> Cell:
        """The validated cell; the same object as long as nothing changes."""
        numbers = np.append(atoms.cell.array.ravel(), atoms.pbc)
        if self._cell is None or not np.array_equal(self._cell[0], numbers):
            self._cell = (numbers, Cell.of(atoms.cell.array, atoms.pbc))
        return self._cell[1]

    def _keep_extras(self, n_atoms: int) -> None:
        if n_atoms:
            self.additional_outputs = self.provider.results.extra
            uncertainty = self.provider.results.uncertainty
            if uncertainty is not None:
                to_ev = conversion_factor(self.loaded.energy_unit, "eV")
                self.uncertainty = as_array(uncertainty) * to_ev

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
            self.provider.set_pairs(self._search, self._cell_of(atoms))
            self._pbc = pbc
