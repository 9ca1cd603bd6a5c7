"""Fitting: the reactive loop, again and again, with gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from alchemi_bridge.ensembles.aggregate import Aggregate, mean
from alchemi_bridge.ensembles.executors.base import Executor
from alchemi_bridge.ensembles.executors.in_process import InProcessExecutor
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.loop import ReactiveLoop
from alchemi_bridge.ensembles.variables import Bounds, Scale, Variables
from alchemi_bridge.ensembles.work import Objective, Outcome, Parameters, Simulator
from alchemi_bridge.errors import ConfigurationError, NonFiniteStepError


@dataclass(frozen=True)
class StepOutput:
    """What a step found and did.

    Attributes
    ----------
    step
        Its number, from 0.
    before, after
        Parameters with which it was computed, and those that go on.
    gradient
        The aggregated one, by the parameters.
    losses, values
        Of each objective; those that only measure have no loss.
    simulations
        How often a simulator was started.
    seconds
        Wall time.
    """

    step: int
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    gradient: dict[str, torch.Tensor]
    losses: dict[str, float]
    values: dict[str, dict[str, Any]]
    simulations: int
    seconds: float


#: ``callback(output, step) -> (modified output or None, keep going)``
Callback = Callable[[StepOutput, int], tuple[StepOutput | None, bool]]

#: Makes an optimizer of torch for these tensors.
Update = Callable[[list[torch.Tensor]], torch.optim.Optimizer]


class Optimizer:
    """Changes parameters so that objectives are met.

    Parameters
    ----------
    simulators, objectives
        The units of the loop. Observables are kept from step to step, and made anew when an
        objective asks for that.
    parameters
        Where to start, floating-point tensors by name.
    update
        ``lambda tensors: torch.optim.Adam(tensors, lr=0.01)``. The tensors come in the order of
        ``parameters``. Optimizers that evaluate several times in a step (L-BFGS) do not fit.
    executor
        Where the work is done (in this process). It is not closed here.
    aggregate_grad_fn
        One gradient from those of the objectives that have one, in their order.
    callback
        Called after each step. A modified output is what goes on: its ``after`` if that was
        replaced, else the update is made anew with its ``gradient`` if that was replaced.
    remote_options_default
        Resources of units that do not say otherwise.
    scales, bounds
        See :class:`Variables`.
    max_attempts, max_running
        See :class:`ReactiveLoop`.

    Raises
    ------
    ConfigurationError
        If something does not fit together.
    """

    def __init__(
        self,
        simulators: Iterable[Simulator],
        objectives: Iterable[Objective],
        parameters: Parameters,
        update: Update,
        *,
        executor: Executor | None = None,
        aggregate_grad_fn: Aggregate = mean,
        callback: Callback | None = None,
        remote_options_default: SchedulerHints | None = None,
        scales: Mapping[str, Scale] | None = None,
        bounds: Mapping[str, Bounds] | None = None,
        max_attempts: int = 2,
        max_running: int | None = None,
    ) -> None:
        self.loop = ReactiveLoop(
            InProcessExecutor() if executor is None else executor,
            simulators,
            objectives,
            hints=remote_options_default,
            max_attempts=max_attempts,
            max_running=max_running,
        )
        self._variables = Variables(parameters, scales, bounds)
        self._update = update(list(self._variables.leaves.values()))
        if isinstance(self._update, torch.optim.LBFGS):
            raise ConfigurationError(
                "update",
                expected="an optimizer that evaluates once in a step",
                got="LBFGS",
                fix="take Adam, SGD or one like them",
            )
        self._aggregate = aggregate_grad_fn
        self._callback = callback
        self.steps_done = 0

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The current ones, copies."""
        return self._variables.values()

    def state_dict(self) -> dict[str, Any]:
        """Parameters, the update's state and the number of steps; trajectories are not in it."""
        return {
            "parameters": self.parameters,
            "update": copy.deepcopy(self._update.state_dict()),
            "method": type(self._update).__name__,
            "scales": self._variables.scales,
            "steps_done": self.steps_done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with the rates and the memory of the update that are in the state.

        Raises
        ------
        ConfigurationError
            If it is the state of another kind of update, of other parameters or other scales; then
            nothing was changed.
        """
        mine = {"method": type(self._update).__name__, "scales": self._variables.scales}
        for what, value in mine.items():
            if state[what] != value:
                raise ConfigurationError(
                    f"{what} of an optimizer's state",
                    expected=str(value),
                    got=str(state[what]),
                    fix="go on with what it was made with",
                )
        self._variables.assign(state["parameters"])
        self._update.load_state_dict(copy.deepcopy(state["update"]))
        self.steps_done = int(state["steps_done"])

    def run(self, steps: int) -> list[StepOutput]:
        """Make steps until there are as many, or the callback says stop."""
        outputs = []
        for _ in range(steps):
            output, keep_going = self._step()
            outputs.append(output)
            if not keep_going:
                break
        return outputs

    def step(self) -> StepOutput:
        """Make one step; what the callback says about going on is left to the caller.

        Raises
        ------
        NonFiniteStepError
            If loss, gradient or parameters are not finite, once the callback has seen the output.
            The parameters are then those before the step.
        ConfigurationError
            If no objective has a gradient, or one does not fit the parameters.
        Exception
            What a unit raised.
        """
        return self._step()[0]

    # --- one step -------------------------------------------------------------------------------

    def _step(self) -> tuple[StepOutput, bool]:
        start = perf_counter()
        before = self.parameters
        result = self.loop.run(before)
        # with errors="raise" there is nothing else among them
        found = {name: o for name, o in result.outcomes.items() if isinstance(o, Outcome)}
        gradient = self._aggregated(found)
        kept = copy.deepcopy(self._update.state_dict())
        self._advance(gradient)
        output = StepOutput(
            step=self.steps_done,
            before=before,
            after=self.parameters,
            gradient=gradient,
            losses={name: o.loss for name, o in found.items() if o.loss is not None},
            values={name: o.values for name, o in found.items()},
            simulations=result.simulations,
            seconds=perf_counter() - start,
        )
        keep_going = True
        try:
            if self._callback is not None:
                modified, keep_going = self._callback(output, output.step)
                if modified is not None:
                    output = self._apply(modified, output, kept)
            _check_finite(output)
        except BaseException:
            self._restore(before, kept)
            raise
        self.steps_done += 1
        return output, keep_going

    def _aggregated(self, outcomes: Mapping[str, Outcome]) -> dict[str, torch.Tensor]:
        gradients = [o.gradient for o in outcomes.values() if o.gradient is not None]
        if not gradients:
            raise ConfigurationError(
                "objectives",
                expected="at least one with a gradient",
                got=f"none among {', '.join(outcomes)}",
                fix="add one that has a loss and a target",
            )
        return dict(self._aggregate(gradients))

    def _advance(self, gradient: Mapping[str, torch.Tensor]) -> None:
        self._variables.pull_back(gradient)
        # one that is not finite would spoil the update's memory; it is reported after the callback
        if _finite(gradient):
            self._update.step()
            self._variables.pull()

    def _apply(self, modified: StepOutput, output: StepOutput, kept: dict[str, Any]) -> StepOutput:
        """Let what the callback replaced go on."""
        if not _same(modified.after, output.after):
            self._variables.assign(modified.after)
        elif not _same(modified.gradient, output.gradient):
            self._restore(output.before, kept)
            self._advance(modified.gradient)
        return StepOutput(**{**vars(modified), "after": self.parameters})

    def _restore(self, parameters: Parameters, kept: dict[str, Any]) -> None:
        self._variables.assign(parameters)
        self._update.load_state_dict(kept)


def _finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in tensors.values())


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[n] is other[n] for n in one)


def _check_finite(output: StepOutput) -> None:
    wrong = [
        *(f"loss of '{n}'" for n, v in output.losses.items() if not math.isfinite(v)),
        *(f"gradient by '{n}'" for n, v in output.gradient.items() if not _finite({n: v})),
        *(f"new '{n}'" for n, v in output.after.items() if not _finite({n: v})),
    ]
    if wrong:
        raise NonFiniteStepError(
            f"step {output.step}",
            expected="finite losses, gradient and parameters",
            got=f"NaN or infinite {', '.join(wrong)}",
            fix="take a smaller learning rate, set bounds, or look at that objective",
        )
