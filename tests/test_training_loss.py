"""The loss against NumPy, and its parts on several ranks against the whole batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import training_parts

from alchemi_bridge.potentials.deepmd import FrameResults, SeE2A, evaluate
from alchemi_bridge.training import find_systems, read_input, read_system
from alchemi_bridge.training.loading import Batch, Batches
from alchemi_bridge.training.loss import LossWeights, Prefactor, Targets, loss
from alchemi_bridge.training.preparation import new_model, resolve
from alchemi_bridge.training.rmse import ErrorSums

#: Sums in another order, float64; relative to the largest element.
ROUNDING = 1e-11
WEIGHTS = LossWeights(Prefactor(0.02, 1.0), Prefactor(1000.0, 1.0), Prefactor(0.1, 2.0))


def test_loss_and_errors_against_numpy() -> None:
    random = np.random.default_rng(0)
    n_frames, n_atoms, ratio = 3, 5, 0.3
    shapes = [(n_frames,), (n_frames, n_atoms, 3), (n_frames, 3, 3)]
    found = [random.normal(size=shape) for shape in shapes]
    wanted = [random.normal(size=shape) for shape in shapes]
    counted = np.array([1.0, 1.0, 0.0])
    results = FrameResults(*map(torch.from_numpy, found))
    targets = Targets(*map(torch.from_numpy, wanted), torch.from_numpy(counted))
    e, f, v = (a[:2] - b[:2] for a, b in zip(found, wanted, strict=True))
    factors = [limit + (start - limit) * ratio for start, limit in
               ((0.02, 1.0), (1000.0, 1.0), (0.1, 2.0))]  # fmt: skip
    expected = (
        factors[0] * np.mean(e**2) / n_atoms
        + factors[1] * np.mean(f**2)
        + factors[2] * np.mean(v**2) / n_atoms
    )
    assert float(loss(results, targets, WEIGHTS, ratio, 2)) == pytest.approx(expected, rel=1e-13)
    sums = ErrorSums()
    sums.add(results, targets)
    assert sums.rmse() == pytest.approx(
        {
            "energy": np.sqrt(np.mean(e**2)) / n_atoms,
            "force": np.sqrt(np.mean(f**2)),
            "virial": np.sqrt(np.mean(v**2)) / n_atoms,
        },
        rel=1e-13,
    )


def test_what_is_not_there_has_no_error() -> None:
    results = FrameResults(torch.zeros(1), torch.zeros(1, 2, 3), torch.zeros(1, 3, 3))
    sums = ErrorSums()
    sums.add(results, Targets(torch.ones(1), torch.ones(1, 2, 3), None, torch.ones(1)))
    assert sums.rmse() == {"energy": 0.5, "force": 1.0}


@pytest.fixture
def parts(tmp_path: Path) -> tuple[list, SeE2A, float]:
    data = training_parts.write_data(tmp_path / "data")
    settings = read_input(training_parts.write_input(tmp_path))
    systems = [read_system(folder, ("Cu", "Au")) for folder in find_systems(data)]
    definition = resolve(settings.model, systems)
    return systems, new_model(definition, systems, seed=1), definition.rcut


def _gradient(model: SeE2A, batch: Batch) -> torch.Tensor:
    model.zero_grad()
    found = evaluate(
        model, batch.coordinates, batch.cells, batch.types, batch.pairs, differentiable=True
    )
    loss(found, batch.targets, WEIGHTS, 0.5, batch.n_batch).backward()
    gradients = [p.grad for p in model.parameters()]
    # DistributedDataParallel waits for every one of them, on every rank
    assert all(g is not None for g in gradients)
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_gradients_of_the_ranks_add_up_to_those_of_one_process(
    parts: tuple[list, SeE2A, float], n_ranks: int
) -> None:
    """Step by step of an epoch, where frames do not divide by batches and ranks, too."""
    systems, model, cutoff = parts
    one = Batches(systems, [n_ranks, n_ranks], cutoff, seed=1)
    several = [
        Batches(systems, [1, 1], cutoff, seed=1, rank=rank, n_ranks=n_ranks)
        for rank in range(n_ranks)
    ]
    steps = zip(one.epoch(0), *(batches.epoch(0) for batches in several), strict=True)
    n_steps = 0
    for whole, *shares in steps:
        expected = _gradient(model, whole)
        found = sum(_gradient(model, share) for share in shares)
        assert float((found - expected).abs().max()) <= ROUNDING * float(expected.abs().max())
        n_steps += 1
    assert n_steps == len(one)


def test_bias_of_a_new_model_fits_the_energies(parts: tuple[list, SeE2A, float]) -> None:
    systems, model, _ = parts
    counts = np.concatenate([[np.bincount(s.types, minlength=2)] * s.n_frames for s in systems])
    energies = np.concatenate([s.energies for s in systems])
    # the normal equations, instead of a decomposition
    expected = np.linalg.solve(counts.T @ counts, counts.T @ energies)
    np.testing.assert_allclose(model.energy_bias, expected, rtol=1e-9)
