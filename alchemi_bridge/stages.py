"""Times of the stages of a step, for who wants them; nothing is measured otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

#: In the order of a step. ``search`` and ``decode`` happen at a pair search only.
STAGES = ("search", "decode", "exchange", "cut", "forward", "backward", "accumulate")

Times = dict[str, list[float]]

_NOTHING: AbstractContextManager[None] = nullcontext()
_listening: list[tuple[Times, Callable[[], None]]] = []


def stage(name: str) -> AbstractContextManager[None]:
    """Context of one stage of a step; costs next to nothing while nobody listens."""
    return _timed(name) if _listening else _NOTHING


@contextmanager
def _timed(name: str) -> Iterator[None]:
    times, synchronize = _listening[-1]
    synchronize()
    start = time.perf_counter()
    yield
    synchronize()
    times.setdefault(name, []).append(time.perf_counter() - start)


@contextmanager
def collect(synchronize: Callable[[], None] = lambda: None) -> Iterator[Times]:
    """Measure the stages of all steps within, in seconds by name.

    Parameters
    ----------
    synchronize
        Waits for the device, before and after each stage.
    """
    times: Times = {}
    _listening.append((times, synchronize))
    try:
        yield times
    finally:
        _listening.pop()
