"""Several dynamics, one on each rank, through which systems pass."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import distributed

from alchemi_bridge.engines.nvalchemi_pipeline.journal import Visit
from alchemi_bridge.engines.nvalchemi_pipeline.loop import Loop
from alchemi_bridge.engines.nvalchemi_pipeline.ranks import Ranks
from alchemi_bridge.engines.nvalchemi_pipeline.stage_facts import facts
from alchemi_bridge.engines.nvalchemi_pipeline.topology import plan
from alchemi_bridge.engines.nvalchemi_version import require_tested
from alchemi_bridge.errors import ConfigurationError, first_line

require_tested()

# isort: split
from nvalchemi.dynamics import base  # noqa: E402  (only versions that were tested)

BufferConfig = base.BufferConfig


class DistributedPipeline(base.DistributedPipeline):
    """nvalchemi's ``DistributedPipeline`` with a hand-off that loses nothing.

    Each rank runs one stage. A system enters at the first stage of a chain, from its sampler, its
    ``active_batch`` or both, and goes on to the next when it has finished: when the stage's
    ``convergence_hook`` says so or ``n_steps`` steps are done, whichever comes first, or when it
    reaches the ``exit_status`` of a ``FusedStage``. The last stage writes it to the first of its
    ``sinks`` that has room. The run ends when all systems are in sinks.

    Parameters
    ----------
    stages
        ``{rank: dynamics}``, of all ranks or at least of this one; what ranks say about the same
        stage must agree. nvalchemi's dynamics are used as they are, with ``prior_rank``,
        ``next_rank``, ``buffer_config``, ``comm_mode``, ``sampler``, ``refill_frequency``,
        ``sinks``, ``max_batch_size``, ``n_steps``, ``convergence_hook``, ``exit_status``, ``done``,
        ``active_batch`` and, for new systems, ``init_fn``.
    synchronized
        All ranks wait for each other after each iteration.
    debug_mode
        What happens goes to loguru's debug log.
    **dist_kwargs
        For ``torch.distributed.init_process_group``. The backend is ``nccl`` where all stages are
        on CUDA devices, else ``gloo``.

    Notes
    -----
    **Ranks.** ``prior_rank`` and ``next_rank`` are a rank, ``None`` for the ends of a chain, or -1:
    what the other side names, else by the order of the ranks. Several chains run side by side.

    **What is handed over.** Every field of every level and dtype, bit for bit, with two exceptions.
    Neighbour lists stay behind, as they belong to one stage's cutoff (unless edges have fields of
    their own). ``status`` and ``n_steps_counter_*`` are nvalchemi's account of a ``FusedStage``,
    and start anew in each stage. Attributes of a batch that are not tensors do not belong to
    systems, and stay. Every system gets the field ``pipeline_id`` (n_systems, 1) int64 when it
    enters: its ordinal, plus 10^12 times the rank where it entered; and ``system_id``, nvalchemi's
    number of a sampler's systems, which is -1 for others. The stage's model is evaluated for new
    systems before their first step. A ``FusedStage`` gets a
    :class:`~alchemi_bridge.engines.nvalchemi.SystemsHook` if it has none.

    **Back-pressure.** A message holds at most ``buffer_config``'s systems, nodes and edges, and no
    more than the next stage has room for (``max_batch_size``). What does not fit waits, as it was
    when it finished, outside of the batch; it counts for ``max_batch_size``. Sinks of other stages
    than the last are never used.

    **Order.** In each iteration a stage, first, with ``comm_mode="sync"`` or if it has nothing to
    do, waits for the message of the stage before it; then takes new systems from its sampler;
    makes one step; else waits for the message now (it has been on its way meanwhile); sends its
    own message, which may be empty; waits until that has gone, except with ``"fully_async"``, which
    waits before the next one is sent. Then all ranks exchange whether they are done, whether they
    failed, and their room. Results do not depend on the mode, as far as dynamics treat systems
    independently: ``NVTLangevin`` draws random numbers by step and place in the batch.

    **Random numbers.** Dynamics with the same ``random_seed`` draw the same numbers, on whichever
    rank: give each its own.

    **Errors.** What fails on one rank ends the run on all, with :class:`RankFailedError` that names
    the rank; a rank that is killed does, too. One that hangs is only noticed after the process
    group's ``timeout``, which is one of ``dist_kwargs``.
    """

    def __init__(
        self,
        stages: Mapping[int, base.BaseDynamics],
        synchronized: bool = False,
        debug_mode: bool = False,
        **dist_kwargs: Any,
    ) -> None:
        if dist_kwargs.pop("mesh", None) is not None:
            raise ConfigurationError(
                "mesh",
                expected="none: each stage runs on one rank",
                got="a device mesh",
                fix="leave it out",
            )
        on_cuda = {stage.device_type == "cuda" for stage in stages.values()}
        dist_kwargs.setdefault("backend", "nccl" if on_cuda == {True} else "gloo")
        super().__init__(dict(stages), synchronized, debug_mode, **dist_kwargs)
        self._loop: Loop | None = None
        self._visits: list[Visit] = []
        self._entered = 0

    # --- composition ----------------------------------------------------------------------------

    @classmethod
    def of(cls, other: base.DistributedPipeline, **dist_kwargs: Any) -> DistributedPipeline:
        """This pipeline instead of nvalchemi's, as ``a | b`` of two dynamics makes it.

        Parameters
        ----------
        other
            Its stages are used, not copied.
        **dist_kwargs
            See :class:`DistributedPipeline`.
        """
        if isinstance(other, DistributedPipeline) and not dist_kwargs:
            return other
        stages: list[base.BaseDynamics] = []
        for rank in sorted(other.stages):
            stage = other.stages[rank]
            # nvalchemi takes the pipeline of `dynamics | pipeline` for a stage
            inner = (
                cls.of(stage).stages if isinstance(stage, base.DistributedPipeline) else {0: stage}
            )
            stages += inner.values()
        ranks = sorted(other.stages) if len(stages) == len(other.stages) else range(len(stages))
        known = dict(other._dist_kwargs)
        if not isinstance(other, DistributedPipeline) and known.get("backend") != "gloo":
            known.pop("backend", None)  # nvalchemi's default, on machines without a GPU, too
        return cls(
            dict(zip(ranks, stages, strict=True)),
            other.synchronized,
            other.debug_mode,
            **{**known, **dist_kwargs},
        )

    def __or__(self, other: Any) -> DistributedPipeline:
        if isinstance(other, base.DistributedPipeline):
            return self._with(self.stages, DistributedPipeline.of(other).stages, other)
        if isinstance(other, base.BaseDynamics):
            return self._with(self.stages, {0: other}, self)
        return NotImplemented

    def __ror__(self, other: Any) -> DistributedPipeline:
        if isinstance(other, base.DistributedPipeline):
            return self._with(DistributedPipeline.of(other).stages, self.stages, other)
        return NotImplemented

    def _with(
        self,
        first: Mapping[int, base.BaseDynamics],
        then: Mapping[int, base.BaseDynamics],
        other: base.DistributedPipeline,
    ) -> DistributedPipeline:
        if distributed.is_initialized():
            raise ConfigurationError(
                "|",
                expected="pipelines that have not begun",
                got="an initialised torch.distributed",
                fix="join all stages first",
            )
        behind = max(first) + 1
        moved = {behind + k: then[rank] for k, rank in enumerate(sorted(then))}
        kwargs = {name: value for name, value in self._dist_kwargs.items() if name != "backend"}
        if "gloo" not in (self._dist_kwargs["backend"], other._dist_kwargs["backend"]):
            kwargs["backend"] = self._dist_kwargs["backend"]
        return DistributedPipeline(
            {**first, **moved},
            self.synchronized or other.synchronized,
            self.debug_mode or other.debug_mode,
            **kwargs,
        )

    # --- beginning and end ----------------------------------------------------------------------

    def init_distributed(self) -> None:
        """Join the other ranks, unless ``torch.distributed`` is initialised already.

        Raises
        ------
        ConfigurationError
            If nothing says who they are.
        """
        try:
            super().init_distributed()
        except ValueError as error:
            raise ConfigurationError(
                "ranks of the pipeline",
                expected="a start by torchrun, or init_method, rank and world_size",
                got=first_line(error),
                fix=f"use `torchrun --nproc_per_node={len(self.stages)} SCRIPT`",
            ) from error

    def setup(self) -> None:
        """Agree with the other ranks on who hands over to whom.

        Raises
        ------
        ConfigurationError
            If the stages do not make chains, or ranks contradict each other; the same on all.
        """
        if not distributed.is_initialized():
            self.init_distributed()
        rank = distributed.get_rank()
        device, said = facts(self.stages, rank, {"synchronized": self.synchronized})
        if device.type == "cuda":
            torch.cuda.set_device(device)
        ranks = Ranks(device)
        places = plan(ranks.gather(said))
        for of, stage in self.stages.items():
            stage.prior_rank, stage.next_rank = places[of].prior, places[of].next
            stage.debug_mode = self.debug_mode
        own = self.stages[rank]
        own.model = own.model.to(device)
        self._visits.clear()
        self._loop = Loop(
            own,
            ranks,
            places[rank],
            self._visits,
            entered=self._entered,
            synchronized=self.synchronized,
            debug_mode=self.debug_mode,
        )

    def run(self) -> None:
        """Run until every system is in a sink; again, if there are new ones since the last run.

        Raises
        ------
        RankFailedError
            On all ranks, if one of them fails; its own error is the cause on that rank.
        """
        if self._loop is None or self._loop.all_done:
            self.setup()
        loop = self._ready()
        try:
            while not loop.all_done:
                loop.step()
        finally:
            loop.close()
            self._entered = loop.entered

    def cleanup(self) -> None:
        """Leave the other ranks, if this pipeline joined them."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        super().cleanup()

    def __enter__(self) -> DistributedPipeline:
        self.init_distributed()
        try:
            self.setup()
        except BaseException:
            self.cleanup()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.cleanup()

    def journal(self) -> list[Visit]:
        """Where every system went, on every rank; all ranks must call it, before they leave.

        Systems by number, and their stages by time. See
        :func:`alchemi_bridge.engines.nvalchemi_pipeline.table`.
        """
        if self._loop is None:
            return sorted(self._visits)
        return sorted(visit for own in self._loop.ranks.gather(self._visits) for visit in own)

    def step(self) -> None:
        """One iteration, in which the stage of this rank makes a step if it has systems."""
        self._ready().step()

    def _ready(self) -> Loop:
        if self._loop is None:
            self.setup()
        assert self._loop is not None
        return self._loop
