"""Steps of a fit against what torch's optimizers do by hand; callbacks, aggregation, NaN."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from ensemble_units import Counting, Quadratic, Wanting

from alchemi_bridge.ensembles import Optimizer
from alchemi_bridge.ensembles.aggregate import mean, passthrough, weighted
from alchemi_bridge.errors import ConfigurationError, NonFiniteStepError

START = {"x": torch.tensor([1.0, 2.0], dtype=torch.float64), "y": torch.tensor(3.0)}


def sgd(tensors):
    return torch.optim.SGD(tensors, lr=0.1)


def adam(tensors):
    return torch.optim.Adam(tensors, lr=0.05)


def fit(objectives, update=sgd, parameters=START, **options):
    return Optimizer([], objectives, parameters, update, **options)


def test_steps_are_those_of_torch_on_the_mean_loss():
    ours = fit([Quadratic("one", 0.0), Quadratic("two", 5.0)], adam)
    outputs = ours.run(7)
    leaves = {name: value.clone().requires_grad_(True) for name, value in START.items()}
    theirs = adam(list(leaves.values()))
    for output in outputs:
        theirs.zero_grad()
        for name, leaf in leaves.items():
            assert torch.equal(output.before[name], leaf.detach())
        loss = sum(((leaf - t) ** 2).sum() for leaf in leaves.values() for t in (0.0, 5.0)) / 2
        assert sum(output.losses.values()) / 2 == pytest.approx(loss.item())
        loss.backward()
        theirs.step()
        for name, leaf in leaves.items():
            assert torch.allclose(output.gradient[name], leaf.grad)
            assert torch.allclose(output.after[name], leaf.detach())
    assert [output.step for output in outputs] == list(range(7))
    assert ours.parameters["x"].dtype == torch.float64


def test_what_the_caller_handed_over_stays_as_it_is():
    start = {"x": torch.tensor(1.0)}
    fit([Quadratic("o", 0.0)], parameters=start).run(2)
    assert start["x"] == 1.0


def test_aggregation():
    one, two = {"x": torch.tensor(1.0)}, {"x": torch.tensor(3.0), "y": torch.tensor(4.0)}
    assert mean([one, two]) == {"x": torch.tensor(2.0), "y": torch.tensor(2.0)}
    assert weighted([2, 0.5])([one, two]) == {"x": torch.tensor(3.5), "y": torch.tensor(2.0)}
    assert passthrough([two]) == two
    with pytest.raises(ConfigurationError, match="2, one for each"):
        weighted([1])([one, two])
    with pytest.raises(ConfigurationError, match="passthrough"):
        passthrough([one, two])


def test_aggregation_gets_trees_in_the_order_of_the_objectives():
    seen = []

    def watch(gradients):
        seen.extend(float(g["y"]) for g in gradients)
        return mean(gradients)

    names = [Quadratic("late", 1.0), Wanting("measures", (), ""), Quadratic("early", 2.0)]
    names[1].compute = lambda observables, parameters: _measure()
    output = fit(names, aggregate_grad_fn=watch).step()
    assert seen == [4.0, 2.0]
    assert list(output.losses) == ["late", "early"]
    assert output.values["measures"] == {"n": 1}


def _measure():
    from alchemi_bridge.ensembles import Outcome

    return Outcome(values={"n": 1})


def test_bounds_are_kept():
    bounds = {"x": (None, 2.0), "y": (0.0, 3.5)}
    output = fit([Quadratic("o", 10.0)], bounds=bounds).run(5)[-1]
    assert output.after["x"].tolist() == [2.0, 2.0]
    assert output.after["y"] == 3.5


def test_a_logarithmic_scale_is_gradient_descent_in_the_logarithm():
    output = fit([Quadratic("o", 2.0)], parameters={"x": torch.tensor(3.0)}, scales={"x": "log"})
    after = output.step().after["x"]
    # d(x-2)^2/d(ln x) = 2 (x-2) x = 6
    assert float(after) == pytest.approx(3.0 * math.exp(-0.1 * 6.0), rel=1e-6)


# --- callback -----------------------------------------------------------------------------------


def test_the_callback_stops_after_its_step():
    seen = []

    def until_two(output, step):
        seen.append(step)
        return None, step < 2

    ours = fit([Quadratic("o", 0.0)], callback=until_two)
    assert len(ours.run(10)) == 3
    assert seen == [0, 1, 2]
    assert ours.steps_done == 3


def test_a_modified_gradient_is_the_one_that_goes_on():
    def flip(output, step):
        gradient = {name: -value for name, value in output.gradient.items()}
        return dataclasses.replace(output, gradient=gradient), True

    # momentum shows that the first update left nothing behind
    def momentum(tensors):
        return torch.optim.SGD(tensors, lr=0.01, momentum=0.9)

    ours = fit([Quadratic("o", 0.0)], momentum, callback=flip).run(3)
    x, speed = START["y"].clone(), torch.tensor(0.0)
    for output in ours:
        speed = 0.9 * speed - 2 * x
        x = x - 0.01 * speed
        assert torch.allclose(output.after["y"], x)


def test_modified_parameters_are_those_that_go_on():
    def fix(output, step):
        return dataclasses.replace(output, after={**output.after, "y": torch.tensor(7.0)}), True

    first, second = fit([Quadratic("o", 0.0)], callback=fix).run(2)
    assert first.after["y"] == 7.0
    assert second.before["y"] == 7.0
    assert torch.equal(second.before["x"], first.after["x"])


# --- NaN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("keep_going", [True, False])
def test_gradients_that_are_not_finite_are_found_also_on_an_early_stop(value, keep_going):
    seen = []
    ours = fit(
        [Quadratic("o", 0.0, spoiled_by=value)],
        adam,
        callback=lambda output, step: (seen.append(output), (None, keep_going))[1],
    )
    with pytest.raises(NonFiniteStepError, match="gradient by 'x', gradient by 'y'"):
        ours.run(3)
    with pytest.raises(RuntimeError, match="step 0"):
        ours.step()
    assert len(seen) == 2
    assert all(torch.equal(ours.parameters[name], value) for name, value in START.items())


def test_losses_and_parameters_that_are_not_finite_are_found():
    with pytest.raises(NonFiniteStepError, match="loss of 'o'"):
        fit([Quadratic("o", math.nan, spoiled_by=0.0)]).step()
    with pytest.raises(NonFiniteStepError, match="new 'x'"):
        fit([Quadratic("o", 0.0)], lambda t: torch.optim.SGD(t, lr=math.inf)).step()


def test_a_callback_may_mend_a_gradient():
    def mend(output, step):
        return dataclasses.replace(
            output, gradient={n: torch.ones_like(g) for n, g in output.gradient.items()}
        ), False

    (output,) = fit([Quadratic("o", 0.0, spoiled_by=math.nan)], callback=mend).run(5)
    assert float(output.after["y"]) == pytest.approx(2.9)


# --- simulators, state --------------------------------------------------------------------------


def test_observables_are_kept_from_step_to_step(tmp_path):
    a = Counting("a", str(tmp_path))
    objectives = [Wanting("w", (a.observable(),), str(tmp_path)), Quadratic("q", 0.0)]
    ours = Optimizer([a], objectives, START, sgd)
    assert [output.simulations for output in ours.run(3)] == [1, 0, 0]


def test_a_state_goes_on_where_it_was():
    straight = fit([Quadratic("o", 0.0)], adam).run(6)[-1]
    first, second = fit([Quadratic("o", 0.0)], adam), fit([Quadratic("o", 0.0)], adam)
    first.run(3)
    second.load_state_dict(first.state_dict())
    for change in ({"method": "SGD"}, {"scales": {}}):
        with pytest.raises(ConfigurationError, match="of an optimizer's state"):
            second.load_state_dict({**first.state_dict(), **change})
    output = second.run(3)[-1]
    assert output.step == 5
    for name, value in straight.after.items():
        assert torch.equal(output.after[name], value)


# --- wrong input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parameters": {}}, "at least one"),
        ({"parameters": {"x": torch.tensor(1)}}, "floating-point"),
        ({"parameters": {"x": torch.tensor(math.nan)}}, "finite"),
        ({"bounds": {"z": (0, 1)}}, "got z"),
        ({"bounds": {"y": (1.0, 0.0)}}, "low below high"),
        ({"bounds": {"y": (0.0, 1.0)}}, "within"),
        ({"scales": {"y": "cubic"}}, "linear or log"),
        ({"scales": {"x": "log"}, "parameters": {"x": torch.tensor(-1.0)}}, "positive"),
        ({"update": torch.optim.LBFGS}, "LBFGS"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ConfigurationError, match=words):
        fit([Quadratic("o", 0.0)], **options)


def test_wrong_gradients(tmp_path):
    with pytest.raises(ConfigurationError, match="at least one with a gradient"):
        fit([Wanting("w", (), str(tmp_path))]).step()
    for tree, words in (
        ({"z": torch.tensor(1.0)}, "unknown name"),
        ({"x": torch.ones(3)}, "shape"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            fit([Quadratic("o", 0.0)], aggregate_grad_fn=lambda _, tree=tree: tree).step()
