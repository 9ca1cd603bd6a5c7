"""Energies and forces of many frames, their gradients by a model's parameters, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from cli_runs import environment
from reweighting_parts import argon_options, finite_difference

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.ensembles.energies import Frames
from alchemi_bridge.ensembles.frame_cache import FrameCache
from alchemi_bridge.ensembles.models import ModelFile
from alchemi_bridge.errors import ConfigurationError, EvaluationError, NonFiniteResultError

#: Against differences of four values, whose own error is of this order.
FD_RTOL = 1e-7
#: Sums over chunks differ from those over all frames in the last digits.
CHUNK_RTOL = 1e-12

#: Model, its options, element, lattice constant, and tensors to differentiate by.
MODELS = {
    "lennard-jones": (argon_options(), "Ar", 5.5, ("epsilon", "sigma")),
    "message-passing": ({}, "Si", 4.6, ("biases", "readout")),
}


@pytest.fixture(params=sorted(MODELS))
def case(
    request: pytest.FixtureRequest, model_file: Callable[..., Path]
) -> tuple[ModelFile, list[ase.Atoms], tuple[str, ...]]:
    options, element, a, names = MODELS[request.param]
    file = ModelFile.of(model_file(request.param, **options))
    frames = []
    for seed, repeat in enumerate(((1, 1, 1), (2, 1, 1), (2, 2, 1), (1, 1, 2))):
        frames.append(bulk(element, "fcc", cubic=True, a=a) * repeat)
        frames[-1].rattle(0.1, seed=seed)
    return file, frames, names


def test_values_are_the_calculators(case: tuple) -> None:
    file, atoms, _ = case
    energies, forces = Frames.of_atoms(file.load().loaded, atoms, chunk=3).energies_and_forces()
    calculator = BridgeCalculator(file.path)
    rows = np.split(forces.numpy(), np.cumsum([len(one) for one in atoms])[:-1])
    for one, energy, found in zip(atoms, energies, rows, strict=True):
        one.calc = calculator
        assert float(energy) == pytest.approx(one.get_potential_energy(), rel=1e-12)
        np.testing.assert_allclose(found, one.get_forces(), atol=1e-12)


@pytest.mark.parametrize("with_forces", [False, True])
def test_gradient_is_the_difference(case: tuple, with_forces: bool) -> None:
    file, atoms, names = case
    rng = np.random.default_rng(1)
    by_energies = torch.from_numpy(rng.normal(size=len(atoms)))
    by_forces = torch.from_numpy(rng.normal(size=(sum(map(len, atoms)), 3)))
    values = file.load().values(names)

    def loss(parameters: dict[str, torch.Tensor]) -> float:
        frames = Frames.of_atoms(file.load(parameters).loaded, atoms)
        energies, forces = frames.energies_and_forces()
        total = (energies * by_energies).sum()
        return float(total + (forces * by_forces).sum() if with_forces else total)

    model = file.load(values)
    frames = Frames.of_atoms(model.loaded, atoms, chunk=2)
    with model.differentiable(names) as leaves:
        found = frames.gradient(
            list(leaves.values()), by_energies, by_forces if with_forces else None
        )
    for name, gradient in zip(names, found, strict=True):
        place = np.unravel_index(int(gradient.abs().argmax()), gradient.shape)
        step = 1e-3 * max(abs(float(values[name][place])), 1e-2)
        expected = finite_difference(loss, values, name, place, step)
        assert float(gradient[place]) == pytest.approx(expected, rel=FD_RTOL)


def test_single_precision(model_file: Callable[..., Path]) -> None:
    """Sums are taken in double precision; what the model rounds stays rounded."""
    atoms = [bulk("Ar", "fcc", cubic=True, a=5.4) * (2, 2, 2) for _ in range(3)]
    for seed, one in enumerate(atoms):
        one.rattle(0.15, seed=seed)
    by_forces = torch.sin(torch.arange(288.0, dtype=torch.float64)).reshape(-1, 3)
    found = {}
    for dtype in ("float32", "float64"):
        path = model_file("lennard-jones", **argon_options(), dtype=dtype)
        model = ModelFile.of(path).load()
        frames = Frames.of_atoms(model.loaded, atoms, chunk=2)
        with model.differentiable(["epsilon", "sigma"]) as leaves:
            found[dtype] = frames.gradient(
                list(leaves.values()), torch.ones(3, dtype=torch.float64), by_forces
            )
    for single, double in zip(found["float32"], found["float64"], strict=True):
        assert single.dtype == torch.float64
        assert float(single) == pytest.approx(float(double), rel=1e-4)


def test_chunks_make_no_difference(case: tuple) -> None:
    file, atoms, names = case
    model = file.load()
    weights = torch.linspace(-1.0, 2.0, len(atoms), dtype=torch.float64)
    directions = torch.sin(torch.arange(3.0 * sum(map(len, atoms)), dtype=torch.float64))
    found = []
    with model.differentiable(names) as leaves:
        for chunk in (1, 2, 3, 100, None):
            frames = Frames.of_atoms(model.loaded, atoms, chunk=chunk)
            found.append(frames.gradient(list(leaves.values()), weights, directions.reshape(-1, 3)))
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            scale = float(expected.abs().max())
            assert float((one - expected).abs().max()) <= CHUNK_RTOL * scale


def test_frames_that_are_not_kept_give_the_same(case: tuple) -> None:
    file, atoms, _ = case
    loaded = file.load().loaded
    kept = Frames.of_atoms(loaded, atoms, chunk=1)
    thrown = Frames.of_atoms(loaded, atoms, chunk=1, kept_bytes=0)
    for _ in range(2):
        assert torch.equal(kept.energies(), thrown.energies())
    assert kept.n_bytes > 0
    assert thrown.n_bytes == 0


def test_memory_does_not_grow_with_frames(model_file: Callable[..., Path]) -> None:
    program = Path(__file__).with_name("frames_memory_run.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), str(model_file("message-passing"))],
        capture_output=True, text=True, timeout=120, check=True, env=environment(),
    )  # fmt: skip
    grown = json.loads(done.stdout)
    print("growth of the peak, MB:", grown)
    # the graph of all frames at once is what twenty chunks would take together
    assert grown["160/160"] > 20.0
    assert grown["160/8"] < grown["160/160"] / 10.0


def test_bad_frames(model_file: Callable[..., Path]) -> None:
    file = ModelFile.of(model_file("lennard-jones", **argon_options()))
    model = file.load()
    with pytest.raises(ConfigurationError, match="at least one"):
        Frames.of_atoms(model.loaded, [])
    atoms = bulk("Ar", "fcc", cubic=True, a=5.5)
    with pytest.raises(ConfigurationError, match="chunk"):
        Frames.of_atoms(model.loaded, [atoms], chunk=0)
    huge = {
        name: torch.tensor([value], dtype=torch.float64)
        for name, value in (("epsilon", 1e308), ("sigma", 1e6))
    }
    model = file.load(huge)
    with pytest.raises(NonFiniteResultError, match="frame 0"):
        Frames.of_atoms(model.loaded, [atoms]).energies()


def test_no_dependence_is_an_error(model_file: Callable[..., Path]) -> None:
    file = ModelFile.of(model_file("message-passing"))
    model = file.load()
    frames = Frames.of_atoms(model.loaded, [bulk("Si")])
    stranger = torch.zeros(3, requires_grad=True)
    with pytest.raises(EvaluationError, match="at least one of the chosen parameters"):
        frames.gradient([stranger], torch.ones(1, dtype=torch.float64))


def test_cache_is_bounded(model_file: Callable[..., Path]) -> None:
    loaded = ModelFile.of(model_file("lennard-jones", **argon_options())).load().loaded
    cache = FrameCache(max_sets=2)
    made = []

    def frames() -> Frames:
        made.append(Frames.of_atoms(loaded, [bulk("Ar")]))
        return made[-1]

    for name in ("a", "b", "a", "c", "a", "b"):
        assert cache.frames(loaded, name, (), frames).loaded is loaded
    # b made room for c, and is made again
    assert len(made) == 4
    values = [cache.values("a", "rdf", lambda: np.zeros(3)) for _ in range(2)]
    assert values[0] is values[1]
