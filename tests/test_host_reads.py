"""Steps that do not search ask nothing of the device beyond one read of the guard.

Reads that torch makes by itself (``item``, ``nonzero`` and their like) are counted by the torch
profiler; ``tolist`` leaves no trace there on a host, and is counted by hand.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.build
import brute_force
import echo
import numpy as np
import pytest
import torch
from kernel_parts import needs_compiler, needs_cuda
from metatomic.torch import ModelOutput, System

from alchemi_bridge import (
    Atoms,
    Cell,
    ForceBuffers,
    HalfPairs,
    MetatomicForceProvider,
    Search,
    Step,
)
from alchemi_bridge import geometry as geometry_module
from alchemi_bridge.model.tuning import Mode, Tuner
from alchemi_bridge.native import kernel_path, using
from alchemi_bridge.neighbors import neighbor_block

#: Every one of them makes the host wait for a GPU.
READS = (
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::equal",
    "aten::unique_dim",
    "aten::_unique2",
    "aten::masked_select",
)

#: What a step may move between host and GPU, in bytes: facts of the guard, nine numbers of a cell.
SMALL_COPY = 256

CUTOFF, SKIN = 5.0, 1.0
GUARD, DELIVERY = "alchemi_bridge.neighbors.guard", "alchemi_bridge.delivery"

CUT, WHOLE = Mode(optimize=True, uncut=False), Mode(optimize=True, uncut=True)


@dataclass
class Reads:
    """What was read: by torch's operations, and by whom with ``tolist``."""

    operations: Counter = field(default_factory=Counter)
    lists: Counter = field(default_factory=Counter)


@contextlib.contextmanager
def counted() -> Iterator[Reads]:
    """Count all reads within."""
    reads, tolist = Reads(), torch.Tensor.tolist

    def noted(tensor: torch.Tensor) -> Any:
        reads.lists[sys._getframe(1).f_globals["__name__"]] += 1
        return tolist(tensor)

    torch.Tensor.tolist = noted
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            yield reads
    finally:
        torch.Tensor.tolist = tolist
    reads.operations.update(event.name for event in profile.events() if event.name in READS)


def test_the_meter() -> None:
    """It sees the reads that the other tests find none of."""
    three = torch.arange(3)
    with counted() as reads:
        float(three[1])
        bool(three[1])
        three[three > 0]
        torch.equal(three, three)
        torch.nonzero(three)
        three.tolist()
    assert set(reads.operations) > {"aten::equal", "aten::is_nonzero"}
    assert reads.operations["aten::item"] >= 2
    assert reads.operations["aten::nonzero"] == 2
    assert reads.lists == {__name__: 1}


# --- an engine ------------------------------------------------------------------------------------


class Engine:
    """Argon that trembles within the skin, and a provider that runs in one mode."""

    def __init__(
        self,
        path: Path,
        mode: Mode,
        device: str = "cpu",
        *,
        subset: bool = False,
        owns: bool = False,
    ) -> None:
        self.provider = MetatomicForceProvider(path, device=device)
        # as if this mode had been found to be the fastest; it must be one of those that are tried
        assert mode in self.provider._modes()
        self.provider._tuner = Tuner([mode], self.provider.loaded.device)
        atoms = ase.build.bulk("Ar", "fcc", a=5.3, cubic=True).repeat(2)
        atoms.rattle(0.1, seed=1)
        self.start, self.box = atoms.positions, atoms.cell.array
        self.device, self.cell = device, Cell.of(self.box)
        rng = np.random.default_rng(2)
        chosen = rng.permutation(len(atoms))[:25] if subset else None
        self.provider.set_atoms(Atoms(types=np.asarray(atoms.numbers), subset=chosen))
        self.provider.set_pairs(self._list() if owns else Search(SKIN), self.cell)
        double: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.buffers = ForceBuffers(
            torch.zeros((len(atoms), 3), **double),
            torch.zeros(1, **double),
            torch.zeros((3, 3), **double),
        )
        # tensors that later steps take in turn; made beforehand
        moves = rng.uniform(-0.1, 0.1, (16, *self.start.shape))
        self.frames = [torch.tensor(self.start + move, **double) for move in moves]
        self.steps = 0

    def _list(self) -> HalfPairs:
        reach = CUTOFF + SKIN
        found = brute_force.find(self.start, self.box, (True, True, True), reach)
        return echo.half_pairs(found, reach)

    def step(self, scale: float = 1.0) -> None:
        """Energy, forces and virial of the next frame; the box may breathe."""
        positions = self.frames[self.steps % len(self.frames)]
        self.steps += 1
        cell = None if scale == 1.0 else Cell.of(self.box * scale)
        self.provider.compute(Step(positions, cell=cell, virial=True), self.buffers)

    def warm_up(self) -> None:
        """TorchScript compiles, and the direct way to the model is compared with ``forward``."""
        for _ in range(8):
            self.step()
        assert self.provider.tuned
        assert self.provider.loaded.execution.is_direct()
        assert self.provider.searches == 1


