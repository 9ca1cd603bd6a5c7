"""nvalchemi's dynamics with a metatomic model: physics, not only that they run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from nvalchemi_parts import QUIET, crystal, engine, hot, kinetic, split

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.batch import BatchGeometry
from alchemi_bridge.model import Wanted
from alchemi_bridge.model.evaluate import build_graphs, requests_for

nv = engine()

from nvalchemi.dynamics import FIRE, NVE, ConvergenceHook, NVTLangevin  # noqa: E402

ModelFile = Callable[..., Path]

pytestmark = QUIET

#: Over 50 steps rounding grows to this at most; a wrong factor or a force of the step before gives
#: 1e-4 Å and more.
SAME_PATH = 1e-9  # Å

#: With a largest force of 1e-4 eV/Å and force constants above 0.1 eV/Å^2 there are less than 1e-7
#: eV left to go, for each of the two optimisers.
SAME_MINIMUM = 2e-7  # eV

#: Of the energy, for a step of 2 fs: its oscillation with the square of the step, in argon at 40 K.
DRIFT = 2e-6  # eV per atom


#: What a call may cost over the bare model (one by one, systems cost 0.3 ms each), and how much
#: the difference of the fastest of calls of 30 ms was off on a machine that others used.
MOST, NOISE = 4.0, 4.0  # ms


def test_nve_follows_ase(model_file: ModelFile) -> None:
    """Three crystals of different size move as they do in ASE, one by one."""
    path = model_file("lennard-jones")
    structures = [hot((k, 1, 1), 40.0, seed=k) for k in (1, 2, 3)]
    model = nv.MetatomicModel(path)
    batch = nv.make_batch(structures)
    dynamics = NVE(model, dt=2.0)
    nv.prime(dynamics, batch)
    before = float(batch.energy.sum() + kinetic(batch).sum())
    dynamics.run(batch, n_steps=50)
    after = float(batch.energy.sum() + kinetic(batch).sum())
    for atoms in structures:
        atoms.calc = BridgeCalculator(path)
        VelocityVerlet(atoms, 2.0 * units.fs).run(50)
    for atoms, found in zip(structures, split(batch.positions, structures), strict=True):
        np.testing.assert_allclose(found, atoms.positions, rtol=0, atol=SAME_PATH)
    assert abs(after - before) / batch.num_nodes < DRIFT


@pytest.mark.slow
def test_fire_finds_the_minima_of_ase(model_file: ModelFile) -> None:
    """Each system of a batch ends where ASE's BFGS ends."""
    path = model_file("stillinger-weber")
    structures = [crystal("stillinger-weber", (k, 1, 1), seed=k) for k in (1, 2, 1)]
    batch = nv.make_batch(structures)
    dynamics = FIRE(
        nv.MetatomicModel(path), dt=0.1, convergence_hook=ConvergenceHook.from_fmax(1e-4)
    )
    nv.prime(dynamics, batch)
    start = batch.energy.clone()
    dynamics.run(batch, n_steps=2000)
    assert float(torch.linalg.vector_norm(batch.forces, dim=1).max()) < 1e-4
    for k, atoms in enumerate(structures):
        atoms.calc = BridgeCalculator(path)
        BFGS(atoms, logfile=None).run(fmax=1e-4)
        assert float(batch.energy[k, 0]) == pytest.approx(
            atoms.get_potential_energy(), rel=0, abs=SAME_MINIMUM
        )
        assert float(start[k, 0]) > float(batch.energy[k, 0]) + 1e-3


@pytest.mark.slow
def test_langevin_has_the_temperature(model_file: ModelFile) -> None:
    """Mean and fluctuation of the kinetic temperature of four crystals of 32 atoms.

    At a friction of 0.05/fs, 2,000 fs hold some 50 independent samples of 4 x 96 momenta: the mean
    is known to 1 %, the variance of a system's temperature, 2 T^2 / 96, to 10 %.
    """
    kelvin, n_systems, n_dof = 40.0, 4, 96
    structures = [hot((2, 2, 2), kelvin, seed=k) for k in range(n_systems)]
    batch = nv.make_batch(structures)
    dynamics = NVTLangevin(
        nv.MetatomicModel(model_file("lennard-jones")),
        dt=2.0,
        temperature=kelvin,
        friction=0.05,
        random_seed=7,
    )
    nv.prime(dynamics, batch)
    dynamics.run(batch, n_steps=100)
    found = []
    for _ in range(1000):
        dynamics.run(batch, n_steps=1)
        each = kinetic(batch).reshape(n_systems, -1).sum(dim=1)
        found.append(2.0 * each.numpy() / (n_dof * units.kB))
    temperatures = np.array(found)
    assert temperatures.mean() == pytest.approx(kelvin, rel=0.04)
    assert temperatures.var() == pytest.approx(2.0 * kelvin**2 / n_dof, rel=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("stress", [False, True])
@pytest.mark.parametrize("potential", ["lennard-jones", "copper"])
def test_cost_over_the_bare_model(potential: str, stress: bool, model_file: ModelFile) -> None:
    """What 32 systems of 32 atoms cost over the model itself, on one thread.

    The bare model is its forward and backward on inputs that are ready, without a virial. Both take
    turns, and the fastest of each is compared, in time of the processor: what else the machine does
    only adds.
    """
    structures = [crystal(potential, (2, 2, 2), seed=0) for _ in range(32)]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=k)
    batch = nv.make_batch(structures, stress=True)
    model = nv.MetatomicModel(model_file(potential), stress=stress, tuning=False)
    for _ in range(10):
        model(batch)
    provider = model.provider
    loaded, plan = provider.loaded, provider.plan
    systems = model._reader.systems(batch)
    ready = BatchGeometry(loaded, length=1.0, skin=1.0).step(systems)
    requests = requests_for(loaded, plan, Wanted(True, True, stress))
    bare, whole = [], []
    # the longer the model takes, the rarer are calls that nothing else on the machine disturbs
    for _ in range(60 if potential == "lennard-jones" else 200):
        graphs = build_graphs(loaded, ready, True, False)
        begin = time.process_time()
        outputs = loaded.execution.run(graphs.systems, requests, None, False)
        graphs.differentiate(outputs[plan.energy].block().values)
        bare.append(time.process_time() - begin)
        batch.positions += 1e-4  # as in dynamics: new positions, mostly the same list
        begin = time.process_time()
        model(batch)
        whole.append(time.process_time() - begin)
    assert 1e3 * (min(whole) - min(bare)) < MOST + NOISE
