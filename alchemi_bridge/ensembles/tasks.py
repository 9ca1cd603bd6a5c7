"""What a worker does with a unit of work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from alchemi_bridge.ensembles.work import Objective, Outcome, Parameters, Simulator
from alchemi_bridge.errors import ConfigurationError, EvaluationError


def run_simulator(
    simulator: Simulator, parameters: Parameters, state: Any | None
) -> tuple[Any, ...]:
    """Run a simulator.

    Returns
    -------
    tuple
        The seconds that it took, which is what the driver reads to learn whether it succeeded; the
        observables; the state.
    """
    start = perf_counter()
    with _staying():
        observables, state = simulator.run(parameters, state)
    if len(observables) != len(simulator.outputs):
        raise ConfigurationError(
            f"simulator '{simulator.name}'",
            expected=f"{len(simulator.outputs)} observables: {', '.join(simulator.outputs)}",
            got=str(len(observables)),
            fix="return one for each of its outputs",
        )
    return (perf_counter() - start, *observables, state)


def run_objective(
    objective: Objective, needs: Sequence[str], parameters: Parameters, *observables: Any
) -> Outcome:
    """Let an objective answer; ``observables`` are those of ``needs``."""
    with _staying():
        outcome = objective.compute(dict(zip(needs, observables, strict=True)), parameters)
    if not isinstance(outcome, Outcome):
        raise ConfigurationError(
            f"objective '{objective.name}'",
            expected="an Outcome",
            got=type(outcome).__name__,
            fix="return one from compute()",
        )
    unknown = [name for name in outcome.refresh if name not in needs]
    if unknown:
        raise ConfigurationError(
            f"objective '{objective.name}'",
            expected="a wish for some of the observables that it needs to be made anew",
            got=", ".join(unknown),
            fix=f"name only some of {', '.join(needs) or 'none'}",
        )
    return outcome


@contextmanager
def _staying() -> Iterator[None]:
    """A unit that calls ``sys.exit`` has failed; the process has other work."""
    try:
        yield
    except SystemExit as error:
        raise EvaluationError(
            "unit of work",
            expected="an answer or an exception",
            got=f"sys.exit({error.code!r})",
            fix="raise an exception instead",
        ) from error
