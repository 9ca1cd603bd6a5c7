"""Order between an engine and the provider: events, counted events, raw handles, streams."""

from __future__ import annotations

import types
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from alchemi_bridge.device import (
    CountedEvent,
    Event,
    cuda_devices,
    events,
    foreign_stream,
    require_current,
    run_on,
)
from alchemi_bridge.device import driver as driver_module
from alchemi_bridge.device.driver import NOT_READY, Driver, require_cuda, require_handle
from alchemi_bridge.errors import (
    ConfigurationError,
    DeviceMismatchError,
    InputError,
    NonFiniteResultError,
    ProtocolError,
)

CPU = torch.device("cpu")

without_cuda = pytest.mark.skipif(cuda_devices() > 0, reason="needs a machine without CUDA")

BAD_HANDLES = [0, None, -1, 1 << 64, "0x7f00", 3.0, True]


# --- events of the host ---------------------------------------------------------------------------


def test_work_of_the_host_is_done() -> None:
    for event in (Event(), Event.record(CPU)):
        assert event.done
        event.wait(CPU)
        event.wait_on(4711)
        event.synchronize()


def test_check_runs_once_and_only_for_the_host() -> None:
    calls = []
    event = Event.record(CPU, check=lambda: calls.append(1))
    event.wait(CPU)
    assert event.done
    assert not calls
    event.synchronize()
    event.synchronize()
    assert calls == [1]


def test_check_that_fails() -> None:
    def check() -> None:
        raise NonFiniteResultError("forces", expected="finite values", got="NaN", fix="look")

    event = Event(check=check)
    with pytest.raises(NonFiniteResultError):
        event.synchronize()
    event.synchronize()  # it was told


@pytest.mark.parametrize("handle", BAD_HANDLES)
@pytest.mark.parametrize("call", ["wait_on", "signal", "foreign", "foreign_stream", "run_on"])
def test_bad_handles_are_refused_everywhere(call: str, handle: Any) -> None:
    calls: dict[str, Callable[[Any], object]] = {
        "wait_on": Event().wait_on,
        "signal": Event().signal,
        "foreign": Event.foreign,
        "foreign_stream": foreign_stream,
        "run_on": run_on,
    }
    if call == "run_on" and handle is None:
        with run_on(None):  # nothing to change
            return
    with pytest.raises(InputError, match="handle of a CUDA") as caught:
        calls[call](handle)
    assert ("a null handle" in str(caught.value)) == (handle in (0, None))


def test_handles_of_numpy() -> None:
    assert require_handle(np.uint64(1 << 63), "event") == 1 << 63
    with pytest.raises(InputError, match="null handle"):
        require_handle(np.uint64(0), "stream")


def test_engine_event_can_not_follow_work_of_the_host() -> None:
    with pytest.raises(DeviceMismatchError, match="done on the host"):
        Event().signal(4711)


@without_cuda
def test_cuda_handles_without_cuda() -> None:
    for call in (Event.foreign, foreign_stream, run_on):
        with pytest.raises(DeviceMismatchError, match="one of 0 CUDA devices"):
            call(4711)


@pytest.mark.parametrize("device", ["cpu", "meta", "cuda:100", "cuda:256", "gpu", 3.5])
def test_devices_that_are_not_there(device: Any) -> None:
    for call in (Event.foreign, foreign_stream):
        with pytest.raises(DeviceMismatchError, match="CUDA devices that torch sees"):
            call(4711, device)


def test_host_is_always_current() -> None:
    require_current(CPU)


def test_device_has_to_be_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    require_current(torch.device("cuda", 1))
    with pytest.raises(DeviceMismatchError, match=r"current CUDA device, cuda:1, got cuda:0"):
        require_current(torch.device("cuda", 0))


# --- counted events -------------------------------------------------------------------------------


@pytest.mark.parametrize("consumers", [1, 3])
def test_counted_event_is_consumed_as_promised(consumers: int) -> None:
    event = Event.counted(consumers)
    assert isinstance(event, Event)
    uses: list[Callable[[], object]] = [
        lambda: event.wait(CPU),
        event.synchronize,
        lambda: event.wait_on(4711),
    ]
    for _ in range(3):
        event.mark(CPU)
        assert event.left == consumers
        for k in range(consumers):
            assert event.done  # asking is no consumption
            uses[k]()
        assert event.left == 0
        for use in uses:
            with pytest.raises(ProtocolError, match="one more"):
                use()


def test_counted_event_that_was_never_recorded() -> None:
    with pytest.raises(ProtocolError, match="never recorded"):
        Event.counted(1).wait(CPU)


def test_counted_event_that_is_recorded_too_early() -> None:
    event = CountedEvent(2)
    event.mark(CPU)
    event.wait(CPU)
    with pytest.raises(ProtocolError, match="2 consumptions before it is recorded again, got 1"):
        event.mark(CPU)
    event.synchronize()
    event.mark(CPU)


def test_null_handle_is_no_consumption() -> None:
    event = CountedEvent(1)
    event.mark(CPU)
    with pytest.raises(InputError):
        event.wait_on(0)
    assert event.left == 1


