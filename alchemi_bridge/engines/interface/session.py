"""One provider behind the C interface: what a caller's handle stands for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from alchemi_bridge.contract import Atoms, ForceBuffers, Step
from alchemi_bridge.device import DeviceBuffer, Event, run_on
from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface.lists import pairs_of
from alchemi_bridge.engines.interface.options import Host, provider_for
from alchemi_bridge.engines.interface.views import Views, is_staged, moved, quantities
from alchemi_bridge.errors import DeviceMismatchError
from alchemi_bridge.uncertainty import heard_by

#: Takes a level and a text.
Log = Callable[[int, str], None]

RESULTS = ("forces", "energy", "virial", "energies", "virials")


class Session:
    """A provider, and the views of its engine's memory.

    Parameters
    ----------
    model
        Path of the model file.
    keywords
        See :mod:`alchemi_bridge.engines.interface.options`.
    host
        The engine.
    log
        Where warnings and messages go; ``None``: where Python's go.
    """

    def __init__(
        self, model: str, keywords: Mapping[str, str], host: Host, log: Log | None
    ) -> None:
        self._log = log
        with self._heard():
            self.provider = provider_for(model, keywords, host)
        self.device = self.provider.loaded.device
        self._views = Views()

    def set_atoms(self, source: structs.Atoms) -> None:
        """Take the atoms of this rank."""
        views = Views()
        with self._heard(), self._current():
            self.provider.set_atoms(
                Atoms(
                    views.required(source.types, "types"),
                    subset=views.of(source.subset, "subset"),
                    selected=views.of(source.selected, "selected atoms"),
                    inputs=quantities(source.inputs, source.n_inputs, self.device),
                    names=views.of(source.ids, "ids of the atoms"),
                )
            )

    def set_pairs(self, source: structs.Pairs) -> None:
        """Take a new pair list."""
        with self._heard(), self._current(source.stream):
            ready = Event.foreign(source.ready, self.device) if source.ready else None
            if ready is not None and self._on_host(source):
                ready.synchronize()  # what is copied from host memory the host reads
                ready = None
            cell = self._views.cell(source)
            self.provider.set_pairs(pairs_of(source, self.device), cell, ready)

    def compute(self, step: structs.Step, out: structs.Buffers) -> None:
        """Evaluate, and add to the caller's buffers."""
        views, device = self._views, self.device
        with self._heard(), self._current(step.stream):
            positions = views.required(step.positions, "positions")
            buffers = {
                name: view
                for name in RESULTS
                if (view := views.of(getattr(out, name), f"buffer '{name}'")) is not None
            }
            staged = {n: v for n, v in buffers.items() if is_staged(v, device)}
            _require_writable(staged)
            if step.done and device.type == "cpu":
                raise _no_event_of("done", device)  # now, and not when the results are added
            near: dict[str, Any] = {**buffers, **_staging(staged, device)}
            ready = Event.foreign(step.ready, device) if step.ready else None
            if ready is not None and is_staged(positions, device):
                ready.synchronize()
                ready = None
            event = self.provider.compute(
                Step(
                    moved(positions, device),
                    cell=views.cell(step),
                    energy="energy" in near,
                    forces="forces" in near,
                    virial="virial" in near,
                    energies="energies" in near,
                    virials="virials" in near,
                    inputs=quantities(step.inputs, step.n_inputs, device) if step.n_inputs else {},
                    ready=ready,
                ),
                ForceBuffers(**near),
            )
            self._deliver(event, step, staged, near)

    def finish(self) -> None:
        """Wait for all results, and raise what only the device knew of them."""
        with self._heard(), self._current():
            self.provider.finish()

    def _deliver(
        self,
        event: Event,
        step: structs.Step,
        staged: Mapping[str, DeviceBuffer],
        near: Mapping[str, Any],
    ) -> None:
        """Tell the caller when results are there, as it wants to be told."""
        if staged or not (step.stream or step.done):
            event.synchronize()
        for name, view in staged.items():
            view.tensor.add_(near[name].to(view.device, view.dtype))
        if step.done:
            event.signal(step.done)

    def _on_host(self, source: structs.Pairs) -> bool:
        """Whether an array of a list is in host memory, and the provider elsewhere."""
        if self.device.type == "cpu":
            return False
        fields = (getattr(source, field[0]) for field in source._fields_)
        given = (value for value in fields if isinstance(value, structs.Array) and value.dtype)
        return bool(source.row_pointers) or any(array.memory == structs.HOST for array in given)

    @contextmanager
    def _current(self, stream: int = 0) -> Iterator[None]:
        """The provider's device is the current one, and the engine's stream."""
        if self.device.type != "cuda":
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(torch.cuda.device(self.device))
            if stream:
                stack.enter_context(run_on(stream, self.device))
            yield

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Hand on to the engine's log what is said meanwhile."""
        log = self._log
        if log is None:
            yield
            return
        # each time: who sets up logging anew throws away what is there
        BRIDGE_LOGGER.addHandler(FORWARD)
        FORWARD.to.append(log)
        try:
            with heard_by(lambda said: log(structs.WARNING, said)):
                yield
        finally:
            FORWARD.to.pop()


class _Forward(logging.Handler):
    """Hands what the bridge logs on to the engine that is being served in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self._of_thread = threading.local()

    @property
    def to(self) -> list[Log]:
        """The logs of calls in progress, the innermost last."""
        if not hasattr(self._of_thread, "to"):
            self._of_thread.to = []
        found: list[Log] = self._of_thread.to
        return found

    def emit(self, record: logging.LogRecord) -> None:
        if self.to:
            level = structs.WARNING if record.levelno >= logging.WARNING else structs.INFO
            self.to[-1](level, record.getMessage())
        elif not self._others() and (last := logging.lastResort) and record.levelno >= last.level:
            # Python prints what no handler takes, and now there is this one
            last.handle(record)

    def _others(self) -> bool:
        handlers = [*BRIDGE_LOGGER.handlers, *logging.getLogger().handlers]
        return any(handler is not self for handler in handlers)


BRIDGE_LOGGER = logging.getLogger("alchemi_bridge")
FORWARD = _Forward()


def _no_event_of(name: str, device: torch.device) -> DeviceMismatchError:
    return DeviceMismatchError(
        f"event '{name}'",
        expected=f"none, since the model computes on {device} and is done when the call returns",
        got="a CUDA event",
        fix="set it to zero, or open the provider with the keyword device",
    )


def _require_writable(staged: Mapping[str, DeviceBuffer]) -> None:
    """Raise now what else came up when results are added to the buffers, one after the other."""
    for name, view in staged.items():
        n_atoms = view.shape[0] if view.shape else 0
        ForceBuffers(**{name: view}).view(name, n_atoms, view.device)


def _staging(staged: Mapping[str, DeviceBuffer], device: torch.device) -> dict[str, torch.Tensor]:
    """Zeros on the provider's device in the place of buffers that are elsewhere."""
    return {
        name: torch.zeros(view.shape, dtype=view.dtype, device=device)
        for name, view in staged.items()
    }
