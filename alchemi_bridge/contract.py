"""The contract between an engine and whatever provides its forces.

Two clocks: :meth:`ForceProvider.set_atoms` and :meth:`ForceProvider.set_pairs` take what changes at
a pair search, :meth:`ForceProvider.compute` what changes in every step.

Conventions: pair vectors are ``r = positions[second] - positions[first] + shift @ cell``; positions
are never wrapped or moved by the provider, and shifts refer to the frame of the pair search; the
virial is dE/d(strain), symmetric, tensile positive (stress = virial / volume).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.device import DeviceBuffer, Event
from alchemi_bridge.errors import BufferAccessError, InputError, ProtocolError, ShapeError
from alchemi_bridge.model import Quantity
from alchemi_bridge.pairs import Pairs
from alchemi_bridge.units import Units

__all__ = [
    "Atoms",
    "Cell",
    "ForceBuffers",
    "ForceProvider",
    "PairRequest",
    "Quantity",
    "Requirements",
    "Step",
]


@dataclass(frozen=True)
class PairRequest:
    """One neighbour list that the model requests.

    Attributes
    ----------
    cutoff
        In the engine's length unit.
    full_list
        Both directions of every pair, or each pair once.
    strict
        Whether pairs beyond the cutoff are forbidden.
    """

    cutoff: float
    full_list: bool
    strict: bool


@dataclass(frozen=True)
class Requirements:
    """What a provider needs of an engine, and what it can give.

    Attributes
    ----------
    pair_range
        Distance up to which pair lists must be complete at every step, in the engine's length
        unit. A list with a skin reaches that much farther at the search.
    halo_range
        Distance within which atoms influence an atom's energy: how far ghost atoms must reach
        under domain decomposition. Infinite for long-range models.
    requests
        The model's own neighbour lists.
    dtype, device
        Float type in which the model computes, and the device on which buffers must be.
    units
        Units of everything that is handed over and back.
    atomic_types
        Atomic numbers that the model knows.
    outputs
        Names of the model's outputs.
    inputs
        Names of extra inputs that must be handed over, with their unit in the model.
    energies
        Whether the energy of each atom can be asked for.
    """

    pair_range: float
    halo_range: float
    requests: tuple[PairRequest, ...]
    dtype: torch.dtype
    device: torch.device
    units: Units
    atomic_types: frozenset[int]
    outputs: tuple[str, ...]
    inputs: Mapping[str, str]
    energies: bool


@dataclass(frozen=True, eq=False)
class Atoms:
    """The atoms of this rank; set again when they change.

    Attributes
    ----------
    types
        (n_atoms,) atomic numbers, int32 or int64, on the host or the provider's device.
    subset
        (n_subset,) indices of the atoms that the model sees, for a machine-learned region in a
        classical surrounding (ML/MM); ``None`` for all. Other atoms get no force.
    selected
        (n_selected,) indices of the atoms whose energy counts, for example the home atoms under
        domain decomposition; ``None`` for all. Others are neighbours only, but get forces.
    inputs
        Extra inputs that the model requests, by name; see :class:`Quantity`. Read in every step,
        so that they must stay what they are; those that change go into :class:`Step`.
    names
        (n_atoms,) int32 or int64: what warnings call the atoms, for example an engine's ids where
        its rows change; ``None`` for their indices.
    """

    types: Any
    subset: Any = None
    selected: Any = None
    inputs: Mapping[str, Quantity] = field(default_factory=dict)
    names: Any = None

    def __post_init__(self) -> None:
        require_inputs(self.inputs)


@dataclass(frozen=True, eq=False)
class Step:
    """One evaluation.

    Attributes
    ----------
    positions
        (n_atoms, 3) float32 or float64 in the engine's length unit: anything that
        :meth:`DeviceBuffer.of` reads, on the provider's device, with any strides. Read, never
        written, and not kept beyond the call.
    cell
        Cell of this step in the engine's length unit; ``None`` if it is that of the last
        :meth:`ForceProvider.set_pairs`.
    energy, forces, virial, energies, virials
        What is wanted; there must be a buffer for each. ``virials``, those of each atom, exist for
        models whose energy depends on the pair vectors alone.
    inputs
        Extra inputs of this step; they replace those of the same name in :class:`Atoms`.
    ready
        Event after which positions may be read; ``None`` if they may be read now.
    """

    positions: Any
    cell: Cell | None = None
    energy: bool = True
    forces: bool = True
    virial: bool = False
    energies: bool = False
    inputs: Mapping[str, Quantity] = field(default_factory=dict)
    ready: Event | None = None
    virials: bool = False

    def __post_init__(self) -> None:
        if self.cell is not None:
            require_cell(self.cell)
        require_inputs(self.inputs)


@dataclass(frozen=True, eq=False)
class ForceBuffers:
    """The engine's memory that results are **added** to; it stays the engine's.

    On a GPU it has to be there until the event of :meth:`ForceProvider.compute` is done.

    Each is anything that :meth:`DeviceBuffer.of` reads and may write, float32 or float64, on the
    provider's device, with any strides.

    Attributes
    ----------
    forces
        (n_atoms, 3), energy/length.
    energy
        (1,).
    virial
        (3, 3) dE/d(strain), energy.
    energies
        (n_atoms,).
    virials
        (n_atoms, 3, 3) share of each atom in dE/d(strain), energy. Every pair vector ``r`` with
        the gradient ``g = dE/dr`` gives ``r (x) g`` (rows belong to ``r``), half to either of its
        atoms, also to those that are not selected. Not symmetrised: the sum over the atoms is the
        virial before that. The sign is that of the virial, minus LAMMPS' ``vatom``. Other
        divisions have the same sum; for potentials of more than pairs none is better than another.
    """

    forces: Any = None
    energy: Any = None
    virial: Any = None
    energies: Any = None
    virials: Any = None

    def view(self, name: str, n_atoms: int, device: torch.device) -> torch.Tensor:
        """The named buffer as a writable tensor, checked."""
        source = getattr(self, name)
        if source is None:
            raise ProtocolError(
                f"buffer '{name}'",
                expected=f"memory to add the {name} to, since the step wants it",
                got="None",
                fix=f"pass ForceBuffers({name}=...), or Step({name}=False)",
            )
        shape = {
            "forces": (n_atoms, 3),
            "energy": (1,),
            "virial": (3, 3),
            "energies": (n_atoms,),
            "virials": (n_atoms, 3, 3),
        }[name]
        view = DeviceBuffer.of(source, f"buffer '{name}'").require(
            f"buffer '{name}'",
            shape=shape,
            dtypes=(torch.float32, torch.float64),
            device=device,
            writable=True,
        )
        if _overlaps_itself(view):
            raise BufferAccessError(
                f"buffer '{name}'",
                expected="elements that each have memory of their own",
                got=f"strides {tuple(view.stride())} for shape {tuple(view.shape)}",
                fix="hand over an array that is not expanded or broadcast",
            )
        return view


def _overlaps_itself(view: torch.Tensor) -> bool:
    """Whether two elements may share memory: sums into such a view would be wrong."""
    if view.numel() == 0:
        return False  # NumPy gives empty arrays strides of zero
    reached = 0  # offset of the last element of the axes with shorter strides
    for stride, extent in sorted(zip(view.stride(), view.shape, strict=True)):
        if extent > 1:
            if stride <= reached:
                return True
            reached += stride * (extent - 1)
    return False


def require_inputs(inputs: Any) -> None:
    """Raise :class:`InputError` unless ``inputs`` are quantities by name."""
    is_map = isinstance(inputs, Mapping)
    if not is_map or not all(isinstance(value, Quantity) for value in inputs.values()):
        raise InputError(
            "inputs",
            expected="Quantity objects by name",
            got="other values" if is_map else type(inputs).__name__,
            fix="pass inputs={'charge': Quantity(values, 'e')}",
        )


def require_cell(cell: Any) -> None:
    """Raise :class:`InputError` unless ``cell`` is a validated :class:`Cell`."""
    require_kind("cell", cell, Cell, "pass Cell.of(vectors, pbc), or Cell.open() for a molecule")


def require_kind(name: str, value: Any, kind: type, fix: str) -> None:
    """Raise :class:`InputError` unless ``value`` is of one of the contract's classes."""
    if not isinstance(value, kind):
        raise InputError(
            name,
            expected=f"an object of alchemi_bridge's {kind.__name__}",
            got=type(value).__name__,
            fix=fix,
        )


