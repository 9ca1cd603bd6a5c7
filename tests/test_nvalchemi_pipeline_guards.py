"""Stages that are used again, that would go wrong, or whose systems do not fit what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvalchemi_parts import QUIET, engine

nv = engine()

from nvalchemi.dynamics import (  # noqa: E402
    FIRE,
    NPT,
    NVE,
    ConvergenceHook,
    FIREVariableCell,
    HostMemory,
    NVTNoseHoover,
    ZarrData,
)
from nvalchemi.dynamics.base import FusedStage  # noqa: E402
from nvalchemi_pipeline_parts import Keeper, crystals, sampler  # noqa: E402

from alchemi_bridge.engines.nvalchemi_pipeline import DistributedPipeline, ExactMemory  # noqa: E402
from alchemi_bridge.engines.nvalchemi_pipeline.portion import Portion  # noqa: E402
from alchemi_bridge.engines.nvalchemi_pipeline.residents import Residents  # noqa: E402
from alchemi_bridge.engines.nvalchemi_pipeline.sinks import Drain  # noqa: E402
from alchemi_bridge.engines.nvalchemi_pipeline.stage_facts import facts  # noqa: E402
from alchemi_bridge.errors import BridgeError, ConfigurationError, InputError  # noqa: E402

pytestmark = QUIET

ModelFile = Callable[..., Path]

#: The same operations on the same numbers; sums over atoms may be taken in another order.
SAME = 1e-10

STEPS = 12


def triclinic(model: Any, **options: Any) -> NPT:
    return NPT(
        model,
        dt=2.0,
        temperature=60.0,
        pressure=0.003 * torch.eye(3, dtype=torch.float64)[None],
        pressure_coupling="triclinic",
        barostat_time=100.0,
        thermostat_time=40.0,
        **options,
    )


def nose_hoover(model: Any, **options: Any) -> NVTNoseHoover:
    return NVTNoseHoover(model, dt=2.0, temperature=60.0, thermostat_time=40.0, **options)


def left(residents: Residents, steps: int = 100) -> dict[int, Any]:
    """All systems of a stage, when each has finished, by number."""
    for _ in range(steps):
        residents.step()
    assert residents.moving == []
    found = {}
    while residents.waiting:
        portion, _ = residents.take(None)
        found |= {int(own.pipeline_id): own for own in portion.batch().to_data_list()}
    return found


def alone(dynamics: Any, atoms: Any, stress: bool = False) -> Any:
    batch = nv.make_batch([atoms], stress=stress)
    nv.prime(dynamics, batch)
    return dynamics.run(batch, n_steps=STEPS)


def same(found: Any, expected: Any) -> None:
    for name in ("positions", "velocities", "cell"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=0, atol=SAME, err_msg=name
        )


@pytest.mark.parametrize("order", ["systems first", "cells first", "cells only"])
def test_skewed_cells_of_systems_that_come_and_go(order: str, model_file: ModelFile) -> None:
    """In whichever order the hooks are registered; the pipeline adds one that is missing."""
    model = nv.MetatomicModel(model_file("lennard-jones"), stress=True)
    structures = crystals(5, seed=2)
    stage = FusedStage([(0, triclinic(model, n_steps=STEPS))], device_type="cpu")
    hooks = [nv.SystemsHook(), nv.CellHook()]
    for hook in {"systems first": hooks, "cells first": hooks[::-1], "cells only": hooks[1:]}[
        order
    ]:
        stage.register_hook(hook)
    residents = Residents(stage, 0)
    for k, atoms in enumerate(structures):
        residents.enter(nv.make_batch([atoms], stress=True), k)
        residents.step()
        residents.step()
    found = left(residents)
    for k, atoms in enumerate(structures):
        same(found[k], alone(triclinic(model, hooks=[nv.CellHook()]), atoms, stress=True))


@pytest.mark.parametrize("n_systems", [1, 2])
def test_a_stage_that_has_run_before(n_systems: int, model_file: ModelFile) -> None:
    """Its thermostats begin anew, in a pipeline, after prime, and in a fused stage."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    structures = crystals(4, seed=5)
    expected = [alone(nose_hoover(model), atoms) for atoms in structures]
    stage = nose_hoover(model, n_steps=STEPS, max_batch_size=4, device_type="cpu")
    others = nv.make_batch(crystals(n_systems, seed=9))
    nv.prime(stage, others)
    stage.run(others, n_steps=30)
    residents = Residents(stage, 0)
    residents.enter(nv.make_batch(structures[:2]), 0)
    found = left(residents)
    for k in range(2):
        same(found[k], expected[k])
    batch = nv.make_batch(structures[:n_systems])
    nv.prime(stage, batch)
    stage.run(batch, n_steps=STEPS)
    same(batch.get_data(0), expected[0])
    fused = FusedStage([(0, nose_hoover(model, n_steps=STEPS))])
    fused.register_hook(nv.SystemsHook())
    for first in (2, 0):
        batch = nv.make_batch(structures[first : first + 2])
        fused.run(batch)
        same(batch.get_data(0), expected[first])
        same(batch.get_data(1), expected[first + 1])


