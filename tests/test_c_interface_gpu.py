"""The C interface with a model on a GPU: device memory, host memory, streams and events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from c_callers import BOX, NAMES, Engine, N, buffers, check, pairs_like, places, sized

from alchemi_bridge import FullPairs, Search
from alchemi_bridge.device import cuda_devices
from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface.views import array_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_devices() == 0, reason="needs a CUDA device"),
]

#: Relative to the largest number of its kind; sums of some hundred float64 terms.
SAME = 1e-12

TYPES = np.full(N, 14, dtype=np.int32)


@pytest.fixture(scope="module")
def expected(model_file: Callable[..., Path]) -> dict[str, np.ndarray]:
    """On the host."""
    with Engine(model_file("message_passing"), {"device": "cpu"}) as engine:
        engine.set_atoms(TYPES)
        engine.set_pairs(Search(0.5), BOX)
        found = buffers(N, *NAMES)
        engine.compute(places(), BOX, found)
    return found


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        assert np.abs(found[name] - values).max() <= SAME * max(np.abs(values).max(), 1.0), name


def test_host_memory_is_copied(
    model_file: Callable[..., Path], expected: dict[str, np.ndarray]
) -> None:
    """As LAMMPS has it; added to what is there."""
    with Engine(model_file("message_passing"), {"device": "cuda"}) as engine:
        assert engine.requirements().memory == structs.CUDA
        engine.set_atoms(TYPES)
        engine.set_pairs(Search(0.5), BOX)
        for _ in range(3):
            found = buffers(N, *NAMES)
            found["forces"] += 1.0
            engine.compute(places(), BOX, found)
            found["forces"] -= 1.0
            same(found, expected)


@pytest.mark.parametrize("way", ["nothing", "stream", "event"])
def test_device_memory(
    way: str, model_file: Callable[..., Path], expected: dict[str, np.ndarray]
) -> None:
    """Results are complete when the caller was told that they would be."""
    positions = torch.from_numpy(places()).cuda()
    out = {name: torch.from_numpy(v).cuda() for name, v in buffers(N, *NAMES).items()}
    stream, done = torch.cuda.Stream(), torch.cuda.Event()
    done.record(stream)  # makes its handle
    with Engine(model_file("message_passing"), {"device": "cuda"}) as engine:
        engine.set_atoms(TYPES)
        engine.set_pairs(Search(0.5), BOX)
        torch.cuda.synchronize()
        step = sized(structs.Step, cell=BOX, periodic=[1, 1, 1])
        step.positions = array_of(positions)
        if way != "nothing":
            step.stream = stream.cuda_stream
        if way == "event":
            step.done = done.cuda_event
        into = sized(structs.Buffers)
        for name, values in out.items():
            setattr(into, name, array_of(values))
        check(engine.functions.compute(engine.handle, step, into))
        if way == "event":
            done.synchronize()
        elif way == "stream":
            stream.synchronize()
        with torch.cuda.stream(stream):
            found = {name: values.cpu().numpy() for name, values in out.items()}
    same(found, expected)


def test_a_list_in_host_memory(
    model_file: Callable[..., Path], expected: dict[str, np.ndarray]
) -> None:
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    atoms = Atoms("Si" * N, places(), cell=BOX, pbc=True)
    with Engine(model_file("message_passing"), {"device": "cuda"}) as engine:
        reach = engine.requirements().pair_range + 0.5
        first, second, shifts = neighbor_list("ijS", atoms, reach)
        source = FullPairs(*(a.astype(np.int32) for a in (first, second, shifts)), reach)
        engine.set_atoms(TYPES)
        engine.set_pairs(pairs_like(source, BOX), BOX)
        found = buffers(N, *NAMES)
        engine.compute(places(), BOX, found)
    same(found, expected)
