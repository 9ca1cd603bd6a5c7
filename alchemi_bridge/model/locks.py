"""Names that one process at a time may write."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, in_use: Exception) -> Iterator[None]:
    """Keep others out who lock the same path; a file beside it is there for as long.

    On a file system without locks nobody is kept out.

    Parameters
    ----------
    path
        The name, in a folder that is there.
    in_use
        What is raised if another process has it.

    Raises
    ------
    OSError
        If no file can be made there.
    """
    lock = path.with_name(f".{path.name}.lock")
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _taken(handle, lock):
            raise in_use
        try:
            yield
        finally:
            # while it is still locked: nobody else has it
            lock.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _taken(handle: int, path: Path) -> bool:
    """Whether the lock is ours now, or there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # whoever had it before may have removed the file since it was opened
        return path.exists() and os.path.samestat(os.fstat(handle), path.stat())
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
