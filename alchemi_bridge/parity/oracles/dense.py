"""Dense nets in NumPy with their backpropagation written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.parity.oracles.images import Array

#: Each function returns values and derivatives.
Activation = Callable[[Array], tuple[Array, Array]]


def _tanh(x: Array) -> tuple[Array, Array]:
    t = np.tanh(x)
    return t, 1.0 - t**2


def _silu(x: Array) -> tuple[Array, Array]:
    half = 0.5 * (1.0 + np.tanh(0.5 * x))  # the logistic function, without overflow
    return x * half, half * (1.0 + x * (1.0 - half))


def _gelu(x: Array) -> tuple[Array, Array]:
    root = np.sqrt(2.0 / np.pi)
    t = np.tanh(root * (x + 0.044715 * x**3))
    inner = root * (1.0 + 3.0 * 0.044715 * x**2)
    return 0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t**2) * inner


def _linear(x: Array) -> tuple[Array, Array]:
    return x, np.ones_like(x)


ACTIVATIONS: dict[str, Activation] = {
    "tanh": _tanh,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tf": _gelu,
    "linear": _linear,
}


@dataclass(frozen=True)
class Layer:
    """y = act(x W + b) * step, and x added where the widths allow it.

    Attributes
    ----------
    matrix, bias
        (n_in, n_out) and (n_out,).
    step
        (n_out,) factors; ones where the layer has none.
    activation
        Key of :data:`ACTIVATIONS`.
    residual
        Whether x is added, if n_out is n_in, or twice side by side, if it is 2 n_in.
    """

    matrix: Array
    bias: Array
    step: Array
    activation: str
    residual: bool

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Output and the derivative of its non-linear part, both (P, n_out)."""
        value, slope = ACTIVATIONS[self.activation](x @ self.matrix + self.bias)
        y = value * self.step
        for start in self._copies():
            y[:, start : start + x.shape[1]] += x
        return y, slope * self.step

    def backward(self, y_bar: Array, slope: Array) -> Array:
        """Derivative with respect to the input, (P, n_in), from that to the output."""
        n_in = self.matrix.shape[0]
        x_bar = (y_bar * slope) @ self.matrix.T
        for start in self._copies():
            x_bar = x_bar + y_bar[:, start : start + n_in]
        return x_bar

    def _copies(self) -> Sequence[int]:
        n_in, n_out = self.matrix.shape
        if not self.residual or n_out not in (n_in, 2 * n_in):
            return ()
        return range(0, n_out, n_in)


class Net:
    """Layers, one after the other.

    Parameters
    ----------
    tensors
        ``layers.K.matrix``, ``layers.K.bias`` and, where there is one, ``layers.K.idt``.
    activation
        Of all layers, or of all but the last, which then is linear and without a residual.
    last_is_linear
        Which of the two it is.

    Raises
    ------
    ConfigurationError
        If the activation function is not known here.
    """

    def __init__(self, tensors: Mapping[str, Any], activation: str, last_is_linear: bool) -> None:
        if activation not in ACTIVATIONS:
            raise ConfigurationError(
                "activation function of an oracle",
                expected=f"one of {', '.join(ACTIVATIONS)}",
                got=repr(activation),
                fix="choose one of them, or write its derivative",
            )
        n_layers = sum(name.endswith(".matrix") for name in tensors)
        self.layers: list[Layer] = []
        for k in range(n_layers):
            matrix = np.asarray(tensors[f"layers.{k}.matrix"], dtype=np.float64)
            step = tensors.get(f"layers.{k}.idt", np.ones(matrix.shape[1]))
            linear = last_is_linear and k == n_layers - 1
            self.layers.append(
                Layer(
                    matrix=matrix,
                    bias=np.asarray(tensors[f"layers.{k}.bias"], dtype=np.float64),
                    step=np.asarray(step, dtype=np.float64),
                    activation="linear" if linear else activation,
                    residual=not linear,
                )
            )

    def forward(self, x: Array) -> tuple[Array, list[Array]]:
        """(P, n_out) from (P, n_in), and what :meth:`backward` needs."""
        slopes = []
        for layer in self.layers:
            x, slope = layer.forward(x)
            slopes.append(slope)
        return x, slopes

    def backward(self, y_bar: Array, slopes: list[Array]) -> Array:
        """Derivative with respect to the input, (P, n_in)."""
        for layer, slope in zip(reversed(self.layers), reversed(slopes), strict=True):
            y_bar = layer.backward(y_bar, slope)
        return y_bar