def test_check_of_a_counted_event() -> None:
    calls = []
    event = CountedEvent(2)
    for k in range(2):
        event.mark(CPU, check=lambda k=k: calls.append(k))
        event.synchronize()
        event.synchronize()
    assert calls == [0, 1]


@pytest.mark.parametrize("consumers", [0, -1, 1.0, None, True])
def test_promise_that_makes_no_sense(consumers: Any) -> None:
    with pytest.raises(ProtocolError, match="at least one consumer"):
        CountedEvent(consumers)


# --- the driver's calls ---------------------------------------------------------------------------


class FakeDriver:
    """Keeps a record of the calls, with handles as numbers, and answers with a status."""

    def __init__(self, status: int = 0, context: int = 1) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.status, self.context = status, context
        for name in ("cuEventQuery", "cuEventRecord", "cuEventSynchronize", "cuStreamWaitEvent"):
            setattr(self, name, self._call(name))

        def current(context: Any) -> int:
            context._obj.value = self.context
            return 0

        def error_name(status: int, text: Any) -> int:
            text._obj.value = {400: b"CUDA_ERROR_INVALID_HANDLE"}.get(status)
            return 0

        self.cuCtxGetCurrent, self.cuGetErrorName = current, error_name

    def _call(self, name: str) -> Callable[..., int]:
        def call(*arguments: int) -> int:
            self.calls.append((name, *arguments))
            return self.status

        return call


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device that torch pretends to have."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(driver_module, "cuda_devices", lambda: 1)
    return torch.device("cuda", 0)


def test_order_of_the_driver_arguments(no_device: torch.device) -> None:
    """cuStreamWaitEvent(stream, event, flags), but cuEventRecord(event, stream)."""
    code = FakeDriver()
    driver = Driver(code)
    driver.wait_event(stream=7, event=9, device=no_device)
    driver.record(event=9, stream=7, device=no_device)
    driver.synchronize(event=9, device=no_device)
    assert driver.query(event=9, device=no_device) is True
    assert code.calls == [
        ("cuStreamWaitEvent", 7, 9, 0),
        ("cuEventRecord", 9, 7),
        ("cuEventSynchronize", 9),
        ("cuEventQuery", 9),
    ]
    code.status = NOT_READY
    assert driver.query(event=9, device=no_device) is False


@pytest.mark.parametrize(("status", "name"), [(400, "INVALID_HANDLE"), (77777, "unknown error")])
def test_errors_of_the_driver(no_device: torch.device, status: int, name: str) -> None:
    driver = Driver(FakeDriver(status))
    for call in (driver.synchronize, driver.query):
        with pytest.raises(InputError, match=f"event 0x2a.*{name}"):
            call(42, no_device)
    for call in (driver.record, driver.wait_event):
        with pytest.raises(InputError, match=name):
            call(42, 42, no_device)


def test_new_threads_get_a_context(
    no_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    stream = types.SimpleNamespace(query=lambda: asked.append(1))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    for context, times in ((1, 0), (0, 1)):
        Driver(FakeDriver(context=context)).synchronize(9, no_device)
        assert len(asked) == times


def test_driver_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "LIBRARIES", ("libno-such-driver.so.1",))
    with pytest.raises(ConfigurationError, match="libno-such-driver"):
        driver_module.driver.__wrapped__()
    # a library of the name without its functions
    monkeypatch.setattr(driver_module, "LIBRARIES", ("libc.so.6",))
    with pytest.raises(ConfigurationError, match="cuCtxGetCurrent"):
        driver_module.driver.__wrapped__()


class Stream:
    """Stands for a stream of torch."""

    def __init__(self, cuda_stream: int, device: torch.device) -> None:
        self.cuda_stream, self.device = cuda_stream, device


def test_engine_events_go_through_the_driver(
    no_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways: our stream waits for the engine's event, its stream for ours; nothing is owned."""
    code = FakeDriver()
    monkeypatch.setattr(events, "driver", lambda: Driver(code))
    monkeypatch.setattr(events, "foreign_stream", lambda handle, device: Stream(handle, device))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(11, no_device))
    event = Event.foreign(42, no_device)
    event.wait(no_device)
    event.wait_on(13)
    event.signal(43)
    event.synchronize()
    assert event.done
    event.wait(CPU)  # what is read on the host waits on the host
    del event
    assert code.calls == [
        ("cuStreamWaitEvent", 11, 42, 0),
        ("cuStreamWaitEvent", 13, 42, 0),
        ("cuStreamWaitEvent", 11, 42, 0),
        ("cuEventRecord", 43, 11),
        ("cuEventSynchronize", 42),
        ("cuEventQuery", 42),
        ("cuEventSynchronize", 42),
    ]


def test_default_stream_has_a_name_of_its_own(
    no_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: ("default", device))
    monkeypatch.setattr(
        torch.cuda, "ExternalStream", lambda handle, device: ("external", handle, device)
    )
    assert foreign_stream(1, no_device) == ("default", no_device)
    assert foreign_stream(0x7F00, "cuda:0") == ("external", 0x7F00, no_device)


def test_device_gets_its_index(no_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for device in (None, "cuda", torch.device("cuda"), "cuda:0"):
        assert require_cuda(device, "device") == no_device
