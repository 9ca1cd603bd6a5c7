"""nvalchemi's hooks with the model: when they are called, and whether what they see fits."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from nvalchemi_parts import QUIET, by_system, engine, hot, kinetic

from alchemi_bridge import BridgeCalculator

nv = engine()

from nvalchemi.dynamics import NVE, ConvergenceHook, DynamicsStage  # noqa: E402
from nvalchemi.dynamics.hooks import MaxForceClampHook, NaNDetectorHook, SnapshotHook  # noqa: E402
from nvalchemi.dynamics.sinks import ZarrData  # noqa: E402

ModelFile = Callable[..., Path]

pytestmark = QUIET

#: The same numbers in another order of summation.
EXACT = 1e-10

DT = 2.0  # fs


class Recorder:
    """Called at every stage: keeps its name and copies of what the batch held."""

    frequency = 1
    stage = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, dict[str, torch.Tensor]]] = []
        self.converged: list[Any] = []

    def _runs_on_stage(self, stage: Enum) -> bool:
        return isinstance(stage, DynamicsStage)

    def __call__(self, context: Any, stage: Enum) -> None:
        batch = context.batch
        names = ("positions", "velocities", "forces", "energy")
        held = {name: getattr(batch, name).clone() for name in names}
        held["kinetic"] = by_system(kinetic(batch), batch)
        self.calls.append((stage.name, context.step_count, held))
        if stage is DynamicsStage.ON_CONVERGE:
            self.converged.append(context.converged_mask.tolist())


def test_all_stages(model_file: ModelFile) -> None:
    """Nine stages a step in order; at each, forces, positions and velocities are of the right time.

    One system is a crystal at rest in its minimum, so that each step ends with one that has
    converged and one that has not.
    """
    path = model_file("lennard-jones")
    still, moving = bulk("Ar", "fcc", a=5.3, cubic=True), hot((2, 1, 1), 40.0, seed=1)
    structures = [moving, still]
    recorder = Recorder()
    dynamics = NVE(
        nv.MetatomicModel(path),
        dt=DT,
        hooks=[recorder],
        convergence_hook=ConvergenceHook.from_fmax(1e-6),
    )
    batch = nv.make_batch(structures)
    nv.prime(dynamics, batch)
    before = {name: getattr(batch, name).clone() for name in ("velocities", "forces")}
    dynamics.run(batch, n_steps=4)

    stages = [stage.name for stage in DynamicsStage]
    assert len(stages) == 9
    assert [name for name, _, _ in recorder.calls] == stages * 4
    assert [step for _, step, _ in recorder.calls] == [k for k in range(4) for _ in stages]
    assert recorder.converged == [[False, True]] * 4

    calculator, step = BridgeCalculator(path), DT * units.fs
    masses = batch.atomic_masses[:, None]
    for k in range(4):
        seen = {name: held for name, at, held in recorder.calls if at == k}
        # the old forces until the model was called
        for name in stages[:4]:
            assert torch.equal(seen[name]["forces"], before["forces"]), name
        kicked = before["velocities"] + 0.5 * step * before["forces"] / masses
        moved = seen["BEFORE_STEP"]["positions"] + step * kicked
        for name in stages[2:]:
            torch.testing.assert_close(seen[name]["positions"], moved, rtol=0, atol=EXACT)
        # what the model says at these positions, by another way
        for name in stages[4:]:
            for atoms, rows in ((moving, slice(0, 8)), (still, slice(8, 12))):
                copy = atoms.copy()
                copy.positions = seen[name]["positions"][rows].numpy()
                copy.calc = calculator
                np.testing.assert_allclose(
                    seen[name]["forces"][rows].numpy(), copy.get_forces(), rtol=0, atol=EXACT
                )
                number = int(rows.start == 8)
                assert float(seen[name]["energy"][number, 0]) == pytest.approx(
                    copy.get_potential_energy(), rel=0, abs=EXACT
                )
        whole = kicked + 0.5 * step * seen["AFTER_COMPUTE"]["forces"] / masses
        for name in stages[6:]:
            torch.testing.assert_close(seen[name]["velocities"], whole, rtol=0, atol=EXACT)
        before = {name: seen["ON_CONVERGE"][name] for name in ("velocities", "forces")}


def test_frequency_and_snapshots(model_file: ModelFile, tmp_path: Path) -> None:
    """A hook for every third step, and nvalchemi's own that keeps the batch in a sink.

    The sink is one on a disk: on a CPU, nvalchemi's ``HostMemory`` keeps the batch itself, not a
    copy, and holds what the last step made of it (test_nvalchemi_faults.py).
    """
    structures = [hot((1, 1, 1), 40.0, seed=1), hot((2, 1, 1), 40.0, seed=2)]
    recorder, sink = Recorder(), ZarrData(tmp_path / "store", capacity=20)
    recorder.frequency = 3
    dynamics = NVE(
        nv.MetatomicModel(model_file("lennard-jones")),
        dt=DT,
        hooks=[recorder, SnapshotHook(sink, frequency=3), NaNDetectorHook()],
    )
    batch = nv.make_batch(structures)
    nv.prime(dynamics, batch)
    dynamics.run(batch, n_steps=7)
    assert sorted({step for _, step, _ in recorder.calls}) == [0, 3, 6]
    kept = sink.read()
    assert kept.num_nodes_list == [4, 8] * 3
    ends = [held for name, _, held in recorder.calls if name == "AFTER_STEP"]
    for name in ("positions", "velocities", "forces", "energy"):
        assert torch.equal(kept[name], torch.cat([held[name] for held in ends])), name


def test_hook_that_changes_the_forces(model_file: ModelFile) -> None:
    """What a hook does to the forces after the model is what the integrator goes on with."""
    limit, atoms = 1e-3, hot((2, 1, 1), 40.0, seed=1)
    dynamics = NVE(
        nv.MetatomicModel(model_file("lennard-jones")), dt=DT, hooks=[MaxForceClampHook(limit)]
    )
    batch = nv.make_batch([atoms])
    nv.prime(dynamics, batch)
    start = float(torch.linalg.vector_norm(batch.forces, dim=1).max())
    dynamics.run(batch, n_steps=1)
    before = batch.velocities.clone()
    old = batch.forces.clone()
    dynamics.run(batch, n_steps=1)
    assert float(torch.linalg.vector_norm(batch.forces, dim=1).max()) <= limit * (1 + 1e-9) < start
    expected = before + 0.5 * DT * units.fs * (old + batch.forces) / batch.atomic_masses[:, None]
    torch.testing.assert_close(batch.velocities, expected, rtol=0, atol=EXACT)


def test_hook_finds_nan(model_file: ModelFile) -> None:
    """The model says it first, with the system: the hook of nvalchemi has nothing left to find."""
    batch = nv.make_batch([hot((1, 1, 1), 40.0, seed=k) for k in range(2)])
    dynamics = NVE(nv.MetatomicModel(model_file("lennard-jones")), dt=DT, hooks=[NaNDetectorHook()])
    nv.prime(dynamics, batch)
    batch.velocities[5] = float("nan")
    with pytest.raises(ValueError, match=r"positions of system 1: .* for 1 atoms \(1\)"):
        dynamics.run(batch, n_steps=1)


def test_context_manager(model_file: ModelFile) -> None:
    """On a CPU there is no stream, and the numbers are the same with and without."""
    found = []
    for inside in (False, True):
        batch = nv.make_batch([hot((1, 1, 1), 40.0, seed=1)])
        dynamics = NVE(nv.MetatomicModel(model_file("lennard-jones")), dt=DT)
        if inside:
            with dynamics as entered:
                assert entered is dynamics
                assert dynamics.stream is None
                nv.prime(dynamics, batch)
                dynamics.run(batch, n_steps=5)
        else:
            nv.prime(dynamics, batch)
            dynamics.run(batch, n_steps=5)
        found.append(batch.positions)
    assert torch.equal(*found)


@pytest.mark.gpu
def test_stream(model_file: ModelFile) -> None:
    """With dynamics on a stream of their own the numbers are those of the default stream."""
    found = []
    for inside in (False, True):
        model = nv.MetatomicModel(model_file("lennard-jones"), device="cuda")
        batch = nv.make_batch([hot((2, 2, 2), 40.0, seed=k) for k in range(8)], device="cuda")
        dynamics = NVE(model, dt=DT)
        if inside:
            torch.cuda.synchronize()
            with dynamics:
                assert dynamics.stream == torch.cuda.current_stream()
                nv.prime(dynamics, batch)
                dynamics.run(batch, n_steps=50)
                dynamics.stream.synchronize()
        else:
            nv.prime(dynamics, batch)
            dynamics.run(batch, n_steps=50)
        found.append(batch.positions.cpu())
    torch.testing.assert_close(*found, rtol=0, atol=1e-9)
