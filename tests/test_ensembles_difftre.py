"""Objectives on reweighted trajectories: gradients against differences, and when to simulate."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from ase.build import bulk
from reweighting_parts import TEMPERATURE, argon_options, drawn, finite_difference

from alchemi_bridge.ensembles.models import ModelFile
from alchemi_bridge.ensembles.objectives.matching import EnergyForceObjective
from alchemi_bridge.ensembles.objectives.reweighted import ReweightedObjective
from alchemi_bridge.ensembles.objectives.targets import Target
from alchemi_bridge.ensembles.observables import (
    Density,
    PotentialEnergy,
    RadialDistribution,
    Volume,
)
from alchemi_bridge.ensembles.simulators import AseSimulator
from alchemi_bridge.ensembles.trajectory import Trajectory
from alchemi_bridge.errors import BridgeError, ConfigurationError, InputError

#: The loss is smooth; what is left are the errors of the differences.
FD_RTOL = 1e-8
NAME = "trajectory.None.drawn"


@dataclass(frozen=True)
class Spread:
    """Something that varies over the frames, with several values for each."""

    powers: int

    def __call__(self, trajectory: Trajectory) -> np.ndarray:
        moved = trajectory.positions - trajectory.positions.mean(axis=0)
        mean = (moved**2).mean(axis=(1, 2))
        return np.stack([mean**k for k in range(1, self.powers + 1)], axis=1)


class Square:
    """Of the energies: there is a direct derivative, too."""

    def of_energies(self, trajectory: Trajectory, energies: torch.Tensor) -> torch.Tensor:
        return energies.square()


TARGETS = (
    Target("spread", Spread(3), np.array([0.05, 0.002, 1e-4]), scale=0.1),
    Target("energy", PotentialEnergy(per_atom=True), np.array(-0.05), scale=0.01),
    Target("square", Square(), np.array(2.0), weight=0.3),
)
RDF = (
    Target("rdf", RadialDistribution(6.0, 30), np.ones(30), scale=0.3),
    Target("energy", PotentialEnergy(per_atom=True), np.array(-0.05), scale=0.01),
)


@pytest.fixture(scope="module")
def argon(model_file: Callable[..., Path]) -> Path:
    return model_file("lennard-jones", **argon_options())


def objective(path: Path, *trajectories: str, **options: object) -> ReweightedObjective:
    settings = {"threshold": 0.0, "equilibration": 0.1, **options}
    targets = settings.pop("targets", TARGETS)
    made = ReweightedObjective("fit", path, trajectories or (NAME,), targets, **settings)
    made.check()
    return pickle.loads(pickle.dumps(made))  # as a worker gets it


@pytest.mark.parametrize("moved", [1.0, 1.003])
@pytest.mark.parametrize("targets", [TARGETS, RDF])
def test_gradient_is_the_difference(argon: Path, moved: float, targets: tuple) -> None:
    """At the generating parameters, and beside them."""
    values = ModelFile.of(argon).load().values()
    trajectory = drawn(argon, parameters=values)
    here = {name: value * moved for name, value in values.items()}
    unit = objective(argon, targets=targets)

    def loss(parameters: dict[str, torch.Tensor]) -> float:
        return unit.compute({NAME: trajectory}, parameters).loss

    gradient = unit.compute({NAME: trajectory}, here).gradient
    for name in values:
        expected = finite_difference(loss, here, name, (0,), 1e-5 * float(here[name]))
        assert float(gradient[name]) == pytest.approx(expected, rel=FD_RTOL)


def test_gradient_by_a_subset_of_another_model(model_file: Callable[..., Path]) -> None:
    path = model_file("message-passing")
    model = ModelFile.of(path).load()
    here = model.values(["biases", "readout_bias"])
    trajectory = drawn(path, 12, element="Si", a=4.6, repeat=1, spread=0.1, parameters={})
    here["biases"] = here["biases"] + 0.01
    unit = objective(path, targets=TARGETS[:2])

    def loss(parameters: dict[str, torch.Tensor]) -> float:
        return unit.compute({NAME: trajectory}, parameters).loss

    gradient = unit.compute({NAME: trajectory}, here).gradient
    assert set(gradient) == set(here)
    for name, found in gradient.items():
        place = np.unravel_index(int(found.abs().argmax()), found.shape)
        expected = finite_difference(loss, here, name, place, 1e-3)
        assert float(found[place]) == pytest.approx(expected, rel=1e-6)


def test_several_trajectories_and_temperatures(argon: Path) -> None:
    """Averages at each temperature, gradients through all frames."""
    values = ModelFile.of(argon).load().values()
    there = {"a": (0, 90.0), "b": (1, 90.0), "c": (2, 120.0)}
    observables = {
        name: drawn(argon, 10 + seed, parameters=values, seed=seed, temperature=temperature)
        for name, (seed, temperature) in there.items()
    }
    targets = [
        replace(target, name=f"{target.name}-{t:g}", temperature=t)
        for target in TARGETS
        for t in (90.0, 120.0)
    ]
    unit = objective(argon, *there, targets=targets, equilibration=0.0)
    here = {name: value * 1.002 for name, value in values.items()}
    outcome = unit.compute(observables, here)
    assert len(outcome.values["n_eff"]) == 2
    alone = objective(argon, "c", targets=targets[1::2], equilibration=0.0)
    hot = alone.compute({"c": observables["c"]}, here)
    for target in targets[1::2]:
        assert outcome.values[target.name] == pytest.approx(hot.values[target.name], rel=1e-12)

    def loss(parameters: dict[str, torch.Tensor]) -> float:
        return unit.compute(observables, parameters).loss

    expected = finite_difference(loss, here, "sigma", (0,), 3e-5)
    assert float(outcome.gradient["sigma"]) == pytest.approx(expected, rel=FD_RTOL)


def test_generating_parameters_have_equal_weights(argon: Path) -> None:
    values = ModelFile.of(argon).load().values()
    trajectory = drawn(argon, 20, parameters=values)
    outcome = objective(argon, threshold=1.0, equilibration=0.0).compute({NAME: trajectory}, values)
    assert outcome.ready
    assert outcome.values["n_eff"] == [1.0]
    np.testing.assert_allclose(
        outcome.values["spread"], Spread(3)(trajectory).mean(axis=0), rtol=1e-12
    )
    assert outcome.values["energy"] == pytest.approx(trajectory.energies.mean() / 32, rel=1e-12)


def test_equilibration_is_cut(argon: Path) -> None:
    values = ModelFile.of(argon).load().values()
    trajectory = drawn(argon, 20, parameters=values)
    outcome = objective(argon, equilibration=0.25).compute({NAME: trajectory}, values)
    assert outcome.values["n_frames"] == 15
    assert outcome.values["energy"] == pytest.approx(trajectory.energies[5:].mean() / 32)


def test_only_stale_trajectories_are_made_anew(argon: Path) -> None:
    values = ModelFile.of(argon).load().values()
    here = {name: value * 1.05 for name, value in values.items()}
    observables = {
        "old": drawn(argon, 20, parameters=values),
        "new": drawn(argon, 20, parameters=here, seed=1),
    }
    outcome = objective(argon, "old", "new", threshold=0.9).compute(observables, here)
    assert outcome.refresh == ("old",)
    assert not outcome.ready
    assert outcome.values["n_eff"][0] < 0.9
    assert outcome.values["n_eff"][1] == pytest.approx(1.0)
    assert objective(argon, "old", threshold=0.0).compute(observables, here).ready


def test_without_parameters_there_is_no_gradient(argon: Path) -> None:
    outcome = objective(argon).compute({NAME: drawn(argon, 20)}, {})
    assert outcome.gradient is None
    assert outcome.loss > 0.0


def test_another_model_is_refused(argon: Path, model_file: Callable[..., Path]) -> None:
    other = model_file("lennard-jones", **{**argon_options(), "cutoff": 6.0})
    with pytest.raises(BridgeError, match="same model file"):
        objective(argon).compute({NAME: drawn(other)}, {})


def test_bad_trajectories(argon: Path) -> None:
    made = drawn(argon, 10)
    without = replace(made, temperatures=np.full(10, np.nan))
    with pytest.raises(ConfigurationError, match="thermostat"):
        objective(argon).compute({NAME: without}, {})
    with pytest.raises(ConfigurationError, match="same atoms"):
        objective(argon, "a", "b").compute({"a": made, "b": drawn(argon, 5, repeat=1)}, {})
    targets = [replace(TARGETS[1], temperature=TEMPERATURE + 1.0)]
    with pytest.raises(ConfigurationError, match="91 K"):
        objective(argon, targets=targets).compute({NAME: made}, {})
    hot = drawn(argon, 10, temperature=120.0)
    with pytest.raises(ConfigurationError, match="one of 90 K, 120 K"):
        objective(argon, "a", "b").compute({"a": made, "b": hot}, {})
    targets = [replace(TARGETS[0], value=np.zeros(4))]
    with pytest.raises(InputError, match="shape of the observable"):
        objective(argon, targets=targets).compute({NAME: made}, {})


@pytest.mark.parametrize("what", ["pressure", "cell", "pbc", "volume or pressure"])
def test_ensembles_that_must_not_be_averaged(argon: Path, what: str) -> None:
    """At one temperature, but under other conditions; other generating parameters are none."""
    values = ModelFile.of(argon).load().values()
    made = drawn(argon, 10, parameters=values)
    other = drawn(argon, 10, seed=1, parameters={n: 1.001 * v for n, v in values.items()})
    joined = objective(argon, "a", "b").compute({"a": made, "b": other}, values)
    assert len(joined.values["n_eff"]) == 2
    # what engines do to a cell: roundoff
    other = replace(other, cells=other.cells * (1.0 + 1e-15))
    assert objective(argon, "a", "b").compute({"a": made, "b": other}, values).ready
    if what == "pressure":
        made = replace(made, origins=(replace(made.origins[0], pressure=0.1),))
    if what != "cell":
        pressure = {"pressure": 0.2} if what != "pbc" else {}
        other = replace(other, origins=(replace(other.origins[0], **pressure),))
    if what == "pbc":
        other = replace(other, pbc=np.array([True, True, False]))
    if what == "cell":  # of the same volume
        other = replace(other, cells=other.cells * np.array([1.1, 1.0 / 1.1, 1.0])[:, None])
    unit = objective(argon, "a", "b")
    with pytest.raises(ConfigurationError, match="one pressure or one cell"):
        unit.compute({"a": made, "b": other}, values)


class Scaled:
    """An observable that may change, and cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.factor = 1.0

    def __call__(self, trajectory: Trajectory) -> np.ndarray:
        return self.factor * trajectory.masses.sum() + trajectory.energies + trajectory.times


