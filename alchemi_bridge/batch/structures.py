"""Several structures in one evaluation of the model, with a pair search for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from metatensor.torch import TensorMap

from alchemi_bridge.atoms import read_types
from alchemi_bridge.batch.cells import Cells
from alchemi_bridge.batch.finite import require_finite_systems
from alchemi_bridge.batch.geometry import BatchGeometry
from alchemi_bridge.batch.naming import of_system
from alchemi_bridge.batch.systems import Systems
from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import Quantity, require_cell, require_inputs
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.model import LoadedModel, Route, Wanted, evaluate
from alchemi_bridge.model.inputs import build_inputs
from alchemi_bridge.model.joined import JoinedInput
from alchemi_bridge.model.outputs import OutputPlan
from alchemi_bridge.provider import FLOATS, own_autograd_mode
from alchemi_bridge.units import Units, conversion_factor


class ModelRunner(Protocol):
    """What of a provider says how its model is run."""

    units: Units
    check_consistency: bool

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        ...

    @property
    def plan(self) -> OutputPlan:
        """Which of its outputs are used."""
        ...

    @property
    def route(self) -> Route:
        """How gradients are taken."""
        ...


@dataclass(frozen=True, eq=False)
class Structure:
    """One system, in the provider's units.

    Attributes
    ----------
    types
        (n_atoms,) atomic numbers.
    positions
        (n_atoms, 3) float32 or float64, on the provider's device.
    cell
        Its cell.
    inputs
        Extra inputs that the model requests.
    """

    types: Any
    positions: Any
    cell: Cell
    inputs: Mapping[str, Quantity] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class StructureResult:
    """Results of one system in the provider's units, float64, on the provider's device.

    Attributes
    ----------
    energy
        Scalar tensor. ``None``, here and below, for what was not wanted or the model lacks.
    forces
        (n_atoms, 3).
    virial
        (3, 3) dE/d(strain), symmetric, tensile positive; an energy.
    energies, uncertainty
        (n_atoms,) energy of each atom, and its uncertainty.
    virials
        (n_atoms, 3, 3) share of each atom in the virial, not symmetrised.
    """

    energy: torch.Tensor | None
    forces: torch.Tensor | None
    virial: torch.Tensor | None
    energies: torch.Tensor | None
    uncertainty: torch.Tensor | None
    virials: torch.Tensor | None = None


@own_autograd_mode
def evaluate_structures(
    provider: ModelRunner,
    structures: Sequence[Structure],
    wanted: Wanted,
    *,
    numbers: Sequence[int] | None = None,
) -> tuple[list[StructureResult], dict[str, TensorMap]]:
    """Evaluate the model once on all structures.

    Independent of the atoms and pairs that were set on the provider.

    Parameters
    ----------
    provider
        Model, units and options.
    structures
        At least one atom in each.
    wanted
        What to compute.
    numbers
        How errors count the structures; from zero by default.

    Returns
    -------
    results
        One per structure, in order.
    extra
        The provider's extra outputs, for all structures together (samples name the system).

    Raises
    ------
    BridgeError
        What :meth:`MetatomicForceProvider.compute` raises; the first system at fault stops all.
    """
    if not structures:
        return [], {}
    loaded = provider.loaded
    systems = prepare(provider, structures, numbers)
    evaluation = evaluate(
        loaded,
        provider.plan,
        systems,
        wanted,
        route=provider.route,
        check_consistency=provider.check_consistency,
    )
    sizes = systems.sizes
    require_finite_systems(evaluation, sizes, numbers)
    energy = conversion_factor(loaded.energy_unit, provider.units.energy)
    length = conversion_factor(provider.units.length, loaded.length_unit)
    results = [
        StructureResult(*row)
        for row in zip(
            _each(evaluation.energy, None, energy, len(systems)),
            _each(evaluation.forces, sizes, energy * length, len(systems)),
            _each(evaluation.virial, None, energy, len(systems)),
            _each(evaluation.energies, sizes, energy, len(systems)),
            _each(evaluation.uncertainty, sizes, energy, len(systems)),
            _each(evaluation.virials, sizes, energy, len(systems)),
            strict=True,
        )
    ]
    return results, evaluation.extra


@own_autograd_mode
def prepare(
    provider: ModelRunner,
    structures: Sequence[Structure],
    numbers: Sequence[int] | None = None,
) -> JoinedInput:
    """Search pairs and build the inputs of the model; ``numbers`` name structures in errors."""
    loaded = provider.loaded
    length = conversion_factor(provider.units.length, loaded.length_unit)
    counted = list(range(len(structures)) if numbers is None else numbers)
    types, positions, inputs = [], [], []
    for number, structure in zip(counted, structures, strict=True):
        mine = read_types(structure.types, loaded.device)
        name = f"positions of system {number}"
        positions.append(
            DeviceBuffer.of(structure.positions, name).require(
                name, shape=(len(mine), 3), dtypes=FLOATS, device=loaded.device
            )
        )
        require_cell(structure.cell)
        require_inputs(structure.inputs)
        with of_system(number):
            inputs.append(
                build_inputs(
                    loaded.requested_inputs,
                    structure.inputs,
                    n_atoms=len(mine),
                    subset=None,
                    dtype=loaded.dtype,
                    device=loaded.device,
                )
            )
        types.append(mine)
    systems = Systems(
        types=torch.cat(types),
        positions=torch.cat(positions),
        cells=Cells.stacked([structure.cell for structure in structures]),
        sizes=[len(mine) for mine in types],
        inputs=inputs if loaded.requested_inputs else (),
        numbers=counted,
    )
    return BatchGeometry(loaded, length=length, skin=0.0).step(systems)


def _each(
    values: torch.Tensor | None, sizes: list[int] | None, factor: float, count: int
) -> list[torch.Tensor | None]:
    """Rows of each system; ``sizes`` is ``None`` for quantities of whole systems."""
    if values is None:
        return [None] * count
    scaled = values.double() * factor
    return list(scaled.unbind(0) if sizes is None else scaled.split(sizes))
