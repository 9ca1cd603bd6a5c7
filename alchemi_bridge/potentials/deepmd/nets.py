# ruff: noqa: UP045  (TorchScript compares against typing's classes)
"""Embedding and fitting nets, in TorchScript."""

from typing import Optional

import torch
from torch.nn.functional import gelu, relu, relu6, silu, softplus

from alchemi_bridge.potentials._options import DTYPES


def activate(name: str, x: torch.Tensor) -> torch.Tensor:
    """The activation function that DeePMD calls ``name``, of every element."""
    if name == "tanh":
        return torch.tanh(x)
    if name == "silu":
        return silu(x)
    if name == "gelu" or name == "gelu_tf":
        return gelu(x, approximate="tanh")
    if name == "relu":
        return relu(x)
    if name == "relu6":
        return relu6(x)
    if name == "softplus":
        return softplus(x)
    if name == "sigmoid":
        return torch.sigmoid(x)
    assert name == "linear" or name == "none"
    return x


class Layer(torch.nn.Module):
    """A dense layer with a residual connection where the widths allow it.

    Parameters
    ----------
    n_in, n_out
        Widths.
    activation
        Name of the activation function.
    resnet
        Add the input, or the input twice side by side if the output is twice as wide.
    time_step
        Scale the output before the input is added, with a trainable factor for each neuron.
    dtype
        Of the parameters.
    """

    idt: Optional[torch.Tensor]

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        activation: str,
        resnet: bool,
        time_step: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.adds_input = resnet and n_out == n_in
        self.adds_input_twice = resnet and n_out == 2 * n_in
        # named and shaped as in DeePMD-kit's files
        self.matrix = torch.nn.Parameter(torch.zeros(n_in, n_out, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.zeros(n_out, dtype=dtype))
        has_step = time_step and (self.adds_input or self.adds_input_twice)
        step = torch.nn.Parameter(torch.zeros(n_out, dtype=dtype)) if has_step else None
        self.register_parameter("idt", step)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the parameters from DeePMD-kit's distributions."""
        with torch.no_grad():
            scale = sum(self.matrix.shape) ** -0.5
            self.matrix.normal_(0.0, scale, generator=generator)
            self.bias.normal_(0.0, 1.0, generator=generator)
            if self.idt is not None:
                self.idt.normal_(0.1, 0.001, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(P, n_out) from (P, n_in)."""
        y = activate(self.activation, torch.addmm(self.bias, x, self.matrix))
        idt = self.idt
        if idt is not None:
            y = y * idt
        if self.adds_input:
            y = y + x
        elif self.adds_input_twice:
            y = y + torch.cat([x, x], dim=-1)
        return y


class Net(torch.nn.Module):
    """Layers of the given widths, one after the other.

    Parameters
    ----------
    n_in
        Width of the input.
    neuron
        Width of each layer.
    n_out
        Width of a last layer that is linear; none if 0.
    activation, time_step, precision
        See :class:`Layer`; precision by name.
    """

    def __init__(
        self,
        n_in: int,
        neuron: tuple[int, ...],
        n_out: int,
        *,
        activation: str,
        time_step: bool,
        precision: str,
    ) -> None:
        super().__init__()
        dtype = DTYPES[precision]
        layers = torch.nn.ModuleList()
        for width in neuron:
            layers.append(
                Layer(
                    n_in,
                    width,
                    activation=activation,
                    resnet=True,
                    time_step=time_step,
                    dtype=dtype,
                )
            )
            n_in = width
        if n_out:
            layers.append(
                Layer(n_in, n_out, activation="linear", resnet=False, time_step=False, dtype=dtype)
            )
        self.layers = layers

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the parameters of all layers."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.initialise(generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(P, width of the last layer) from (P, n_in)."""
        for layer in self.layers:
            x = layer(x)
        return x
