"""Order between an engine and the provider, where it can go wrong: on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.build
import pytest
import torch

from alchemi_bridge import Atoms, Cell, ForceBuffers, MetatomicForceProvider, Search, Step
from alchemi_bridge.device import CountedEvent, Event, cuda_devices, run_on
from alchemi_bridge.errors import ProtocolError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_devices() == 0, reason="needs a CUDA device"),
]

#: Some 20 ms at the clock of a data-centre GPU.
DELAY_CYCLES = 40_000_000

#: The first evaluations try ways to evaluate, which round differently.
WARM_UP_STEPS = 30


def here() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def test_torch_runs_on_the_engine_stream() -> None:
    stream, before = torch.cuda.Stream(), torch.cuda.current_stream()
    with run_on(stream.cuda_stream, here()):
        assert torch.cuda.current_stream().cuda_stream == stream.cuda_stream
    assert torch.cuda.current_stream() == before
    with run_on(1, here()):
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
    stream.synchronize()  # still there


@pytest.mark.parametrize("waits", [True, False])
def test_engine_event_orders_our_stream(waits: bool) -> None:
    """The value arrives late; without the wait the old one is read."""
    value, engine, ours = torch.zeros(1, device="cuda"), torch.cuda.Stream(), torch.cuda.Stream()
    ready = torch.cuda.Event()
    torch.cuda.synchronize()
    with torch.cuda.stream(engine):
        torch.cuda._sleep(DELAY_CYCLES)
        value.add_(1.0)
        ready.record()
    event = Event.foreign(ready.cuda_event, here())
    assert not event.done
    with torch.cuda.stream(ours):
        if waits:
            event.wait(here())
        seen = value.clone()
    event.synchronize()
    assert event.done
    torch.cuda.synchronize()
    assert float(seen) == float(waits)


@pytest.mark.parametrize("way", ["wait_on", "signal"])
def test_engine_waits_for_us(way: str) -> None:
    value, engine, ours = torch.zeros(1, device="cuda"), torch.cuda.Stream(), torch.cuda.Stream()
    finished = torch.cuda.Event()
    finished.record()  # torch makes events when they are first recorded
    torch.cuda.synchronize()
    with torch.cuda.stream(ours):
        torch.cuda._sleep(DELAY_CYCLES)
        value.add_(1.0)
        event = Event.record(here())
        if way == "signal":
            event.signal(finished.cuda_event)
    if way == "wait_on":
        event.wait_on(engine.cuda_stream)
    else:
        Event.foreign(finished.cuda_event, here()).wait_on(engine.cuda_stream)
    with torch.cuda.stream(engine):
        seen = value.clone()
    engine.synchronize()
    assert float(seen) == 1.0


def test_host_waits_for_the_gpu_and_is_told() -> None:
    value, calls = torch.zeros(1, device="cuda"), []
    torch.cuda._sleep(DELAY_CYCLES)
    value.add_(1.0)
    event = Event.record(here(), check=lambda: calls.append(float(value)))
    event.synchronize()
    assert calls == [1.0]
    counted = CountedEvent(2)
    counted.mark(here())
    counted.wait(here())
    counted.synchronize()
    with pytest.raises(ProtocolError):
        counted.wait(here())


@pytest.mark.parametrize("waits", [True, False])
def test_delayed_positions(model_file: Callable[..., Path], waits: bool) -> None:
    """200 evaluations whose positions come 20 ms late are bitwise equal to an undelayed one.

    The control drops the wait: it reads the positions of before, and has to fail.
    """
    device = here()
    atoms = ase.build.bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.08, seed=2)
    provider = MetatomicForceProvider(model_file("stillinger_weber"), device=device)
    provider.set_atoms(Atoms(atoms.numbers))
    provider.set_pairs(Search(0.5), Cell.of(atoms.cell.array))
    right = torch.as_tensor(atoms.positions, device=device)
    wrong = right + 0.01 * torch.sin(torch.arange(64.0, device=device))[:, None]
    positions, engine, ready = right.clone(), torch.cuda.Stream(), torch.cuda.Event()

    def forces(event: Event | None) -> torch.Tensor:
        out = torch.zeros_like(right)
        step = Step(positions, energy=False, ready=event)
        provider.compute(step, ForceBuffers(out)).synchronize()
        return out

    for _ in range(WARM_UP_STEPS):
        expected = forces(None)
    n_equal = 0
    for _ in range(200 if waits else 5):
        positions.copy_(wrong)
        torch.cuda.synchronize()
        with torch.cuda.stream(engine):
            torch.cuda._sleep(DELAY_CYCLES)
            positions.copy_(right)
            ready.record()
        found = forces(Event.foreign(ready.cuda_event, device) if waits else None)
        n_equal += int(torch.equal(found, expected))
        engine.synchronize()
    assert n_equal == (200 if waits else 0)
