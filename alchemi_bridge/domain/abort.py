"""Failing together: what one rank raises, all raise; a rank that ends alone ends all.

Two ways. What goes wrong on one rank in a collective call of the bridge, with what it was given or
in the model, is made known to the others at the next exchange, and all of them raise it: a script
may catch it and go on. What nobody catches ends the whole job, with the message of the rank that
failed; so does an error in the middle of an exchange, and a rank that leaves while others wait for
it in a call of the bridge. A rank that is killed is the launcher's business.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import numpy as np

from alchemi_bridge.errors import BridgeError, RankFailedError

LOGGER = logging.getLogger(__name__)

#: How long a rank may wait in a call of the bridge after another rank has left, in seconds.
PATIENCE = 2.0

#: How often ranks look whether another one has left.
LOOK_EVERY = 0.25

#: Ranks that only repeat another rank's error give it so much time to say it.
LET_OTHERS_SPEAK = 3.0

#: Below the upper bound that every MPI has, and none that others are likely to use.
_TAG_LEFT = 32707


class _State:
    """Of this process: one job, one watch.

    Ranks are those of the world, and so are messages of ranks that leave: setting the watch up
    takes no call that others would have to make, too.
    """

    world: Any = None
    waiting: tuple[float, Any] | None = None  # since when, and on which communicator
    others_left: set[int] = set()  # noqa: RUF012 (one object, on purpose)
    leaving = False
    watch: threading.Thread | None = None


# --- agreement ----------------------------------------------------------------------------------


def failed_flag(error: BaseException | None) -> float:
    """What a rank adds to a reduction, so that all know whether one failed."""
    return 0.0 if error is None else 1.0


def raise_agreed(comm: Any, error: BaseException | None) -> None:
    """Raise on all ranks; to be called by all, when a reduction showed that one failed.

    The ranks that failed raise their own error. The others raise that of the lowest one: the same
    class if it is a :class:`BridgeError`, else :class:`RankFailedError`.
    """
    from mpi4py import MPI

    me, size = comm.Get_rank(), comm.Get_size()
    lowest = np.array([me if error is not None else size], dtype=np.int64)
    with waiting(comm):
        comm.Allreduce(MPI.IN_PLACE, lowest, op=MPI.MIN)
        told = comm.bcast(_portable(error) if me == lowest[0] else None, root=int(lowest[0]))
    if error is not None:
        with suppress(AttributeError):  # a class that allows none
            error.agreed = True  # type: ignore[attr-defined]
        raise error
    if size == 1:
        return
    raise _repeated(told, int(lowest[0]))


def agree(comm: Any, error: BaseException | None) -> None:
    """Raise on all ranks if one of them has an error; collective."""
    from mpi4py import MPI

    failed = np.array([failed_flag(error)])
    with waiting(comm):
        comm.Allreduce(MPI.IN_PLACE, failed, op=MPI.MAX)
    if failed[0]:
        raise_agreed(comm, error)


@contextmanager
def collective(comm: Any) -> Iterator[None]:
    """Context of work on every rank that ends for all in the same way; nothing travels within."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as problem:
        error = problem
    agree(comm, error)


def agreed(error: BaseException) -> bool:
    """Whether all ranks have this error, or one that tells of it."""
    return getattr(error, "agreed", False) or getattr(error, "of_rank", None) is not None


def _portable(error: BaseException | None) -> tuple[type[BridgeError] | None, tuple[str, ...]]:
    # classes of a script may not be known to the others
    if isinstance(error, BridgeError) and type(error).__module__ == BridgeError.__module__:
        return type(error), (error.what, error.expected, error.got, error.fix)
    return None, (type(error).__name__, str(error))


def _repeated(told: tuple[type[BridgeError] | None, tuple[str, ...]], rank: int) -> BridgeError:
    kind, words = told
    if kind is None:
        name, text = words
        found: BridgeError = RankFailedError(
            f"rank {rank}",
            expected="to go on",
            got=f"{name}: {text}" if text else name,
            fix="look at what that rank says",
        )
    else:
        what, expected, got, fix = words
        found = kind(f"rank {rank}: {what}", expected=expected, got=got, fix=fix)
    found.of_rank = rank
    return found


# --- the end of a job -----------------------------------------------------------------------------


@contextmanager
def waiting(comm: Any) -> Iterator[None]:
    """Context of every wait for other ranks, so that it can be seen that one waits in vain."""
    outer, _State.waiting = _State.waiting, (time.monotonic(), comm)
    try:
        yield
    finally:
        _State.waiting = outer


