"""se_e2_a in plain torch, against DeePMD-kit's numbers and against finite differences."""

from __future__ import annotations

import deepmd_golden as golden
import numpy as np
import pytest
import torch

from alchemi_bridge.errors import PairListError, ShapeError
from alchemi_bridge.potentials.deepmd import (
    EnvironmentStatistics,
    concatenate,
    energy_bias,
    evaluate,
    pairs_of_frames,
    pairs_of_lists,
)
from alchemi_bridge.potentials.deepmd.environment import nearest, switch
from alchemi_bridge.potentials.deepmd.nets import activate

#: Sums in another order, float64, of some hundred terms of order one.
ROUNDING = 1e-12


@pytest.mark.parametrize("label", golden.STRUCTURES)
@pytest.mark.parametrize("name", golden.MODELS)
def test_numbers_of_deepmd_kit(name: str, label: str) -> None:
    model, definition = golden.load(name)
    coordinates, cells, types, expected = golden.frame(name, label)
    pairs = pairs_of_frames(coordinates, cells, definition.rcut)
    found = evaluate(model, coordinates, cells, types, pairs)
    limits = golden.limits(name)
    energies = model(pairs.vectors(coordinates, cells), pairs.first, pairs.second, types)
    np.testing.assert_allclose(
        energies.detach(), expected["energies"], rtol=0, atol=limits["energies"]
    )
    assert float(found.energies[0]) == pytest.approx(
        expected["energies"].sum(), abs=limits["energies"] * len(types)
    )
    np.testing.assert_allclose(found.forces[0], expected["forces"], rtol=0, atol=limits["forces"])
    if cells is not None:
        np.testing.assert_allclose(
            found.virials[0], expected["virial"], rtol=0, atol=limits["virial"]
        )


def test_golden_models_overflow() -> None:
    """The case of few neighbours is one: atoms have more than ``sel`` of some type."""
    name = "se_e2_a-few-neighbours"
    _, definition = golden.load(name)
    _, first, second, types = golden.pairs(name, "triclinic", definition.rcut)
    first, second = torch.cat([first, second]), torch.cat([second, first])
    for t, limit in enumerate(definition.sel):
        assert int(torch.bincount(first[types[second] == t]).max()) > limit
    assert int(torch.bincount(first).max()) > sum(definition.sel)


@pytest.mark.parametrize("name", golden.DOUBLE)
def test_scripted_model_says_the_same(name: str) -> None:
    model, definition = golden.load(name)
    arguments = golden.pairs(name, "triclinic", definition.rcut)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(*arguments), model(*arguments), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", golden.DOUBLE)
def test_energies_of_some_atoms(name: str) -> None:
    model, definition = golden.load(name)
    arguments = golden.pairs(name, "triclinic", definition.rcut)
    every = model(*arguments)
    for some in ([3], [7, 0, 79, 41], []):
        centers = torch.tensor(some, dtype=torch.int64)
        torch.testing.assert_close(
            model(*arguments, centers), every[centers], rtol=0, atol=ROUNDING
        )


def test_order_and_direction_of_the_pairs_do_not_matter() -> None:
    model, definition = golden.load("se_e2_a-few-neighbours")
    vectors, first, second, types = golden.pairs(
        "se_e2_a-few-neighbours", "triclinic", definition.rcut
    )
    mixed = torch.randperm(len(first), generator=torch.Generator().manual_seed(3))
    turned = mixed % 2 == 0
    vectors_, first_ = vectors[mixed], first[mixed]
    second_ = second[mixed]
    first_, second_ = torch.where(turned, second_, first_), torch.where(turned, first_, second_)
    torch.testing.assert_close(
        model(torch.where(turned[:, None], -vectors_, vectors_), first_, second_, types),
        model(vectors, first, second, types),
        rtol=0,
        atol=ROUNDING,
    )


