"""The kernels' ways to run: the compile gate, the launcher for CUDA, and what is said without."""

from __future__ import annotations

import re
import shutil
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alchemi_bridge import compiling
from alchemi_bridge.device import cuda_devices
from alchemi_bridge.errors import (
    BufferAccessError,
    DeviceMismatchError,
    DtypeError,
    EvaluationError,
)
from alchemi_bridge.native import UnavailableError, cuda, gate, host, nvrtc, sources, using
from alchemi_bridge.native.launch import converted
from alchemi_bridge.neighbors.checksum import checksum

needs_cuda = pytest.mark.skipif(cuda_devices() == 0, reason="needs a CUDA device")
needs_nvcc = pytest.mark.skipif(gate.find_nvcc() is None, reason="needs nvcc")
needs_compiler = pytest.mark.skipif(
    compiling.find_compiler() is None, reason="needs a C++ compiler"
)

INCLUDE = re.compile(r'^#include "(\w+\.cuh)"', re.MULTILINE)


# --- sources --------------------------------------------------------------------------------------


def test_every_source_is_part_of_the_unit() -> None:
    texts = sources.texts()
    reached, open_files = set(), [sources.MAIN]
    while open_files:
        name = open_files.pop()
        if name not in reached:
            reached.add(name)
            open_files += INCLUDE.findall(texts[name])
    assert reached == set(texts)


def test_every_entry_point_is_known() -> None:
    texts = [text for name, text in sources.texts().items() if name != "common.cuh"]
    assert sum(text.count("AB_KERNEL(") for text in texts) == len(sources.entry_points()) > 20


# --- the compile gate -----------------------------------------------------------------------------


# not skipped without NVRTC: without it nothing would prove that the kernels compile for a GPU
@pytest.mark.parametrize("architecture", gate.ARCHITECTURES)
def test_nvrtc_compiles_every_kernel(architecture: str) -> None:
    compiled = nvrtc.compile_kernels(architecture)
    assert compiled.log == ""
    assert compiled.cubin.startswith(b"\x7fELF")
    assert f".target {architecture}" in compiled.ptx
    entries = set(re.findall(r"\.visible \.entry (\w+)\(", compiled.ptx))
    assert entries == set(sources.entry_points())
    assert gate.by_nvrtc(architecture) == entries
    # the host shim and torch do not contract products and sums either
    assert "mul.rn.f64" in compiled.ptx or "mul.f64" in compiled.ptx
    assert not re.search(r"\bfma\.rn\.f(32|64)", compiled.ptx)


@needs_nvcc
@pytest.mark.parametrize("architecture", gate.ARCHITECTURES)
def test_nvcc_compiles_every_kernel(architecture: str) -> None:
    found = gate.by_nvcc(architecture, str(gate.find_nvcc()))
    assert found == set(sources.entry_points())


@needs_compiler
def test_host_compiler_compiles_every_kernel_without_a_warning() -> None:
    assert gate.by_host_compiler(str(compiling.find_compiler())) == set(sources.entry_points())


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one small kernel in the place of all others; nvcc is left out."""
    home = sources.folder()
    assert home is not None
    shutil.copy(home / "common.cuh", tmp_path)
    write(tmp_path, "out[k] = k;")
    monkeypatch.setattr(sources, "folder", lambda: tmp_path)
    monkeypatch.setattr(gate, "ARCHITECTURES", ("sm_90",))
    monkeypatch.setattr(gate, "find_nvcc", lambda: None)
    monkeypatch.setattr(compiling, "find_compiler", lambda: "g++")
    # g++ takes its seconds
    monkeypatch.setattr(gate, "by_host_compiler", lambda compiler: set(sources.entry_points()))
    monkeypatch.setattr(sources, "entry_points", lambda: {"numbers": ()})
    return tmp_path


def write(folder: Path, body: str) -> None:
    text = f"""#include "common.cuh"
