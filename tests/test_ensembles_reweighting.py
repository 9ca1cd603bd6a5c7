"""Weights of frames against what statistical mechanics says of a harmonic oscillator."""

from __future__ import annotations

import ase.units
import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

from alchemi_bridge.ensembles.reweighting import (
    Ensembles,
    averages,
    effective_fractions,
    log_weights,
    shares,
)

#: Quantiles stand for random numbers: an average over them is a quadrature, off by some 1 / N.
N = 20_000
QUANTILES = (np.arange(N) + 0.5) / N
QUADRATURE_RTOL = 2e-3


def positions(stiffness: float, temperature: float) -> np.ndarray:
    """Of an oscillator k x^2 / 2: Gaussian with the variance kT / k."""
    return norm.ppf(QUANTILES) * np.sqrt(ase.units.kB * temperature / stiffness)


def energies(x: np.ndarray, stiffness: float) -> torch.Tensor:
    return torch.from_numpy(0.5 * stiffness * x**2)


def one(temperature: float, n: int = N) -> Ensembles:
    return Ensembles(torch.zeros(n, dtype=torch.int64), torch.tensor([temperature]).double())


def test_average_of_another_oscillator() -> None:
    x = positions(1.0, 300.0)
    ensembles = one(300.0)
    weights = log_weights(energies(x, 1.2), energies(x, 1.0), ensembles)
    found = averages(torch.from_numpy(x**2), weights, shares(ensembles, 300.0))
    assert float(found) == pytest.approx(ase.units.kB * 300.0 / 1.2, rel=QUADRATURE_RTOL)


def test_weights_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(0.0, 0.1, (2, 50))
    temperatures = np.where(np.arange(50) < 20, 300.0, 500.0)
    index = torch.from_numpy((np.arange(50) >= 20).astype(np.int64))
    ensembles = Ensembles(index, torch.tensor([300.0, 500.0], dtype=torch.float64))
    found = log_weights(torch.from_numpy(new), torch.from_numpy(old), ensembles).numpy()
    exponents = -(new - old) / (ase.units.kB * temperatures)
    for mine in (slice(0, 20), slice(20, 50)):
        expected = exponents[mine] - logsumexp(exponents[mine])
        np.testing.assert_allclose(found[mine], expected, rtol=1e-12, atol=1e-14)
    fractions = effective_fractions(torch.from_numpy(found), ensembles).numpy()
    for mine, fraction in ((slice(0, 20), fractions[0]), (slice(20, 50), fractions[1])):
        w = np.exp(found[mine])
        assert fraction == pytest.approx(np.exp(-(w * np.log(w)).sum()) / len(w), rel=1e-12)


def test_equal_energies_have_equal_weights() -> None:
    ensembles = one(300.0, 7)
    same = torch.randn(7, dtype=torch.float64)
    weights = log_weights(same, same.clone(), ensembles)
    assert len(set(weights.tolist())) == 1
    assert effective_fractions(weights, ensembles).tolist() == pytest.approx([1.0], abs=1e-14)


def test_one_frame_with_all_the_weight() -> None:
    """Energies that are far off neither overflow nor give NaN, in gradients neither."""
    ensembles = one(300.0, 10)
    new = torch.full((10,), 1e6, dtype=torch.float64)
    new[3] = -1e6
    new.requires_grad_(True)
    weights = log_weights(new, torch.zeros(10, dtype=torch.float64), ensembles)
    assert effective_fractions(weights, ensembles).tolist() == pytest.approx([0.1])
    average = averages(torch.arange(10.0).double(), weights, shares(ensembles, 300.0))
    assert float(average.detach()) == 3.0
    average.backward()
    assert bool(torch.isfinite(new.grad).all())


def test_ensembles_of_other_parameters_are_weighted_apart() -> None:
    """Each counts by its number of frames, whatever its partition function is."""
    soft, stiff = positions(1.0, 300.0), positions(4.0, 300.0)
    x = np.concatenate([soft, stiff])
    index = torch.arange(2).repeat_interleave(N)
    ensembles = Ensembles(index, torch.tensor([300.0, 300.0], dtype=torch.float64))
    made_with = torch.cat([energies(soft, 1.0), energies(stiff, 4.0)])
    weights = log_weights(energies(x, 2.5), made_with, ensembles)
    for mine in (index == 0, index == 1):
        assert float(weights[mine].exp().sum()) == pytest.approx(1.0, rel=1e-12)
    found = float(averages(torch.from_numpy(x**2), weights, shares(ensembles, 300.0)))
    # fewer quantiles in the tails that a stiff oscillator lacks
    assert found == pytest.approx(ase.units.kB * 300.0 / 2.5, rel=2e-2)
    assert bool((effective_fractions(weights, ensembles) < 0.999).all())


def test_temperatures_do_not_mix() -> None:
    cold, hot = positions(1.0, 200.0), positions(1.0, 400.0)
    x = np.concatenate([cold, hot])
    ensembles = Ensembles(
        torch.arange(2).repeat_interleave(N), torch.tensor([200.0, 400.0], dtype=torch.float64)
    )
    weights = log_weights(energies(x, 1.1), energies(x, 1.0), ensembles)
    for temperature in (200.0, 400.0):
        share = shares(ensembles, temperature)
        found = float(averages(torch.from_numpy(x**2), weights, share))
        assert found == pytest.approx(ase.units.kB * temperature / 1.1, rel=QUADRATURE_RTOL)


@pytest.mark.parametrize("n", [1, 3, 7, 49, 1000, 100_000])
def test_equal_weights_count_in_full(n: int) -> None:
    """To the last bit, so that a threshold of one is met by frames of the current parameters."""
    same = torch.from_numpy(np.random.default_rng(n).normal(-40.0, 0.3, n))
    ensembles = one(94.4, n)
    assert effective_fractions(log_weights(same, same, ensembles), ensembles).tolist() == [1.0]
    moved = same + 1e-4 * torch.arange(n, dtype=torch.float64)
    if n > 1:
        assert effective_fractions(log_weights(moved, same, ensembles), ensembles).item() < 1.0
