"""Memory that a C caller describes, as tensors, where it is."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface.reading import count_of, text
from alchemi_bridge.errors import DtypeError, InputError, ProtocolError, ShapeError
from alchemi_bridge.model import Quantity


class Views:
    """Views of a caller's arrays; one that is described as it was the last time is used again.

    That saves more than half of what the interface costs in a step: an engine's arrays rarely move.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[bytes, DeviceBuffer]] = {}
        self._cell: tuple[bytes, Cell] | None = None

    def of(self, array: structs.Array, name: str) -> DeviceBuffer | None:
        """View an array, ``None`` if it is not given."""
        if array.dtype == 0:
            if array.data is None:
                return None
            raise DtypeError(
                name,
                expected="the type of its elements (ab_dtype)",
                got="AB_ABSENT with an address",
                fix="set dtype, or zero the whole structure",
            )
        description = bytes(array)
        known = self._known.get(name)
        if known is not None and known[0] == description:
            return known[1]
        view = _view(array, name)
        self._known[name] = (description, view)
        return view

    def required(self, array: structs.Array, name: str) -> DeviceBuffer:
        """The same for one that has to be there."""
        view = self.of(array, name)
        if view is None:
            raise ProtocolError(
                name, expected="an array", got="none", fix="fill in its ab_array structure"
            )
        return view

    def cell(self, source: structs.Step | structs.Pairs) -> Cell:
        """The cell of a step or a list; the same object as long as it is the same cell."""
        description = bytes(source.cell) + bytes(source.periodic)
        if self._cell is not None and self._cell[0] == description:
            return self._cell[1]
        vectors = torch.tensor(list(source.cell), dtype=torch.float64).reshape(3, 3)
        cell = Cell.of(vectors, tuple(bool(flag) for flag in source.periodic))
        self._cell = (description, cell)
        return cell


def _view(array: structs.Array, name: str) -> DeviceBuffer:
    dtype = structs.DTYPES.get(array.dtype)
    if dtype is None:
        raise DtypeError(
            name,
            expected=f"ab_dtype from 1 to {len(structs.DTYPES)}",
            got=str(array.dtype),
            fix="correct dtype",
        )
    if not 1 <= array.ndim <= 3 or array.memory not in (structs.HOST, structs.CUDA):
        raise ShapeError(
            name,
            expected="ndim from 1 to 3, memory AB_HOST or AB_CUDA",
            got=f"ndim {array.ndim}, memory {array.memory}",
            fix="fill in the whole ab_array structure",
        )
    device = "cpu" if array.memory == structs.HOST else f"cuda:{array.device}"
    return DeviceBuffer.from_pointer(
        array.data or 0,
        tuple(array.extent[: array.ndim]),
        dtype,
        strides=tuple(array.stride[: array.ndim]),
        device=device,
        name=name,
    )


def quantities(inputs: Any, count: int, device: torch.device) -> dict[str, Quantity]:
    """Copies of ``count`` extra inputs by name, on the provider's device."""
    found: dict[str, Quantity] = {}
    for k in range(count_of(inputs, count, "inputs")):
        item = inputs[k]
        name = text(item.name, f"name of inputs[{k}]")
        if name in found:
            raise InputError(
                f"input '{name}'", expected="each input once", got="it twice", fix="drop one"
            )
        view = _view(item.values, f"input '{name}'")
        unit = text(item.unit, f"unit of input '{name}'", "")
        found[name] = Quantity(view.tensor.to(device, copy=True), unit)
    return found


def is_staged(view: DeviceBuffer, device: torch.device) -> bool:
    """Whether it is host memory, and the provider elsewhere.

    Memory of another GPU is not copied: nothing says when it may be read. The provider refuses it.
    """
    return view.device != device and view.device.type == "cpu"


def moved(view: DeviceBuffer | None, device: torch.device) -> Any:
    """A copy on the device of what is in host memory; what else is there as it is."""
    if view is None or not is_staged(view, device):
        return view
    return view.tensor.to(device)


def array_of(tensor: torch.Tensor) -> structs.Array:
    """Description of a tensor's memory, for callers in Python; the tensor has to be kept."""
    ndim = tensor.ndim
    return structs.Array(
        data=tensor.data_ptr(),
        extent=(ctypes.c_int64 * 3)(*tensor.shape),
        stride=(ctypes.c_int64 * 3)(*tensor.stride()),
        dtype=structs.NUMBER_OF_DTYPE[tensor.dtype],
        ndim=ndim,
        memory=structs.CUDA if tensor.device.type == "cuda" else structs.HOST,
        device=tensor.device.index or 0,
    )