@runtime_checkable
class ForceProvider(Protocol):
    """Anything that computes forces for an engine."""

    @property
    def requirements(self) -> Requirements:
        """What the engine must hand over."""
        ...

    def set_atoms(self, atoms: Atoms) -> None:
        """Take the atoms of this rank; a pair list of earlier atoms becomes invalid.

        Types, subset and selection are copied; the arrays may be reused when the call returns. They
        must be ready on the current stream.
        """
        ...

    def set_pairs(self, pairs: Pairs, cell: Cell, ready: Event | None = None) -> None:
        """Take a new pair list.

        A list belongs to ``cell`` and to the positions of the next :meth:`compute`; the cell may
        be another one in that step already. ``ready`` is the event after which the arrays may be
        read; they may be reused when the call returns.
        """
        ...

    def compute(self, step: Step, out: ForceBuffers) -> Event:
        """Evaluate, add to ``out``, and return the event after which ``out`` may be read."""
        ...


def index_tensor(source: Any, name: str, n_atoms: int, device: torch.device) -> torch.Tensor:
    """Indices of atoms as an int64 tensor on ``device``, checked: in range, each once.

    Raises :class:`ShapeError` or :class:`DtypeError`.
    """
    tensor = DeviceBuffer.of(source, name).tensor
    if tensor.ndim != 1 or tensor.dtype not in (torch.int32, torch.int64):
        raise ShapeError(
            name,
            expected="a list of indices, (n,) int32 or int64",
            got=f"shape {tuple(tensor.shape)} of {tensor.dtype}",
            fix="pass numpy.flatnonzero(mask) for a mask",
        )
    index = tensor.to(device=device, dtype=torch.int64, copy=True)
    if len(index):
        counts_fit = len(torch.unique(index)) == len(index)
        if not counts_fit or int(index.min()) < 0 or int(index.max()) >= n_atoms:
            raise ShapeError(
                name,
                expected=f"distinct indices from 0 to {n_atoms - 1}",
                got="repeated indices" if not counts_fit else "indices out of range",
                fix="check the group of atoms",
            )
    return index
