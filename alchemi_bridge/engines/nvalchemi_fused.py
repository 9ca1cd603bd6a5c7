"""What belongs to each system of an nvalchemi ``FusedStage``, where nvalchemi 0.2 mixes it up."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch

from alchemi_bridge.engines.nvalchemi_cells import require_right_cells
from alchemi_bridge.engines.nvalchemi_states import (
    fields_of,
    forget_index,
    forget_states,
    fresh_state,
)
from alchemi_bridge.errors import ConfigurationError


class SystemsHook:
    """Lets each system of a ``FusedStage`` move as it would alone.

    Register it with the fused stage, not with one of its parts: ``fused.register_hook(...)``.
    nvalchemi 0.2 itself

    - refills a batch without computing the forces of the systems that are new, which then begin
      their first step with whatever the data set says;
    - guesses the degrees of freedom, thermostat and barostat masses of new systems from the mean
      size of all, so that Nosé-Hoover and barostats drive systems of other sizes to wrong
      temperatures;
    - lets thermostats, barostats and the steps of optimisers run on for systems that are not in
      their stage, so that a system enters dynamics with a thermostat that has run away;
    - ends dynamics of ``n_steps`` steps that another stage follows as soon as the forces are below
      0.05 eV/Å, before their first step, too, unless they have a convergence hook;
    - counts the last step in a stage as the first of the next, so that a stage of ``n_steps`` steps
      after another lasts one less;
    - keeps the atoms of a refilled batch under their former systems in ``NVTLangevin`` if the
      number of atoms is the same.

    A refill costs one call of the model more. New systems begin with fresh thermostats.

    Raises
    ------
    ConfigurationError
        On registration with anything but a fused stage; later, if stages with parameters for each
        system get new systems, whose parameters nobody knows.
    """

    #: What nvalchemi asks of hooks: each step, at the stages of :meth:`_runs_on_stage`.
    frequency = 1
    stage = None

    def __init__(self) -> None:
        self._ready: Any = None
        self._last: Any = None
        self._begins = True
        self._known: set[int] = set()
        self._before: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []

    def on_register(self, workflow: Any) -> None:
        """Refuse what has no stages, and let dynamics last as long as they should."""
        if not hasattr(workflow, "sub_stages"):
            raise ConfigurationError(
                "SystemsHook",
                expected="to be registered with a FusedStage",
                got=type(workflow).__name__,
                fix="call fused.register_hook(SystemsHook()) for fused = first + second, or for "
                "FusedStage([(0, dynamics)])",
            )
        for code, dynamics in workflow.sub_stages:
            integrates = type(dynamics).__module__.startswith("nvalchemi.dynamics.integrators")
            if integrates and dynamics.n_steps is not None and dynamics.convergence_hook is None:
                dynamics.hooks = [
                    hook for hook in dynamics.hooks if getattr(hook, "source_status", None) != code
                ]

    def _runs_on_stage(self, stage: Enum) -> bool:
        # by name: importing nvalchemi's dynamics takes seconds, which the model does not need
        return stage.name in ("BEFORE_STEP", "AFTER_COMPUTE", "AFTER_STEP")

    def __enter__(self) -> SystemsHook:
        """A run begins: of other systems, unless it goes on with the batch of the last one."""
        self._begins = True
        return self

    def __exit__(self, *unused: object) -> None:
        """A run has ended."""

    def primed(self, batch: Any) -> None:
        """Take it from the caller that the forces of a batch belong to its positions."""
        self._ready = batch

    @torch.compiler.disable
    def __call__(self, context: Any, stage: Enum) -> None:
        """At the begin of a step, after the model and at the end of a step."""
        batch, fused = context.batch, context.workflow
        if stage.name == "AFTER_COMPUTE":
            self.primed(batch)
        elif stage.name == "BEFORE_STEP":
            if self._ready is not batch:
                # as fused stages do before their first step; comes back here for AFTER_COMPUTE
                fused._call_hooks(type(stage)["BEFORE_COMPUTE"], batch)
                fused.compute(batch)
                fused._call_hooks(type(stage)["AFTER_COMPUTE"], batch)
            self._renew(fused, batch)
            self._remember(fused, batch)
        else:
            self._restore(fused)
            self._count(fused, batch)
            self._last = batch

    # --- new systems ---------------------------------------------------------------------------

    def _renew(self, fused: Any, batch: Any) -> None:
        """Fresh states for systems that were not there in the step before."""
        found = getattr(batch, "system_id", None)
        numbers = [] if found is None else [int(number) for number in found.flatten().tolist()]
        new = [k for k, number in enumerate(numbers) if number not in self._known]
        begins, self._begins, self._known = self._begins, False, set(numbers)
        if begins and batch is not self._last:
            require_right_cells(fused)
            forget_states(fused)  # nvalchemi makes those of the first batch itself, and rightly
            return
        for _, dynamics in fused.sub_stages:
            forget_index(dynamics)
            if new and hasattr(dynamics, "_state"):
                fresh = fresh_state(dynamics, batch.index_select(new))
                for name in fields_of(dynamics._state):
                    dynamics._state[name][new] = fresh[name]

    # --- systems of other stages ---------------------------------------------------------------

    def _remember(self, fused: Any, batch: Any) -> None:
        status = batch.status.flatten()
        self._before = []
        for code, dynamics in fused.sub_stages:
            dynamics._ensure_state_initialized(batch)
            others = status != code
            state = getattr(dynamics, "_state", None)
            rows = {}
            if state is not None and bool(others.any()):
                rows = {name: state[name][others].clone() for name in fields_of(state)}
            self._before.append((others, rows))

    def _restore(self, fused: Any) -> None:
        for (_, dynamics), (others, rows) in zip(fused.sub_stages, self._before, strict=True):
            for name, values in rows.items():
                dynamics._state[name][others] = values

    def _count(self, fused: Any, batch: Any) -> None:
        """Take back what nvalchemi is about to count for systems that come into a stage."""
        status = batch.status.flatten()
        leaving = torch.zeros_like(status, dtype=torch.bool)
        for (code, dynamics), (others, _) in zip(fused.sub_stages, self._before, strict=True):
            counter: Any = getattr(batch, f"n_steps_counter_{code}", None)
            if dynamics.n_steps is None or counter is None:
                leaving = torch.zeros_like(leaving)
                continue
            here = status == code
            counter[(here & others) | leaving] -= 1
            leaving = here & ~others & (counter.flatten() + 1 >= dynamics.n_steps)
