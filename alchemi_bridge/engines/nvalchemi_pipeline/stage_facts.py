"""What a rank tells the others about the stages that it knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from alchemi_bridge.engines.nvalchemi_cells import require_right_cells
from alchemi_bridge.engines.nvalchemi_pipeline.sinks import problem_of
from alchemi_bridge.engines.nvalchemi_pipeline.topology import RankFacts, StageFacts
from alchemi_bridge.engines.nvalchemi_states import parts_of
from alchemi_bridge.engines.nvalchemi_version import require_tested
from alchemi_bridge.errors import first_line

require_tested()

# isort: split
from nvalchemi.dynamics.base import BaseDynamics, FusedStage  # noqa: E402


def name_of(stage: BaseDynamics) -> str:
    """``FIRE``, or ``FIRE + NVE`` for a ``FusedStage``."""
    if isinstance(stage, FusedStage):
        return " + ".join(name_of(dynamics) for _, dynamics in stage.sub_stages)
    return type(stage).__name__


def facts(
    stages: Mapping[int, BaseDynamics], rank: int, options: Mapping[str, Any]
) -> tuple[torch.device, RankFacts]:
    """The device of rank ``rank``, and what it says; errors are part of it, as the others wait."""
    device = torch.device("cpu")
    try:
        own = stages.get(rank)
        known = {of: _stage_facts(stage) for of, stage in stages.items()}
        if own is None:
            return device, RankFacts(known, options)
        device = own.device
        require_right_cells(own)
        return device, RankFacts(
            known,
            options,
            has_work=own.sampler is not None or _holds(own),
            has_sampler=own.sampler is not None,
            has_sinks=bool(own.sinks),
            problem=_problem(own),
        )
    except Exception as error:  # whatever it is, the other ranks must hear of it
        text = f"{type(error).__name__}: {first_line(error)}"
        return device, RankFacts({}, options, problem=text)


def _holds(stage: BaseDynamics) -> bool:
    return stage.active_batch is not None and stage.active_batch.num_graphs > 0


def _stage_facts(stage: BaseDynamics) -> StageFacts:
    buffer = stage.buffer_config
    return StageFacts(
        kind=name_of(stage),
        prior=stage.prior_rank,
        next=stage.next_rank,
        buffer=None if buffer is None else (buffer.num_systems, buffer.num_nodes, buffer.num_edges),
        comm_mode=stage.comm_mode,
        max_batch_size=stage.max_batch_size,
        n_steps=stage.n_steps,
        exit_status=stage.exit_status,
        refill_frequency=stage.refill_frequency,
    )


def _problem(stage: BaseDynamics) -> str | None:
    last = stage.sub_stages[-1][1] if isinstance(stage, FusedStage) else stage
    for dynamics in (stage, *(part for _, part in parts_of(stage))):
        if dynamics.n_steps is not None and dynamics.n_steps < 1:
            return f"n_steps={dynamics.n_steps} of {name_of(dynamics)}, which is not at least 1"
    if isinstance(stage, FusedStage) and stage.entry_status not in dict(stage.sub_stages):
        return f"entry_status={stage.entry_status}, which none of its parts has"
    if last.convergence_hook is None and stage.n_steps is None and last.n_steps is None:
        return (
            "no system would ever finish: it has neither n_steps nor a convergence_hook (a "
            "FusedStage needs one of them in its last part)"
        )
    if stage.max_batch_size < 1:
        return f"max_batch_size={stage.max_batch_size}, so that no system can enter"
    if not callable(getattr(stage.model, "to", None)):
        return f"its model, a {type(stage.model).__name__}, can not be moved to a device"
    return problem_of(stage.sinks)
