"""What nvalchemi's dynamics and hooks remember of a batch, when systems come and go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from alchemi_bridge.engines.nvalchemi_batch import preallocate
from alchemi_bridge.engines.nvalchemi_fused import SystemsHook
from alchemi_bridge.engines.nvalchemi_states import (
    forget_index,
    forget_states,
    fresh_state,
    parts_of,
)
from alchemi_bridge.engines.nvalchemi_version import require_tested

require_tested()

# isort: split
from nvalchemi.data import Batch  # noqa: E402  (only versions that were tested)
from nvalchemi.dynamics.base import BaseDynamics, DynamicsStage, FusedStage  # noqa: E402
from nvalchemi.hooks import NeighborListHook  # noqa: E402


def begin(stage: BaseDynamics) -> None:
    """Forget earlier runs, and let each system of a fused stage move as it would alone."""
    forget_states(stage)
    if isinstance(stage, FusedStage) and not any(isinstance(h, SystemsHook) for h in stage.hooks):
        stage.register_hook(SystemsHook())


def tell_ready(stage: BaseDynamics, batch: Batch) -> None:
    """The forces of all systems are those of their positions: nothing needs to be computed."""
    for hook in stage.hooks:
        if isinstance(hook, SystemsHook):
            hook.primed(batch)


def _all(stage: BaseDynamics) -> Iterator[BaseDynamics]:
    yield stage
    if isinstance(stage, FusedStage):
        for _, dynamics in stage.sub_stages:
            yield from _all(dynamics)


def forget_layout(stage: BaseDynamics) -> None:
    """Drop what was kept for the systems of a batch as they were numbered before.

    nvalchemi renews some of it only when the number of atoms changes, which exchanging one system
    for another does not do: the index of ``NVTLangevin`` (then it reads beyond its arrays), and
    the reference positions of a ``NeighborListHook`` with a skin.
    """
    for dynamics in _all(stage):
        dynamics._last_converged = None
        forget_index(dynamics)
        for hook in (*dynamics.hooks, *getattr(dynamics, "fused_hooks", ())):
            if isinstance(hook, NeighborListHook):
                hook._neighbor_matrix = hook._alloc_N = hook._ref_positions = None


def keep_state(stage: BaseDynamics, kept: list[int], batch: Batch) -> None:
    """Keep the integrators' state of some systems.

    Parameters
    ----------
    stage
        Whose systems they are.
    kept
        Their places before.
    batch
        What is left, or what was there if nothing is.
    """
    indices = torch.tensor(kept, dtype=torch.long, device=batch.device)
    for _, dynamics in parts_of(stage):
        dynamics._sync_state_to_batch(indices, 0, batch)
    forget_layout(stage)


def add_state(stage: BaseDynamics, n_before: int, arrivals: Batch, batch: Batch) -> None:
    """Give systems that arrive the state that they would have at the start of a run.

    Parameters
    ----------
    stage
        Where they arrive.
    n_before
        Number of systems that are there.
    arrivals, batch
        The new systems, and all.
    """
    for _, dynamics in parts_of(stage):
        own = type(dynamics)._sync_state_to_batch is not BaseDynamics._sync_state_to_batch
        if own:
            indices = torch.arange(n_before, device=batch.device)
            dynamics._sync_state_to_batch(indices, arrivals.num_graphs, batch)
        elif hasattr(dynamics, "_state"):
            dynamics._state.append(fresh_state(dynamics, arrivals))
    forget_layout(stage)


def start(stage: BaseDynamics, batch: Batch) -> None:
    """Make new systems ready for the first half step, with forces of the stage's own model.

    Hooks that act around the model (neighbour lists, biases) act here, too.
    """
    forget_layout(stage)
    preallocate(batch, stress="stress" in stage.model.output_data())
    stage._call_hooks(DynamicsStage.BEFORE_COMPUTE, batch)
    outputs = stage.compute(batch)
    if isinstance(stage, FusedStage):
        stage._ensure_bookkeeping_fields(batch)
        batch.status.fill_(stage.entry_status)
        _keep_outputs(stage, batch, outputs)
    for dynamics in _all(stage):
        dynamics._call_hooks(DynamicsStage.AFTER_COMPUTE, batch)
    forget_layout(stage)


def _keep_outputs(stage: BaseDynamics, batch: Batch, outputs: dict[str, Any]) -> None:
    """Fused stages put extra outputs into the batch at each step: so that all systems have them."""
    resident = stage.active_batch
    for name, values in outputs.items():
        if name not in batch and resident is not None and name in resident:
            batch[name] = values