def test_nearest_keeps_the_nearest_of_all_and_of_each_type() -> None:
    """Against plain loops: first the nearest of all types, then of each."""
    random = np.random.default_rng(5)
    n_centers, sel = 6, [3, 2]
    center = random.integers(0, n_centers, 60)
    kind = random.integers(0, 2, 60)
    vectors = random.normal(size=(60, 3))
    expected = []
    for c in range(n_centers):
        mine = sorted(np.flatnonzero(center == c), key=lambda p: np.linalg.norm(vectors[p]))
        mine = mine[: sum(sel)]
        for t, limit in enumerate(sel):
            expected += [p for p in mine if kind[p] == t][:limit]
    found = nearest(
        torch.from_numpy(vectors),
        torch.from_numpy(center),
        torch.from_numpy(kind),
        n_centers,
        torch.tensor(sel),
    )
    assert found.tolist() == sorted(expected)


def test_switching_function() -> None:
    r = torch.tensor([0.1, 1.0, 2.0, 3.0, 5.0], dtype=torch.float64)
    np.testing.assert_allclose(switch(r, 1.0, 3.0), [1.0, 1.0, 0.5, 0.0, 0.0], atol=1e-15)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tanh", np.tanh(0.7)),
        ("relu", 0.7),
        ("relu6", 0.7),
        ("softplus", np.log1p(np.exp(0.7))),
        ("sigmoid", 1 / (1 + np.exp(-0.7))),
        ("silu", 0.7 / (1 + np.exp(-0.7))),
        ("gelu", 0.35 * (1 + np.tanh(np.sqrt(2 / np.pi) * (0.7 + 0.044715 * 0.343)))),
        ("gelu_tf", 0.35 * (1 + np.tanh(np.sqrt(2 / np.pi) * (0.7 + 0.044715 * 0.343)))),
        ("linear", 0.7),
        ("none", 0.7),
    ],
)
def test_activation_functions(name: str, expected: float) -> None:
    assert float(activate(name, torch.tensor(0.7, dtype=torch.float64))) == pytest.approx(expected)


# --- batches and training -----------------------------------------------------------------------


