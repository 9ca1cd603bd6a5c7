"""Native code that is compiled on first use: the compiler, the cache, and one careful build.

Loads neither torch nor anything else that takes long: `lmp` waits for it at every start.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

LOGGER = logging.getLogger(__name__)

#: Set to another compiler, or to the empty string to go without.
COMPILER_VARIABLE = "ALCHEMI_BRIDGE_CXX"

#: Set to the folder for compiled code.
CACHE_VARIABLE = "ALCHEMI_BRIDGE_CACHE"

BUILD_TIMEOUT_SECONDS = 120.0


class UnavailableError(Exception):
    """Something can not be compiled or run; its message says why."""


def find_compiler() -> str | None:
    """Path of the C++ compiler, ``None`` if there is none."""
    named = os.environ.get(COMPILER_VARIABLE)
    if named is not None:
        return shutil.which(named) if named else None
    return next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), None)


def require_compiler() -> str:
    """The same, or :class:`UnavailableError`."""
    compiler = find_compiler()
    if compiler is None:
        raise UnavailableError(
            "no C++ compiler: install g++, or name one with " + COMPILER_VARIABLE
        )
    return compiler


def cache_folder() -> Path:
    """Folder for compiled code: named by the user, the user's own cache, or a temporary one."""
    named = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    wanted = Path(named) if named else Path(base) / "alchemi_bridge"
    try:
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except OSError as error:
        LOGGER.warning("no cache for compiled code in %s (%s)", wanted, error)
        return Path(tempfile.mkdtemp(prefix="alchemi-bridge-"))


def version_of(compiler: str) -> str:
    """What the compiler says of itself.

    Raises
    ------
    UnavailableError
        If it can not be run.
    """
    try:
        return subprocess.run(
            [compiler, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=30.0,
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{compiler} can not be run: {error}") from error


def key_of(parts: Sequence[str]) -> str:
    """Names one build by everything that it depends on."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def build(command: Sequence[str], made: Path) -> None:
    """Run a compiler, and put what it makes in place at once: other processes may build the same.

    Parameters
    ----------
    command
        The compiler with all arguments but the output.
    made
        Path of what is to be made.

    Raises
    ------
    UnavailableError
        If the compiler can not be run, takes too long, or fails, with its first line; or if the
        cache can not be written.
    """
    try:
        made.parent.mkdir(exist_ok=True, mode=0o700)
        _build(command, made)
    except OSError as error:
        raise UnavailableError(f"{made} can not be written: {error}") from error
    LOGGER.info("compiled %s", made)


def _build(command: Sequence[str], made: Path) -> None:
    with tempfile.TemporaryDirectory(dir=made.parent) as scratch:
        output = Path(scratch) / made.name
        try:
            done = subprocess.run(
                [*command, "-o", str(output)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=BUILD_TIMEOUT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"{command[0]} can not be run: {error}") from error
        if done.returncode != 0:
            first = next(iter(done.stderr.strip().splitlines()), "no message")
            raise UnavailableError(f"{command[0]} failed: {first}")
        if not output.is_file():
            raise UnavailableError(f"{command[0]} made nothing: expected {made.name}")
        output.replace(made)
