"""One gradient from those of several objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from alchemi_bridge.errors import ConfigurationError

#: Gradients by parameter, one for each objective that has one, in the objectives' order.
Gradients = Sequence[Mapping[str, torch.Tensor]]

Aggregate = Callable[[Gradients], dict[str, torch.Tensor]]


def mean(gradients: Gradients) -> dict[str, torch.Tensor]:
    """Their mean; a parameter that one does not name counts as zero there."""
    return _sum(gradients, [1.0 / len(gradients)] * len(gradients))


def weighted(weights: Sequence[float]) -> Aggregate:
    """Their sum with these weights, one for each objective that has a gradient, in their order."""
    factors = [float(weight) for weight in weights]

    def sum_of(gradients: Gradients) -> dict[str, torch.Tensor]:
        if len(factors) != len(gradients):
            raise ConfigurationError(
                "weights of the gradients",
                expected=f"{len(gradients)}, one for each objective that has a gradient",
                got=str(len(factors)),
                fix="give as many",
            )
        return _sum(gradients, factors)

    return sum_of


def passthrough(gradients: Gradients) -> dict[str, torch.Tensor]:
    """The gradient of the only objective that has one."""
    if len(gradients) != 1:
        raise ConfigurationError(
            "aggregation 'passthrough'",
            expected="one objective that has a gradient",
            got=str(len(gradients)),
            fix="use mean or weighted",
        )
    return dict(gradients[0])


def _sum(gradients: Gradients, factors: Sequence[float]) -> dict[str, torch.Tensor]:
    total: dict[str, torch.Tensor] = {}
    for gradient, factor in zip(gradients, factors, strict=True):
        for name, value in gradient.items():
            part = value * factor
            total[name] = total[name] + part if name in total else part
    return total
