"""DiffTRe: averages of reweighted trajectories against targets, with gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.models import ModelFile, require_no_inputs
from alchemi_bridge.ensembles.objectives.checks import require_weight
from alchemi_bridge.ensembles.objectives.difftre import Reweighting, Sample
from alchemi_bridge.ensembles.objectives.foresight import check_with_simulators
from alchemi_bridge.ensembles.objectives.targets import Target
from alchemi_bridge.ensembles.simulators.dynamics import DynamicsSimulator
from alchemi_bridge.ensembles.work import Objective, Outcome, Parameters, Simulator
from alchemi_bridge.errors import ConfigurationError

#: Effective over actual number of frames, below which they are drawn anew: that of Thaler and
#: Zavadlav (2021).
THRESHOLD = 0.9


class ReweightedObjective(Objective):
    """Targets for averages over trajectories that other parameters may have made.

    Trajectories of several simulators are put together. Those of one temperature, one pressure or
    cell, and one set of generating parameters are one ensemble; averages are taken over ensembles
    that differ in the last only. Frames are weighted by how likely they are with the
    current parameters. If too few of them count, the simulators run again.

    Parameters
    ----------
    name
        Of the objective.
    model
        That of the simulators.
    trajectories
        Simulators with an output ``trajectory``, or qualified names of trajectories.
    targets
        At least one; they share energies and weights.
    threshold
        From 0 (never simulate again) to 1 (after every change of the parameters).
    equilibration
        Part of each trajectory that is left out at its beginning, from 0 to below 1.
    chunk
        Frames evaluated at a time, see :class:`~alchemi_bridge.ensembles.energies.Frames`.
    hints
        Resources.
    """

    def __init__(
        self,
        name: str,
        model: ModelFile | str | Path,
        trajectories: Sequence[Simulator | str],
        targets: Sequence[Target],
        *,
        threshold: float = THRESHOLD,
        equilibration: float = 0.0,
        chunk: int | None = None,
        hints: SchedulerHints | None = None,
    ) -> None:
        self.name, self.model, self.hints = name, ModelFile.of(model), hints
        self.needs = tuple(
            one if isinstance(one, str) else one.observable("trajectory") for one in trajectories
        )
        self._simulators = [one for one in trajectories if isinstance(one, DynamicsSimulator)]
        self.targets, self.chunk = tuple(targets), chunk
        self.threshold, self.equilibration = threshold, equilibration

    def __getstate__(self) -> dict[str, Any]:
        # a worker needs the names of observables only
        return {**vars(self), "_simulators": []}

    def check(self) -> None:
        """Numbers in their ranges, a model that can do it, and simulators that fit the targets."""
        where = f"objective '{self.name}'"
        if not self.needs or not self.targets:
            raise ConfigurationError(
                where,
                expected="at least one trajectory and one target",
                got=f"{len(self.needs)} trajectories and {len(self.targets)} targets",
                fix="name what it reads, and what its averages are to be",
            )
        for what, value, below in (
            ("threshold", self.threshold, 1.0),
            ("equilibration", self.equilibration, 0.99),
        ):
            if require_weight(f"{what} of {where}", value) > below:
                raise ConfigurationError(
                    f"{what} of {where}",
                    expected=f"a number from 0 to {below:g}",
                    got=f"{value:g}",
                    fix="correct it",
                )
        names = [target.name for target in self.targets]
        if len(set(names)) < len(names):
            raise ConfigurationError(
                f"targets of {where}",
                expected="different names",
                got=", ".join(names),
                fix="name every target once",
            )
        for target in self.targets:
            target.check(where)
        self.model = self.model.check()
        require_no_inputs(self.model, where)
        if self._simulators:
            check_with_simulators(self._simulators, self.targets, where)

    def compute(self, observables: Mapping[str, Any], parameters: Parameters) -> Outcome:
        """Loss, gradient and averages; or that simulators must run again.

        Raises
        ------
        BridgeError
            Everything that may be wrong with model, trajectories, parameters and results.
        """
        model = self.model.load(parameters)
        samples = [
            Sample.of(model, name, observables[name], parameters, self.equilibration, self.chunk)
            for name in self.needs
        ]
        found = Reweighting(samples)
        stale = found.stale(self.threshold)
        if stale:
            return Outcome(refresh=tuple(stale), values={"n_eff": found.fractions})
        loss, by_energies, averages = found.differentiate(self.targets)
        gradient = None
        if parameters:
            gradient = found.gradient(model, list(parameters), by_energies)
        return Outcome(
            loss=loss,
            gradient=gradient,
            values={
                **{name: value.tolist() for name, value in averages.items()},
                "n_eff": found.fractions,
                "n_frames": sum(found.sizes),
            },
        )
