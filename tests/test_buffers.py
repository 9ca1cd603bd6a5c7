"""Views of an engine's memory: no copy, typed errors, and nothing that dies too early."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from alchemi_bridge.device import DeviceBuffer, Event, dlpack, select_device
from alchemi_bridge.errors import (
    BridgeError,
    BufferAccessError,
    DeviceMismatchError,
    DtypeError,
    ShapeError,
)

CPU = torch.device("cpu")
FLOATS = (torch.float32, torch.float64)

NUMPY_DTYPES = {
    np.float32: torch.float32,
    np.float64: torch.float64,
    np.int32: torch.int32,
    np.int64: torch.int64,
    np.bool_: torch.bool,
}

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def refused(kind: type[BridgeError], call: Callable[[], object]) -> BridgeError:
    """The error that ``call`` raises, after a check that it says all that it should."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    for part in (caught.value.what, caught.value.expected, caught.value.got, caught.value.fix):
        assert part
        assert part in str(caught.value)
    return caught.value


def numbers(dtype: Any = np.float64) -> np.ndarray:
    """(4, 3), the k-th element is k."""
    return np.arange(12).reshape(4, 3).astype(dtype)


def require_same_memory(buffer: DeviceBuffer, array: np.ndarray) -> None:
    """What is written through the view is seen in the array, and the other way round."""
    assert buffer.tensor.data_ptr() == array.__array_interface__["data"][0]
    np.testing.assert_array_equal(buffer.tensor.numpy(), array)
    buffer.tensor[1, 2] = 77
    assert array[1, 2] == 77
    array[2, 0] = -5
    assert buffer.tensor[2, 0] == -5


