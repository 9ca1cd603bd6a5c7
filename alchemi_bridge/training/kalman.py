"""The layerwise Kalman filter (LKF), an optimiser that keeps a covariance of the weights.

S. Hu, W. Zhang, Q. Sha, F. Pan, L.-W. Wang, W. Jia, G. Tan, T. Zhao, "RLEKF: an optimizer for deep
potential with ab initio accuracy", https://arxiv.org/abs/2212.06989. Weights are divided into
blocks, and covariances between blocks are left out. A measurement is one number: the sum of some
predictions, each with the sign that makes it too small.

Blocks, constants and updates are those of DeePMD-kit 3.2.0, which ``integration/deepmd`` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
        The weights, all of one dtype. Consecutive ones share a block as long as there is room; one
        that is larger than a block is divided, a matrix column by column.
    block_size
        Largest number of weights in a block; memory goes with its square.
    """

    def __init__(self, params: Iterator[torch.nn.Parameter], block_size: int) -> None:
        super().__init__(list(params), {"block_size": block_size})
        [group] = self.param_groups
        self._weights: list[torch.nn.Parameter] = group["params"]
        self._spans = _spans([p.numel() for p in self._weights], block_size)
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
        gradient = torch.cat([_by_column(_gradient(p)) for p in self._weights])
        gains = [c @ gradient[a:b] for c, (a, b) in zip(covariances, self._spans, strict=True)]
        gain = torch.cat(gains)
        scale = 1.0 / (forgetting * len(gains) + gradient @ gain)
        change = scale * error.to(gain.dtype) * gain
        parts = change.split([p.numel() for p in self._weights])
        for parameter, part in zip(self._weights, parts, strict=True):
            parameter.add_(part.reshape(parameter.shape[::-1]).permute(*_reversed(parameter)))
        for covariance, one in zip(covariances, gains, strict=True):
            covariance.addr_(one, one, alpha=-float(scale)).div_(forgetting)
        forgetting.mul_(FORGETTING_RATE).add_(1.0 - FORGETTING_RATE)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _reversed(tensor: torch.Tensor) -> range:
    """The dimensions, last first."""
    return range(tensor.dim() - 1, -1, -1)


def _by_column(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(*_reversed(tensor)).flatten()


def _spans(sizes: Sequence[int], block_size: int) -> list[tuple[int, int]]:
    """Blocks of the weights of parameters of these sizes, none above ``block_size``."""
    groups = [0]
    for size in sizes:
        if groups[-1] > 0 and groups[-1] + size > block_size:
            groups.append(0)
        groups[-1] += size
    spans: list[tuple[int, int]] = []
    start = 0
    for size in groups:
        edges = [*range(start, start + size, block_size), start + size]
        spans += pairwise(edges)
        start += size
    return spans
