"""Events: the order of work between an engine and the provider."""

from __future__ import annotations

from collections.abc import Callable

import torch

from alchemi_bridge.device.driver import driver, require_cuda, require_handle
from alchemi_bridge.device.streams import foreign_stream
from alchemi_bridge.errors import DeviceMismatchError, ProtocolError

#: Runs on the host once the work is done; raises what went wrong.
Check = Callable[[], object]


class ForeignEvent:
    """An engine's CUDA event, by its handle. It is not destroyed, and stays the engine's.

    Parameters
    ----------
    handle
        ``cudaEvent_t`` as an integer.
    device
        Where it was made.

    Raises
    ------
    InputError
        If the handle is null or no handle.
    DeviceMismatchError
        If torch does not see the device.
    """

    __slots__ = ("cuda_event", "device")

    def __init__(self, handle: int, device: torch.device | str | int | None = None) -> None:
        self.cuda_event = require_handle(handle, "event")
        self.device = require_cuda(device, "device of an event")

    def wait(self, stream: torch.cuda.Stream) -> None:
        """Make a stream wait for it; the host does not."""
        driver().wait_event(stream.cuda_stream, self.cuda_event, stream.device)

    def record(self, stream: torch.cuda.Stream) -> None:
        """Record it on a stream."""
        driver().record(self.cuda_event, stream.cuda_stream, stream.device)

    def query(self) -> bool:
        """Whether it happened."""
        return driver().query(self.cuda_event, self.device)

    def synchronize(self) -> None:
        """Make the host wait."""
        driver().synchronize(self.cuda_event, self.device)


class Event:
    """A point in the order of work after which data may be read.

    On the host everything is done when a call returns, so an event is complete from the start. On a
    GPU it wraps a :class:`torch.cuda.Event`, or an engine's own event by its handle.

    Parameters
    ----------
    cuda_event
        A recorded event, or ``None`` for work that is already done. It stays the caller's.
    check
        Called once, when the host has waited for the event: raises what a GPU could not say
        before.
    """

    __slots__ = ("_check", "cuda_event")

    def __init__(
        self,
        cuda_event: torch.cuda.Event | ForeignEvent | None = None,
        *,
        check: Check | None = None,
    ) -> None:
        self.cuda_event = cuda_event
        self._check = check

    @classmethod
    def record(cls, device: torch.device, *, check: Check | None = None) -> Event:
        """Event after everything that was queued so far on the device's current stream."""
        return Event(_recorded(device), check=check)

    @classmethod
    def foreign(cls, handle: int, device: torch.device | str | int | None = None) -> Event:
        """An engine's own event, which it recorded.

        Parameters
        ----------
        handle
            ``cudaEvent_t`` as an integer. It has to live until everything that waits for it was
            queued.
        device
            Where it was made; torch's current CUDA device if not given.

        Raises
        ------
        InputError
            If the handle is null or no handle.
        DeviceMismatchError
            If torch does not see the device.
        """
        return Event(ForeignEvent(handle, device))

    @classmethod
    def counted(cls, consumers: int) -> CountedEvent:
        """An event that is recorded again and again, and consumed so many times each time."""
        return CountedEvent(consumers)

    def wait(self, device: torch.device) -> None:
        """Make the device wait.

        On a GPU its current stream waits, for events of other devices, too, and the host does not.
        """
        self._consume()
        if self.cuda_event is None:
            return
        if device.type == "cuda":
            self.cuda_event.wait(torch.cuda.current_stream(device))
        else:
            self.cuda_event.synchronize()  # what is read on the host waits on the host

    def wait_on(self, handle: int) -> None:
        """Make an engine's stream wait; the host does not.

        Parameters
        ----------
        handle
            ``cudaStream_t`` of the event's device, as an integer; 1 stands for the default stream.

        Raises
        ------
        InputError
            If the handle is null or no handle.
        """
        require_handle(handle, "stream")
        self._consume()
        if self.cuda_event is not None:
            self.cuda_event.wait(foreign_stream(handle, self._device))

    def signal(self, handle: int) -> None:
        """Record an engine's own event after this one, on the current stream of the same device.

        Parameters
        ----------
        handle
            ``cudaEvent_t`` as an integer. It stays the engine's.

        Raises
        ------
        InputError
            If the handle is null or no handle.
        DeviceMismatchError
            If the work was done on the host: there is no stream to record a CUDA event on.
        """
        require_handle(handle, "event")
        if self.cuda_event is None:
            raise DeviceMismatchError(
                "event to be recorded",
                expected="none, since the work was done on the host and is complete",
                got="a CUDA event of the engine",
                fix="record the event on a stream of the engine's, or evaluate on its device",
            )
        self._consume()
        stream = torch.cuda.current_stream(self._device)
        self.cuda_event.wait(stream)
        ForeignEvent(handle, self._device).record(stream)

    def synchronize(self) -> None:
        """Make the host wait, then run the event's check, once."""
        self._consume()
        if self.cuda_event is not None:
            self.cuda_event.synchronize()
        check, self._check = self._check, None
        if check is not None:
            check()

    @property
    def done(self) -> bool:
        """Whether the work is finished; never waits."""
        return self.cuda_event is None or bool(self.cuda_event.query())

    @property
    def _device(self) -> torch.device | None:
        """Where a CUDA event was recorded."""
        return None if self.cuda_event is None else self.cuda_event.device

    def _consume(self) -> None:
        """Count a use, in events that count."""


class CountedEvent(Event):
    """An event that is recorded again and again, and consumed as often as promised each time.

    Someone who waits once too often, or not at all, has lost the order of work: both are errors
    here, on every device, instead of a race that shows now and then. :meth:`wait`, :meth:`wait_on`,
    :meth:`signal` and :meth:`synchronize` consume; :attr:`done` does not.

    Parameters
    ----------
    consumers
        How often each record is consumed.
    """

    __slots__ = ("_left", "consumers")

    def __init__(self, consumers: int) -> None:
        super().__init__()
        if isinstance(consumers, bool) or not isinstance(consumers, int) or consumers < 1:
            raise ProtocolError(
                "counted event",
                expected="at least one consumer",
                got=repr(consumers),
                fix="promise how often the event is waited for after each record",
            )
        self.consumers = consumers
        self._left: int | None = None

    def mark(self, device: torch.device, *, check: Check | None = None) -> None:
        """Record it after everything that was queued so far on the device's current stream.

        Raises
        ------
        ProtocolError
            If the record before was not consumed as often as promised.
        """
        if self._left:
            raise ProtocolError(
                "counted event",
                expected=f"{self.consumers} consumptions before it is recorded again",
                got=f"{self.consumers - self._left}",
                fix="wait for the event wherever its data are used, or promise fewer consumers",
            )
        self.cuda_event, self._check = _recorded(device), check
        self._left = self.consumers

    @property
    def left(self) -> int:
        """How many consumptions of the last record are still to come."""
        return self._left or 0

    def _consume(self) -> None:
        if self._left is None:
            raise ProtocolError(
                "counted event",
                expected="a record before it is consumed",
                got="an event that was never recorded",
                fix="call mark() after the work that it stands for was queued",
            )
        if self._left == 0:
            raise ProtocolError(
                "counted event",
                expected=f"{self.consumers} consumptions of each record",
                got="one more",
                fix="record the event again first, or promise more consumers",
            )
        self._left -= 1


def _recorded(device: torch.device) -> torch.cuda.Event | None:
    """A new event on the current stream of a device, ``None`` on the host."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
