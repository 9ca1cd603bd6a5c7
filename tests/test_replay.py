"""Recording and replaying an evaluation: when, with which checks, and what if it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

from alchemi_bridge import Atoms, Cell, ForceBuffers, MetatomicForceProvider, Search, Step
from alchemi_bridge.model.evaluate import Evaluation
from alchemi_bridge.model.replay import STEPS_BEFORE, Replay


class World:
    """Inputs in one place, an evaluation of them, and a recorder that counts."""

    def __init__(self, fault: str = "") -> None:
        self.inputs, self.fault = torch.arange(6.0, dtype=torch.float64), fault
        self.ordinary = self.replays = 0

    def evaluate(self) -> Evaluation:
        self.ordinary += 1
        forces = (2.0 * self.inputs).reshape(2, 3)
        return Evaluation(forces.sum().reshape(1), forces, None, None, None, {})

    def record(self, run: Callable[[], Evaluation]) -> tuple[Callable[[], None], Evaluation]:
        if self.fault == "capture":
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        found = run()
        self.ordinary -= 1

        def replay() -> None:
            self.replays += 1
            factor = 3.0 if self.fault == "results" else 2.0
            found.forces.copy_((factor * self.inputs).reshape(2, 3))
            found.energy.copy_(found.forces.sum())

        return replay, found


def test_replays_follow_the_inputs() -> None:
    world = World()
    replay, key = Replay(world.record), (world, True)
    for count in range(12):
        world.inputs += 1.0
        found = replay.run(key, world.evaluate)
        torch.testing.assert_close(found.forces, (2.0 * world.inputs).reshape(2, 3))
        assert replay.active == (count >= STEPS_BEFORE)
    assert world.ordinary == STEPS_BEFORE + 1
    assert world.replays == 12 - STEPS_BEFORE  # one of them to compare


def test_other_inputs_are_recorded_anew() -> None:
    world = World()
    replay = Replay(world.record)
    for key in [(world, True), (world, False), (World(), False)]:
        for _ in range(STEPS_BEFORE + 1):
            replay.run(key, world.evaluate)
        assert replay.active
    assert world.ordinary == 3 * (STEPS_BEFORE + 1)


@pytest.mark.parametrize(
    ("fault", "reason"), [("capture", "operation not permitted"), ("results", "other results")]
)
def test_failures_are_logged_once_and_never_tried_again(
    fault: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(fault)
    replay = Replay(world.record)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            world.inputs += 1.0
            found = replay.run((world,), world.evaluate)
            torch.testing.assert_close(found.forces, (2.0 * world.inputs).reshape(2, 3))
    assert reason in replay.failure
    assert not replay.active
    assert world.ordinary == 10
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()


@pytest.mark.gpu
def test_a_cuda_graph_gives_the_forces_of_the_cpu(model_file: Callable) -> None:
    """Argon on a GPU, recorded where the model allows it."""
    model = model_file("lennard-jones", full_list=True, strict=False, cutoff=6.0)
    rng = np.random.default_rng(0)
    positions = np.stack(np.meshgrid(*[np.arange(4) * 3.8] * 3), axis=-1).reshape(-1, 3)
    cell = Cell.of([15.2, 15.2, 15.2])
    providers = {
        "cpu": MetatomicForceProvider(model, device="cpu"),
        "cuda": MetatomicForceProvider(model, device="cuda", cuda_graph=True),
    }
    for provider in providers.values():
        provider.set_atoms(Atoms(types=np.full(len(positions), 18)))
        provider.set_pairs(Search(1.0), cell)
    for _ in range(60):
        positions = positions + rng.normal(scale=0.002, size=positions.shape)
        found = {}
        for device, provider in providers.items():
            forces = torch.zeros((len(positions), 3), dtype=torch.float64, device=device)
            there = torch.tensor(positions, device=device)
            provider.compute(Step(there, energy=False), ForceBuffers(forces)).synchronize()
            found[device] = forces.cpu()
        torch.testing.assert_close(found["cuda"], found["cpu"], rtol=0.0, atol=1e-9)
    replay = providers["cuda"]._replay
    assert replay is not None
    # the tuner may have chosen cut lists, which are never recorded
    assert replay.active or replay.failure or not providers["cuda"].mode.uncut, replay.failure
    assert not replay.failure
