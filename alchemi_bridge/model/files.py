"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from metatomic.torch import AtomisticModel

from alchemi_bridge.errors import ConfigurationError


def check_target(path: Path, source: Path | None = None) -> None:
    """Check where a model file is to be written, before the work that leads to it.

    Parameters
    ----------
    path
        The file to write; one that is there is no error.
    source
        A file that is read for it.

    Raises
    ------
    ConfigurationError
        If its folder does not exist, if it is something else than a file, or if it is ``source``.
    """
    what = "path of the model file"
    if not path.parent.is_dir():
        raise ConfigurationError(
            what,
            expected="a file in a folder that exists",
            got=str(path),
            fix=f"create '{path.parent}' first",
        )
    if path.exists() and not path.is_file():
        raise ConfigurationError(
            what,
            expected="a regular file, or none yet",
            got=f"the folder '{path}'" if path.is_dir() else f"'{path}', which is no file",
            fix="name a file, usually *.pt",
        )
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ConfigurationError(
            what,
            expected="another file than the one that is read",
            got=str(path),
            fix="name a new file, usually *.pt",
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside ``path``, which takes its place if the block ends without an error.

    A link stays a link: what it points to is replaced.

    Raises
    ------
    ConfigurationError
        If no file can be written there.
    OSError
        If it can not be brought to the disk; a file that was there before is as it was.
    """
    target = Path(os.path.realpath(path))
    # the end of the name stays: readers go by it
    partial = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        partial.touch(exist_ok=False)
    except OSError as error:
        raise ConfigurationError(
            "file to write",
            expected="a folder that files can be written to",
            got=f"'{target.parent}' ({error.strerror})",
            fix="choose another folder, or ask for the right to write there",
        ) from error
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(partial)):
            error.filename = str(path)  # nobody knows the other one
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is never seen half written, even if the machine stops.

    Raises
    ------
    ConfigurationError, OSError
        See :func:`replacing`.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


def remove_unfinished(folder: Path, names: re.Pattern[str]) -> None:
    """Remove what :func:`replacing` left where it was killed, of files with such names."""
    form = re.compile(rf"\.[0-9a-f]{{8}}-({names.pattern})")
    for path in folder.iterdir():
        if form.fullmatch(path.name):
            path.unlink(missing_ok=True)


def save_model(model: AtomisticModel, path: Path) -> None:
    """Write a metatomic model.

    Raises
    ------
    ConfigurationError, OSError
        See :func:`check_target` and :func:`replacing`.
    """
    check_target(path)
    write_atomically(path, saved(model.save, path.name))


def saved(save: Callable[[Path], object], name: str) -> bytes:
    """What ``save`` writes to a file of this name, which stands in torch's files, too.

    torch ends the process if a disk is full: where there are files in memory, it is one of those.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        file = Path(folder) / name
        if hasattr(os, "memfd_create"):  # Linux
            memory = os.memfd_create(name)
            stack.callback(os.close, memory)
            file.symlink_to(f"/proc/self/fd/{memory}")
        save(file)
        return file.read_bytes()
