"""Configurations of fits: what is read, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fit_parts import problem

from alchemi_bridge.ensembles.fit.problem import read_fit
from alchemi_bridge.ensembles.fit.units import read_rdf
from alchemi_bridge.ensembles.observables import PotentialEnergy
from alchemi_bridge.ensembles.simulators import AseSimulator
from alchemi_bridge.errors import BridgeError, ConfigurationError


def test_what_is_read(tmp_path: Path) -> None:
    found = read_fit(problem(tmp_path))
    assert found.n_steps == 3
    (simulator,) = found.simulators
    assert isinstance(simulator, AseSimulator)
    assert (simulator.steps, simulator.every, simulator.temperature) == (60, 10, 94.4)
    (objective,) = found.objectives
    assert objective.needs == ("trajectory.AseSimulator.liquid",)
    rdf, energy = objective.targets
    assert rdf.observable.r_max == pytest.approx(6.0)
    assert rdf.observable.bins == 60
    assert rdf.scale == 0.2
    assert energy.observable == PotentialEnergy(per_atom=True)
    assert set(found.fitted.start) == {"epsilon", "sigma"}
    assert found.fitted.scales == {"epsilon": "log", "sigma": "log"}
    assert found.update.rates == (0.01, 0.01)
    assert found.executor.kind == "in-process"


def test_many_simulators(tmp_path: Path) -> None:
    two = (("temperature = 94.4", "temperatures = [90, 100]\ncount = 2"),)
    targets = (("scale = 0.2", "scale = 0.2\ntemperature = 90"),)
    energy = (("scale = 0.002", "scale = 0.002\ntemperature = 100"),)
    found = read_fit(problem(tmp_path, replace=two + targets + energy))
    names = ["liquid.0.0", "liquid.0.1", "liquid.1.0", "liquid.1.1"]
    assert [one.name for one in found.simulators] == names
    assert [one.temperature for one in found.simulators] == [90, 90, 100, 100]
    assert len(found.objectives[0].needs) == 4
    assert [t.temperature for t in found.objectives[0].targets] == [90.0, 100.0]


def test_by_name(tmp_path: Path) -> None:
    more = """names = ["*"]
