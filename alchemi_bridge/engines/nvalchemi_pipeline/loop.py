"""What one rank does in a pipeline, iteration after iteration, in step with all others."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from alchemi_bridge.engines.nvalchemi_pipeline import messages
from alchemi_bridge.engines.nvalchemi_pipeline.intake import Intake
from alchemi_bridge.engines.nvalchemi_pipeline.journal import Visit
from alchemi_bridge.engines.nvalchemi_pipeline.ranks import DONE, FAILED, ROOM, Ranks
from alchemi_bridge.engines.nvalchemi_pipeline.residents import Resident, Residents
from alchemi_bridge.engines.nvalchemi_pipeline.sinks import Drain
from alchemi_bridge.engines.nvalchemi_pipeline.stage_facts import name_of
from alchemi_bridge.engines.nvalchemi_pipeline.topology import Place
from alchemi_bridge.errors import RankFailedError


class Loop:
    """Receives, steps, sends and tells the others, whatever goes wrong on this rank.

    Parameters
    ----------
    stage
        nvalchemi's dynamics of this rank.
    ranks
        The others.
    place
        Which of them are before and after.
    visits
        Gets what systems did here.
    entered
        How many systems entered here in earlier runs.
    synchronized, debug_mode
        See :class:`~alchemi_bridge.engines.nvalchemi_pipeline.DistributedPipeline`.

    Notes
    -----
    An error does not stop a rank at once: the others wait for its message and its word. It goes on
    without doing anything until all know, and all raise.
    """

    def __init__(
        self,
        stage: Any,
        ranks: Ranks,
        place: Place,
        visits: list[Visit],
        *,
        entered: int,
        synchronized: bool,
        debug_mode: bool,
    ) -> None:
        self.stage = stage
        self.ranks = ranks
        self.place = place
        self.visits = visits
        self._synchronized = synchronized
        self._debug = debug_mode
        self._residents = Residents(stage, ranks.rank, entered)
        self._intake = Intake(self._residents, place.smallest)
        self._drain = Drain(stage.sinks)
        self._iteration = 0
        self._failure: Exception | None = None
        self._board = torch.zeros((ranks.size, 3), dtype=torch.int64)
        self._begun = self._open = self._done = False
        self._log("between {} and {}", place.prior, place.next)

    def step(self) -> None:
        """One iteration of all ranks."""
        self._begin()
        self._iteration += 1
        place, stage = self.place, self.stage
        announced = None if place.prior is None else self.ranks.announce(place.prior)
        at_once = stage.comm_mode == "sync" or not self._residents.moving
        if at_once:
            self._receive(announced)
        self._try(self._refill)
        self._try(self._move)
        if not at_once:
            self._receive(announced)
        if place.next is None:
            self._try(self._deliver)
        else:
            self._send(place.next)
        self._exchange()
        if self._synchronized:
            self.ranks.wait()

    @property
    def entered(self) -> int:
        """How many systems entered here, in earlier runs, too."""
        return self._residents.entered

    @property
    def all_done(self) -> bool:
        """Whether no rank has anything left to do."""
        return self._begun and bool(self._board[:, DONE].all())

    def close(self) -> None:
        """Leave the hooks' contexts."""
        if self._open:
            self._open = False
            self.stage._close_hooks()

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        self._try(self._enter)
        self._exchange()

    def _enter(self) -> None:
        self._open = True
        self.stage._open_hooks()
        self._intake.begin()

    def _try(self, act: Callable[[], None]) -> None:
        """Do it unless something failed before: this rank must go on to the exchange."""
        if self._failure is not None:
            return
        try:
            act()
        except Exception as error:  # told to all ranks, and raised by _exchange
            self._failure = error

    def _receive(self, announced: tuple[torch.Tensor, Any] | None) -> None:
        prior = self.place.prior
        if announced is None or prior is None:
            return
        header, body = self.ranks.receive(prior, announced)

        def admit() -> None:
            portion = messages.decode(header, body, self.stage.device)
            if portion is not None:
                numbers = self._residents.admit(portion, self._iteration)
                self._log("{} of rank {}", numbers, prior)

        self._try(admit)

    def _refill(self) -> None:
        n = self._intake.refill(self._iteration)
        if n:
            self._log("{} new systems of the sampler", n)

    def _move(self) -> None:
        finished = self._residents.step()
        if finished:
            self._log("finished {}", [resident.number for resident in finished])

    def _deliver(self) -> None:
        while True:
            portion, owners = self._residents.take(None)
            if portion is None:
                return
            places = self._drain.write(portion, [owner.number for owner in owners])
            self._note(owners, places)

    def _send(self, following: int) -> None:
        ranks = self.ranks
        ranks.sent()  # what fully_async left
        message = [messages.encode(None, ranks.device)]

        def pack() -> None:
            room = int(self._board[following, ROOM])
            buffer = self.stage.buffer_config
            limit = (min(buffer.num_systems, room), buffer.num_nodes, buffer.num_edges)
            portion, owners = self._residents.take(limit)
            message[0] = messages.encode(portion, ranks.device)
            self._note(owners, [f"rank {following}"] * len(owners))

        self._try(pack)
        ranks.send(following, *message[0])
        if self.stage.comm_mode != "fully_async":
            ranks.sent()

    def _note(self, owners: list[Resident], places: list[str]) -> None:
        for owner, place in zip(owners, places, strict=True):
            visit = Visit(
                owner.number,
                owner.entered,
                self._iteration,
                self.ranks.rank,
                name_of(self.stage),
                owner.steps,
                owner.reason,
                place,
            )
            self.visits.append(visit)
            self._log("{} to {}", owner.number, place)

    def _exchange(self) -> None:
        self._done = False
        self._try(self._look_if_done)
        failed = self._failure is not None
        self._board = self.ranks.tell(self._done, failed, self._residents.room)
        if bool(self._board[:, FAILED].any()):
            self._raise()
        if self.all_done:
            self.ranks.sent()

    def _look_if_done(self) -> None:
        """Nothing is on its way in an exchange: if all have nothing, it is the end."""
        self._done = self._residents.present == 0 and self._intake.exhausted

    def _raise(self) -> None:
        """All ranks together."""
        self.ranks.sent()
        own = self._failure
        said = None if own is None else f"{type(own).__name__}: {own}"
        texts = self.ranks.gather((said, name_of(self.stage)))
        rank = next(k for k, (text, _) in enumerate(texts) if text is not None)
        text, name = texts[rank]
        error = RankFailedError(
            f"rank {rank} of the pipeline ({name})",
            expected="a stage that runs to its end",
            got=str(text),
            fix="correct what it says, and start again",
        )
        error.of_rank = rank
        raise error from own

    def _log(self, text: str, *values: object) -> None:
        if self._debug:
            logger = importlib.import_module("loguru").logger
            text = "[rank {}] iteration {}: " + text
            logger.debug(text, self.ranks.rank, self._iteration, *values)