def test_a_fused_run_that_goes_on(model_file: ModelFile) -> None:
    """With the batch of the run before: thermostats are kept."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    (atoms,) = crystals(1)
    expected = alone(nose_hoover(model), atoms)
    fused = FusedStage([(0, nose_hoover(model))])
    fused.register_hook(nv.SystemsHook())
    batch = nv.make_batch([atoms])
    for _ in range(2):
        fused.run(batch, n_steps=STEPS // 2)
    same(batch.get_data(0), expected)


def problem(stage: Any) -> str:
    return str(facts({0: stage}, 0, {})[1].problem)


def test_stages_that_would_go_wrong_are_refused(model_file: ModelFile) -> None:
    model = nv.MetatomicModel(model_file("lennard-jones"), stress=True)
    ends = {"n_steps": 3, "device_type": "cpu"}
    assert problem(triclinic(model, hooks=[nv.CellHook()], **ends)) == "None"
    assert "hooks of NPT: expected a CellHook" in problem(triclinic(model, **ends))
    assert "use FIRE2VariableCell" in problem(FIREVariableCell(model, dt=0.1, **ends))
    stage = triclinic(model, hooks=[nv.CellHook()], **ends)
    stage._pressure_init = 0.003
    assert "pressure of NPT: expected shape (n, 3, 3)" in problem(stage)
    assert "n_steps=0 of Keeper" in problem(Keeper(0))
    hook = ConvergenceHook.from_fmax(0.1)
    never = FusedStage([(0, Keeper(None))], convergence_hook=hook, device_type="cpu")
    assert "no system would ever finish" in problem(never)
    assert "entry_status=3" in problem(FusedStage([(1, Keeper(2))], entry_status=3))


def test_codes_that_do_not_begin_with_zero(model_file: ModelFile) -> None:
    model = nv.MetatomicModel(model_file("lennard-jones"))
    parts = [(1, NVE(model, dt=1.0, n_steps=2)), (2, NVE(model, dt=1.0, n_steps=3))]
    stage = FusedStage(parts, entry_status=1, exit_status=3, device_type="cpu")
    assert problem(stage) == "None"
    residents = Residents(stage, 0)
    residents.enter(nv.make_batch(crystals(2)), 0)
    for _ in range(5):
        assert len(residents.moving) == 2
        residents.step()
    assert [own.steps for _, owners in residents.waiting for own in owners] == [5, 5]


def test_parameters_of_each_system(model_file: ModelFile) -> None:
    """Nobody knows those of systems that come later."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    temperatures = torch.tensor([10.0, 300.0], dtype=torch.float64)
    stage = NVTNoseHoover(
        model, dt=1.0, temperature=temperatures, thermostat_time=40.0, n_steps=9, device_type="cpu"
    )
    residents = Residents(stage, 0)
    residents.enter(nv.make_batch(crystals(2)), 0)
    residents.step()
    with pytest.raises(ConfigurationError, match="parameters of NVTNoseHoover"):
        residents.enter(nv.make_batch(crystals(2)), 1)


