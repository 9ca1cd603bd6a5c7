"""The systems of one stage: those that move, and those that have finished and wait to leave."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from alchemi_bridge.engines.nvalchemi_pipeline import members
from alchemi_bridge.engines.nvalchemi_pipeline.messages import fitting
from alchemi_bridge.engines.nvalchemi_pipeline.portion import (
    STATUS,
    SYSTEM,
    Portion,
    difference,
    join,
)
from alchemi_bridge.engines.nvalchemi_version import require_tested
from alchemi_bridge.errors import BridgeError, InputError

require_tested()

# isort: split
from nvalchemi.data import Batch  # noqa: E402  (only versions that were tested)
from nvalchemi.dynamics.base import BaseDynamics, FusedStage  # noqa: E402

#: Field with the number of each system, (n_systems, 1) int64, given when it enters the pipeline.
NUMBER = "pipeline_id"

#: The number that nvalchemi's samplers give; -1 for systems that come otherwise.
SAMPLED = "system_id"

#: Numbers begin here for each rank where systems enter.
PER_RANK = 10**12


@dataclass
class Resident:
    """A system in a stage.

    Attributes
    ----------
    number
        Of the system, see :data:`NUMBER`.
    entered
        Iteration of the pipeline in which it came.
    steps
        That the stage has done with it.
    reason
        Why it has finished: ``"converged"`` or ``"steps"``.
    n_edges
        That the sampler counts for it.
    """

    number: int
    entered: int
    steps: int = 0
    reason: str = ""
    n_edges: int = 0


class Residents:
    """All systems of a stage.

    Parameters
    ----------
    stage
        nvalchemi's dynamics. Its ``active_batch`` holds the systems that move.
    rank
        Where it runs.
    entered
        How many systems entered the pipeline here in earlier runs: their numbers are not given
        again.

    Notes
    -----
    A system that has finished leaves the batch at once, and waits outside until the next stage has
    room. nvalchemi leaves it in the batch, where the model evaluates it at each step, and a plain
    dynamics computes its forces at places where it is not. It still counts for
    ``max_batch_size``.
    """

    def __init__(self, stage: BaseDynamics, rank: int, entered: int = 0) -> None:
        members.begin(stage)
        self.stage = stage
        self.rank = rank
        self.moving: list[Resident] = []
        self.waiting: deque[tuple[Portion, list[Resident]]] = deque()
        self.entered = entered

    @property
    def present(self) -> int:
        """Systems that move or wait."""
        return len(self.moving) + sum(len(own) for _, own in self.waiting)

    @property
    def room(self) -> int:
        """How many more may come."""
        return max(0, self.stage.max_batch_size - self.present)

    @property
    def n_atoms(self) -> int:
        """Of all that are present."""
        moving = 0 if self.stage.active_batch is None else self.stage.active_batch.num_nodes
        return moving + sum(n for portion, _ in self.waiting for n, _ in portion.sizes)

    @property
    def n_edges(self) -> int:
        """Of all that are present, as the sampler counts them."""
        waiting = (own for _, owners in self.waiting for own in owners)
        return sum(own.n_edges for own in (*self.moving, *waiting))

    # --- coming ---------------------------------------------------------------------------------

    def enter(
        self,
        batch: Batch,
        iteration: int,
        smallest: tuple[int, int, int] | None = None,
        counted: Sequence[int] = (),
    ) -> None:
        """Take systems into the pipeline.

        Parameters
        ----------
        batch
            Of the user or the sampler.
        iteration
            Of the pipeline.
        smallest
            Systems, atoms and edges of the smallest message on their way.
        counted
            Edges of each system, if the sampler counts them.

        Raises
        ------
        InputError
            If a system is too large for the messages to later stages.
        """
        portion = Portion.of(batch)
        first = self.rank * PER_RANK + self.entered
        numbers = list(range(first, first + len(portion)))
        for number, (n_atoms, n_edges) in zip(numbers, portion.sizes, strict=True):
            if smallest is not None and (n_atoms > smallest[1] or n_edges > smallest[2]):
                raise InputError(
                    f"system {number}, which enters at rank {self.rank}",
                    expected=f"at most {smallest[1]} atoms and {smallest[2]} edges, which the "
                    "buffer_config of all its stages has room for",
                    got=f"{n_atoms} atoms and {n_edges} edges",
                    fix="raise num_nodes or num_edges of the BufferConfig of all stages",
                )
        self.entered += len(portion)
        values = torch.tensor(numbers, dtype=torch.int64, device=portion.device)[:, None]
        portion.add(NUMBER, values)
        if SAMPLED not in portion.kinds:  # or systems of a batch and of a sampler would differ
            portion.add(SAMPLED, torch.full_like(values, -1))
        self.admit(portion, iteration)
        for resident, n in zip(self.moving[-len(portion) :], counted, strict=False):
            resident.n_edges = n

    def admit(self, portion: Portion, iteration: int) -> list[int]:
        """Take systems into the stage, and evaluate its model for them; returns their numbers.

        Raises
        ------
        InputError
            If their fields are not those of the systems that are there.
        """
        arrivals = portion.to(self.stage.device).batch()
        numbers = [int(n) for n in arrivals[NUMBER].flatten().tolist()]
        with _named(numbers):
            members.start(self.stage, arrivals)
        batch, n_before = self.stage.active_batch, len(self.moving)
        if n_before:
            batch = self._joined(batch, arrivals, numbers)
            members.add_state(self.stage, n_before, arrivals, batch)
        else:
            batch = arrivals
        self.stage.active_batch = batch
        members.tell_ready(self.stage, batch)
        self.moving += [Resident(number, iteration) for number in numbers]
        return numbers

    def _joined(self, batch: Batch, arrivals: Batch, numbers: list[int]) -> Batch:
        old, new = Portion.of(batch), Portion.of(arrivals)
        found = difference(old.kinds, new.kinds)
        if found is not None:
            name, there, came = found
            raise InputError(
                f"field '{name}' of system {numbers[0]}",
                expected=f"{there}, as in the systems that are in the stage of rank {self.rank}",
                got=came,
                fix="give all systems of a pipeline the same fields, of the same dtypes and shapes",
            )
        merged = join([old, new]).batch()
        for name in _bookkeeping(batch, old):
            own = batch[name]
            fresh = arrivals[name] if name in arrivals else own.new_zeros(len(new), *own.shape[1:])
            merged[name] = torch.cat([own, fresh])
        return merged

    # --- moving ---------------------------------------------------------------------------------

    def step(self) -> list[Resident]:
        """One step of all that move; those that have finished wait from then on."""
        stage = self.stage
        if not self.moving:
            return []
        with _named([resident.number for resident in self.moving]):
            batch, converged = stage.step(stage.active_batch)
        stage.active_batch = batch
        for resident in self.moving:
            resident.steps += 1
        for k in self._converged(batch, converged):
            self.moving[k].reason = "converged"
        for k in self._beyond(batch):
            self.moving[k].reason = self.moving[k].reason or "steps"
        done = [k for k, resident in enumerate(self.moving) if resident.reason]
        return self._leave(done) if done else []

    def _converged(self, batch: Batch, converged: torch.Tensor | None) -> list[int]:
        if isinstance(self.stage, FusedStage):
            converged = self.stage.sub_stages[-1][1]._last_converged
        found = [] if converged is None else [int(k) for k in converged.tolist()]
        if isinstance(self.stage, FusedStage):
            gone = set(self._gone(batch))
            return [k for k in found if k in gone]
        return found

    def _beyond(self, batch: Batch) -> list[int]:
        n_steps = self.stage.n_steps
        spent = [k for k, own in enumerate(self.moving) if n_steps and own.steps >= n_steps]
        return [*self._gone(batch), *spent]

    def _gone(self, batch: Batch) -> list[int]:
        """Systems that nvalchemi itself counts as finished."""
        if STATUS not in batch:
            return []
        status = batch[STATUS].flatten() >= self.stage.exit_status
        return [int(k) for k in status.nonzero().flatten().tolist()]

    def _leave(self, done: list[int]) -> list[Resident]:
        batch, gone = self.stage.active_batch, set(done)
        whole = Portion.of(batch)
        self._wait(whole.select(done), [self.moving[k] for k in done])
        kept = [k for k in range(len(self.moving)) if k not in gone]
        left = None
        if kept:
            left = whole.select(kept).batch()
            for name in _bookkeeping(batch, whole):
                left[name] = batch[name][kept]
        self.stage.active_batch = left
        leaving = [self.moving[k] for k in done]
        self.moving = [self.moving[k] for k in kept]
        members.keep_state(self.stage, kept, batch if left is None else left)
        members.tell_ready(self.stage, left)
        return leaving

    # --- leaving --------------------------------------------------------------------------------

    def _wait(self, portion: Portion, residents: list[Resident]) -> None:
        if self.waiting and self.waiting[-1][0].kinds == portion.kinds:
            before, others = self.waiting.pop()
            portion, residents = join([before, portion]), [*others, *residents]
        self.waiting.append((portion, residents))

    def take(self, limit: tuple[int, int, int] | None) -> tuple[Portion | None, list[Resident]]:
        """Remove the first that wait, in order, as many as fit into ``limit``.

        Parameters
        ----------
        limit
            Systems, atoms and edges; ``None`` for no limit.

        Raises
        ------
        InputError
            If there is room for a system, and the first is too large for any message.
        """
        if not self.waiting:
            return None, []
        portion, residents = self.waiting[0]
        n = len(portion) if limit is None else fitting(portion.sizes, limit)
        if n == 0 and limit is not None and limit[0] > 0:
            n_atoms, n_edges = portion.sizes[0]
            raise InputError(
                f"system {residents[0].number}, which leaves rank {self.rank}",
                expected=f"at most {limit[1]} atoms and {limit[2]} edges, as in buffer_config",
                got=f"{n_atoms} atoms and {n_edges} edges",
                fix="raise num_nodes or num_edges of the BufferConfig of both stages",
            )
        if n == 0:
            return None, []
        self.waiting.popleft()
        if n == len(portion):
            return portion, residents
        rest = range(n, len(portion))
        self.waiting.appendleft((portion.select(rest), residents[n:]))
        return portion.select(range(n)), residents[:n]


@contextmanager
def _named(numbers: Sequence[int]) -> Iterator[None]:
    """Let errors of a batch name systems by their numbers in the pipeline, not by their places."""
    try:
        yield
    except BridgeError as error:
        found = re.search(r"\bof system (\d+)$", error.what)
        if found is None:
            raise
        what = f"{error.what[: found.start()]}of system {numbers[int(found[1])]} ({NUMBER})"
        raise type(error)(what, expected=error.expected, got=error.got, fix=error.fix) from error


def _bookkeeping(batch: Batch, portion: Portion) -> list[str]:
    """nvalchemi's own fields, which the portion made of a batch leaves out."""
    group = batch._storage.groups.get(SYSTEM, {})
    return [name for name in group.keys() if name not in portion.kinds]  # noqa: SIM118


__all__ = ["NUMBER", "PER_RANK", "Resident", "Residents"]
