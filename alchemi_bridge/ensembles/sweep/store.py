"""Finished cells on disk: a line for each, written as soon as it is known."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.model.locks import locked

LOGGER = logging.getLogger(__name__)

#: Name of the file.
FILE = "cells.jsonl"

#: Its first line.
HEADER = {"format": "alchemi-bridge sweep", "version": 1}

#: What a cell is about.
NAMES = ("model", "structure", "engine")


class CellStore:
    """Outcomes of cells by key; ``with`` opens the file and keeps others from writing it.

    What a killed process left half written at the end is cut off, and the cell run again.

    Parameters
    ----------
    folder
        Made if need be.
    fresh
        Forget what is there.

    Raises
    ------
    ConfigurationError
        On entry: if another sweep is writing there, the file is of another kind, or no file can
        be made; later, if it can not be written.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.path = folder / FILE
        self._fresh = fresh
        self._records: dict[str, dict[str, Any]] = {}
        self._names: dict[str, dict[str, str]] = {}
        self._opened = ExitStack()
        self._file: Any = None

    def __enter__(self) -> Self:
        try:
            with ExitStack() as stack:
                self._open(stack)
                self._opened = stack.pop_all()
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._opened.close()
        except OSError as problem:
            if error is None:  # else it is the same again
                raise self._unwritable(problem) from problem

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> dict[str, Any] | None:
        """The outcome of a cell, or None if it has none."""
        return self._records.get(key)

    def names(self, key: str) -> Mapping[str, str]:
        """What the outcome of a cell was about, when it was found."""
        return self._names.get(key, {})

    def finished(self, key: str) -> bool:
        """Whether a cell need not be run: it has an outcome, which is no error."""
        found = self._records.get(key)
        return found is not None and found["status"] != "error"

    def add(self, key: str, names: Mapping[str, str], record: Mapping[str, Any]) -> None:
        """Keep an outcome; it is with the operating system when this returns.

        Parameters
        ----------
        key
            The cell's.
        names
            What it is about, for those who read the file.
        record
            The outcome.
        """
        line = json.dumps({"key": key, **names, **record}, allow_nan=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self._records[key], self._names[key] = dict(record), dict(names)

    def _open(self, stack: ExitStack) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(self.path, self._in_use()))
        if self._fresh:
            self._check_kind()
            self.path.unlink(missing_ok=True)
        self._read()
        self._file = stack.enter_context(self.path.open("a", encoding="utf-8"))
        if self._file.tell() == 0:
            self._file.write(json.dumps(HEADER) + "\n")
            self._file.flush()

    def _unwritable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"--output '{self.path.parent}'",
            expected="a folder that files can be written to, or that can be made",
            got=f"{error.strerror}: '{error.filename or self.path}'",
            fix="name another folder (it is made if need be), or make room; what is finished is "
            "kept",
        )

    def _in_use(self) -> ConfigurationError:
        return ConfigurationError(
            f"--output '{self.path.parent}'",
            expected="one sweep at a time",
            got="another one that is running",
            fix="wait for it, or name another folder",
        )

    def _read(self) -> None:
        if not self.path.exists():
            return
        self._check_kind()
        with self.path.open("rb+") as file:
            end = 0
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    LOGGER.info("%s: the last line was not finished", self.path)
                    break
                end += len(line)
                if number > 0:
                    self._take(line, number + 1)
            file.seek(end)
            file.truncate()

    def _check_kind(self) -> None:
        """Refuse a file that no sweep wrote; one that was torn in its first line is none."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            first = file.readline()
        wanted = json.dumps(HEADER).encode() + b"\n"
        if first != wanted and not wanted.startswith(first):
            raise ConfigurationError(
                f"file '{self.path}'",
                expected="cells of a sweep by this version",
                got="a file of another kind",
                fix="move it away, or choose another --output",
            )

    def _take(self, line: bytes, number: int) -> None:
        try:
            record = json.loads(line)
            key, status = record["key"], record["status"]
        except (ValueError, KeyError, TypeError):
            key = status = None
        if not isinstance(key, str) or not isinstance(status, str):
            LOGGER.warning("%s: line %d can not be read; its cell is run again", self.path, number)
            return
        del record["key"]
        self._names[key] = {name: str(record.pop(name)) for name in NAMES if name in record}
        self._records[key] = record
