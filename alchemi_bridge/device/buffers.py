"""Views of memory that belongs to an engine, as torch tensors, without a copy.

Sources: torch tensors, NumPy and CuPy arrays, anything that speaks DLPack
(https://dmlc.github.io/dlpack/latest/python_spec.html) or the CUDA Array Interface
(https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html), and raw pointers.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from alchemi_bridge.device.dlpack import Inspected
from alchemi_bridge.device.select import cuda_devices
from alchemi_bridge.errors import (
    BufferAccessError,
    DeviceMismatchError,
    DtypeError,
    ShapeError,
    first_line,
)

#: dtypes that a buffer may hold, with NumPy's type string of each
TYPESTR = {
    torch.float32: "<f4",
    torch.float64: "<f8",
    torch.int32: "<i4",
    torch.int64: "<i8",
    torch.bool: "|b1",
}


class DeviceBuffer:
    """A typed, strided view of memory on one device.

    The view never copies and never owns: it keeps a reference to the object that does, and is valid
    as long as that object keeps its memory where it is.

    Parameters
    ----------
    tensor
        The view itself. Any shape and strides, on any device.
    owner
        Object that keeps the memory alive, held by the buffer; ``None`` where the caller promises
        to keep it alive.
    writable
        Whether the bridge may add to the memory.
    """

    __slots__ = ("owner", "tensor", "writable")

    def __init__(self, tensor: torch.Tensor, owner: Any = None, writable: bool = True) -> None:
        self.tensor = tensor
        self.owner = owner
        self.writable = writable

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the view."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the elements."""
        return self.tensor.dtype

    @property
    def device(self) -> torch.device:
        """Device that holds the memory, with its index."""
        return self.tensor.device

    @classmethod
    def of(cls, source: Any, name: str = "buffer") -> DeviceBuffer:
        """View ``source`` where it is.

        Parameters
        ----------
        source
            A :class:`DeviceBuffer`, torch tensor, NumPy array, or an object with
            ``__cuda_array_interface__`` or ``__dlpack__``.
        name
            What to call it in errors.

        Raises
        ------
        DtypeError
            If the element type is not float32, float64, int32, int64 or bool, or ``source`` is
            no array at all.
        BufferAccessError
            If strides are negative or unaligned (torch can not view those), or the object's export
            fails.
        DeviceMismatchError
            If it is CUDA memory, and torch sees no such device.
        """
        if isinstance(source, DeviceBuffer):
            return source
        if isinstance(source, torch.Tensor):
            return cls(_checked(source.detach(), name), owner=source)
        if isinstance(source, np.ndarray):
            return cls._of_numpy(source, name)
        if hasattr(source, "__cuda_array_interface__"):
            return cls._of_cuda_array(source, name)
        if hasattr(source, "__dlpack__"):
            return cls._of_dlpack(source, name)
        raise DtypeError(
            name,
            expected="a torch tensor, NumPy array, DLPack or CUDA-array object, or a DeviceBuffer",
            got=type(source).__name__,
            fix="convert it with numpy.asarray, or use DeviceBuffer.from_pointer for raw memory",
        )

    @classmethod
    def _of_numpy(cls, array: np.ndarray, name: str) -> DeviceBuffer:
        if array.dtype.newbyteorder("=").str not in TYPESTR.values() or not array.dtype.isnative:
            raise _dtype_error(name, str(array.dtype))
        strides_fit = all(s >= 0 and s % array.itemsize == 0 for s in array.strides)
        if not strides_fit or not array.flags.aligned:
            raise BufferAccessError(
                name,
                expected="an aligned array with strides of zero or more whole elements",
                got=f"strides {array.strides} for itemsize {array.itemsize}",
                fix="hand over numpy.ascontiguousarray(...) of it",
            )
        writable = bool(array.flags.writeable)
        if not writable:
            # torch warns about read-only memory because it can not forbid writes; the bridge can,
            # through `writable`, and views the memory by its address instead
            view = cls.from_pointer(
                array.__array_interface__["data"][0],
                array.shape,
                _torch_dtype(array.dtype),
                strides=[s // array.itemsize for s in array.strides],
                owner=array,
                name=name,
            )
            view.writable = False
            return view
        return cls(torch.from_numpy(array), owner=array)

    @classmethod
    def _of_dlpack(cls, source: Any, name: str) -> DeviceBuffer:
        inspected = Inspected(source)
        try:
            tensor = torch.from_dlpack(inspected)
        # exporters may raise what they like; a torch without CUDA asserts
        except (
            AssertionError,
            AttributeError,
            BufferError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise BufferAccessError(
                name,
                expected="an array whose DLPack export torch can read",
                got=f"{type(source).__name__}: {first_line(error)}",
                fix="hand over a contiguous array on a device that torch sees",
            ) from error
        return cls(_checked(tensor, name), owner=source, writable=not inspected.read_only)

    @classmethod
    def _of_cuda_array(cls, source: Any, name: str) -> DeviceBuffer:
        try:
            interface = source.__cuda_array_interface__
            pointer, read_only = interface["data"]
            n_elements, typestr = math.prod(interface["shape"]), interface["typestr"]
            stream, mask = interface.get("stream"), interface.get("mask")
            backwards = any(stride < 0 for stride in interface.get("strides") or ())
        except (KeyError, TypeError, ValueError) as error:
            raise BufferAccessError(
                name,
                expected="a CUDA Array Interface with data, shape and typestr",
                got=f"{type(source).__name__}: {error!r}",
                fix="hand over a CuPy, Numba or torch array",
            ) from error
        if not pointer and n_elements > 0:
            raise _null_pointer(name)
        if typestr not in TYPESTR.values():
            raise _dtype_error(name, typestr)
        if backwards:
            raise BufferAccessError(
                name,
                expected="strides that are not negative",
                got=f"strides of {interface['strides']} bytes",
                fix="hand over a contiguous copy",
            )
        if mask is not None or stream == 0:
            raise BufferAccessError(
                name,
                expected="an array without a mask, on a stream that is named as the interface says",
                got="a masked array" if mask is not None else "stream 0, which names none",
                fix="hand over a plain array",
            )
        _require_device(torch.device("cuda"), name)
        try:
            # torch refuses read-only memory, as it can not forbid writes; the bridge can
            shown = _CudaMemory({**interface, "data": (pointer, False)}, source)
            tensor = torch.as_tensor(shown, device="cuda")
            _wait_for(stream, tensor.device)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise BufferAccessError(
                name,
                expected="memory of a CUDA device that this process can use",
                got=first_line(error),
                fix="check that torch sees the device (alchemi-bridge doctor)",
            ) from error
        if tensor.data_ptr() != pointer and tensor.numel() > 0:
            raise BufferAccessError(
                name,
                expected="a view without a copy",
                got="memory on another device than torch's current one",
                fix="make the buffer's device current before handing it over",
            )
        _require_aligned(pointer, tensor, name)
        return cls(tensor, owner=(shown, source), writable=not read_only)

    @classmethod
    def from_pointer(
        cls,
        address: int,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        strides: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
        owner: Any = None,
        name: str = "buffer",
    ) -> DeviceBuffer:
        """View raw memory.

        Parameters
        ----------
        address
            Address of element ``[0, ..., 0]``, aligned to the element size.
        shape
            Extents of the view.
        dtype
            torch dtype of the elements.
        strides
            Distance between neighbouring elements along each axis, in elements; C order if not
            given. Positions kept as float4 are ``shape=(n, 3), strides=(4, 1)``.
        device
            Device that holds the memory.
        owner
            Object to keep alive with the view.
        name
            What to call it in errors.

        Raises
        ------
        BufferAccessError
            Null or misaligned address, negative strides.
        ShapeError
            Negative extents, or strides of another rank than the shape.
        DtypeError
            An element type that the bridge does not read.
        DeviceMismatchError
            A device that is not there, or neither the CPU nor CUDA.
        """
        if dtype not in TYPESTR:
            raise _dtype_error(name, str(dtype))
        shape, itemsize, device = tuple(shape), dtype.itemsize, _require_device(device, name)
        if strides is None:
            strides = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
        if any(n < 0 for n in shape) or len(strides) != len(shape):
            raise ShapeError(
                name,
                expected="non-negative extents and one stride for each",
                got=f"shape {shape}, strides {tuple(strides)}",
                fix="correct the description of the memory",
            )
        if math.prod(shape) == 0:
            return cls(torch.empty(shape, dtype=dtype, device=device), owner=owner)
        if not address:
            raise _null_pointer(name)
        if address % itemsize or any(s < 0 for s in strides):
            raise BufferAccessError(
                name,
                expected=f"an address aligned to {itemsize} bytes, and no negative strides",
                got=f"address {address:#x}, strides {tuple(strides)}",
                fix="hand over the address of the first element",
            )
        if device.type == "cpu":
            extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
            memory = (ctypes.c_char * (extent * itemsize)).from_address(address)
            flat = torch.frombuffer(memory, dtype=dtype)
            return cls(flat.as_strided(shape, tuple(strides)), owner=(memory, owner))
        return cls._of_cuda_pointer(address, shape, dtype, tuple(strides), device, owner, name)

    @classmethod
    def _of_cuda_pointer(
        cls,
        address: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        strides: tuple[int, ...],
        device: torch.device,
        owner: Any,
        name: str,
    ) -> DeviceBuffer:
        interface = {
            "shape": shape,
            "typestr": TYPESTR[dtype],
            "data": (address, False),
            "strides": tuple(s * dtype.itemsize for s in strides),
            "version": 3,
        }
        try:
            with torch.cuda.device(device):
                return cls._of_cuda_array(_CudaMemory(interface, owner), name)
        except AssertionError as error:  # torch's own, where CUDA can not be initialised
            raise _no_device(name, str(device)) from error

    def require(
        self,
        name: str,
        *,
        shape: tuple[int | None, ...],
        dtypes: Sequence[torch.dtype],
        device: torch.device,
        writable: bool = False,
    ) -> torch.Tensor:
        """Return the view after checking that it is what a stage needs.

        ``None`` in ``shape`` stands for any extent. Raises :class:`ShapeError`,
        :class:`DtypeError`, :class:`DeviceMismatchError` or :class:`BufferAccessError`.
        """
        extents = ", ".join("any" if n is None else str(n) for n in shape)
        wanted = f"({extents}{',' * (len(shape) == 1)})"
        fits = len(shape) == len(self.shape) and all(
            n is None or n == m for n, m in zip(shape, self.shape, strict=True)
        )
        if not fits:
            raise ShapeError(
                name,
                expected=f"shape {wanted}",
                got=f"shape {self.shape}",
                fix="hand over an array of this shape; n_atoms is what was set with set_atoms",
            )
        if self.dtype not in dtypes:
            raise DtypeError(
                name,
                expected=" or ".join(str(d).removeprefix("torch.") for d in dtypes),
                got=str(self.dtype).removeprefix("torch."),
                fix="convert the array before handing it over",
            )
        if self.device != device:
            raise DeviceMismatchError(
                name,
                expected=f"memory on {device}, where the provider is",
                got=f"memory on {self.device}",
                fix=f"pass device='{self.device}' to the provider, or copy the data",
            )
        if writable and not self.writable:
            raise BufferAccessError(
                name,
                expected="memory that can be written",
                got="a read-only array",
                fix="hand over a writable array",
            )
        return self.tensor


class _CudaMemory:
    """An object with a CUDA Array Interface of our own, which keeps the owner of the memory."""

    def __init__(self, interface: dict[str, Any], owner: Any) -> None:
        self.__cuda_array_interface__ = interface
        self.owner = owner


def _wait_for(stream: int | None, device: torch.device) -> None:
    """Let the current stream wait for the one on which an array is made (interface, version 3).

    torch does not read this field, so that unfinished data would be seen without an error.
    """
    if stream is None:
        return
    # 1 is the legacy default stream, 2 the one of each thread; all else are handles
    made_on = (
        torch.cuda.default_stream(device)
        if stream == 1
        else torch.cuda.ExternalStream(stream, device=device)
    )
    here = torch.cuda.current_stream(device)
    if made_on != here:
        here.wait_stream(made_on)


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return next(t for t, s in TYPESTR.items() if s == dtype.str)


def _checked(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.dtype not in TYPESTR:
        raise _dtype_error(name, str(tensor.dtype))
    if tensor.layout != torch.strided:
        raise BufferAccessError(
            name,
            expected="a dense tensor",
            got=f"layout {str(tensor.layout).removeprefix('torch.')}",
            fix="call to_dense() on it before handing it over",
        )
    _require_aligned(tensor.data_ptr(), tensor, name)
    return tensor


def _require_aligned(address: int, tensor: torch.Tensor, name: str) -> None:
    if tensor.numel() > 0 and address % tensor.element_size():
        raise BufferAccessError(
            name,
            expected=f"an address that is a multiple of {tensor.element_size()} bytes",
            got=f"{address:#x}",
            fix="hand over a copy",
        )


def _require_device(device: torch.device | str, name: str) -> torch.device:
    """The device, if this process can use memory there."""
    try:
        device = torch.device(device)
        if device.type == "cpu":
            return device
        if device.type == "cuda" and 0 <= (device.index or 0) < cuda_devices():
            return device
    except (RuntimeError, TypeError, AssertionError) as error:
        raise _no_device(name, repr(device)) from error
    raise _no_device(name, str(device))


def _no_device(name: str, got: str) -> DeviceMismatchError:
    return DeviceMismatchError(
        name,
        expected=f"memory of the CPU or of one of {cuda_devices()} CUDA devices",
        got=f"memory of {got}",
        fix="check with 'alchemi-bridge doctor' which devices torch sees",
    )


def _dtype_error(name: str, got: str) -> DtypeError:
    return DtypeError(
        name,
        expected="float32, float64, int32, int64 or bool elements in native byte order",
        got=got,
        fix="convert the array before handing it over",
    )


def _null_pointer(name: str) -> BufferAccessError:
    return BufferAccessError(
        name,
        expected="the address of the first element",
        got="a null pointer",
        fix="allocate the memory before handing it over",
    )
