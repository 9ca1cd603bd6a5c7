"""Stages in one batch (nvalchemi's FusedStage): each system as if alone, one call a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import pytest
import torch
from nvalchemi_parts import QUIET, engine, hot, steps_in_stages

from alchemi_bridge.errors import ConfigurationError

nv = engine()

from nvalchemi.dynamics import (  # noqa: E402
    FIRE,
    NPT,
    NVE,
    ConvergenceHook,
    FusedStage,
    NVTNoseHoover,
)

ModelFile = Callable[..., Path]

pytestmark = QUIET

#: The same operations on the same numbers; sums over atoms may be taken in another order, and
#: dynamics of some ten steps make more of it.
SAME = 1e-10

FMAX, STEPS = 2e-3, 25


def relax(model: Any) -> FIRE:
    return FIRE(model, dt=0.1, convergence_hook=ConvergenceHook.from_fmax(FMAX))


def dynamics_of(name: str, model: Any, **options: Any) -> Any:
    """With parameters that let a wrong state show within a few steps."""
    common = {"dt": 2.0, **options}
    if name == "NVE":
        return NVE(model, **common)
    common |= {"temperature": 60.0, "thermostat_time": 40.0}
    if name == "NVTNoseHoover":
        return NVTNoseHoover(model, **common)
    if name == "NPT":
        return NPT(model, pressure=0.005, barostat_time=100.0, **common)
    pressure = 0.005 * torch.eye(3, dtype=torch.float64)[None]
    return NPT(
        model, pressure=pressure, barostat_time=100.0, pressure_coupling="triclinic", **common
    )


def structures() -> list[ase.Atoms]:
    """Argon off its minimum by more and less, so that the systems converge at different steps."""
    made = []
    for k, repeat in enumerate([(1, 1, 1), (2, 1, 1), (1, 1, 1), (2, 2, 1)]):
        atoms = hot(repeat, 1.0, seed=k)
        atoms.rattle(0.02 * (k + 1), seed=20 + k)
        made.append(atoms)
    return made


def one_after_the_other(name: str, model: Any, atoms: ase.Atoms, stress: bool) -> Any:
    """Relaxed, then moved, in a batch of its own."""
    batch = nv.make_batch([atoms], stress=stress)
    first = relax(model)
    nv.prime(first, batch)
    first.run(batch, n_steps=1000)
    assert first.step_count < 1000
    second = dynamics_of(name, model)
    if stress:
        second.register_hook(nv.CellHook())
    second.run(batch, n_steps=STEPS)
    return batch


@pytest.mark.parametrize("name", ["NVE", "NVTNoseHoover", "NPT", "triclinic"])
def test_relaxation_then_dynamics(name: str, model_file: ModelFile) -> None:
    """Equal to separate runs, though systems change stages one by one, in one call a step."""
    stress = name in ("NPT", "triclinic")
    model = nv.MetatomicModel(model_file("lennard-jones"), stress=stress)
    fused = relax(model) + dynamics_of(name, model, n_steps=STEPS)
    fused.register_hook(nv.SystemsHook())
    if stress:
        fused.register_hook(nv.CellHook())
    batch = nv.make_batch(structures(), stress=stress)
    nv.prime(fused, batch)
    calls = []
    counting = model.register_forward_hook(lambda *_: calls.append(1))
    fused.run(batch, n_steps=1000)
    counting.remove()
    assert batch.status.flatten().tolist() == [2] * 4
    assert len(calls) == fused.step_count + 1 < 1000
    for k, atoms in enumerate(structures()):
        alone = one_after_the_other(name, model, atoms, stress)
        found = batch.index_select([k])
        for field in ("positions", "velocities", "cell", "energy"):
            torch.testing.assert_close(
                found[field], alone[field], rtol=0, atol=SAME, msg=f"{field} of system {k}"
            )


def test_stage_of_n_steps_in_the_middle(model_file: ModelFile) -> None:
    """It lasts so many steps, and so does the one after it."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    fused = relax(model) + dynamics_of("NVE", model, n_steps=STEPS)
    fused = fused + dynamics_of("NVTNoseHoover", model, n_steps=5)
    fused.register_hook(nv.SystemsHook())
    batch = nv.make_batch(structures())
    lasted = steps_in_stages(fused, 4)
    fused.run(batch, n_steps=1000)
    assert batch.status.flatten().tolist() == [3] * 4
    assert lasted[:, 1:].tolist() == [[STEPS, 5]] * 4
    assert len(set(lasted[:, 0].tolist())) > 1


def test_context_manager_and_stream(model_file: ModelFile) -> None:
    """On a CPU the stages have no stream; leaving it, hooks and numbers are as without."""
    found = []
    for inside in (False, True):
        model = nv.MetatomicModel(model_file("lennard-jones"))
        fused = relax(model) + dynamics_of("NVE", model, n_steps=5)
        batch = nv.make_batch(structures()[:2])
        if inside:
            with fused:
                assert fused.stream is None
                assert [stage.stream for _, stage in fused.sub_stages] == [None, None]
                fused.run(batch, n_steps=1000)
        else:
            fused.run(batch, n_steps=1000)
        found.append(batch.positions)
    assert torch.equal(*found)


@pytest.mark.slow
def test_compiled(model_file: ModelFile) -> None:
    """The same numbers when torch compiles the steps."""
    found = []
    for compiled in (False, True):
        model = nv.MetatomicModel(model_file("lennard-jones"))
        fused = relax(model) + dynamics_of("NVTNoseHoover", model, n_steps=STEPS)
        fused.register_hook(nv.SystemsHook())
        if compiled:
            fused.compile()
        batch = nv.make_batch(structures())
        fused.run(batch, n_steps=1000)
        assert batch.status.flatten().tolist() == [2] * 4
        found.append(batch)
    for field in ("positions", "velocities", "energy"):
        torch.testing.assert_close(found[1][field], found[0][field], rtol=0, atol=SAME)


def test_hook_belongs_to_the_fused_stage(model_file: ModelFile) -> None:
    model = nv.MetatomicModel(model_file("lennard-jones"))
    with pytest.raises(ConfigurationError, match="registered with a FusedStage, got NVE"):
        dynamics_of("NVE", model).register_hook(nv.SystemsHook())
    FusedStage([(0, dynamics_of("NVE", model))]).register_hook(nv.SystemsHook())