def test_errors_name_systems_by_their_number(model_file: ModelFile) -> None:
    """Not by their places in whichever batch."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    residents = Residents(NVE(model, dt=1.0, n_steps=9, device_type="cpu"), 2, entered=7)
    residents.enter(nv.make_batch(crystals(2)), 0)
    residents.step()
    bad = crystals(3)
    bad[1].positions[0] = np.nan
    number = 2 * 10**12 + 10
    with pytest.raises(BridgeError, match=rf"positions of system {number} \(pipeline_id\)"):
        residents.enter(nv.make_batch(bad), 1)
    residents.stage.active_batch.positions[-1] = np.nan
    with pytest.raises(BridgeError, match=rf"positions of system {number - 2} \(pipeline_id\)"):
        residents.step()


def test_a_system_that_outgrows_the_message() -> None:
    residents = Residents(Keeper(1), 1)
    residents.enter(nv.make_batch(crystals(1)), 0)
    residents.step()
    n_atoms = len(crystals(1)[0])
    assert residents.take((0, n_atoms - 1, 0)) == (None, [])  # the next stage is full: wait
    with pytest.raises(InputError, match=f"at most {n_atoms - 1} atoms .* got {n_atoms} atoms"):
        residents.take((1, n_atoms - 1, 0))


@pytest.mark.parametrize("kind", ["memory", "zarr"])
def test_a_sink_holds_systems_of_one_kind(kind: str, tmp_path: Path) -> None:
    """nvalchemi would drop fields that not all have, and convert dtypes."""
    sink = HostMemory(4) if kind == "memory" else ZarrData(str(tmp_path / "sink"), 4)
    drain = Drain([sink])
    first, second = (Portion.of(nv.make_batch([atoms])) for atoms in crystals(2))
    drain.write(first, [0])
    drain.write(second, [1])
    more = nv.make_batch(crystals(1))
    more["label"] = torch.tensor([[1]])
    with pytest.raises(InputError, match="field 'label' of system 2"):
        drain.write(Portion.of(more), [2])
    single = Portion.of(nv.make_batch(crystals(1), dtype=torch.float32))
    with pytest.raises(InputError, match=r"of system 3: .* float32"):
        drain.write(single, [3])
    assert len(sink) == 2


def test_relaxed_already(model_file: ModelFile) -> None:
    """A system that has nothing to do leaves after a step."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    hook = ConvergenceHook.from_fmax(1e6)
    residents = Residents(FIRE(model, dt=0.1, convergence_hook=hook, device_type="cpu"), 0)
    residents.enter(nv.make_batch(crystals(2)), 0)
    assert [own.reason for own in residents.step()] == ["converged"] * 2


def test_another_run_of_the_same_pipeline(tmp_path: Path) -> None:
    """With a new sampler: numbers go on, the journal is that of the run."""
    sink = ExactMemory()
    stage = Keeper(2, sampler=sampler(crystals(3), 2), sinks=[sink], max_batch_size=2)
    group = {"init_method": f"file://{tmp_path / 'store'}", "rank": 0, "world_size": 1}
    with DistributedPipeline({0: stage}, **group) as pipeline:
        pipeline.run()
        assert [visit.system for visit in pipeline.journal()] == [0, 1, 2]
        pipeline.run()
        assert len(sink) == 3
        stage.sampler = sampler(crystals(4), 2)
        pipeline.run()
        assert [visit.system for visit in pipeline.journal()] == [3, 4, 5, 6]
    numbers = [n for batch in sink.batches() for n in batch.pipeline_id.flatten().tolist()]
    assert numbers == list(range(7))
