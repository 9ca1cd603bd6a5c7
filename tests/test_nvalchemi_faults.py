"""What nvalchemi 0.2 does that the bridge guards against or works around.

Where one of these fails with a later version, what stands in its text can go.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nvalchemi_parts import QUIET, Structures, Watch, engine, hot, steps_in_stages

nv = engine()

from nvalchemi.data import Batch  # noqa: E402
from nvalchemi.dynamics import (  # noqa: E402
    FIRE,
    NPH,
    NVE,
    ConvergenceHook,
    FIREVariableCell,
    FusedStage,
    HostMemory,
    NVTLangevin,
    NVTNoseHoover,
    SizeAwareSampler,
    ZarrData,
)

ModelFile = Callable[..., Path]

pytestmark = QUIET


def test_variable_cells_that_do_not_vary(model_file: ModelFile) -> None:
    """``FIREVariableCell``, which ``prime`` refuses."""
    batch = nv.make_batch([hot((1, 1, 1), 1.0, seed=1)], stress=True)
    before = batch.cell.clone()
    dynamics = FIREVariableCell(nv.MetatomicModel(model_file("lennard-jones"), stress=True), dt=0.1)
    dynamics.compute(batch)
    dynamics.run(batch, n_steps=30)
    assert float(batch.stress.abs().max()) > 1e-4
    assert torch.equal(batch.cell, before)


def test_cells_along_other_axes(model_file: ModelFile) -> None:
    """Couplings that are not isotropic, which ``prime`` wants a ``CellHook`` for."""
    batch = nv.make_batch([hot((2, 1, 1), 40.0, seed=1)], stress=True)
    dynamics = NPH(
        nv.MetatomicModel(model_file("lennard-jones"), stress=True),
        dt=4.0,
        pressure=torch.zeros(1, 3, 3, dtype=torch.float64),
        barostat_time=50.0,
        pressure_coupling="triclinic",
    )
    dynamics.compute(batch)
    dynamics.run(batch, n_steps=5)
    seen = {}
    for name in ("BEFORE_PRE_UPDATE", "AFTER_PRE_UPDATE"):
        dynamics.register_hook(
            Watch(name, lambda b, name=name: seen.setdefault(name, b.cell.clone()))
        )
    strain = []
    dynamics.register_hook(
        Watch(
            "AFTER_PRE_UPDATE",
            lambda _: strain.append(
                dynamics._state.dt[:, None, None] * dynamics._state.cell_velocity
            ),
        )
    )
    dynamics.run(batch, n_steps=1)
    before, after = seen["BEFORE_PRE_UPDATE"], seen["AFTER_PRE_UPDATE"]
    torch.testing.assert_close(after, before + strain[0] @ before, rtol=0, atol=1e-12)
    assert float((after - before - before @ strain[0].mT).abs().max()) > 1e-4


def test_memory_that_keeps_no_copy() -> None:
    """``HostMemory`` on a CPU, unless a part of a batch is written: take another sink."""
    sink, batch = HostMemory(capacity=4), nv.make_batch([hot((1, 1, 1), 1.0, seed=1)])
    sink.write(batch)
    batch.positions += 1.0
    assert torch.equal(sink.read().positions, batch.positions)


def test_store_that_drops_fields(tmp_path: Path) -> None:
    """``ZarrData`` has no place for what is no field of ``AtomicData``, as numbers of systems."""
    sink, batch = ZarrData(tmp_path / "store"), nv.make_batch([hot((1, 1, 1), 1.0, seed=1)])
    batch["system_id"] = torch.tensor([[7]])
    sink.write(batch)
    assert "system_id" in batch
    assert "system_id" not in sink.read()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_room_that_loses_atoms(dtype: torch.dtype) -> None:
    """``Batch.put`` into a batch with room, which the model refuses."""
    batch = nv.make_batch([hot((1, 1, 1), 1.0, seed=1)], dtype=dtype)
    room = Batch.empty(num_systems=2, num_nodes=10, num_edges=0, template=batch)
    room.put(batch, torch.ones(1, dtype=torch.bool))
    assert room.num_graphs == (1 if dtype == torch.float32 else 0)
    assert not bool(room.atomic_numbers.any())


def test_refills(model_file: ModelFile) -> None:
    """New systems without forces, or with others' degrees of freedom, without ``SystemsHook``."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    dynamics = NVTNoseHoover(model, dt=2.0, temperature=40.0, thermostat_time=50.0, n_steps=3)
    data = Structures([hot((k, 1, 1), 40.0, seed=k) for k in (1, 2, 3)])
    fused = FusedStage([(0, dynamics)], sampler=SizeAwareSampler(data, max_batch_size=2))
    forces, freedoms = [], []
    fused.register_hook(Watch("BEFORE_STEP", lambda b: forces.append(float(b.forces.abs().max()))))
    fused.register_hook(
        Watch("AFTER_STEP", lambda b: freedoms.append((3 * b.num_nodes, dynamics._state.nhc_ndof)))
    )
    fused.run()
    assert [force == 0.0 for force in forces] == [False] * 3 + [True] + [False] * 2
    assert float(freedoms[0][1].sum()) == freedoms[0][0]

    data = Structures([hot((k, 1, 1), 40.0, seed=k) for k in (1, 2, 3, 1)])
    fused = FusedStage([(0, dynamics)], sampler=SizeAwareSampler(data, max_batch_size=2))
    freedoms = []
    fused.register_hook(
        Watch("AFTER_STEP", lambda b: freedoms.append((3 * b.num_nodes, dynamics._state.nhc_ndof)))
    )
    fused.run()
    each = freedoms[-1][1].tolist()
    assert sum(each) == freedoms[-1][0]
    assert each == [24.0, 24.0]  # of systems of 4 and 12 atoms


