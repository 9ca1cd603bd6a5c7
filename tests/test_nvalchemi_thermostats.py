"""nvalchemi's thermostats on a model: what they conserve, and the ensemble they sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import units
from nvalchemi_parts import QUIET, by_system, engine, hot, kinetic

nv = engine()

from nvalchemi.dynamics import NVTLangevin, NVTNoseHoover  # noqa: E402

ModelFile = Callable[..., Path]

pytestmark = QUIET


def kelvin(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def extended_energy(dynamics: NVTNoseHoover, batch: Any) -> torch.Tensor:
    """(n_systems,) what a chain of Nosé-Hoover thermostats conserves, in eV.

    nvalchemi 0.2 moves the positions of the chain, which act on nothing, by twice their velocity.
    """
    state = dynamics._state
    chain, kt = state.nhc_eta / 2.0, state.temperature
    moving = 0.5 * (state.nhc_Q * state.nhc_eta_dot**2).sum(dim=1)
    placed = kt * (state.nhc_ndof * chain[:, 0] + chain[:, 1:].sum(dim=1))
    return by_system(kinetic(batch), batch) + batch.energy[:, 0] + moving + placed


def test_nose_hoover_conserves_its_energy(model_file: ModelFile) -> None:
    """To the square of the step, for each system at its own temperature.

    The energy of the atoms alone changes by more than a hundred times as much.
    """
    model, spread = nv.MetatomicModel(model_file("lennard-jones")), {}
    for dt in (4.0, 2.0):
        batch = nv.make_batch([hot((2, 2, 2), 40.0, seed=1), hot((2, 1, 1), 40.0, seed=2)])
        dynamics = NVTNoseHoover(model, dt=dt, temperature=kelvin(40.0, 20.0), thermostat_time=50.0)
        nv.prime(dynamics, batch)
        all_of_it, atoms_alone = [], []
        for _ in range(int(600.0 / dt)):
            dynamics.run(batch, n_steps=1)
            all_of_it.append(extended_energy(dynamics, batch))
            atoms_alone.append(by_system(kinetic(batch), batch) + batch.energy[:, 0])
        spread[dt] = np.ptp(torch.stack(all_of_it).numpy(), axis=0)
        assert (spread[dt] < 0.01 * np.ptp(torch.stack(atoms_alone).numpy(), axis=0)).all()
    assert (spread[2.0] < 0.35 * spread[4.0]).all()
    assert (spread[4.0] < 5e-4).all()


def temperatures(dynamics: Any, batch: Any, steps: int, freedoms: np.ndarray) -> np.ndarray:
    """(steps, n_systems) kinetic temperatures in K."""
    found = []
    for _ in range(steps):
        dynamics.run(batch, n_steps=1)
        found.append(by_system(kinetic(batch), batch).numpy())
    return 2.0 * np.array(found) / (freedoms * units.kB)


@pytest.mark.slow
def test_nose_hoover_is_canonical(model_file: ModelFile) -> None:
    """Mean and fluctuation of the kinetic energy, for each system at its own temperature.

    nvalchemi thermostats 3N degrees of freedom, as ASE does, and leaves the centre of mass where it
    is: the 3N - 3 that move in a system at rest are hotter than was asked for by N / (N - 1), which
    systems of 4 atoms show. In 8 ps with a thermostat of 200 fs, errors are estimated from the
    spread of the systems of one kind; a variance is known to its square root of 2 / 80 samples.
    """
    small, large, count = 12, 4, 3
    asked = [40.0] * small + [20.0] * large + [40.0] * large + [60.0] * large
    structures = [hot((1, 1, 1), 40.0, seed=k) for k in range(small)]
    structures += [hot((2, 2, 2), t, seed=k) for k, t in enumerate(asked[small:])]
    sizes = np.array([len(atoms) for atoms in structures])
    dynamics = NVTNoseHoover(
        nv.MetatomicModel(model_file("lennard-jones")),
        dt=4.0,
        temperature=kelvin(*asked),
        thermostat_time=200.0,
    )
    batch = nv.make_batch(structures)
    nv.prime(dynamics, batch)
    dynamics.run(batch, n_steps=250)
    start = batch.velocities.clone()
    found = temperatures(dynamics, batch, 2000, 3 * sizes - 3)
    momenta = [
        by_system(batch.atomic_masses * v[:, axis], batch)
        for v in (start, batch.velocities)
        for axis in range(3)
    ]
    assert float(torch.stack(momenta).abs().max()) < 1e-8

    expected = np.array(asked) * sizes / (sizes - 1)
    groups = np.split(np.arange(len(asked)), [small, small + large, small + 2 * large])
    assert len(groups) == count + 1
    for members in groups:
        means = found[:, members].mean(axis=0) / expected[members]
        error = means.std(ddof=1) / np.sqrt(len(members))
        assert error < 0.03
        assert means.mean() == pytest.approx(1.0, abs=max(5.0 * error, 0.02))
        freedom = 3 * sizes[members[0]] - 3
        variance = (found[:, members] / expected[members]).var() / (2.0 / freedom)
        assert variance == pytest.approx(1.0, abs=0.3)


@pytest.mark.slow
def test_langevin_temperature_of_each_system(model_file: ModelFile) -> None:
    """Langevin dynamics move the centre of mass, too, so that there are 3N degrees of freedom."""
    asked = [20.0] * 4 + [60.0] * 4
    structures = [hot((2, 2, 2), t, seed=k) for k, t in enumerate(asked)]
    dynamics = NVTLangevin(
        nv.MetatomicModel(model_file("lennard-jones")),
        dt=4.0,
        temperature=kelvin(*asked),
        friction=0.02,
        random_seed=3,
    )
    batch = nv.make_batch(structures)
    nv.prime(dynamics, batch)
    dynamics.run(batch, n_steps=100)
    found = temperatures(dynamics, batch, 1000, np.full(8, 96)) / np.array(asked)
    for members in (slice(0, 4), slice(4, 8)):
        # 4 ps at a friction of 0.02/fs are 160 samples of a quantity that is uncertain by 14 %
        means = found[:, members].mean(axis=0)
        assert means.mean() == pytest.approx(1.0, abs=0.03)
        assert found[:, members].var() == pytest.approx(2.0 / 96, rel=0.3)