class DLPack:
    """The least that an array of a foreign library offers."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] | None = None) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device or self.array.__dlpack_device__()


class OldDLPack(DLPack):
    """An exporter of DLPack before version 1."""

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.array.__dlpack__(stream=stream)


class CudaArray:
    """Pretends to hold memory of a CUDA device."""

    def __init__(self, **changes: Any) -> None:
        interface = {
            "shape": (4, 3),
            "typestr": "<f8",
            "data": (4096, False),
            "strides": None,
            "version": 3,
            **changes,
        }
        self.__cuda_array_interface__ = {k: v for k, v in interface.items() if v != "left out"}


# --- NumPy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_numpy(dtype: type) -> None:
    array = numbers(dtype)
    buffer = DeviceBuffer.of(array)
    assert (buffer.shape, buffer.dtype, buffer.device) == ((4, 3), NUMPY_DTYPES[dtype], CPU)
    assert buffer.writable
    assert buffer.tensor.data_ptr() == array.__array_interface__["data"][0]
    np.testing.assert_array_equal(buffer.tensor.numpy(), array)


@pytest.mark.parametrize(
    "layout",
    [
        lambda: numbers(),
        lambda: np.asfortranarray(numbers()),
        lambda: np.zeros((4, 4))[:, :3],  # float4
        lambda: np.zeros((8, 3))[::2],
        lambda: np.zeros((4, 9))[:, ::3],
        lambda: np.zeros((3, 4)).T,
        lambda: np.zeros((4, 6))[:, 1:4],
    ],
    ids=["C", "Fortran", "float4", "every second row", "every third column", "T", "offset"],
)
def test_numpy_layouts(layout: Callable[[], np.ndarray]) -> None:
    array = layout()
    array[:] = numbers()
    buffer = DeviceBuffer.of(array)
    assert tuple(s * 8 for s in buffer.tensor.stride()) == array.strides
    require_same_memory(buffer, array)


def test_one_float64_field_of_records() -> None:
    records = np.zeros(4, dtype=[("x", "f8", 3), ("mass", "f8")])
    records["x"] = numbers()
    require_same_memory(DeviceBuffer.of(records["x"]), records["x"])


def test_read_only_numpy() -> None:
    array = numbers()
    array.flags.writeable = False
    buffer = DeviceBuffer.of(array, "forces")
    assert not buffer.writable
    assert buffer.tensor.data_ptr() == array.__array_interface__["data"][0]
    np.testing.assert_array_equal(buffer.tensor.numpy(), array)
    options = {"shape": (4, 3), "dtypes": FLOATS, "device": CPU}
    assert buffer.require("forces", **options) is buffer.tensor
    error = refused(BufferAccessError, lambda: buffer.require("forces", **options, writable=True))
    assert "read-only" in error.got


def test_broadcast_numpy_can_be_read() -> None:
    buffer = DeviceBuffer.of(np.broadcast_to(np.array([1.0, 2.0, 3.0]), (4, 3)))
    assert not buffer.writable
    assert buffer.tensor.tolist() == [[1.0, 2.0, 3.0]] * 4


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.zeros((4, 0))], ids=["rows", "columns"])
@pytest.mark.parametrize("writable", [True, False])
def test_empty_numpy(array: np.ndarray, writable: bool) -> None:
    array = array.copy()
    array.flags.writeable = writable
    buffer = DeviceBuffer.of(array)
    assert (buffer.shape, buffer.dtype, buffer.writable) == (array.shape, torch.float64, writable)


@pytest.mark.parametrize(
    "dtype", ["f2", "c8", "c16", "u4", "i2", "u1", ">f8", ">i4", "g", "O", "U3", "M8[s]"]
)
def test_numpy_dtypes_that_are_refused(dtype: str) -> None:
    array = np.zeros((4, 3), dtype=dtype)
    error = refused(DtypeError, lambda: DeviceBuffer.of(array, "positions"))
    assert error.what == "positions"
    assert "float64" in error.expected
    assert error.got == str(array.dtype)


def misaligned() -> np.ndarray:
    return np.frombuffer(bytearray(97), dtype=np.uint8)[1:].view(np.float64).reshape(4, 3)


@pytest.mark.parametrize(
    "array",
    [
        numbers()[::-1],
        numbers()[:, ::-1],
        np.zeros(4, dtype=[("x", "f8", 3), ("tag", "i4")])["x"],
        misaligned(),
    ],
    ids=["rows backwards", "columns backwards", "stride of 28 bytes", "misaligned"],
)
def test_numpy_layouts_that_are_refused(array: np.ndarray) -> None:
    error = refused(BufferAccessError, lambda: DeviceBuffer.of(array, "positions"))
    assert str(array.strides) in error.got
    assert "ascontiguousarray" in error.fix


# --- torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        lambda t: t,
        lambda t: torch.zeros(4, 4, dtype=t.dtype)[:, :3].copy_(t),
        lambda t: t.T.contiguous().T,
    ],
    ids=["contiguous", "float4", "transposed"],
)
def test_torch(layout: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensor = layout(torch.from_numpy(numbers()))
    buffer = DeviceBuffer.of(tensor)
    assert buffer.owner is tensor
    assert buffer.tensor.stride() == tensor.stride()
    require_same_memory(buffer, tensor.numpy())


def test_torch_that_requires_a_gradient() -> None:
    tensor = torch.zeros(4, 3, requires_grad=True)
    buffer = DeviceBuffer.of(tensor)
    assert not buffer.tensor.requires_grad
    assert buffer.tensor.data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64, torch.uint8])
def test_torch_dtypes_that_are_refused(dtype: torch.dtype) -> None:
    tensor = torch.zeros(4, 3, dtype=dtype)
    assert refused(DtypeError, lambda: DeviceBuffer.of(tensor)).got == str(dtype)


def test_sparse_torch() -> None:
    error = refused(BufferAccessError, lambda: DeviceBuffer.of(torch.eye(3).to_sparse()))
    assert "sparse_coo" in error.got


def test_a_buffer_is_taken_as_it_is() -> None:
    buffer = DeviceBuffer.of(numbers())
    assert DeviceBuffer.of(buffer) is buffer


@pytest.mark.parametrize("source", [[1.0, 2.0], 3.0, None, "positions", np.float64(2.0), {}])
def test_no_array_at_all(source: object) -> None:
    error = refused(DtypeError, lambda: DeviceBuffer.of(source, "positions"))
    assert error.got == type(source).__name__
    assert "numpy.asarray" in error.fix


# --- DLPack ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("exporter", [DLPack, OldDLPack])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_dlpack(exporter: type[DLPack], dtype: type) -> None:
    array = numbers(dtype)
    source = exporter(array)
    buffer = DeviceBuffer.of(source)
    assert buffer.owner is source
    assert buffer.writable
    assert buffer.dtype == NUMPY_DTYPES[dtype]
    require_same_memory(buffer, array)


@pytest.mark.parametrize("exporter", [DLPack, OldDLPack])
def test_strided_dlpack(exporter: type[DLPack]) -> None:
    array = np.zeros((4, 4))[:, :3]
    array[:] = numbers()
    require_same_memory(DeviceBuffer.of(exporter(array)), array)


def test_read_only_dlpack() -> None:
    array = numbers()
    array.flags.writeable = False
    buffer = DeviceBuffer.of(DLPack(array))
    assert not buffer.writable
    assert buffer.tensor.data_ptr() == array.__array_interface__["data"][0]


@pytest.mark.parametrize("exporter", [DLPack, OldDLPack])
def test_dlpack_with_negative_strides(exporter: type[DLPack]) -> None:
    """torch would end the process."""
    source = exporter(numbers()[::-1])
    error = refused(BufferAccessError, lambda: DeviceBuffer.of(source, "positions"))
    assert "negative strides [-3, 1]" in error.got


@pytest.mark.parametrize(
    ("source", "kind", "got"),
    [
        (DLPack(numbers(np.float16)), DtypeError, "float16"),
        (DLPack(numbers(np.uint64)), DtypeError, "uint64"),
        (DLPack(numbers(">f8")), BufferAccessError, "byte order"),
        (OldDLPack(np.broadcast_to(1.0, (4, 3))), BufferAccessError, "readonly"),
    ],
    ids=["float16", "uint64", "big-endian", "read-only, but can not say so"],
)
def test_dlpack_that_is_refused(source: DLPack, kind: type[BridgeError], got: str) -> None:
    assert got in refused(kind, lambda: DeviceBuffer.of(source)).got


def test_broken_exporters() -> None:
    class NoDevice:
        def __dlpack__(self, **options: Any) -> Any:
            raise NotImplementedError("never called")

    class NoCapsule(NoDevice):
        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

        def __dlpack__(self, **options: Any) -> Any:
            return "no capsule"

    assert (
        "__dlpack_device__" in refused(BufferAccessError, lambda: DeviceBuffer.of(NoDevice())).got
    )
    assert "capsule" in refused(BufferAccessError, lambda: DeviceBuffer.of(NoCapsule())).got


def test_a_null_pointer_from_dlpack() -> None:
    class Null(DLPack):
        def __dlpack__(self, **options: Any) -> Any:
            capsule = self.array.__dlpack__()
            tensor = dlpack._Tensor.from_address(dlpack._get_pointer(capsule, b"dltensor"))
            tensor.data = None
            return capsule

    assert "null" in refused(BufferAccessError, lambda: DeviceBuffer.of(Null(numbers()))).got
    empty = DeviceBuffer.of(Null(np.zeros((0, 3))))  # nothing is read from it
    assert empty.tensor.shape == (0, 3)


def test_a_tensor_at_an_odd_address() -> None:
    memory = bytearray(8 * 12 + 1)
    tensor = torch.from_numpy(np.frombuffer(memory, dtype=np.float64, offset=1).reshape(4, 3))
    assert tensor.data_ptr() % 8 == 1
    assert "multiple of 8" in refused(BufferAccessError, lambda: DeviceBuffer.of(tensor)).expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA device")
@pytest.mark.parametrize("kind", [2, 10], ids=["CUDA", "ROCm"])
def test_dlpack_of_a_gpu_that_is_not_there(kind: int) -> None:
    refused(BufferAccessError, lambda: DeviceBuffer.of(DLPack(numbers(), (kind, 0))))


# --- the CUDA Array Interface ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "part"),
    [
        ({"data": (0, False)}, BufferAccessError, "null pointer"),
        ({"typestr": ">f8"}, DtypeError, ">f8"),
        ({"typestr": "<f2"}, DtypeError, "<f2"),
        ({"data": "left out"}, BufferAccessError, "KeyError('data')"),
        ({"shape": "left out"}, BufferAccessError, "KeyError('shape')"),
        ({"typestr": "left out"}, BufferAccessError, "KeyError('typestr')"),
        ({"data": None}, BufferAccessError, "TypeError"),
        ({"shape": None}, BufferAccessError, "TypeError"),
        ({"strides": (-24, 8)}, BufferAccessError, "(-24, 8)"),
    ],
)
def test_cuda_array_that_is_none(
    changes: dict[str, Any], kind: type[BridgeError], part: str
) -> None:
    error = refused(kind, lambda: DeviceBuffer.of(CudaArray(**changes), "positions"))
    assert error.what == "positions"
    assert part in error.got


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA device")
@pytest.mark.parametrize("changes", [{}, {"shape": (0, 3), "data": (0, False)}])
def test_cuda_array_on_a_machine_without_cuda(changes: dict[str, Any]) -> None:
    error = refused(DeviceMismatchError, lambda: DeviceBuffer.of(CudaArray(**changes)))
    assert "0 CUDA devices" in error.expected


# --- raw pointers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_pointer(dtype: type) -> None:
    array = numbers(dtype)
    buffer = DeviceBuffer.from_pointer(array.ctypes.data, (4, 3), NUMPY_DTYPES[dtype], owner=array)
    assert buffer.tensor.is_contiguous()
    assert buffer.writable
    require_same_memory(buffer, array)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("memory", "strides"),
    [((4, 4), (4, 1)), ((3, 4), (1, 4)), ((8, 3), (6, 1))],
    ids=["float4", "separate x, y and z", "every second atom"],
)
def test_pointer_with_strides(
    dtype: type, memory: tuple[int, int], strides: tuple[int, int]
) -> None:
    array = np.zeros(memory, dtype=dtype)
    itemsize = array.itemsize
    view = np.lib.stride_tricks.as_strided(array, (4, 3), tuple(s * itemsize for s in strides))
    view[:] = numbers(dtype)
    buffer = DeviceBuffer.from_pointer(
        array.ctypes.data, (4, 3), NUMPY_DTYPES[dtype], strides=strides, owner=array
    )
    assert buffer.tensor.stride() == strides
    require_same_memory(buffer, view)


def test_pointer_in_other_shapes() -> None:
    array = np.arange(24.0)
    cube = DeviceBuffer.from_pointer(array.ctypes.data, (2, 3, 4), torch.float64, owner=array)
    np.testing.assert_array_equal(cube.tensor.numpy(), array.reshape(2, 3, 4))
    single = DeviceBuffer.from_pointer(array.ctypes.data + 40, (), torch.float64, owner=array)
    assert float(single.tensor) == 5.0


def test_the_view_of_a_pointer_ends_where_the_memory_ends() -> None:
    """A float4 array has no element behind the last z; nothing beyond it may be touched."""
    array = np.zeros(15)
    buffer = DeviceBuffer.from_pointer(
        array.ctypes.data, (4, 3), torch.float64, strides=(4, 1), owner=array
    )
    assert buffer.tensor.untyped_storage().nbytes() == array.nbytes


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0,)])
def test_no_memory_is_needed_for_nothing(shape: tuple[int, ...]) -> None:
    assert DeviceBuffer.from_pointer(0, shape, torch.float32).shape == shape


ADDRESS = 4096  # never read


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "part"),
    [
        ((0, (4, 3), torch.float64), {}, BufferAccessError, "null pointer"),
        ((ADDRESS + 4, (4, 3), torch.float64), {}, BufferAccessError, "0x1004"),
        ((ADDRESS + 2, (4, 3), torch.float32), {}, BufferAccessError, "0x1002"),
        ((ADDRESS, (4, 3), torch.float64), {"strides": (-3, 1)}, BufferAccessError, "(-3, 1)"),
        ((ADDRESS, (-4, 3), torch.float64), {}, ShapeError, "(-4, 3)"),
        ((ADDRESS, (4, 3), torch.float64), {"strides": (1,)}, ShapeError, "(1,)"),
        ((ADDRESS, (4, 3), torch.float16), {}, DtypeError, "float16"),
        ((ADDRESS, (4, 3), torch.float64), {"device": "meta"}, DeviceMismatchError, "meta"),
        ((ADDRESS, (4, 3), torch.float64), {"device": "abacus"}, DeviceMismatchError, "abacus"),
        ((ADDRESS, (4, 3), torch.float64), {"device": "cuda:99"}, DeviceMismatchError, "cuda:99"),
        ((0, (0, 3), torch.float64), {"device": "cuda:99"}, DeviceMismatchError, "cuda:99"),
    ],
)
def test_pointer_that_is_refused(
    arguments: tuple, options: dict[str, Any], kind: type[BridgeError], part: str
) -> None:
    error = refused(
        kind, lambda: DeviceBuffer.from_pointer(*arguments, **options, name="positions")
    )
    assert error.what == "positions"
    assert part in error.got


# --- lifetime -------------------------------------------------------------------------------------


class Owner(np.ndarray):
    """An array that can be watched while it dies."""


def owned() -> tuple[np.ndarray, weakref.ref]:
    array = numbers().view(Owner)
    return array, weakref.ref(array)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: DeviceBuffer.of(a),
        lambda a: DeviceBuffer.of(DLPack(a)),
        lambda a: DeviceBuffer.from_pointer(a.ctypes.data, (4, 3), torch.float64, owner=a),
    ],
    ids=["array", "DLPack", "pointer"],
)
def test_the_view_keeps_its_source_alive(view: Callable[[np.ndarray], DeviceBuffer]) -> None:
    array, watch = owned()
    buffer = view(array)
    del array
    gc.collect()
    assert watch() is not None
    # other memory is asked for meanwhile: a view of freed memory would show
    rubbish = [np.full((4, 3), np.nan) for _ in range(100)]
    np.testing.assert_array_equal(buffer.tensor.numpy(), numbers())
    del buffer, rubbish
    gc.collect()
    assert watch() is None


def test_the_view_of_a_read_only_array_keeps_it_alive() -> None:
    array, watch = owned()
    array.flags.writeable = False
    buffer = DeviceBuffer.of(array)
    del array
    gc.collect()
    assert watch() is not None
    del buffer
    gc.collect()
    assert watch() is None


def test_memory_of_c() -> None:
    """A pointer without an owner stays the caller's."""
    memory = (ctypes.c_double * 12)(*range(12))
    buffer = DeviceBuffer.from_pointer(ctypes.addressof(memory), (4, 3), torch.float64)
    buffer.tensor[3, 2] = 42.0
    del buffer
    gc.collect()
    assert list(memory) == [*range(11), 42.0]


