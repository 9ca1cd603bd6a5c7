"""What the first stage of a chain works on."""

from __future__ import annotations

from typing import Any

from alchemi_bridge.engines.nvalchemi_batch import make_batch
from alchemi_bridge.engines.nvalchemi_pipeline.residents import Residents
from alchemi_bridge.errors import ConfigurationError


class Intake:
    """Takes systems from the sampler of a stage, and the batch that it was given.

    Parameters
    ----------
    residents
        Of the stage.
    smallest
        What later stages can take at once, see :meth:`Residents.enter`.

    Notes
    -----
    Systems come by the sampler's ``request_replacements_budget``, the first ones, too: its
    ``build_initial_batch`` drops the fields that the first system lacks. ``init_fn`` of a
    ``FusedStage`` is called for all of them.
    """

    def __init__(self, residents: Residents, smallest: tuple[int, int, int] | None) -> None:
        self.residents = residents
        self.smallest = smallest

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will come."""
        stage = self.residents.stage
        return stage.sampler is None or stage.done or bool(stage.sampler.exhausted)

    def begin(self) -> None:
        """Take the batch that the stage was given, on whichever rank."""
        stage = self.residents.stage
        batch, stage.active_batch = stage.active_batch, None
        if batch is None or batch.num_graphs == 0:
            return
        if batch.num_graphs > stage.max_batch_size:
            raise ConfigurationError(
                "active_batch",
                expected=f"at most max_batch_size={stage.max_batch_size} systems",
                got=str(batch.num_graphs),
                fix="raise max_batch_size, or hand the systems over by a sampler",
            )
        self.residents.enter(batch, 0, self.smallest)

    def refill(self, iteration: int) -> int:
        """Take as many new systems as there is room for; returns their number."""
        residents, stage = self.residents, self.residents.stage
        if self.exhausted or residents.room == 0:
            return 0
        if residents.moving and iteration % max(1, stage.refill_frequency):
            return 0
        sampler: Any = stage.sampler
        room = residents.room
        if sampler.max_batch_size is not None:
            room = min(room, sampler.max_batch_size - residents.present)
        if room <= 0:
            return 0
        before = set() if sampler.max_edges is None else set(sampler._consumed)
        found = sampler.request_replacements_budget(
            atom_budget=_left(sampler.max_atoms, residents.n_atoms),
            edge_budget=_left(sampler.max_edges, residents.n_edges),
            max_count=room,
        )
        if not found:
            if residents.present == 0 and not sampler.exhausted:
                raise ConfigurationError(
                    "sampler",
                    expected="systems for an empty stage",
                    got="none, although it is not exhausted",
                    fix="raise its max_atoms, max_edges or max_batch_size",
                )
            return 0
        batch = make_batch(found, device=stage.device)
        prepare = getattr(stage, "init_fn", None)
        if prepare is not None:
            prepare(batch)
        counts = [] if sampler.max_edges is None else _counted(sampler, before)
        residents.enter(batch, iteration, self.smallest, counts)
        return len(found)


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else limit - used


def _counted(sampler: Any, before: set[int]) -> list[int]:
    """Edges of what was taken since, in that order: systems need not carry what is counted."""
    return [
        sampler._sample_meta[k][1]
        for size in sorted(sampler._bins, reverse=True)
        for k in sampler._bins[size]
        if k in sampler._consumed and k not in before
    ]