@dataclass(frozen=True)
class Binned:
    """Frozen, but its array cannot be hashed."""

    edges: np.ndarray

    def __call__(self, trajectory: Trajectory) -> np.ndarray:
        return np.array([np.histogram(x[:, 0], self.edges)[0] for x in trajectory.positions])


def test_observables_see_what_is_there(argon: Path) -> None:
    """What they read may be anything: masses, energies, times, and themselves."""
    made = drawn(argon, 6)
    ours = Scaled()
    unit = ReweightedObjective("o", argon, [NAME], [Target("o", ours, 0.0)], threshold=0.0)

    def found(trajectory: Trajectory) -> float:
        return unit.compute({NAME: trajectory}, {}).values["o"]

    first = found(made)
    shifted = made.with_energies(made.energies + 1.0)
    assert found(shifted) == pytest.approx(first + 1.0)
    assert found(replace(made, times=made.times + 2.0)) == pytest.approx(first + 2.0)
    ours.factor = 2.0
    assert found(made) == pytest.approx(first + made.masses.sum())
    heavy = replace(made, masses=2.0 * made.masses)
    density = ReweightedObjective("o", argon, [NAME], [Target("d", Density(), 0.0)], threshold=0.0)
    light, dense = (density.compute({NAME: t}, {}).values["d"] for t in (made, heavy))
    assert dense == pytest.approx(2.0 * light, rel=1e-12)
    edges = np.linspace(-3.0, 9.0, 4)
    binned = ReweightedObjective("o", argon, [NAME], [Target("b", Binned(edges), np.ones(3))])
    assert len(binned.compute({NAME: made}, {}).values["b"]) == 3


