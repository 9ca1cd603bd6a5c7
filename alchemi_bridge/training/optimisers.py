"""Optimisers by name."""

from __future__ import annotations

import torch

from alchemi_bridge.errors import ConfigurationError


def optimiser(name: str, model: torch.nn.Module) -> torch.optim.Optimizer:
    """An optimiser of the parameters of a model; its learning rate is set in every step.

    Raises
    ------
    ConfigurationError
        If it is not there.
    """
    if name == "adam":
        return torch.optim.Adam(model.parameters(), fused=True)
    raise ConfigurationError(
        "optimizer.type",
        expected="'Adam'",
        got=repr(name),
        fix="the layerwise Kalman filter is not there yet; train with Adam",
    )
