"""The Kalman filter against its formulas in NumPy, and a training with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_parts
from training_parts import train

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.training import Start
from alchemi_bridge.training import checkpoint as checkpoints
from alchemi_bridge.training.kalman import KalmanFilter

KALMAN = {"training__opt_type": "LKF", "loss__start_pref_v": 0, "loss__limit_pref_v": 0}


def test_updates_are_those_of_the_formulas() -> None:
    """Three blocks; weights, covariances and forgetting after several updates.

    A matrix of six weights does not fit into a block of five, and is divided column by column; the
    next two parameters do together.
    """
    random = np.random.default_rng(0)
    shapes = ((3, 2), (4,), (1,))
    parameters = [torch.nn.Parameter(torch.from_numpy(random.normal(size=s))) for s in shapes]
    kalman = KalmanFilter(iter(parameters), 5)
    w = np.concatenate([p.detach().numpy().T.flatten() for p in parameters])
    blocks = [slice(0, 5), slice(5, 6), slice(6, 11)]
    p = [np.eye(b.stop - b.start) for b in blocks]
    forgetting = 0.98
    for _ in range(5):
        h, error = random.normal(size=11), random.uniform()
        parameters[0].grad = torch.from_numpy(h[:6].reshape(2, 3).T.copy())
        parameters[1].grad = torch.from_numpy(h[6:10].copy())
        parameters[2].grad = torch.from_numpy(h[10:].copy())
        kalman.update(torch.tensor(error, dtype=torch.float64))
        a = 1 / sum(forgetting + h[b] @ q @ h[b] for b, q in zip(blocks, p, strict=True))
        for k, b in enumerate(blocks):
            gain = p[k] @ h[b]
            w[b] += a * error * gain
            p[k] = (p[k] - a * np.outer(gain, gain)) / forgetting
        forgetting = 0.9987 * forgetting + 1 - 0.9987
    found = np.concatenate([q.detach().numpy().T.flatten() for q in parameters])
    np.testing.assert_allclose(found, w, rtol=1e-12)
    state = kalman.state[parameters[0]]
    for mine, expected in zip(state["covariances"], p, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-14)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training_parts.write_data(tmp_path / "data")
    return tmp_path


def test_a_training_with_the_filter_learns(folder: Path) -> None:
    path = training_parts.write_input(
        folder, **KALMAN, training__numb_steps=20, training__disp_freq=20, training__save_freq=20,
        training__validation_data={"systems": "data"},
    )  # fmt: skip
    rows = train(path, folder / "out").curve.rows
    assert rows[-1]["validation_force"] < 0.8 * rows[0]["validation_force"]


def test_there_is_no_learning_rate(folder: Path) -> None:
    """No column of it, and what a run before this one has of it is no obstacle."""
    path = training_parts.write_input(folder, **KALMAN, training__numb_steps=2)
    train(path, folder / "out")
    curve = folder / "out" / "lcurve.csv"
    header, *rows = curve.read_text().splitlines()
    assert header == "step,training_energy,training_force,training_virial"
    assert [row.split(",")[0] for row in rows] == ["0", "2"]
    train(path, folder / "out", Start(force=True))
    longer = training_parts.write_input(folder, **KALMAN, training__numb_steps=3)
    last = folder / "out" / "model.ckpt-2.pt"
    found = checkpoints.load(last)
    rows_with_a_rate = [{**row, "learning_rate": 0.5} for row in found.curve]
    checkpoints.save(last, dataclasses.replace(found, curve=rows_with_a_rate))
    train(longer, folder / "out", Start(restart=last))
    assert curve.read_text().startswith("step,learning_rate,training_energy")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"loss": {}, "learning_rate": {}}, []),
        ({"loss": {"start_pref_v": 0, "type": "ener"}, "learning_rate": {"_comment": 1}}, []),
        ({"loss": {"start_pref_f": 10, "limit_pref_e": 1}, "learning_rate": {"start_lr": 0.1}},
         ["loss.start_pref_f, loss.limit_pref_e, learning_rate: the Kalman filter does not"]),
        ({"loss": {}, "learning_rate": {}, "training__weight_decay": 0.1},
         ["training.weight_decay: the Kalman filter does not"]),
        ({"loss": {}, "learning_rate": {}, "optimizer": {"type": "lkf", "adam_beta1": 0.8}},
         ["optimizer.adam_beta1: the Kalman filter does not"]),
        ({"training__opt_type": "Adam"}, []),
        ({"training__opt_type": "Adam", "training__kf_blocksize": 9, "training__weight_decay": 0},
         ["training.kf_blocksize: only the Kalman filter"]),
        ({"optimizer": {"type": "AdamW", "kf_limit_pref_f": 2}},
         ["optimizer.kf_limit_pref_f: only the Kalman filter"]),
    ],
)  # fmt: skip
def test_what_another_optimiser_would_use_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], expected: list[str]
) -> None:
    if "optimizer" not in changes:
        changes = {"training__opt_type": "LKF", **changes}
    training_parts.make(training_parts.write_input(folder, **changes), folder / "out")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(expected)
    for message, beginning in zip(messages, expected, strict=True):
        assert message.startswith(beginning)


def test_restart_keeps_the_covariances(folder: Path) -> None:
    path = training_parts.write_input(
        folder, **KALMAN, training__numb_steps=5, training__save_freq=3
    )
    train(path, folder / "whole")
    train(path, folder / "cut", stop=4)
    train(path, folder / "cut", Start(restart=folder / "cut" / "model.ckpt"))
    whole, cut = (
        checkpoints.load(folder / name / "model.ckpt-5.pt").model for name in ("whole", "cut")
    )
    for name, tensor in whole.items():
        assert torch.equal(cut[name], tensor), name


def test_what_the_filter_can_not_do_is_refused(folder: Path) -> None:
    path = training_parts.write_input(folder, training__opt_type="LKF")
    with pytest.raises(ConfigurationError, match=r"loss\.start_pref_v"):
        train(path, folder / "out")
    adam = training_parts.write_input(folder, training__numb_steps=1)
    train(adam, folder / "out")
    path = training_parts.write_input(folder, **KALMAN)
    with pytest.raises(ConfigurationError, match="state of another optimiser"):
        train(path, folder / "out", Start(restart=folder / "out" / "model.ckpt"))