def model_alone(engine: Engine) -> tuple[Reads, Reads]:
    """Reads of metatomic when it is given a System, and of the model with its gradients."""
    loaded, atoms = engine.provider.loaded, engine.provider._atoms
    found = engine.provider._geometry.step(engine.frames[0], None)
    vectors = [pairs.vectors.detach().unsqueeze(-1).requires_grad_(True) for pairs in found.pairs]
    blocks = [neighbor_block(p.samples, v) for p, v in zip(found.pairs, vectors, strict=True)]
    with counted() as building:
        leaf = found.positions.clone().requires_grad_(True)
        system = System(atoms.types, leaf, found.rows, found.pbc)
        for request, block in zip(loaded.requests, blocks, strict=True):
            system.add_neighbor_list(request, block)
    outputs = {"energy": ModelOutput(unit="eV", sample_kind="system")}
    with counted() as running:
        energy = loaded.module.module([system], outputs, None)["energy"].block().values
        torch.autograd.grad(energy, vectors, torch.ones_like(energy))
    return building, running


@pytest.fixture
def lennard_jones(model_file: Callable[..., Path]) -> Callable[..., Path]:
    """A file of a Lennard-Jones model that reads nothing by itself."""

    def export(*, strict: bool, full_list: bool = False, dtype: str = "float64") -> Path:
        options: dict[str, Any] = {"strict": strict, "full_list": full_list, "dtype": dtype}
        return model_file("lennard-jones", cutoff=CUTOFF, **options)

    return export


# --- on a host ------------------------------------------------------------------------------------

VARIANTS = [
    pytest.param({}, {}, id="search"),
    pytest.param({"full_list": True}, {}, id="both directions"),
    pytest.param({"dtype": "float32"}, {}, id="float32"),
    pytest.param({}, {"subset": True}, id="subset"),
    pytest.param({}, {"owns": True}, id="list of the engine"),
]


@needs_compiler
@pytest.mark.parametrize("scale", [1.0, 0.998], ids=["box", "new box"])
@pytest.mark.parametrize(("model", "options"), VARIANTS)
def test_whole_lists(
    lennard_jones: Callable[..., Path], model: dict, options: dict, scale: float
) -> None:
    """No operation of torch reads anything; the guard reads its few facts at once."""
    with using("native"):
        engine = Engine(lennard_jones(strict=False, **model), WHOLE, **options)
        engine.warm_up()
        with counted() as reads:
            for _ in range(3):
                engine.step(scale)
    assert engine.provider.searches == 1
    assert reads.operations == {}
    # on a host the sums of the results are looked at, too, where nothing has to wait for them; on
    # a GPU they are read with the next step
    assert reads.lists == {GUARD: 3, DELIVERY: 3}


