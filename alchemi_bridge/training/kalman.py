"""The layerwise Kalman filter (LKF), an optimiser that keeps a covariance of the weights.

S. Hu, W. Zhang, Q. Sha, F. Pan, L.-W. Wang, W. Jia, G. Tan, T. Zhao, "RLEKF: an optimizer for deep
potential with ab initio accuracy", https://arxiv.org/abs/2212.06989. Weights are divided into
blocks, and covariances between blocks are left out. A measurement is one number: the mean of some
predictions, each with the sign that makes it too small, so that the error is the mean of absolute
errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch

#: Memory factor of the first update, and how it goes to one.
FORGETTING, FORGETTING_RATE = 0.98, 0.9987


class KalmanFilter(torch.optim.Optimizer):
    """Updates weights by one measurement after the other.

    Parameters
    ----------
    params
        The weights, all of one dtype.
    block_size
        Largest number of weights in a block; memory goes with its square.
    """

    def __init__(self, params: Iterator[torch.nn.Parameter], block_size: int) -> None:
        super().__init__(list(params), {"block_size": block_size})
        [group] = self.param_groups
        self._weights: list[torch.nn.Parameter] = group["params"]
        self._spans = _spans(sum(p.numel() for p in self._weights), block_size)
        like = self._weights[0]
        # a state of the first parameter, where state_dict() finds it
        self.state[like] = {
            "forgetting": torch.tensor(FORGETTING, dtype=like.dtype, device=like.device),
            "covariances": [
                torch.eye(end - start, dtype=like.dtype, device=like.device)
                for start, end in self._spans
            ],
        }

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Not the way of a filter: call :meth:`update`."""
        raise NotImplementedError("a Kalman filter needs the error: call update(error)")

    @torch.no_grad()
    def update(self, error: torch.Tensor) -> None:
        """Take a measurement in; its gradients are those of the parameters.

        Parameters
        ----------
        error
            (), what was expected less what was predicted.
        """
        state: dict[str, Any] = self.state[self._weights[0]]
        forgetting, covariances = state["forgetting"], state["covariances"]
        gradient = torch.cat([_gradient(p).flatten() for p in self._weights])
        gains = [c @ gradient[a:b] for c, (a, b) in zip(covariances, self._spans, strict=True)]
        gain = torch.cat(gains)
        scale = 1.0 / (forgetting * len(gains) + gradient @ gain)
        change = scale * error.to(gain.dtype) * gain
        parts = change.split([p.numel() for p in self._weights])
        for parameter, part in zip(self._weights, parts, strict=True):
            parameter.add_(part.reshape(parameter.shape))
        for covariance, one in zip(covariances, gains, strict=True):
            covariance.addr_(one, one, alpha=-float(scale)).div_(forgetting)
        forgetting.mul_(FORGETTING_RATE).add_(1.0 - FORGETTING_RATE)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _spans(n_weights: int, block_size: int) -> list[tuple[int, int]]:
    """Blocks of about equal size, none above ``block_size``."""
    n_blocks = -(-n_weights // block_size)
    edges = [n_weights * k // n_blocks for k in range(n_blocks + 1)]
    return list(pairwise(edges))
