"""Argon's epsilon and sigma, found again from a radial distribution function and a mean energy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from fit_parts import TEMPERATURE, TRUE, argon_model
from ray_runs import local_ray, ray_marks
from reweighting_parts import finite_difference

from alchemi_bridge.ensembles import Executor, InProcessExecutor, Optimizer
from alchemi_bridge.ensembles.models import ModelFile
from alchemi_bridge.ensembles.objectives import (
    DensityObjective,
    MeanEnergyObjective,
    RdfObjective,
    ReweightedObjective,
    Target,
)
from alchemi_bridge.ensembles.observables import PotentialEnergy, RadialDistribution
from alchemi_bridge.ensembles.simulators import AseSimulator
from alchemi_bridge.ensembles.trajectory import Trajectory

ENERGY, RDF = PotentialEnergy(per_atom=True), RadialDistribution(8.0, 80)


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    """A test that runs Ray."""
    for mark in ray_marks:
        test = mark(test)
    return test


#: What a fit has to reach, and the time that it may take on two cores.
WITHIN, SECONDS = 0.03, 600.0


def liquid(repeat: int) -> ase.Atoms:
    """Argon at the density of the liquid near its triple point, 1.37 g/cm^3."""
    return bulk("Ar", "fcc", cubic=True, a=5.78) * (repeat, repeat, repeat)


def options(repeat: int, steps: int, **more: object) -> dict[str, object]:
    return {
        "structure": liquid(repeat), "temperature": TEMPERATURE, "timestep": 10.0, "steps": steps,
        "equilibration": 300, "again": 100, "every": 20, **more,
    }  # fmt: skip


def targets(truth: Trajectory) -> list[Target]:
    return [
        Target("rdf", RDF, RDF(truth).mean(axis=0), scale=0.2),
        Target("energy", ENERGY, ENERGY(truth).mean(), scale=0.002),
    ]


def optimizer(objective: ReweightedObjective, simulators: list, executor: Executor) -> Optimizer:
    return Optimizer(
        simulators,
        [objective],
        objective.model.load().values(),
        lambda tensors: torch.optim.Adam(tensors, lr=0.02, betas=(0.7, 0.9)),
        scales=dict.fromkeys(TRUE, "log"),
        executor=executor,
    )


def test_gradient_is_right_and_loss_falls(tmp_path: Path) -> None:
    """On trajectories of dynamics, with a few steps; the fit to the end takes a minute or two."""
    (truth,), _ = AseSimulator(
        name="truth", model=argon_model(tmp_path / "true.pt"), **options(2, 400)
    ).run({}, None)
    start = argon_model(tmp_path / "start.pt", 0.85)
    short = options(2, 100, equilibration=60, again=40, every=10)
    simulators = AseSimulator.create_n(2, "liquid", model=start, **short)
    objective = ReweightedObjective("argon", start, simulators, targets(truth))
    outputs = optimizer(objective, simulators, InProcessExecutor()).run(4)
    losses = [output.losses["argon"] for output in outputs]
    assert losses[-1] < 0.75 * losses[0]

    here = outputs[-1].before
    (trajectory,), _ = simulators[0].run(here, None)
    alone = ReweightedObjective("alone", start, ["t"], targets(truth), threshold=0.0)
    beside = {name: 1.002 * value for name, value in here.items()}

    def loss(parameters: dict[str, torch.Tensor]) -> float:
        return alone.compute({"t": trajectory}, parameters).loss

    found = alone.compute({"t": trajectory}, beside)
    assert found.values["n_eff"][0] < 0.9999
    for name, gradient in found.gradient.items():
        expected = finite_difference(loss, beside, name, (0,), 3e-5 * float(beside[name]))
        assert float(gradient) == pytest.approx(expected, rel=1e-6)


def recovered(folder: Path, executor: Executor) -> dict[str, float]:
    """Relative errors of the fitted parameters; both begin 15 % off."""
    began = perf_counter()
    (truth,), _ = AseSimulator(
        name="truth", model=argon_model(folder / "true.pt"), **options(3, 8000)
    ).run({}, None)
    start = argon_model(folder / "start.pt", 0.85)
    simulators = AseSimulator.create_n(2, "liquid", model=start, **options(3, 800))
    objective = ReweightedObjective("argon", start, simulators, targets(truth))
    fit = optimizer(objective, simulators, executor)
    outputs = fit.run(28)
    seconds = perf_counter() - began
    errors = {name: float(value) / TRUE[name] - 1.0 for name, value in fit.parameters.items()}
    runs = sum(output.simulations for output in outputs)
    print(f"errors {errors}, {runs} simulations, {seconds:.0f} s")
    assert seconds < SECONDS
    return errors


@pytest.mark.slow
def test_epsilon_and_sigma_are_found_again(tmp_path: Path) -> None:
    assert max(map(abs, recovered(tmp_path, InProcessExecutor()).values())) < WITHIN


@on_ray
@pytest.mark.slow
def test_epsilon_and_sigma_are_found_again_on_ray(tmp_path: Path) -> None:
    with local_ray() as executor:
        assert max(map(abs, recovered(tmp_path, executor).values())) < WITHIN


@pytest.mark.slow
def test_reweighted_averages_are_those_of_a_simulation(tmp_path: Path) -> None:
    """At parameters 2 % off, from frames of the others, against dynamics with them."""
    model = argon_model(tmp_path / "argon.pt")
    file = ModelFile.of(model)
    old = file.load().values()
    new = {"epsilon": 1.02 * old["epsilon"], "sigma": 0.995 * old["sigma"]}
    simulator = AseSimulator(name="a", model=model, **options(2, 30_000))
    (frames,), _ = simulator.run(old, None)
    (expected,), _ = simulator.run(new, None)
    unit = ReweightedObjective("argon", model, ["t"], targets(expected), threshold=0.0)
    found = unit.compute({"t": frames}, new)
    before = unit.compute({"t": frames}, old)
    assert 0.2 < found.values["n_eff"][0] < 0.98
    energies = ENERGY(expected)
    # 20 blocks: long against the time in which an energy forgets
    error = np.std([block.mean() for block in np.array_split(energies, 20)]) / np.sqrt(20)
    off = abs(found.values["energy"] - energies.mean())
    assert off < 5.0 * error / np.sqrt(found.values["n_eff"][0])
    assert abs(before.values["energy"] - energies.mean()) > 2.0 * off
    assert found.loss < 0.3 * before.loss


def test_objectives_of_one_average(model_file: Callable[..., Path], tmp_path: Path) -> None:
    """They are the averages of their frames, where the parameters are those of the frames."""
    model = argon_model(tmp_path / "argon.pt")
    values = ModelFile.of(model).load().values()
    simulator = AseSimulator(
        name="a", model=model, **options(2, 60, every=10, ensemble="npt", pressure=0.0)
    )
    (frames,), _ = simulator.run(values, None)
    given = {simulator.observable(): frames}
    for unit, name, expected in (
        (RdfObjective("g", model, [simulator], RDF, np.zeros(80)), "rdf", RDF(frames).mean(0)),
        (MeanEnergyObjective("u", model, [simulator], 0.0), "energy", ENERGY(frames).mean()),
        (
            MeanEnergyObjective("U", model, [simulator], 0.0, per_atom=False),
            "energy",
            frames.energies.mean(),
        ),
    ):
        unit.check()
        found = unit.compute(given, values)
        np.testing.assert_allclose(found.values[name], expected, rtol=1e-9)
    density = DensityObjective("rho", model, [simulator], 1.4)
    found = density.compute(given, values)
    volumes = np.abs(np.linalg.det(frames.cells))
    mass = frames.masses.sum() / 0.602214076  # u/Å^3 to g/cm^3
    assert found.values["density"] == pytest.approx((mass / volumes).mean(), rel=1e-6)
    # pV cancels: the density depends on the parameters through the energies' weights alone
    beta = 1.0 / (ase.units.kB * TEMPERATURE)
    slope = 2.0 * (found.values["density"] - 1.4)
    moved = {**values, "epsilon": values["epsilon"] * 1.001}
    by_energy = (frames.energies - frames.energies.mean()) / float(values["epsilon"])
    expected = -beta * slope * np.mean(mass / volumes * by_energy)
    assert float(found.gradient["epsilon"]) == pytest.approx(expected, rel=1e-6)
    assert density.compute(given, moved).values["n_eff"][0] < 1.0
