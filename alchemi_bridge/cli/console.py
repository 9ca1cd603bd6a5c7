"""What goes to the terminal: results to stdout, everything else to stderr.

Consoles are made when they are asked for, so that redirected streams are respected.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

#: Columns where the stream is not a terminal: files and pipes have no width, and a table that is
#: cut off there is lost.
WIDTH_WITHOUT_TERMINAL = 160

#: Columns that no table needs; rich does not measure beyond the width it is given.
_UNBOUNDED = 100_000

#: Name of the one handler that is replaced when logging is set up again.
_HANDLER = "alchemi_bridge.cli"

#: Logger of the whole package.
LOGGER = logging.getLogger("alchemi_bridge")


def stdout_console() -> Console:
    """Console for results."""
    return _console(sys.stdout)


def stderr_console() -> Console:
    """Console for progress, logs and errors."""
    return _console(sys.stderr)


def _console(stream: IO[str]) -> Console:
    width = None if is_terminal(stream) else WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, width=width, highlight=False)


def is_terminal(stream: IO[str]) -> bool:
    """Whether a stream is a terminal; a closed stream is not."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def print_json(document: Any) -> None:
    """Write one JSON document, and nothing else, to stdout.

    Raises
    ------
    ValueError
        If it holds NaN or infinite numbers, which JSON has no words for.
    """
    text = json.dumps(document, indent=2, allow_nan=False)
    sys.stdout.write(text + "\n")


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table at its full width: never cut off where stdout is not a terminal."""
    console = console or stdout_console()
    if not is_terminal(sys.stdout):
        unbounded = console.options.update(width=_UNBOUNDED)
        console.width = max(console.width, Measurement.get(console, unbounded, table).maximum)
    console.print(table)


def printable(value: str) -> Text:
    """Text of a file that nobody vouches for: no markup, no control sequences for the terminal."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value))


def print_error(message: str) -> None:
    """One ``error: ...`` line on stderr, not wrapped, so that scripts can read it."""
    sys.stderr.write(f"error: {message}\n")


def show_progress() -> bool:
    """Whether progress bars make sense: stderr is a terminal and nobody asked for quiet."""
    return is_terminal(sys.stderr) and LOGGER.getEffectiveLevel() <= logging.WARNING


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar on stderr if that is a terminal, else plainly.

    Parameters
    ----------
    items
        What to go through.
    description
        Text in front of the bar.
    total
        Number of items, where ``items`` has no length.
    """
    if not show_progress():
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    with _bar() as bar:
        yield from bar.track(items, total=total, description=description)


@contextmanager
def counting(description: str, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar for work that others do: each call moves it by one.

    Parameters
    ----------
    description
        Text in front of the bar; a call may hand over another one.
    total
        Number of calls.
    """
    if not show_progress():
        yield lambda _: None
        return
    with _bar() as bar:
        task = bar.add_task(description, total=total)
        yield lambda text: bar.update(task, advance=1, description=text)


def _bar() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=stderr_console(), transient=True)


def set_up_logging(verbosity: int) -> None:
    """Send the package's log, and Python's warnings, to stderr.

    Parameters
    ----------
    verbosity
        -1 errors only, 0 warnings, 1 what is being done, 2 and more everything.
    """
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    handler: logging.Handler
    if is_terminal(sys.stderr):
        handler = RichHandler(console=stderr_console(), show_path=False, show_time=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.set_name(_HANDLER)
    logging.captureWarnings(True)
    for logger in (LOGGER, logging.getLogger("py.warnings")):
        for old in logger.handlers[:]:
            if old.get_name() == _HANDLER:
                logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(level)
