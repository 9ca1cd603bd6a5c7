"""Extra data that a model requests: charges, masses, velocities, ..."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelOutput

from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import (
    MissingInputError,
    NonFiniteError,
    ShapeError,
    UnitError,
)
from alchemi_bridge.units import conversion_factor

#: Names that metatomic gives to the property axis of quantities whose name is another one.
PROPERTY_NAMES = {
    "ase::initial_magmoms": "magnetic_moment",
    "ase::initial_charges": "charge",
    "ase::tags": "tag",
}


@dataclass(frozen=True, eq=False)
class Quantity:
    """Values of an extra input, with their unit.

    Attributes
    ----------
    values
        (n_atoms,) or (n_atoms, 3) for an input per atom, a scalar or (1,) for one per system; any
        array, converted to the model's dtype and device.
    unit
        Unit of the values; metatomic converts it to the unit that the model asked for. Empty for
        numbers without a dimension.
    """

    values: Any
    unit: str = ""


def build_inputs(
    requested: Mapping[str, ModelOutput],
    given: Mapping[str, Quantity],
    *,
    n_atoms: int,
    subset: torch.Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, TensorMap]:
    """Tensor maps for all requested inputs.

    Parameters
    ----------
    requested
        The model's requests by current name.
    given
        What the engine hands over, by the same names.
    n_atoms
        Number of atoms of the engine.
    subset
        Rows that belong to the atoms that the model sees; ``None`` for all.
    dtype, device
        Of the system that they will be added to.

    Raises
    ------
    MissingInputError
        If a requested input was not handed over.
    ShapeError, DtypeError, NonFiniteError, UnitError
        If its values or their unit do not fit.
    """
    maps = {}
    for name, request in requested.items():
        quantity = require_given(name, request, given)
        _check_unit(name, quantity, request.unit)
        values = read_values(name, request.sample_kind, quantity.values, n_atoms)
        values = values.to(dtype=dtype, device=device, copy=True)  # the model's own memory
        if not bool(torch.isfinite(values).all()):
            raise NonFiniteError(
                f"input '{name}'",
                expected="finite values",
                got="NaN or infinite values",
                fix="check where the engine takes them from",
            )
        if subset is not None and request.sample_kind == "atom":
            values = values[subset]
        maps[name] = _tensor_map(name, request.sample_kind, values, quantity.unit)
    return maps


def _check_unit(name: str, quantity: Quantity, unit: str) -> None:
    if not isinstance(quantity.unit, str):
        raise UnitError(
            f"unit of input '{name}'",
            expected="a unit expression, or '' for none",
            got=repr(quantity.unit),
            fix="pass Quantity(values, unit)",
        )
    if quantity.unit and unit:
        conversion_factor(quantity.unit, unit)  # metatomic converts, but says less about errors


def require_given(name: str, request: ModelOutput, given: Mapping[str, Quantity]) -> Quantity:
    """The quantity of this name, or :class:`MissingInputError`."""
    if name in given:
        return given[name]
    raise MissingInputError(
        f"input '{name}'",
        expected=f"values per {request.sample_kind}, since the model requests them"
        + (f" (in {request.unit})" if request.unit else ""),
        got=f"only {sorted(given)}" if given else "no extra inputs",
        fix=f"hand over inputs={{'{name}': Quantity(values, unit)}}",
    )


def read_values(name: str, sample_kind: str, values: Any, n_atoms: int) -> torch.Tensor:
    """Values of an input as a tensor of the shape that its kind has, or :class:`ShapeError`."""
    if isinstance(values, (int, float)):
        # an integer beyond the range of floats is as infinite as one that is
        number = float(values) if abs(values) < 2**1023 else math.inf
        values = torch.tensor(number, dtype=torch.float64)
    tensor = DeviceBuffer.of(values, f"input '{name}'").tensor
    shape = tuple(tensor.shape)
    if sample_kind == "atom" and shape in ((n_atoms,), (n_atoms, 3)):
        return tensor
    if sample_kind == "system" and shape in ((), (1,), (3,), (1, 3)):
        return tensor.reshape((1, 3) if tensor.numel() == 3 else (1,))
    raise ShapeError(
        f"input '{name}'",
        expected=f"shape ({n_atoms},) or ({n_atoms}, 3)"
        if sample_kind == "atom"
        else "one number or one vector for the system",
        got=f"shape {shape}",
        fix=f"the model requests this input per {sample_kind}",
    )


def _tensor_map(name: str, sample_kind: str, values: torch.Tensor, unit: str) -> TensorMap:
    device = values.device
    n_samples = len(values)
    zeros = torch.zeros((n_samples, 1), dtype=torch.int32, device=device)
    if sample_kind == "atom":
        index = torch.arange(n_samples, dtype=torch.int32, device=device)[:, None]
        samples = Labels(["system", "atom"], torch.cat([zeros, index], dim=1), assume_unique=True)
    else:
        samples = Labels(["system"], zeros, assume_unique=True)
    components = []
    if values.ndim == 2:
        xyz = torch.arange(3, dtype=torch.int32, device=device)[:, None]
        components.append(Labels(["xyz"], xyz))
    single = torch.zeros((1, 1), dtype=torch.int32, device=device)
    block = TensorBlock(
        values=values.unsqueeze(-1),
        samples=samples,
        components=components,
        properties=Labels([_property_name(name)], single),
    )
    tensor_map = TensorMap(Labels(["_"], single), [block])
    tensor_map.set_info("unit", unit)
    return tensor_map


def _property_name(name: str) -> str:
    if name in PROPERTY_NAMES:
        return PROPERTY_NAMES[name]
    return "_" if "::" in name else name.split("/")[0]