# --- require --------------------------------------------------------------------------------------


REQUIRED: dict[str, Any] = {"shape": (4, 3), "dtypes": FLOATS, "device": CPU}


@pytest.mark.parametrize("shape", [(4, 3), (None, 3), (None, None)])
def test_require_hands_out_the_view(shape: tuple[int | None, ...]) -> None:
    buffer = DeviceBuffer.of(numbers())
    tensor = buffer.require("positions", **{**REQUIRED, "shape": shape}, writable=True)
    assert tensor is buffer.tensor


@pytest.mark.parametrize("shape", [(5, 3), (4, 2), (12,), (None,), (4, 3, 1), ()])
def test_require_another_shape(shape: tuple[int | None, ...]) -> None:
    buffer = DeviceBuffer.of(numbers())
    options = {**REQUIRED, "shape": shape}
    error = refused(ShapeError, lambda: buffer.require("positions", **options))
    assert error.what == "positions"
    assert error.got == "shape (4, 3)"


def test_require_another_dtype() -> None:
    buffer = DeviceBuffer.of(numbers(np.int64))
    error = refused(DtypeError, lambda: buffer.require("positions", **REQUIRED))
    assert (error.expected, error.got) == ("float32 or float64", "int64")


def test_require_another_device() -> None:
    buffer = DeviceBuffer.of(torch.zeros(4, 3, device="meta"))
    error = refused(DeviceMismatchError, lambda: buffer.require("positions", **REQUIRED))
    assert error.expected == "memory on cpu, where the provider is"
    assert error.got == "memory on meta"
    assert "device='meta'" in error.fix


