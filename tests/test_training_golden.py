"""Trainings against DeePMD-kit's numbers, as integration/deepmd stored them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from alchemi_bridge.potentials.deepmd import SeE2A, evaluate, to_deepmd
from alchemi_bridge.training import Training, joined, read_input, stepping
from alchemi_bridge.training.loading import Batches
from alchemi_bridge.training.loss import loss
from alchemi_bridge.training.systems import read_systems

FILE = Path(__file__).parent / "golden" / "deepmd_training.npz"
TRAININGS = (
    *("adam", "adam-defaults", "adamw-warm-up", "adam-given-rate"),
    *("lkf", "lkf-one-block"),
)
#: Relative to the largest number of a kind: sums in another order, on another machine.
ROUNDING = 1e-11
#: After eight steps, in which Adam divides gradients by their size.
STEPS_ROUNDING = 1e-9


def near(found: np.ndarray, expected: np.ndarray, limit: float) -> None:
    assert found.shape == expected.shape
    assert float(np.abs(found - expected).max()) <= limit * float(np.abs(expected).max())


def flat(state: dict[str, torch.Tensor]) -> np.ndarray:
    """Weights behind each other, sorted by DeePMD-kit's names."""
    keys = sorted(key for key in state if ".networks." in key)
    return torch.cat([state[key].detach().flatten() for key in keys]).numpy()


def own_order(training: Training, values: np.ndarray) -> list[torch.Tensor]:
    """The reverse of :func:`flat`, one tensor for each parameter."""
    marked = SeE2A(training.definition)
    for number, parameter in enumerate(marked.parameters()):
        torch.nn.init.constant_(parameter, number)
    numbers = flat(to_deepmd(marked, training.definition))
    return [
        torch.from_numpy(values[numbers == number]).reshape(parameter.shape)
        for number, parameter in enumerate(marked.parameters())
    ]


@pytest.fixture(params=TRAININGS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """An input file with its data, and DeePMD-kit's numbers."""
    with np.load(FILE) as file:
        arrays = dict(file)
    folder = tmp_path / "system"
    (folder / "set.000").mkdir(parents=True)
    for key, array in arrays.items():
        name = key.removeprefix("system/")
        if name.endswith(".raw"):
            (folder / name).write_text(str(array))
        elif name != key:
            np.save(folder / "set.000" / f"{name}.npy", array)
    mine = f"{request.param}/"
    path = tmp_path / "input.json"
    path.write_text(str(arrays[f"{mine}input"]))
    return path, {k.removeprefix(mine): v for k, v in arrays.items() if k.startswith(mine)}


def test_a_training_does_what_deepmd_kit_does(case: tuple[Path, dict[str, np.ndarray]]) -> None:
    """Statistics, learning rates, loss and gradient of the first step, weights after the last."""
    path, expected = case
    settings = read_input(path)
    # DeePMD-kit asks for a learning rate also where the filter does not use it
    assert settings.optimiser.unused in ((), ("learning_rate",))
    with joined("cpu") as ranks:
        training = Training(settings, path.parent, ranks)
        model, definition = training.model, training.definition
        near(model.davg.numpy(), expected["mean"][:, 0], ROUNDING)
        near(model.dstd.numpy(), expected["stddev"][:, 0], ROUNDING)
        near(model.energy_bias.numpy(), expected["out_bias"].reshape(-1), ROUNDING)
        with torch.no_grad():
            first = own_order(training, expected["first"])
            for parameter, values in zip(model.parameters(), first, strict=True):
                parameter.copy_(values)
        np.testing.assert_array_equal(flat(to_deepmd(model, definition)), expected["first"])
        if "loss" in expected:
            rates = np.array([settings.rate(step) for step in range(settings.n_steps)])
            near(rates, expected["rates"], ROUNDING)
            systems = read_systems(settings.training.systems, definition.type_map)
            [batch] = Batches(systems, [systems[0].n_frames], definition.rcut).epoch(0)
            results = evaluate(
                model, batch.coordinates, batch.cells, batch.types, batch.pairs,
                differentiable=True,
            )  # fmt: skip
            ratio = settings.rate(0) / settings.rate.start
            value = loss(results, batch.targets, settings.weights, ratio, batch.n_batch)
            near(value.detach().numpy(), expected["loss"], ROUNDING)
            gradient = torch.autograd.grad(value, list(model.parameters()))
            wanted = torch.cat([g.flatten() for g in own_order(training, expected["gradient"])])
            near(torch.cat([g.flatten() for g in gradient]).numpy(), wanted.numpy(), ROUNDING)
        for _ in training.steps():
            pass
        assert training.step == settings.n_steps == 8
        near(flat(to_deepmd(model, definition)), expected["last"], STEPS_ROUNDING)


def test_the_filter_measures_other_atoms_in_every_step() -> None:
    """Drawn with putting back, as in DeePMD-kit; the same whenever a step is done again."""
    tables = [stepping.measured_atoms(5, 1, number) for number in (0, 1, 0)]
    assert tables[0].shape == (4, 6)
    np.testing.assert_array_equal(tables[0], tables[2])
    assert not np.array_equal(tables[0], tables[1])
    assert set(np.concatenate(tables[:2]).flatten()) == set(range(5))