AB_BODY void number(long long k, long long* out) {{ {body} }}
AB_KERNEL(numbers, (long long* out), number(k, out))
"""
    (folder / sources.MAIN).write_text(text)


def test_gate_passes(kernels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.main([]) == 0
    assert "NVRTC sm_90: 1 kernels" in capsys.readouterr().out


@pytest.mark.parametrize("body", ["out[k] = missing;", "out[k] = k", "int unused = 1; out[k] = k;"])
def test_gate_fails_for_errors_and_warnings(
    kernels: Path, capsys: pytest.CaptureFixture[str], body: str
) -> None:
    write(kernels, body)
    assert gate.main([]) == 1
    assert sources.MAIN in capsys.readouterr().err  # where it is


def test_gate_fails_for_a_kernel_that_is_not_there(
    kernels: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "entry_points", lambda: {"numbers": (), "letters": ()})
    assert gate.main([]) == 1
    assert "letters" in capsys.readouterr().err


def test_gate_fails_without_compilers(
    kernels: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "find_compiler", lambda: None)
    assert gate.main([]) == 1
    assert "no C++ compiler" in capsys.readouterr().err
    monkeypatch.setattr(nvrtc, "find_library", lambda: None)
    assert gate.main([]) == 1
    assert "neither nvcc nor NVRTC" in capsys.readouterr().err


@needs_compiler
def test_host_compiler_is_strict(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(sources, "folder", lambda: kernels)
    write(kernels, "int unused = 1; out[k] = k;")
    with pytest.raises(UnavailableError, match="unused"):
        gate.by_host_compiler(str(compiling.find_compiler()))


def test_nvrtc_that_is_not_there() -> None:
    with pytest.raises(UnavailableError, match="can not be loaded"):
        nvrtc.Nvrtc("/nowhere/libnvrtc.so.13")
    with pytest.raises(UnavailableError, match="arch"):
        nvrtc.Nvrtc().compile("", "sm_1")


# --- the launcher for CUDA ------------------------------------------------------------------------


class FakeCupy(types.ModuleType):
    """What the launcher uses of CuPy, keeping a record of the launches."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.__version__ = "14.2.0"
        self.device, self.streams = 0, [(0, 0)]
        self.launches: list[tuple[Any, ...]] = []
        self.modules: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self.cuda = types.SimpleNamespace(
            Device=self._on_device,
            ExternalStream=lambda handle, device_id: self._on_stream(handle, device_id),
            nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)),
            runtime=types.SimpleNamespace(getDevice=lambda: self.device),
        )

    def RawModule(self, **options: Any) -> Any:
        self.modules.append(options)
        return types.SimpleNamespace(get_function=self._get_function)

    def _get_function(self, name: str) -> Any:
        if self.failure is not None:
            raise self.failure

        def call(grid: tuple, block: tuple, values: tuple) -> None:
            if self.failure is not None:
                raise self.failure
            self.launches.append((name, grid, block, values, self.device, self.streams[-1]))

        return call

    @contextmanager
    def _on_device(self, index: int) -> Iterator[None]:
        before, self.device = self.device, index
        yield
        self.device = before

    def _on_stream(self, handle: int, index: int) -> Any:
        fake = self

        class Stream:
            def __enter__(self) -> None:
                assert fake.device == index  # CuPy refuses a stream of another device
                fake.streams.append((handle, index))

            def __exit__(self, *args: object) -> None:
                fake.streams.pop()

        return Stream()


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """A CuPy and a torch with two devices; arrays stay on the host, where addresses are real."""
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    stream = types.SimpleNamespace(cuda_stream=4711)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: stream)
    monkeypatch.setattr(
        cuda, "converted", lambda kernel, given, kind: converted(kernel, given, "cpu")
    )
    return fake


@pytest.fixture
def launcher(cupy: FakeCupy) -> cuda.CudaLauncher:
    return cuda.cuda_launcher.__wrapped__()


ROWS = torch.arange(12, dtype=torch.float64).reshape(4, 3)


def add_rows_arguments(target: torch.Tensor) -> tuple[Any, ...]:
    return ROWS, None, 2.5, target, 3, 1