# --- which device, and events ---------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [None, "cpu", "cpu:0", CPU])
def test_select_the_cpu(wanted: str | torch.device | None) -> None:
    assert select_device(["cpu"], wanted) == CPU


def test_select_the_first_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert select_device(["cuda", "mps", "cpu"], None) == CPU
    error = refused(DeviceMismatchError, lambda: select_device(["cuda", "mps"], None))
    assert "cuda, mps" in error.expected


def test_select_with_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    # counted, but the driver does not fit: as good as none
    assert select_device(["cuda", "cpu"], None) == torch.device("cpu")
    refused(DeviceMismatchError, lambda: select_device(["cuda", "cpu"], "cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert select_device(["cuda", "cpu"], None) == torch.device("cuda", 1)
    assert select_device(["cuda", "cpu"], "cuda") == torch.device("cuda", 1)
    assert select_device(["cuda", "cpu"], "cuda:0") == torch.device("cuda", 0)
    assert select_device(["mps"], "mps") == torch.device("mps", 0)
    error = refused(DeviceMismatchError, lambda: select_device(["cuda"], "cuda:2"))
    assert "2 of type 'cuda'" in error.expected
    assert error.got == "'cuda:2'"


@pytest.mark.parametrize("wanted", ["abacus", "", "cuda:-1", 3.5])
def test_select_no_device(wanted: object) -> None:
    error = refused(DeviceMismatchError, lambda: select_device(["cpu", "cuda"], wanted))
    assert error.got == repr(wanted)


def test_select_what_the_model_does_not_support() -> None:
    error = refused(DeviceMismatchError, lambda: select_device(["cuda"], "cpu"))
    assert error.got == "'cpu'"
    assert "device='cuda'" in error.fix


@pytest.mark.parametrize("wanted", ["cpu:1", "cuda:99", "cuda:200", "mps:3"])
def test_select_a_device_that_is_not_there(wanted: str) -> None:
    refused(DeviceMismatchError, lambda: select_device(["cpu", "cuda", "mps"], wanted))


def test_a_device_of_a_kind_that_is_never_there() -> None:
    refused(DeviceMismatchError, lambda: select_device(["meta"], "meta"))


def test_events_on_the_host_are_done() -> None:
    for event in (Event(), Event.record(CPU)):
        assert event.cuda_event is None
        assert event.done
        event.wait(CPU)
        event.synchronize()


# --- on a GPU -------------------------------------------------------------------------------------


def cuda() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
@pytest.mark.parametrize(
    "kind", ["torch", "DLPack", "CUDA Array Interface", "pointer"], ids=lambda kind: kind
)
def test_cuda_views(kind: str, dtype: torch.dtype) -> None:
    class Foreign:
        """A torch tensor that shows one interface only."""

        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

    class ForeignDLPack(Foreign):
        def __dlpack__(self, **options: Any) -> Any:
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.tensor.__dlpack_device__()

    class ForeignInterface(Foreign):
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return self.tensor.__cuda_array_interface__

    memory = torch.arange(16, device="cuda", dtype=dtype).reshape(4, 4)
    tensor = memory[:, :3]  # float4
    if kind == "torch":
        buffer = DeviceBuffer.of(tensor)
    elif kind == "DLPack":
        buffer = DeviceBuffer.of(ForeignDLPack(tensor))
    elif kind == "CUDA Array Interface":
        buffer = DeviceBuffer.of(ForeignInterface(tensor))
    else:
        buffer = DeviceBuffer.from_pointer(
            memory.data_ptr(), (4, 3), dtype, strides=(4, 1), device="cuda", owner=memory
        )
    assert buffer.device == cuda()
    assert buffer.dtype == dtype
    assert buffer.writable
    assert buffer.tensor.data_ptr() == memory.data_ptr()
    assert buffer.tensor.stride() == (4, 1)
    expected = np.arange(16).reshape(4, 4)[:, :3]
    np.testing.assert_array_equal(buffer.tensor.cpu().numpy(), expected)
    buffer.tensor[1, 2] = 77
    assert int(memory[1, 2]) == 77


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_cupy(dtype: str) -> None:
    cupy = pytest.importorskip("cupy", reason="needs CuPy", exc_type=ImportError)
    array = cupy.arange(16, dtype=dtype).reshape(4, 4)[:, :3]
    buffer = DeviceBuffer.of(array, "positions")
    assert buffer.device == cuda()
    assert buffer.tensor.data_ptr() == array.data.ptr
    assert buffer.tensor.stride() == (4, 1)
    buffer.tensor[1, 2] = 77
    torch.cuda.synchronize()
    assert int(array[1, 2]) == 77
    refused(BufferAccessError, lambda: DeviceBuffer.of(array[::-1], "positions"))
    refused(DtypeError, lambda: DeviceBuffer.of(array.astype("float16"), "positions"))


@pytest.mark.gpu
@needs_cuda
def test_cuda_pointer_errors() -> None:
    memory = torch.zeros(12, device="cuda", dtype=torch.float64)
    pointer = memory.data_ptr()
    view = DeviceBuffer.from_pointer
    refused(BufferAccessError, lambda: view(0, (4, 3), torch.float64, device="cuda"))
    refused(BufferAccessError, lambda: view(pointer + 4, (4, 3), torch.float64, device="cuda"))
    refused(
        BufferAccessError,
        lambda: view(pointer, (4, 3), torch.float64, strides=(-3, 1), device="cuda"),
    )
    assert view(0, (0, 3), torch.float64, device="cuda").device.type == "cuda"
    # memory of the host is none of the device: a typed error, and the device still works after it
    host = np.zeros((4, 3))
    refused(BufferAccessError, lambda: view(host.ctypes.data, (4, 3), torch.float64, device="cuda"))
    assert float((memory + 1.0).sum()) == 12.0


@pytest.mark.gpu
@needs_cuda
def test_the_view_of_a_cuda_pointer_keeps_its_owner_alive() -> None:
    memory = torch.arange(12, device="cuda", dtype=torch.float64)
    watch = weakref.ref(memory)
    buffer = DeviceBuffer.from_pointer(
        memory.data_ptr(), (4, 3), torch.float64, device="cuda", owner=memory
    )
    del memory
    gc.collect()
    assert watch() is not None
    rubbish = [torch.full((12,), torch.nan, device="cuda") for _ in range(100)]
    np.testing.assert_array_equal(buffer.tensor.cpu().numpy(), numbers())
    del buffer, rubbish
    gc.collect()
    assert watch() is None


@pytest.mark.gpu
@needs_cuda
def test_host_and_device_are_not_mixed() -> None:
    host, device = DeviceBuffer.of(numbers()), DeviceBuffer.of(torch.zeros(4, 3, device="cuda"))
    error = refused(
        DeviceMismatchError, lambda: host.require("forces", **{**REQUIRED, "device": cuda()})
    )
    assert error.got == "memory on cpu"
    error = refused(DeviceMismatchError, lambda: device.require("forces", **REQUIRED))
    assert error.got == f"memory on {cuda()}"
    assert f"device='{cuda()}'" in error.fix


@pytest.mark.gpu
@needs_cuda
def test_cuda_array_that_is_read_only() -> None:
    tensor = torch.zeros(4, 3, device="cuda")
    interface = tensor.__cuda_array_interface__
    array = CudaArray(**{**interface, "data": (interface["data"][0], True)})
    assert not DeviceBuffer.of(array).writable
    assert DeviceBuffer.of(CudaArray(**interface)).writable


@pytest.mark.gpu
@needs_cuda
def test_cuda_events() -> None:
    device = cuda()
    work, other = torch.cuda.Stream(), torch.cuda.Stream()
    source = torch.ones(2048, 2048, device=device)
    torch.cuda.synchronize()
    with torch.cuda.stream(work):
        source @ source  # the first product makes the library's handle, which takes its time
    torch.cuda.synchronize()
    with torch.cuda.stream(work):
        # long enough that a missing wait would be seen
        torch.cuda._sleep(500_000_000)
        result = source @ source
        event = Event.record(device)
    assert not event.done
    with torch.cuda.stream(other):
        event.wait(device)
        copy = result.clone()
        after = Event.record(device)
    after.synchronize()
    assert event.done
    assert after.done
    assert bool((copy == 2048.0).all())