def total(trajectory: Trajectory) -> np.ndarray:
    return np.array(1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"equilibration": 1.0}, "equilibration"),
        ({"targets": ()}, "at least one"),
        ({"targets": (TARGETS[0], TARGETS[0])}, "different names"),
        ({"targets": (replace(TARGETS[0], scale=0.0),)}, "scale"),
        ({"targets": (replace(TARGETS[0], weight=-1.0),)}, "weight"),
        ({"targets": (replace(TARGETS[0], value=np.array(np.nan)),)}, "finite"),
    ],
)
def test_bad_settings(argon: Path, options: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        objective(argon, **options)


@pytest.mark.parametrize(
    ("changes", "target", "words"),
    [
        ({"ensemble": "nve"}, TARGETS[1], "ensemble 'nve'"),
        ({}, Target("density", Density(), 1.4), "at constant volume"),
        ({}, Target("volume", Volume(), 100.0), "at constant volume"),
        ({}, replace(RDF[0], value=np.ones(31)), r"expected the shape of the observable, \(30,\)"),
        ({}, replace(RDF[0], observable=RadialDistribution(6.0, 30, ("Ar", "Kr"))), "atoms of Kr"),
        ({"pbc": False}, RDF[0], "periodic in three"),
        ({}, replace(TARGETS[1], temperature=91.0), "one of 90 K"),
        ({"other": {"temperature": 91.0}}, TARGETS[1], "one of 90 K, 91 K"),
        ({"other": {"ensemble": "npt", "pressure": 0.1}}, TARGETS[1], "one pressure or one cell"),
        ({"other": {"structure": bulk("Ar", cubic=True)}}, TARGETS[1], "one pressure or one cell"),
        ({"other": {"structure": bulk("Ar")}}, TARGETS[1], "the same atoms"),
    ],
)
def test_what_no_simulation_can_answer(
    argon: Path, changes: dict, target: Target, words: str
) -> None:
    """Said before anything is simulated."""
    mine = {key: value for key, value in changes.items() if key not in ("other", "pbc")}
    structure = bulk("Ar", "fcc", cubic=True, a=5.5)
    structure.pbc = changes.get("pbc", True)
    common = {"model": argon, "structure": structure, "temperature": 90.0}
    simulators = [
        AseSimulator(**{"name": f"s{k}", **common, **options})
        for k, options in enumerate((mine, {**mine, **changes.get("other", {})}))
    ]
    unit = ReweightedObjective("fit", argon, simulators, [target])
    assert unit.needs == tuple(s.observable() for s in simulators)
    with pytest.raises(BridgeError, match=words):
        unit.check()


def test_model_that_reads_charges(tmp_path: Path) -> None:
    path = zoo.save(zoo.extra_inputs("charge"), tmp_path, "charged")
    with pytest.raises(ConfigurationError, match="one that reads charge"):
        objective(path)
    unit = EnergyForceObjective("match", path, NAME, observable=True, force_weight=0.0)
    with pytest.raises(ConfigurationError, match="one that reads charge"):
        unit.check()


def test_observable_without_frames(argon: Path) -> None:
    targets = (Target("total", total, np.array(1.0)),)
    with pytest.raises(InputError, match="one value for each of"):
        objective(argon, targets=targets).compute({NAME: drawn(argon)}, {})
