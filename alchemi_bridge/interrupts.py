"""Ctrl-C and SIGTERM that reach their end, whatever code they come in the midst of."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Handler = Callable[[int, FrameType | None], Any]


class Interrupts:
    """Remembers what signal handlers raise while this context is open.

    Python calls its handlers between any two of its instructions, in functions that C++ has called
    as well, and not all C++ hands on what they raise: torch makes a ``RuntimeError`` of a
    ``KeyboardInterrupt`` that comes while it looks at the arguments of a scripted function. Whoever
    goes on after an error would then go on after Ctrl-C.

    Leaving the context raises an interrupt that was lost, whether an :class:`Exception`, another
    ``KeyboardInterrupt`` (Ray raises one of its own) or nothing stands in its place; who goes on
    after errors puts a context around each piece of work, or calls :meth:`check` between them. What
    is done about a signal stays as it was: the handlers that are there are called, and signals
    without one are not looked at. Contexts may be nested, each an object of its own. In threads
    other than the main one, to which Python gives no signals, this does nothing.
    """

    def __init__(self) -> None:
        self._raised: BaseException | None = None
        #: What was there, and what stands in its place.
        self._before: dict[int, tuple[_Handler, _Handler]] = {}

    def __enter__(self) -> Interrupts:
        self._raised = None
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):  # not SIG_IGN or SIG_DFL, which are numbers
                    # with the handler in it: others may keep and call it after this context
                    receive = partial(self._receive, handler)
                    self._before[number] = handler, receive
                    signal.signal(number, receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, (handler, receive) in self._before.items():
            if signal.getsignal(number) is receive:  # else somebody has set another since
                signal.signal(number, handler)
        self._before.clear()
        # its traceback holds the frames of all that was interrupted, and this object
        raised, self._raised = self._raised, None
        lost = error is None or isinstance(error, Exception | KeyboardInterrupt)
        try:
            if raised is not None and error is not raised and lost:
                raise raised from (None if _comes_from(error, raised) else error)
        finally:
            del raised

    def check(self) -> None:
        """Raise the interrupt, if there was one.

        Raises
        ------
        BaseException
            What the handler has raised: ``KeyboardInterrupt`` after Ctrl-C.
        """
        if self._raised is not None:
            raise self._raised

    def _receive(self, handler: _Handler, number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except BaseException as raised:
            self._raised = raised
            raise


def _comes_from(error: BaseException | None, source: BaseException) -> bool:
    """Whether the one was raised because of the other; it must not become its cause, then."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if error is source:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