scale = {sigma = "log"}
start = {epsilon = 0.01}
bounds = {"s*" = [2.0, 5.0]}
"""
    changes = (
        ('names = ["epsilon", "sigma"]\nscale = "log"\n', more),
        ("rate = 0.01", 'rate = 0.01\nmethod = "sgd"\nmomentum = 0.5\nrates = {epsilon = 1e-4}'),
    )
    found = read_fit(problem(tmp_path, replace=changes))
    assert float(found.fitted.start["epsilon"]) == 0.01
    assert found.fitted.bounds == {"sigma": (2.0, 5.0)}
    assert found.fitted.scales == {"sigma": "log"}
    assert found.update.rates == (1e-4, 0.01)


def test_hints_and_executor(tmp_path: Path) -> None:
    text = '[hints]\nnum_cpus = 1\n\n[executor]\nkind = "ray"\naddress = "local"\n\n[optimizer]'
    path = problem(
        tmp_path,
        replace=(("[optimizer]", text), ("every = 10", "every = 10\nhints = {num_cpus = 2}")),
    )
    found = read_fit(path)
    assert found.hints.num_cpus == 1
    assert found.simulators[0].hints.num_cpus == 2
    assert (found.executor.kind, found.executor.address) == ("ray", "local")
    assert read_fit(path, ray_address="auto").executor.address == "auto"
    with pytest.raises(ConfigurationError, match="Ray address"):
        read_fit(path, ray_address="").executor.make()


BAD = {
    "unknown key": ("steps = 3", "stepps = 3", "fit.toml'.stepps"),
    "no model": ('model = "start.pt"', "", "'.model"),
    "missing model": ("start.pt", "none.pt", "none.pt"),
    "steps": ("steps = 3", "steps = 0", "steps"),
    "parameter": ('"sigma"]', '"sigmma"]', "sigmma"),
    "scale": ('"log"', '"cubic"', "one of linear, log"),
    "engine": ('engine = "ase"', 'engine = "gromacs"', "one of ase, lammps, nvalchemi"),
    "simulator's key": ("every = 10", "stride = 10", "simulators['liquid'].stride"),
    "simulator's value": ("every = 10", "every = 1000", "every"),
    "ensemble": ("every = 10", 'every = 10\nensemble = "nph"', "ensemble"),
    "structure": ("liquid.xyz", "solid.xyz", "solid.xyz"),
    "observable": ('kind = "rdf"', 'kind = "adf"', "one of rdf, density, mean-energy"),
    "kind": ('kind = "reweighted"', 'kind = "msd"', "one of rdf, density"),
    "simulators": ('simulators = ["liquid"]', 'simulators = ["gas"]', "'gas'"),
    "file": ("rdf.csv", "none.csv", "none.csv"),
    "value": ("value = -0.05", "", "value"),
    "target's key": ("value = -0.05", "value = -0.05\nfile = 3", "file"),
    "temperature": ("value = -0.05", "value = -0.05\ntemperature = 300.0", "94.4"),
    "method": ("rate = 0.01", 'rate = 0.01\nmethod = "lbfgs"', "one of adam"),
    "rate": ("rate = 0.01", "rate = -1.0", "rate"),
    "rates": ("rate = 0.01", "rate = 0.01\nrates = {tau = 1.0}", "'tau'"),
    "betas": ("rate = 0.01", "rate = 0.01\nbetas = [0.9, 1.5]", "betas"),
    "rate below zero": ("rate = 0.01", "rates = {sigma = -0.01}", "rates.sigma"),
    "no rate": ("rate = 0.01", "rates = {sigma = 0}", "rates.sigma"),
    "rate not a number": ("rate = 0.01", 'rates = {"*" = nan}', "rates.epsilon"),
    "rate infinite": ("rate = 0.01", "rates = {sigma = inf}", "rates.sigma"),
    "momentum of adam": ("rate = 0.01", "rate = 0.01\nmomentum = 0.9", "optimizer.momentum"),
    "betas of sgd": ("rate = 0.01", 'method = "sgd"\nbetas = [0.9, 0.9]', "optimizer.betas"),
    "momentum": ("rate = 0.01", 'method = "sgd"\nmomentum = -1', "optimizer.momentum"),
    "large momentum": ("rate = 0.01", 'method = "sgd"\nmomentum = 1.0', "optimizer.momentum"),
    "executor": ("[optimizer]", '[executor]\nkind = "slurm"\n[optimizer]', "one of in-process"),
    "ray's options": ("[optimizer]", '[executor]\naddress = "auto"\n[optimizer]', "Ray"),
    "hints": ("[optimizer]", "[hints]\nnum_cpu = 1\n[optimizer]", "num_cpu"),
    "hints' value": ("[optimizer]", "[hints]\nnum_cpus = -1\n[optimizer]", "num_cpus"),
    "TOML": ("steps = 3", "steps = = 3", "TOML"),
    "no objectives": ("[[objectives]]", "[[objectivs]]", "objectiv"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_configurations(tmp_path: Path, case: str) -> None:
    old, new, words = BAD[case]
    path = problem(tmp_path, replace=((old, new),))
    with pytest.raises(BridgeError) as caught:
        read_fit(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "known", "near"),
    [
        ("timestep = 10.0", "time_step = 10.0", "replicas, seed", "timestep"),
        ("[optimizer]", "[hints]\nnum_cpu = 1\n[optimizer]", "mem_mb, num_cpus", "num_cpus"),
        ("rate = 0.01", "rate = 0.01\nbeta = [0.9, 0.9]", "betas, decay, method", "betas"),
        ("steps = 3", "steps = 3\nextension = 'a'", "executor, extensions, hints", "extensions"),
        ('simulators = ["liquid"]', 'simulators = ["liquid"]\nwidth = 3', "equilibration", None),
    ],
)
def test_unknown_keys(tmp_path: Path, old: str, new: str, known: str, near: str | None) -> None:
    """What could be there is said, not what is there."""
    with pytest.raises(ConfigurationError) as caught:
        read_fit(problem(tmp_path, replace=((old, new),)))
    assert known in str(caught.value)
    assert (f"did you mean '{near}'" if near else "check its spelling") in str(caught.value)


def test_two_simulators_of_one_name(tmp_path: Path) -> None:
    path = problem(tmp_path)
    text = path.read_text()
    begin, end = text.index("[[simulators]]"), text.index("[[objectives]]")
    path.write_text(text[:end] + text[begin:end] + text[end:])
    with pytest.raises(ConfigurationError, match="'liquid' twice"):
        read_fit(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        read_fit(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "content",
    ["", "r,g\n", "r,g\n0.05,1\n", "x,y\n1,2\n3,4\n", "r,g\n0.05,a\n0.15,1\n", "r,g\n1,1\n2,1\n"],
)
def test_bad_rdf(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rdf.csv"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="columns r and g"):
        read_rdf(path)


def test_rdf_with_few_digits(tmp_path: Path) -> None:
    path = tmp_path / "rdf.csv"
    path.write_text("r,g\n0.05,0\n0.15,0.5\n0.25,2\n")
    rdf, g = read_rdf(path, ("Ar", "Kr"))
    assert rdf.bins == 3
    assert rdf.r_max == pytest.approx(0.3)
    np.testing.assert_allclose(g, [0.0, 0.5, 2.0])
    assert rdf.pair == (18, 36)