def test_langevin_refills(model_file: ModelFile) -> None:
    """Atoms under their former systems, without ``SystemsHook``."""
    langevin = NVTLangevin(
        nv.MetatomicModel(model_file("lennard-jones")),
        dt=2.0,
        temperature=30.0,
        friction=0.05,
        n_steps=2,
    )
    data = Structures([hot((k, 1, 1), 20.0, seed=k) for k in (1, 2, 3)])
    fused = FusedStage([(0, langevin)], sampler=SizeAwareSampler(data, max_atoms=12))
    wrong = []
    fused.register_hook(
        Watch(
            "AFTER_STEP", lambda b: wrong.append(int((langevin._batch_int32 != b.batch_idx).sum()))
        )
    )
    with torch.no_grad():
        fused.run()
    assert wrong == [0, 0, 8, 8]


def rough_and_calm() -> list[Any]:
    """Argon that converges late and early."""
    rough = hot((1, 1, 1), 1.0, seed=1)
    rough.rattle(0.1, seed=5)
    return [rough, hot((1, 1, 1), 1.0, seed=0)]


def relax(model: Any) -> FIRE:
    return FIRE(model, dt=0.1, convergence_hook=ConvergenceHook.from_fmax(2e-3))


def test_states_of_other_stages(model_file: ModelFile) -> None:
    """A thermostat that runs away before its system comes to it, without ``SystemsHook``."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    thermostat = NVTNoseHoover(model, dt=2.0, temperature=40.0, thermostat_time=50.0, n_steps=50)
    fused, early = relax(model) + thermostat, []

    def look(batch: Any) -> None:
        for k, status in enumerate(batch.status.flatten().tolist()):
            if status == 0 and hasattr(thermostat, "_state"):
                early.append(float(thermostat._state.nhc_eta_dot[k, 0].abs()))

    fused.register_hook(Watch("BEFORE_STEP", look))
    fused.run(nv.make_batch(rough_and_calm()), n_steps=500)
    assert max(early) > 1e-3


def test_lengths_of_stages(model_file: ModelFile) -> None:
    """Stages that end at 0.05 eV/Å before they begin, or a step early, without ``SystemsHook``."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    fused = relax(model) + NVE(model, dt=2.0, n_steps=10)
    fused = fused + NVE(model, dt=2.0, n_steps=10)
    lasted = steps_in_stages(fused, 2)
    fused.run(nv.make_batch(rough_and_calm()), n_steps=500)
    assert lasted[:, 1:].tolist() == [[0, 9]] * 2