def _batch(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    stored = golden.arrays(name)
    n_frames = len(stored["data/coord"])
    return (
        torch.from_numpy(stored["data/coord"]).reshape(n_frames, -1, 3),
        torch.from_numpy(stored["data/box"]).reshape(n_frames, 3, 3),
        torch.from_numpy(stored["data/types"]),
    )


@pytest.mark.parametrize("name", golden.DOUBLE)
def test_a_batch_is_its_frames(name: str) -> None:
    model, definition = golden.load(name)
    coordinates, cells, types = _batch(name)
    pairs = pairs_of_frames(coordinates, cells, definition.rcut)
    together = evaluate(model, coordinates, cells, types, pairs)
    parts = []
    for frame in range(len(coordinates)):
        one = slice(frame, frame + 1)
        parts.append(pairs_of_frames(coordinates[one], cells[one], definition.rcut))
        alone = evaluate(model, coordinates[one], cells[one], types, parts[-1])
        for key in ("energies", "forces", "virials"):
            torch.testing.assert_close(
                getattr(together, key)[one], getattr(alone, key), rtol=0, atol=1e-11
            )
    joined = concatenate(parts)
    for key in ("first", "second", "shifts"):
        assert torch.equal(getattr(joined, key), getattr(pairs, key))


def test_padded_neighbour_lists() -> None:
    name = "se_e2_a-water"
    model, definition = golden.load(name)
    coordinates, cells, types = _batch(name)
    pairs = pairs_of_frames(coordinates, cells, definition.rcut)
    n_frames, n_atoms = coordinates.shape[:2]
    first = torch.cat([pairs.first, pairs.second])
    second = torch.cat([pairs.second, pairs.first])
    both = torch.cat([pairs.shifts, -pairs.shifts])
    counts = torch.bincount(first, minlength=n_frames * n_atoms)
    lists = torch.full((n_frames * n_atoms, int(counts.max()) + 2), -1, dtype=torch.int64)
    shifts = torch.zeros((*lists.shape, 3), dtype=torch.int32)
    used = [0] * len(lists)
    for i, j, shift in zip(first.tolist(), second.tolist(), both.tolist(), strict=True):
        slot = used[i] + (1 if used[i] >= 2 else 0)  # a hole in every row
        lists[i, slot] = j % n_atoms
        shifts[i, slot] = torch.tensor(shift, dtype=torch.int32)
        used[i] += 1
    padded = pairs_of_lists(
        lists.reshape(n_frames, n_atoms, -1), shifts.reshape(n_frames, n_atoms, -1, 3)
    )
    expected = evaluate(model, coordinates, cells, types, pairs)
    found = evaluate(model, coordinates, cells, types, padded)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", ["se_e2_a-water", "se_e2_a-few-neighbours"])
def test_forces_and_virial_are_derivatives(name: str) -> None:
    model, definition = golden.load(name)
    coordinates, cells, types, _ = golden.frame(name, "triclinic")
    assert cells is not None
    pairs = pairs_of_frames(coordinates, cells, definition.rcut)

    def energy(x: torch.Tensor, h: torch.Tensor) -> float:
        with torch.no_grad():
            return float(model(pairs.vectors(x, h), pairs.first, pairs.second, types).sum())

    found = evaluate(model, coordinates, cells, types, pairs)
    random = torch.Generator().manual_seed(1)
    step = 1e-4  # a central difference: errors of step² and of rounding/step, 1e-8 here
    direction = torch.randn(coordinates.shape, dtype=torch.float64, generator=random)
    slope = (
        energy(coordinates + step * direction, cells)
        - energy(coordinates - step * direction, cells)
    ) / (2 * step)
    assert -float((found.forces * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-6)
    strain = torch.randn(3, 3, dtype=torch.float64, generator=random)
    strain = strain + strain.T

    def strained(sign: float) -> float:
        deformation = torch.eye(3, dtype=torch.float64) + sign * step * strain
        return energy(coordinates @ deformation, cells @ deformation)

    slope = (strained(1.0) - strained(-1.0)) / (2 * step)
    assert float((found.virials[0] * strain).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_a_loss_of_forces_has_gradients_of_the_parameters() -> None:
    name = "se_e2_a-water"
    model, definition = golden.load(name)
    coordinates, cells, types, _ = golden.frame(name, "small")
    pairs = pairs_of_frames(coordinates, cells, definition.rcut)
    parameter = model.embedding[0].layers[1].matrix

    def loss() -> torch.Tensor:
        found = evaluate(model, coordinates, cells, types, pairs, differentiable=True)
        return found.forces.square().sum() + found.virials.square().sum() + found.energies.sum()

    [gradient] = torch.autograd.grad(loss(), [parameter])
    step = 1e-5
    with torch.no_grad():
        parameter[2, 3] += step
    up = float(loss().detach())
    with torch.no_grad():
        parameter[2, 3] -= 2 * step
    slope = (up - float(loss().detach())) / (2 * step)
    assert float(gradient[2, 3]) == pytest.approx(slope, rel=1e-5, abs=1e-9)
    assert abs(slope) > 1e-6


def test_initial_weights_are_spread_as_deepmd_kit_does() -> None:
    model, _ = golden.load("se_e2_a-water")
    model.initialise(seed=1)
    model.requires_grad_(False)
    layer = model.fitting[0].layers[0]
    n_in, n_out = layer.matrix.shape
    # 1536 numbers: their deviation is known to 2 %
    assert float(layer.matrix.std()) == pytest.approx((n_in + n_out) ** -0.5, rel=0.1)
    assert float(model.fitting[0].layers[1].idt.mean()) == pytest.approx(0.1, abs=0.002)
    before = layer.matrix.clone()
    model.initialise(seed=1)
    assert torch.equal(before, layer.matrix)
    model.initialise(seed=2)
    assert not torch.equal(before, layer.matrix)


# --- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden.DOUBLE)
def test_statistics_of_deepmd_kit(name: str) -> None:
    model, definition = golden.load(name)
    coordinates, cells, types = _batch(name)
    statistics = EnvironmentStatistics(definition)
    for frame in range(len(coordinates)):
        one = slice(frame, frame + 1)
        pairs = pairs_of_frames(coordinates[one], cells[one], definition.rcut)
        vectors = pairs.vectors(coordinates[one], cells[one])
        statistics.add(vectors, pairs.first, pairs.second, types)
    davg, dstd = statistics.davg_and_dstd()
    torch.testing.assert_close(davg, model.davg, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(dstd, model.dstd, rtol=0, atol=ROUNDING)
    model.davg.zero_()
    statistics.store(model)
    assert torch.equal(model.davg, davg)


def test_energy_bias_of_deepmd_kit() -> None:
    for name in ("se_e2_a-water", "se_e2_a-vacuum"):
        stored = golden.arrays(name)
        model, definition = golden.load(name)
        counts = np.tile(np.bincount(stored["data/types"], minlength=2), (4, 1))
        # the fit is made before training, and no step of it changes the bias
        found = energy_bias(counts, stored["data/energy"].reshape(-1))
        np.testing.assert_allclose(found, model.energy_bias, rtol=0, atol=1e-9, err_msg=name)
        assert definition.n_types == 2


def test_assigned_energies_stay_as_they_are() -> None:
    counts = np.array([[1, 2], [3, 1], [2, 2]])
    energies = counts @ np.array([-5.0, -2.0])
    np.testing.assert_allclose(energy_bias(counts, energies), [-5.0, -2.0], atol=1e-12)
    found = energy_bias(counts, energies, assigned=[-5.0, None])
    np.testing.assert_allclose(found, [-5.0, -2.0], atol=1e-12)
    found = energy_bias(counts, energies, assigned=[None, -1.0])
    assert found[1] == -1.0


def test_a_type_without_atoms_has_a_deviation() -> None:
    name = "se_e2_a-one-side"
    _, definition = golden.load(name)
    statistics = EnvironmentStatistics(definition)
    vectors, first, second, types = golden.pairs(name, "no-neighbours", definition.rcut)
    statistics.add(vectors, first, second, types)
    davg, dstd = statistics.davg_and_dstd()
    assert davg.abs().max() == 0.0
    np.testing.assert_array_equal(dstd, [[0.01] * 4, [0.1] * 4])


# --- bad input ----------------------------------------------------------------------------------


def test_frames_of_different_sizes_are_no_batch() -> None:
    x = torch.zeros(1, 3, 3, dtype=torch.float64)
    x[0] = torch.arange(9.0).reshape(3, 3)
    with pytest.raises(ShapeError, match=r"batch of frames.*\[2, 3\]"):
        concatenate([pairs_of_frames(x, None, 4.0), pairs_of_frames(x[:, :2], None, 4.0)])


def test_shapes_that_do_not_fit() -> None:
    x = torch.zeros(1, 3, 3, dtype=torch.float64)
    with pytest.raises(ShapeError, match="coordinates"):
        pairs_of_frames(x[0], None, 4.0)
    with pytest.raises(ShapeError, match="cells"):
        pairs_of_frames(x, torch.eye(3), 4.0)
    with pytest.raises(ShapeError, match="neighbour lists"):
        pairs_of_lists(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="shifts"):
        pairs_of_lists(torch.zeros(1, 3, 2, dtype=torch.int64), torch.zeros(1, 3, 3))
    with pytest.raises(PairListError, match=r"from 0 to 2.*got 3"):
        pairs_of_lists(torch.full((1, 3, 2), 3))
    half = torch.tensor([[[1, 2], [2, -1], [-1, -1]]])
    with pytest.raises(PairListError, match="lists of both of its atoms"):
        pairs_of_lists(half[:, :, 1:])
    model, _ = golden.load("se_e2_a-water")
    pairs = pairs_of_lists(torch.full((1, 3, 2), -1))
    with pytest.raises(ShapeError, match="types"):
        evaluate(model, x, None, torch.zeros(2, dtype=torch.int64), pairs)
    with pytest.raises(ShapeError, match="coordinates"):
        evaluate(model, x[:, :2], None, torch.zeros(3, dtype=torch.int64), pairs)


@pytest.mark.parametrize("energies", [[1.0, np.nan], [1.0]])
def test_energies_that_can_not_be_fitted(energies: list[float]) -> None:
    with pytest.raises(ValueError, match="energies of the frames"):
        energy_bias(np.ones((2, 1)), np.array(energies))
