"""Look into a DLPack capsule before torch takes it.

torch ignores the flag that says that memory is read-only, and ends the process on a negative stride
(its error is thrown where C++ allows none). The layout of the header is DLPack's stable ABI
(https://dmlc.github.io/dlpack/latest/c_api.html).
"""

from __future__ import annotations

import ctypes
from typing import Any

READ_ONLY = 1  # DLPACK_FLAG_BITMASK_READ_ONLY


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned. An older capsule's DLManagedTensor begins with its DLTensor."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class Inspected:
    """Stands between an exporter and ``torch.from_dlpack``.

    Parameters
    ----------
    source
        An object with ``__dlpack__`` and ``__dlpack_device__``.

    Attributes
    ----------
    read_only
        Whether the exporter said so; known after the export.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self.read_only = False

    def __dlpack_device__(self) -> Any:
        """Device type and number, from the exporter."""
        return self._source.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        """The exporter's capsule; :class:`BufferError` if a stride is negative."""
        capsule = self._source.__dlpack__(**options)
        if _is_valid(capsule, b"dltensor_versioned"):
            managed = _Versioned.from_address(_get_pointer(capsule, b"dltensor_versioned"))
            # only the header of version 1 is known
            self.read_only = managed.major == 1 and bool(managed.flags & READ_ONLY)
            tensor = managed.tensor
        elif _is_valid(capsule, b"dltensor"):
            tensor = _Tensor.from_address(_get_pointer(capsule, b"dltensor"))
        else:
            return capsule  # torch says what is wrong with it
        shape = tensor.shape[: tensor.ndim] if tensor.shape else []
        if not tensor.data and 0 not in shape:
            raise BufferError("a null pointer")
        strides = tensor.strides[: tensor.ndim] if tensor.strides else []
        if any(stride < 0 for stride in strides):
            raise BufferError(f"negative strides {strides}")
        return capsule
