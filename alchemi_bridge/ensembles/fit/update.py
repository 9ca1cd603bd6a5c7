"""Optimisers of torch by their names in a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

METHODS = ("adam", "rmsprop", "sgd")


@dataclass(frozen=True)
class UpdateSettings:
    """How parameters are changed; those with a logarithmic scale by their logarithms.

    Attributes
    ----------
    method
        ``"adam"``, ``"rmsprop"`` or ``"sgd"``.
    rates
        Learning rate of each parameter.
    decay
        Factor of all rates from one step to the next.
    momentum
        Of ``"sgd"``.
    betas
        Of ``"adam"``: how long it remembers gradients and their squares. The loss falls by orders
        of magnitude in a fit, so that a second one below torch's default is wise.
    """

    method: str
    rates: tuple[float, ...]
    decay: float = 1.0
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)

    def make(self, tensors: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
        """The optimiser of these tensors, one for each rate."""
        groups: list[dict[str, Any]] = [
            {"params": [tensor], "lr": rate}
            for tensor, rate in zip(tensors, self.rates, strict=True)
        ]
        if self.method == "adam":
            found: torch.optim.Optimizer = torch.optim.Adam(groups, betas=self.betas)
        elif self.method == "rmsprop":
            found = torch.optim.RMSprop(groups)
        else:
            found = torch.optim.SGD(groups, lr=self.rates[0], momentum=self.momentum)
        if self.decay != 1.0:
            found.register_step_post_hook(self._decayed)
        return found

    def _decayed(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # rates are part of the optimiser's state, so that a restart goes on with them
        for group in optimizer.param_groups:
            group["lr"] *= self.decay
