"""Steps of an optimiser of torch on parameters of very different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alchemi_bridge.errors import ConfigurationError

METHODS = ("adam", "sgd", "rmsprop")
SCALES = ("linear", "log")


@dataclass(frozen=True)
class UpdateSettings:
    """How parameters are changed.

    Attributes
    ----------
    method
        ``"adam"``, ``"sgd"`` or ``"rmsprop"``.
    rates
        Learning rate of each parameter.
    logarithmic
        Whether a parameter's logarithm is what is changed, so that the rate is relative: all its
        values must be above zero, and stay there.
    decay
        Factor of all rates from one step to the next.
    momentum
        Of ``"sgd"``.
    """

    method: str
    rates: tuple[float, ...]
    logarithmic: tuple[bool, ...]
    decay: float = 1.0
    momentum: float = 0.0


class ScaledUpdate:
    """An optimiser of torch behind the logarithms of some parameters.

    Has what :class:`torch.optim.Optimizer` has for those who only step: ``zero_grad``, ``step``,
    ``state_dict``, ``load_state_dict``.

    Parameters
    ----------
    tensors
        Parameters, changed in place; their ``grad`` is read.
    settings
        One rate for each.

    Raises
    ------
    ConfigurationError
        If a parameter with a logarithmic scale is not above zero.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], settings: UpdateSettings) -> None:
        self.tensors, self.settings = list(tensors), settings
        for tensor, logarithmic in zip(self.tensors, settings.logarithmic, strict=True):
            if logarithmic and not bool((tensor > 0.0).all()):
                raise ConfigurationError(
                    "scale of a parameter",
                    expected="values above zero, since their logarithm is what is changed",
                    got=f"{float(tensor.detach().min()):g}",
                    fix='choose scale = "linear" for it',
                )
        self.steps = 0
        self._inner = [torch.zeros_like(t, requires_grad=True) for t in self.tensors]
        groups = [
            {"params": [inner], "lr": rate}
            for inner, rate in zip(self._inner, settings.rates, strict=True)
        ]
        self._optimizer = _make(settings, groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for tensor in self.tensors:
            tensor.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters by their gradients."""
        rows = list(zip(self.tensors, self._inner, self.settings.logarithmic, strict=True))
        for tensor, inner, logarithmic in rows:
            # somebody may have moved them since, to within bounds for example
            inner.copy_(tensor.log() if logarithmic else tensor)
            if tensor.grad is None:
                inner.grad = None
            else:
                inner.grad = tensor.grad * tensor if logarithmic else tensor.grad.clone()
        for group, rate in zip(self._optimizer.param_groups, self.settings.rates, strict=True):
            group["lr"] = rate * self.settings.decay**self.steps
        self._optimizer.step()
        for tensor, inner, logarithmic in rows:
            tensor.copy_(inner.exp() if logarithmic else inner)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs."""
        return {"steps": self.steps, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.steps = int(state["steps"])
        self._optimizer.load_state_dict(state["optimizer"])


def _make(settings: UpdateSettings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if settings.method == "adam":
        return torch.optim.Adam(groups)
    if settings.method == "rmsprop":
        return torch.optim.RMSprop(groups)
    return torch.optim.SGD(groups, lr=settings.rates[0], momentum=settings.momentum)
