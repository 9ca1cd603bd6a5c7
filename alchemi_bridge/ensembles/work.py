"""Units of work: simulators make observables, objectives read them.

Both run where the executor puts them, so that they must survive pickling: models are named by their
paths, and loaded where the work is done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.errors import ConfigurationError

#: Values of a model's parameters by name, on the host.
Parameters = Mapping[str, torch.Tensor]


class Simulator(ABC):
    """Makes observables.

    Attributes
    ----------
    name
        Unlike that of any other simulator or objective of the same run.
    outputs
        What :meth:`run` hands out, in its order.
    hints
        Resources; ``None`` for the run's default.
    """

    name: str
    outputs: tuple[str, ...]
    hints: SchedulerHints | None = None

    def observable(self, output: str | None = None) -> str:
        """Qualified name of one of ``outputs`` (the first): ``output.Class.name``.

        Raises
        ------
        ConfigurationError
            If there is no such output.
        """
        chosen = self.outputs[0] if output is None else output
        if chosen not in self.outputs:
            raise ConfigurationError(
                f"observable '{chosen}' of '{self.name}'",
                expected=f"one of {', '.join(self.outputs)}",
                got=f"'{chosen}'",
                fix="choose one of them",
            )
        return f"{chosen}.{type(self).__name__}.{self.name}"

    @property
    def observables(self) -> tuple[str, ...]:
        """Qualified names of all ``outputs``."""
        return tuple(self.observable(output) for output in self.outputs)

    def check(self) -> None:  # noqa: B027  (most have nothing to check)
        """Raise :class:`BridgeError` if it could never run; called before any work starts."""

    @abstractmethod
    def run(self, parameters: Parameters, state: Any | None) -> tuple[tuple[Any, ...], Any]:
        """Do the work, in a worker.

        Parameters
        ----------
        parameters
            Values that replace those in the model's file; empty: the file as it is.
        state
            What the last run of this simulator returned, ``None`` in the first. Change nothing in
            it in place.

        Returns
        -------
        observables
            One for each of ``outputs``.
        state
            For the next run; it never leaves the workers.
        """

    @classmethod
    def create_n(cls, n: int, name: str, **options: Any) -> list[Self]:
        """``n`` simulators ``name.0`` ... ``name.n-1`` that differ in nothing but their names.

        ``options`` are those of the class. Simulators draw their random numbers by their names, so
        that each goes its own way.
        """
        if n < 1:
            raise ConfigurationError(
                "number of simulators", expected="at least 1", got=str(n), fix="ask for one or more"
            )
        make: Any = cls  # whose arguments only the classes know
        return [make(name=f"{name}.{number}", **options) for number in range(n)]


@dataclass(frozen=True)
class Outcome:
    """What an objective found. Small: this is what the driver gets to see.

    Attributes
    ----------
    loss
        Its value; ``None`` for an objective that only measures.
    gradient
        Derivative of the loss by each parameter, on the host; ``None`` if it has none.
    values
        Numbers and texts for reports.
    refresh
        Qualified observables that it wants made anew before it can answer; then nothing else here
        counts.
    """

    loss: float | None = None
    gradient: dict[str, torch.Tensor] | None = None
    values: dict[str, Any] = field(default_factory=dict)
    refresh: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether this is an answer."""
        return not self.refresh


class Objective(ABC):
    """Reads observables, and answers with a loss, its gradient, or just numbers.

    Attributes
    ----------
    name
        Unlike that of any other simulator or objective of the same run.
    needs
        Qualified observables; they may come from several simulators.
    hints
        Resources; ``None`` for the run's default.
    """

    name: str
    needs: tuple[str, ...]
    hints: SchedulerHints | None = None

    def check(self) -> None:  # noqa: B027  (most have nothing to check)
        """Raise :class:`BridgeError` if it could never run; called before any work starts."""

    @abstractmethod
    def compute(self, observables: Mapping[str, Any], parameters: Parameters) -> Outcome:
        """Do the work, in a worker.

        Parameters
        ----------
        observables
            By qualified name, all of ``needs``. They are not copies: change nothing in place
            (on Ray arrays of NumPy can not be written to).
        parameters
            The current ones; they need not be those that the observables were made with.
        """
