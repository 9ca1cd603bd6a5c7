"""Events: the order of work between an engine and the provider."""

from __future__ import annotations

import torch


class Event:
    """A point in the order of work after which data may be read.

    On the host everything is done when a call returns, so an event is complete from the start. On a
    GPU it wraps a :class:`torch.cuda.Event`.

    Parameters
    ----------
    cuda_event
        A recorded event, or ``None`` for work that is already done. It stays the caller's.
    """

    __slots__ = ("cuda_event",)

    def __init__(self, cuda_event: torch.cuda.Event | None = None) -> None:
        self.cuda_event = cuda_event

    @classmethod
    def record(cls, device: torch.device) -> Event:
        """Event after everything that was queued so far on the device's current stream."""
        if device.type != "cuda":
            return cls()
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        return cls(event)

    def wait(self, device: torch.device) -> None:
        """Make the device's current stream wait; the host does not."""
        if self.cuda_event is not None:
            torch.cuda.current_stream(device).wait_event(self.cuda_event)

    def synchronize(self) -> None:
        """Make the host wait."""
        if self.cuda_event is not None:
            self.cuda_event.synchronize()

    @property
    def done(self) -> bool:
        """Whether the work is finished; never waits."""
        return self.cuda_event is None or bool(self.cuda_event.query())
