"""``alchemi-bridge fit``: files, restart, and errors of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import Cli, as_user, rows
from fit_parts import argon_model, problem
from ray_runs import ray_marks

from alchemi_bridge.ensembles.fit.checkpoint import Checkpoint
from alchemi_bridge.ensembles.fit.problem import read_fit
from alchemi_bridge.ensembles.fit.run import Fit
from alchemi_bridge.ensembles.models import ModelFile
from alchemi_bridge.errors import ConfigurationError


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_fit_writes_its_files(cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run = cli("fit", problem(tmp_path), "--output", output, "--json")
    assert run.status == 0, run.stderr
    document = run.document
    assert document == json.loads((output / "fit.json").read_text())
    assert document["steps"] == 3
    assert document["simulations"] >= 1
    table = rows(output / "fit.csv")
    assert [int(row["step"]) for row in table] == [0, 1, 2]
    assert float(table[0]["sigma"]) == pytest.approx(0.95 * 3.40)
    assert all(0.0 < float(row["n_eff:argon"]) <= 1.0 + 1e-12 for row in table)
    assert (output / "fit.png").read_bytes().startswith(b"\x89PNG")
    fitted = ModelFile.of(output / "fitted.pt").load().values()
    for name, value in fitted.items():
        assert float(value) == pytest.approx(document["fitted"][name], rel=1e-12)
        assert float(value) != pytest.approx(document["start"][name], rel=1e-6)


def test_fit_says_what_it_did(cli: Cli, tmp_path: Path) -> None:
    run = cli("fit", problem(tmp_path, steps=1), "--output", tmp_path / "out")
    assert run.status == 0, run.stderr
    for word in ("epsilon", "sigma", "fitted.pt", "loss", "1 (1 simulations)"):
        assert word in run.stdout


def test_restart_goes_on(cli: Cli, tmp_path: Path) -> None:
    """Rows, parameters and rates go on; Adam's memory, too, or the fourth step would be larger."""
    output = tmp_path / "out"
    config = problem(tmp_path, steps=2)
    assert cli("fit", config, "--output", output).status == 0
    before = rows(output / "fit.csv")
    problem(tmp_path, steps=4)
    cli("fit", config, "--output", output).failed_with("existing file", "--restart")
    run = cli("fit", config, "--output", output, "--restart", "--json")
    assert run.status == 0, run.stderr
    after = rows(output / "fit.csv")
    assert [int(row["step"]) for row in after] == [0, 1, 2, 3]
    assert after[:2] == before
    assert float(after[2]["simulations"]) == 1.0  # trajectories are not kept
    once = tmp_path / "once"
    assert cli("fit", config, "--output", once).status == 0
    # Adam's first steps have the size of the rate whatever the gradient
    third = rows(once / "fit.csv")[2]
    assert after[2]["sigma"] == third["sigma"]
    assert cli("fit", config, "--output", output, "--restart").status == 0  # nothing is left
    assert cli("fit", config, "--output", output, "--force").status == 0


