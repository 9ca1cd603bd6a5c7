"""How a loaded model is called: through metatomic's ``forward``, or its module directly.

``AtomisticModel.forward`` checks types, converts units and rebuilds every system and neighbour
list in each call, also where nothing has to be converted. The bridge owns types and units, so it
may call the module inside; whether both give the same is checked once, by running both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import metatensor.torch as mts
import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import AtomisticModel, ModelEvaluationOptions, ModelOutput, System

LOGGER = logging.getLogger(__name__)

#: TorchScript's first calls differ from later ones in the last digits.
CHECK_RTOL = {torch.float32: 1e-4, torch.float64: 1e-9}

#: The first call with certain outputs goes through ``forward`` alone, so that who evaluates a
#: single structure pays nothing; the second runs both, and compares.
CALLS_BEFORE_CHECK = 1

MAX_KEPT = 64


def optimized(flag: bool) -> Any:
    """Context with TorchScript's optimised execution on or off."""
    return nullcontext() if flag else torch.jit.optimized_execution(False)


@dataclass
class _Trust:
    """What is known about direct calls with certain outputs."""

    calls: int = 0
    checked: bool = False
    same: bool = False


@dataclass
class Execution:
    """Calls one model, and remembers for which outputs the direct way was found right.

    Attributes
    ----------
    model
        The metatomic model.
    length_unit, dtype
        Its own.
    converts
        Whether ``forward`` would have to convert something: then it is always used.
    """

    model: AtomisticModel
    length_unit: str
    dtype: torch.dtype
    converts: bool
    _trust: dict[tuple, _Trust] = field(default_factory=dict)
    _requests: dict[tuple, dict[str, ModelOutput]] = field(default_factory=dict)

    def kept_requests(
        self, key: tuple, make: Callable[[], dict[str, ModelOutput]]
    ) -> dict[str, ModelOutput]:
        """Requests that are the same in every step, made once."""
        if key not in self._requests:
            if len(self._requests) >= MAX_KEPT:
                self._requests.clear()
            self._requests[key] = make()
        return self._requests[key]

    def run(
        self,
        systems: Sequence[System],
        requests: dict[str, ModelOutput],
        selected: Labels | None,
        check_consistency: bool,
    ) -> dict[str, TensorMap]:
        """Outputs of the model, in its own units."""
        key = (selected is None, *((n, o.unit, o.sample_kind) for n, o in requests.items()))
        trust = self._trust.get(key)
        if trust is None:
            trust = self._trust[key] = _Trust(checked=not self._direct_is_possible(requests))
        if check_consistency:
            return self._forward(systems, requests, selected, True)
        if trust.same:
            return dict(self.model.module(list(systems), requests, selected))
        outputs = self._forward(systems, requests, selected, False)
        trust.calls += 1
        if trust.calls > CALLS_BEFORE_CHECK and not trust.checked:
            trust.checked = True
            trust.same = self._compare(systems, requests, selected, outputs)
        return outputs

    def is_direct(self) -> bool:
        """Whether some outputs come directly from the module by now."""
        return any(trust.same for trust in self._trust.values())

    def _direct_is_possible(self, requests: dict[str, ModelOutput]) -> bool:
        if self.converts:
            return False
        declared = self.model.capabilities().outputs
        own_names = self.model._model_capabilities_outputs_names
        return all(
            name in own_names and (request.unit in ("", declared[name].unit))
            for name, request in requests.items()
        )

    def _forward(
        self,
        systems: Sequence[System],
        requests: dict[str, ModelOutput],
        selected: Labels | None,
        check_consistency: bool,
    ) -> dict[str, TensorMap]:
        options = ModelEvaluationOptions(
            length_unit=self.length_unit, outputs=requests, selected_atoms=selected
        )
        return dict(self.model(list(systems), options, check_consistency=check_consistency))

    def _compare(
        self,
        systems: Sequence[System],
        requests: dict[str, ModelOutput],
        selected: Labels | None,
        expected: dict[str, TensorMap],
    ) -> bool:
        try:
            with torch.no_grad():
                found = self.model.module(list(systems), requests, selected)
            same = set(found) == set(expected) and all(
                self._same(found[name], expected[name]) for name in expected
            )
            reason = "its results differ from those of forward"
        except Exception as error:  # the model is foreign code and may raise anything
            same, reason = False, f"it failed: {type(error).__name__}"
        if not same:
            LOGGER.warning("the model is not called directly, which would be faster: %s", reason)
        return same

    def _same(self, found: TensorMap, expected: TensorMap) -> bool:
        expected = mts.detach(expected)
        largest = max((float(b.values.abs().amax()) for b in expected.blocks() if b.values.numel()),
                      default=0.0)  # fmt: skip
        rtol = CHECK_RTOL[self.dtype]
        return bool(mts.allclose(mts.detach(found), expected, rtol=rtol, atol=rtol * largest))