@pytest.mark.parametrize("index", [0, 1])
def test_launch(
    launcher: cuda.CudaLauncher, cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    monkeypatch.setattr(cuda, "common_device", lambda *args: index)
    target = torch.zeros((4, 3), dtype=torch.float64)
    launcher.launch("add_rows_dd", 4, *add_rows_arguments(target))
    ((name, grid, block, values, device, stream),) = cupy.launches
    assert name == "add_rows_dd"
    assert (grid, block) == ((1,), (cuda.THREADS_PER_BLOCK,))
    expected = [4, ROWS.data_ptr(), 0, 2.5, target.data_ptr(), 3, 1]
    assert list(values) == expected
    kinds = [np.int64, np.uint64, np.uint64, np.float64, np.uint64, np.int64, np.int64]
    assert [type(value) for value in values] == kinds  # CuPy hands over what it is given
    assert (device, stream) == (index, (4711, index))
    assert cupy.device == 0  # current as before
    assert cupy.streams == [(0, 0)]


def test_module_is_compiled_with_the_folder_and_without_contraction(
    launcher: cuda.CudaLauncher, cupy: FakeCupy
) -> None:
    (options,) = cupy.modules
    assert options["backend"] == "nvrtc"
    assert options["options"] == ("-std=c++17", "--fmad=false", f"-I{sources.folder()}")
    assert sources.digest() in options["code"]  # CuPy's cache does not look into included files
    assert "NVRTC 13.0" in launcher.description


@pytest.mark.parametrize(
    ("count", "blocks"),
    [(1, 1), (128, 1), (129, 2), (65535 * 128, 65535), (65535 * 128 + 1, 65535), (1 << 40, 65535)],
)
def test_size_of_the_grid(count: int, blocks: int) -> None:
    assert cuda.n_blocks(count) == blocks


def test_nothing_to_do_is_not_launched(
    launcher: cuda.CudaLauncher, cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "common_device", lambda *args: 0)
    launcher.launch("add_rows_dd", 0, *add_rows_arguments(torch.zeros(0, dtype=torch.float64)))
    assert not cupy.launches


def test_wrong_arrays_are_refused_before_the_launch(
    launcher: cuda.CudaLauncher, cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DtypeError):
        launcher.launch("add_rows_dd", 4, *add_rows_arguments(torch.zeros(12)))
    monkeypatch.setattr(cuda, "converted", converted)
    with pytest.raises(DeviceMismatchError, match="memory of cpu"):
        launcher.launch("add_rows_dd", 4, *add_rows_arguments(torch.zeros_like(ROWS)))
    assert not cupy.launches


def test_failing_launch_is_a_typed_error(
    launcher: cuda.CudaLauncher, cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "common_device", lambda *args: 0)
    cupy.failure = RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access")
    with pytest.raises(EvaluationError, match=r"add_rows_dd on cuda:0.*ILLEGAL_ADDRESS"):
        launcher.launch("add_rows_dd", 4, *add_rows_arguments(torch.zeros_like(ROWS)))


class On:
    """Stands for an array on a device."""

    def __init__(self, index: int, size: int = 8) -> None:
        self.get_device, self.element_size = lambda: index, lambda: size


def test_all_arrays_are_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.torch, "Tensor", On)
    name = "add_rows_dd"

    def device(*arguments: Any, addresses: tuple[int, ...] = (64, 0, 0, 128, 3, 1)) -> int:
        return cuda.common_device(name, arguments, addresses)

    assert device(On(1), None, 1.0, On(1), 3, 1) == 1
    with pytest.raises(DeviceMismatchError, match=r"out of kernel add_rows_dd.*cuda:1.*cuda:0"):
        device(On(1), None, 1.0, On(0), 3, 1)
    with pytest.raises(DeviceMismatchError, match="subset of kernel"):
        device(On(0), On(1), 1.0, On(0), 3, 1)
    with pytest.raises(BufferAccessError, match="multiple of 8"):
        device(On(0), None, 1.0, On(0), 3, 1, addresses=(64, 0, 0, 132, 3, 1))
    with pytest.raises(TypeError, match="none of the arguments"):
        device(None, None, 1.0, None, 3, 1)


def test_reasons_why_there_is_no_launcher(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    make = cuda.cuda_launcher.__wrapped__
    cupy.failure = RuntimeError("nvrtc: error: invalid value for --gpu-architecture\nmore")
    with pytest.raises(UnavailableError, match=r"can not compile.*invalid value"):
        make()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(UnavailableError, match="CuPy can not be imported"):
        make()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="no CUDA device"):
        make()


def test_reason_without_sources(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "folder", lambda: None)
    with pytest.raises(UnavailableError, match="sources are not installed"):
        cuda.cuda_launcher.__wrapped__()


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_cuda
def test_kernels_run_on_the_current_stream() -> None:
    """Work that comes late on a stream of our own is seen by a kernel on the same stream."""
    made = cuda.cuda_launcher()
    right = torch.as_tensor(np.random.default_rng(1).random((1000, 3)), device="cuda")
    with using("torch"):
        expected = int(checksum(right))
    late = torch.zeros_like(right)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with using("native"), torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(right)
        found = checksum(late)
    stream.synchronize()
    assert int(found) == expected
    assert "CuPy" in made.description


@pytest.mark.gpu
@needs_cuda
def test_device_and_stream_of_cupy_stay() -> None:
    real = pytest.importorskip("cupy")
    device, stream = real.cuda.runtime.getDevice(), real.cuda.get_current_stream()
    index = cuda_devices() - 1  # another one where there is another
    with using("native"):
        checksum(torch.zeros((5, 3), device=f"cuda:{index}"))
    assert real.cuda.runtime.getDevice() == device
    assert real.cuda.get_current_stream() == stream
    assert torch.cuda.current_device() == device


@pytest.mark.gpu
@pytest.mark.skipif(cuda_devices() < 2, reason="needs two CUDA devices")
def test_arrays_of_two_devices_are_refused() -> None:
    rows = torch.zeros((4, 3), dtype=torch.float64, device="cuda:1")
    with pytest.raises(DeviceMismatchError, match="cuda:0"):
        cuda.cuda_launcher().launch("add_rows_dd", 4, rows, None, 1.0, rows.to("cuda:0"), 3, 1)


def test_a_compiler_that_can_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "c++"
    broken.write_bytes(b"\x7fELF and nothing more")
    broken.chmod(0o755)
    monkeypatch.setenv(compiling.COMPILER_VARIABLE, str(broken))
    with pytest.raises(UnavailableError, match="can not be run"):
        host.host_launcher.__wrapped__()