def test_restart_of_something_else(cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "out"
    config = problem(tmp_path, steps=1)
    cli("fit", config, "--output", output, "--restart").failed_with("no such file")
    assert cli("fit", config, "--output", output).status == 0
    problem(tmp_path, replace=(('["epsilon", "sigma"]', '["sigma"]'),))
    cli("fit", config, "--output", output, "--restart").failed_with("epsilon, sigma")
    problem(tmp_path)
    argon_model(tmp_path / "start.pt", 0.9)
    cli("fit", config, "--output", output, "--restart").failed_with("another model")
    (output / "state.pt").write_text("nothing")
    cli("fit", config, "--output", output, "--restart").failed_with("another kind")


def test_restart_with_another_configuration(cli: Cli, tmp_path: Path) -> None:
    """Whatever would mix two fits is named; the state is as a step leaves it."""
    output = tmp_path / "out"
    before = read_fit(problem(tmp_path, steps=1))
    with Fit(before, output) as fit:
        state = fit.optimizer.state_dict() | {"steps_done": 1}
    row = dict.fromkeys(("step", "seconds", "simulations", "loss", "loss:argon"), 1.0)
    row |= {name: float(value) for name, value in before.fitted.start.items()}
    made_with = str(before.model.sha256), before.identity
    Checkpoint(*made_with, state, [row]).write(output / "state.pt")
    config = tmp_path / "fit.toml"
    for old, new, key in (
        ('"log"', '"linear"', "another parameters.scale"),
        ("rate = 0.01", "rate = 0.02", "another optimizer.rate"),
        ("rate = 0.01", 'rate = 0.01\nmethod = "sgd"', "another optimizer.method"),
        ("-0.05", "-0.06", "another objectives['argon'].targets[1].value"),
        ("steps = 60", "steps = 70", "another simulators['liquid'].steps"),
    ):
        problem(tmp_path, replace=((old, new),))
        cli("fit", config, "--output", output, "--restart").failed_with(key)
    # what says where and how long the work is done may change
    problem(tmp_path, replace=(("steps = 3", "steps = 1\nhints = {num_cpus = 1}"),))
    assert cli("fit", config, "--output", output, "--restart").status == 0
    # the files count, not their names
    with (tmp_path / "rdf.csv").open("a") as file:
        file.write("6.05,1.0\n")
    cli("fit", config, "--output", output, "--restart").failed_with("targets[0].file")


def test_force_removes_the_fit_that_was_there(cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "out"
    config = problem(tmp_path, steps=1)
    assert cli("fit", config, "--output", output).status == 0
    with Fit(read_fit(config), output, force=True):
        pass  # as if it was ended before its first step
    assert not list(output.iterdir())
    cli("fit", config, "--output", output, "--restart").failed_with("no such file")


def test_energies_and_forces(cli: Cli, tmp_path: Path) -> None:
    """Without a simulator; the start is off by 5 %, and the labels know better."""
    import ase.io
    from ase.build import bulk
    from ase.calculators.singlepoint import SinglePointCalculator

    from alchemi_bridge import BridgeCalculator

    config = problem(tmp_path)
    truth = BridgeCalculator(argon_model(tmp_path / "true.pt"))
    frames = []
    for seed in range(4):
        atoms = bulk("Ar", "fcc", cubic=True, a=5.3) * (2, 1, 1)
        atoms.rattle(0.2, seed=seed)
        atoms.calc = truth
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    ase.io.write(tmp_path / "labels.xyz", frames)
    config.write_text(
        'model = "start.pt"\nsteps = 150\n[parameters]\nnames = ["*"]\nscale = "log"\n'
        '[[objectives]]\nname = "match"\nkind = "energy-force"\nfile = "labels.xyz"\n'
        "energy_weight = 100.0\n[optimizer]\nrate = 0.01\ndecay = 0.97\nbetas = [0.7, 0.9]\n"
    )
    output = tmp_path / "out"
    run = cli("fit", config, "--output", output, "--json")
    assert run.status == 0, run.stderr
    table = rows(output / "fit.csv")
    assert float(table[-1]["rmse_force:match"]) < 0.05 * float(table[0]["rmse_force:match"])
    assert run.document["fitted"]["sigma"] == pytest.approx(3.40, rel=1e-3)


def test_bad_use(cli: Cli, tmp_path: Path) -> None:
    config = problem(tmp_path)
    cli("fit", tmp_path / "none.toml").failed_with("none.toml")
    file = tmp_path / "file"
    file.write_text("")
    run = cli("fit", config, "--output", file)
    assert run.status == 2
    run = as_user("fit", "--help")
    assert run.status == 0
    assert "[[objectives.targets]]" in run.stdout


def test_nobody_needs_a_simulator(cli: Cli, tmp_path: Path) -> None:
    extra = '[[simulators]]\nname = "idle"\nstructure = "liquid.xyz"\n\n[[objectives]]'
    config = problem(tmp_path, replace=(("[[objectives]]", extra),))
    cli("fit", config, "--output", tmp_path / "out").failed_with("idle")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("every = 10", 'every = 10\nensemble = "nve"', "ensemble 'nve'"),
        ('kind = "mean-energy"', 'kind = "density"', "at constant volume"),
        ("every = 10", 'every = 10\nseed = "x"', "seed of simulator 'liquid'"),
    ],
)
def test_what_no_simulation_can_answer(
    cli: Cli, tmp_path: Path, old: str, new: str, words: str
) -> None:
    config = problem(tmp_path, replace=((old, new),))
    cli("fit", config, "--output", tmp_path / "out").failed_with(words)
    assert not (tmp_path / "out").exists()


def test_one_fit_at_a_time(tmp_path: Path) -> None:
    settings = read_fit(problem(tmp_path))
    output = tmp_path / "out"
    with Fit(settings, output), pytest.raises(ConfigurationError, match="another one that is"):
        Fit(settings, output, force=True).__enter__()
    with Fit(settings, output) as again:
        assert len(list(again.steps())) == 3


@pytest.mark.slow
def test_fit_on_ray(cli: Cli, tmp_path: Path) -> None:
    """The same numbers as in this process: random numbers follow names, not places."""
    ray = """[executor]
kind = "ray"
address = "local"
init_options = {num_cpus = 2, num_gpus = 0, object_store_memory = 100_000_000}

[optimizer]"""
    config = problem(tmp_path)
    assert cli("fit", config, "--output", tmp_path / "here").status == 0
    problem(tmp_path, replace=(("[optimizer]", ray),))
    run = cli("fit", config, "--output", tmp_path / "there", "--json")
    assert run.status == 0, run.stderr
    assert run.document["executor"] == "ray"
    one, other = (rows(tmp_path / name / "fit.csv") for name in ("here", "there"))
    for a, b in zip(one, other, strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-6)


for _mark in ray_marks:
    test_fit_on_ray = _mark(test_fit_on_ray)
