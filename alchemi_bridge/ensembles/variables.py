"""Parameters as an optimizer sees them: scaled, bounded, with a gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch

from alchemi_bridge.ensembles.work import Parameters
from alchemi_bridge.errors import ConfigurationError

Scale = Literal["linear", "log"]

#: Lowest and highest value, ``None``: none.
Bounds = tuple[float | None, float | None]


class Variables:
    """Leaves for an optimizer of torch, and the parameters that they stand for.

    Parameters
    ----------
    parameters
        Floating-point tensors of any shape, by name.
    scales
        ``"log"``: the optimizer sees the logarithm, so that a learning rate is a relative change
        and the sign stays. Those not named are ``"linear"``.
    bounds
        Lowest and highest value of each element, of some parameters.

    Raises
    ------
    ConfigurationError
        If a name is unknown, a value not finite, outside its bounds, or not positive where its
        logarithm is taken.
    """

    def __init__(
        self,
        parameters: Parameters,
        scales: Mapping[str, Scale] | None = None,
        bounds: Mapping[str, Bounds] | None = None,
    ) -> None:
        self.names = tuple(parameters)
        self._scales = dict(scales or {})
        self._bounds = dict(bounds or {})
        _check_options(self.names, self._scales, self._bounds)
        self._values: dict[str, torch.Tensor] = {}
        self.leaves: dict[str, torch.Tensor] = {}
        for name, value in parameters.items():
            self._check(name, value)
            self._values[name] = value.detach().cpu().clone()
            self.leaves[name] = self._inward(name, self._values[name]).requires_grad_(True)

    @property
    def scales(self) -> dict[str, Scale]:
        """Of all parameters, in their order."""
        return {name: self._scales.get(name, "linear") for name in self.names}

    def values(self) -> dict[str, torch.Tensor]:
        """Copies of the parameters, on the host, without a graph."""
        return {name: value.clone() for name, value in self._values.items()}

    def assign(self, parameters: Parameters) -> None:
        """Go on from these values."""
        for name in self.names:
            if name not in parameters or parameters[name].shape != self._values[name].shape:
                raise ConfigurationError(
                    f"parameter '{name}'",
                    expected=f"a value of shape {tuple(self._values[name].shape)}",
                    got=str(tuple(parameters[name].shape)) if name in parameters else "none",
                    fix="hand over all parameters",
                )
        with torch.no_grad():
            for name in self.names:
                value = parameters[name].detach().cpu()
                self._values[name] = value.to(self._values[name].dtype).clone()
                self.leaves[name].copy_(self._inward(name, self._values[name]))

    def pull_back(self, gradient: Mapping[str, torch.Tensor]) -> None:
        """Write a gradient by the parameters into the leaves; what it does not name is zero.

        Raises
        ------
        ConfigurationError
            If a name is unknown or a shape is another.
        """
        for name, part in gradient.items():
            if name not in self._values or part.shape != self._values[name].shape:
                known = name in self._values
                raise ConfigurationError(
                    f"gradient by '{name}'",
                    expected=f"shape {tuple(self._values[name].shape)}"
                    if known
                    else f"one by {', '.join(self.names)}",
                    got=f"shape {tuple(part.shape)}" if known else "an unknown name",
                    fix="let objectives differentiate by the optimizer's parameters",
                )
        for name, leaf in self.leaves.items():
            by_value = gradient.get(name)
            if by_value is None:
                leaf.grad = torch.zeros_like(leaf)
                continue
            by_value = by_value.detach().to("cpu", leaf.dtype)
            logarithmic = self._scales.get(name) == "log"
            leaf.grad = by_value * self._values[name] if logarithmic else by_value.clone()

    def pull(self) -> None:
        """Take over what the optimizer made of the leaves, within the bounds."""
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                value = leaf.exp() if self._scales.get(name) == "log" else leaf.clone()
                low, high = self._bounds.get(name, (None, None))
                if low is not None or high is not None:
                    within = value.clamp(low, high)
                    if not torch.equal(within, value):
                        leaf.copy_(self._inward(name, within))
                    value = within
                self._values[name] = value.detach().clone()

    def _inward(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return value.log() if self._scales.get(name) == "log" else value.clone()

    def _check(self, name: str, value: torch.Tensor) -> None:
        low, high = self._bounds.get(name, (None, None))
        problem = None
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            problem = "a floating-point tensor", repr(value)
        elif not bool(torch.isfinite(value).all()):
            problem = "finite values", str(value.tolist())
        elif self._scales.get(name) == "log" and not bool((value > 0).all()):
            problem = "positive values, since their logarithm is fitted", str(value.tolist())
        elif (low is not None and bool((value < low).any())) or (
            high is not None and bool((value > high).any())
        ):
            problem = f"values within [{low}, {high}]", str(value.tolist())
        if problem is not None:
            raise ConfigurationError(
                f"parameter '{name}'", expected=problem[0], got=problem[1], fix="correct the start"
            )


def _check_options(
    names: tuple[str, ...], scales: Mapping[str, str], bounds: Mapping[str, Bounds]
) -> None:
    if not names:
        raise ConfigurationError(
            "parameters", expected="at least one", got="none", fix="say what is to be fitted"
        )
    for option, given in (("scales", scales), ("bounds", bounds)):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ConfigurationError(
                f"{option} of parameters",
                expected=f"names among {', '.join(names)}",
                got=", ".join(unknown),
                fix="correct the names",
            )
    for name, scale in scales.items():
        if scale not in ("linear", "log"):
            raise ConfigurationError(
                f"scale of '{name}'", expected="linear or log", got=repr(scale), fix="choose one"
            )
    for name, (low, high) in bounds.items():
        numbers = [b for b in (low, high) if b is not None]
        wrong = any(math.isnan(b) for b in numbers) or (len(numbers) == 2 and low >= high)  # type: ignore[operator]
        if wrong or (scales.get(name) == "log" and low is not None and low <= 0):
            raise ConfigurationError(
                f"bounds of '{name}'",
                expected="low below high" + (", positive" if scales.get(name) == "log" else ""),
                got=f"[{low}, {high}]",
                fix="correct them; None is no bound",
            )