@needs_compiler
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("model", "options"), VARIANTS)
def test_cut_lists(
    lennard_jones: Callable[..., Path], model: dict, options: dict, strict: bool
) -> None:
    """The bridge adds nothing to what metatomic itself reads when it is given a new System.

    Its constructor looks for zero rows of the cell (an ``index`` by a mask: ``nonzero``) and reads
    some flags (``item``), for every engine and every calculator. A bare System with the same block
    under the same profiler says how often.
    """
    with using("native"):
        engine = Engine(lennard_jones(strict=strict, **model), CUT, **options)
        engine.warm_up()
        building, running = model_alone(engine)
        with counted() as reads:
            engine.step()
    assert engine.provider.searches == 1
    assert running.operations == {}  # or the model would have to be taken out of the account
    assert building.operations["aten::item"] > 0  # it is what the comparison is about
    assert reads.operations == building.operations
    assert reads.lists == {GUARD: 1, DELIVERY: 1}


@needs_compiler
@pytest.mark.parametrize("mode", [CUT, WHOLE])
def test_the_guard_reads_once(
    lennard_jones: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """One call for everything: displacement, finiteness, overlap and the numbers of pairs."""
    calls = []
    read = geometry_module.read_facts

    def noted(*arguments: Any) -> Any:
        calls.append(arguments)
        return read(*arguments)

    with using("native"):
        engine = Engine(lennard_jones(strict=False), mode)
        engine.warm_up()
        monkeypatch.setattr(geometry_module, "read_facts", noted)
        for _ in range(5):
            engine.step()
    assert len(calls) == 5


@needs_compiler
def test_a_search_is_seen(lennard_jones: Callable[..., Path]) -> None:
    """The control: a step that searches reads more."""
    with using("native"):
        engine = Engine(lennard_jones(strict=False), WHOLE)
        engine.warm_up()
        engine.frames = [frame * 0.8 for frame in engine.frames]
        with counted() as reads:
            engine.step(0.8)
    assert engine.provider.searches == 2
    assert sum(reads.operations.values()) > 0
    assert sum(reads.lists.values()) > 2


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.fixture
def on_cuda(lennard_jones: Callable[..., Path]) -> Iterator[Engine]:
    """Warm, with whole lists, and compiled kernels as they are used there."""
    path = kernel_path("cuda")
    if path.launcher is None:
        pytest.skip(f"needs compiled kernels: {path.reason}")
    engine = Engine(lennard_jones(strict=False), WHOLE, "cuda")
    engine.warm_up()
    torch.cuda.synchronize()
    yield engine
    torch.cuda.synchronize()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("scale", [1.0, 0.998], ids=["box", "new box"])
def test_nothing_waits_for_a_gpu(
    on_cuda: Engine, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """torch raises at every wait of the host but that of the guard; the model is on its own."""
    calls: list[str] = []

    def allow(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def free(*arguments: Any) -> Any:
            calls.append(name)
            torch.cuda.set_sync_debug_mode("default")
            try:
                return call(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("error")

        monkeypatch.setattr(owner, name, free)

    allow(geometry_module, "read_facts")
    allow(on_cuda.provider.loaded.execution, "run")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            float(on_cuda.buffers.energy)  # it does raise
        for number in range(3):
            on_cuda.step(1.0 if scale == 1.0 else scale - 1e-4 * number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert calls == 3 * ["read_facts", "run"]
    assert on_cuda.provider.searches == 1


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("scale", [1.0, 0.998], ids=["box", "new box"])
def test_no_array_crosses(on_cuda: Engine, tmp_path: Path, scale: float) -> None:
    """Bytes of every copy between host and GPU in the trace of three steps."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(3):
            on_cuda.step(scale)
        torch.cuda.synchronize()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert any(event.get("cat") == "kernel" for event in events)
    copies = [event for event in events if event.get("cat") == "gpu_memcpy"]
    crossing = [c for c in copies if "HtoD" in c["name"] or "DtoH" in c["name"]]
    assert len(crossing) >= 3  # the guard's facts
    assert [c for c in crossing if c["args"]["bytes"] > SMALL_COPY] == []
    assert on_cuda.provider.searches == 1