@contextmanager
def vital(comm: Any) -> Iterator[None]:
    """Context of what can not fail on one rank alone, since others are on their way already.

    An error ends all ranks; without others it is an error as any.
    """
    try:
        yield
    except BaseException as error:
        if comm.Get_size() > 1 and _State.world is not None:
            traceback.print_exc()
            abort(130 if isinstance(error, KeyboardInterrupt) else 1)
        raise


def install() -> None:
    """End all ranks when one ends with an error, or leaves others waiting; once per process.

    Needs more than one rank, and an MPI that may be called from several threads for the second part
    (which mpi4py asks for by default).
    """
    from mpi4py import MPI

    if _State.world is not None or MPI.COMM_WORLD.Get_size() == 1:
        return
    _State.world = MPI.COMM_WORLD
    sys.excepthook = _excepthook(sys.excepthook)
    threading.excepthook = _of_threads(threading.excepthook)
    if MPI.Query_thread() == MPI.THREAD_MULTIPLE:
        _State.watch = threading.Thread(target=_watch, daemon=True, name="alchemi-bridge-ranks")
        _State.watch.start()
        atexit.register(_leave)
    else:
        LOGGER.info("this MPI has no threads: a rank that leaves early is not noticed")


def _excepthook(before: Any) -> Any:
    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        of_rank = getattr(error, "of_rank", None)
        if of_rank is None:
            before(kind, error, trace)
        else:
            time.sleep(LET_OTHERS_SPEAK)  # usually ended by the rank whose error it is
            before(kind, error, trace)
        abort(130 if issubclass(kind, KeyboardInterrupt) else 1)

    return hook


def _of_threads(before: Any) -> Any:
    def hook(given: threading.ExceptHookArgs) -> None:
        before(given)
        abort(1)

    return hook


def abort(status: int, message: str = "") -> None:
    """End all ranks at once; the message goes to standard error first."""
    if message:
        print(message, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if _State.world is None:
        return
    rank = _State.world.Get_rank()
    print(f"rank {rank} of {_State.world.Get_size()} ends all ranks", file=sys.stderr, flush=True)
    time.sleep(0.1)  # the launcher forwards what was written
    _State.world.Abort(status)
    os._exit(status)


def _leave() -> None:
    """At exit: tell the others, and give those that leave, too, some time to say so."""
    world = _State.world
    try:
        _State.leaving = True
        if _State.watch is not None:
            _State.watch.join()  # a message that it saw must not be received here
        others = set(range(world.Get_size())) - {world.Get_rank()}
        requests = [
            world.Isend(np.zeros(1, dtype=np.uint8), dest=rank, tag=_TAG_LEFT) for rank in others
        ]
        # those that never used the bridge say nothing: not longer than a moment
        end = time.monotonic() + PATIENCE
        while others - _State.others_left and time.monotonic() < end:
            _receive(world)
            time.sleep(0.01)
        for request in requests:
            request.Test()
    except BaseException:
        traceback.print_exc()
        abort(1)


def _receive(world: Any) -> None:
    from mpi4py import MPI

    status = MPI.Status()
    while world.Iprobe(tag=_TAG_LEFT, status=status):
        rank = status.Get_source()
        world.Recv(np.empty(1, dtype=np.uint8), source=rank, tag=_TAG_LEFT)
        _State.others_left.add(rank)


def _watch() -> None:
    """Thread: has a rank left that this one waits for?"""
    world = _State.world
    while not _State.leaving:
        _receive(world)
        wait = _State.waiting
        if _State.others_left and wait is not None and time.monotonic() - wait[0] > PATIENCE:
            missed = sorted(_State.others_left & _members(wait[1]))
            if missed and _State.waiting is wait:
                left = ", ".join(str(rank) for rank in missed)
                abort(1, f"rank {left} of {world.Get_size()} ended while rank {world.Get_rank()} "
                         "waits for it")  # fmt: skip
        time.sleep(LOOK_EVERY)


def _members(comm: Any) -> set[int]:
    """Ranks of a communicator, as the world counts them."""
    from mpi4py import MPI

    try:
        group, whole = comm.Get_group(), MPI.COMM_WORLD.Get_group()
    except MPI.Exception:  # freed meanwhile: nobody waits any more
        return set()
    found = MPI.Group.Translate_ranks(group, list(range(group.Get_size())), whole)
    group.Free()
    whole.Free()
    return {int(rank) for rank in found}
