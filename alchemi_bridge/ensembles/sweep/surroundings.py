"""What a number depends on besides model, structure and engine: this code, and other packages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import alchemi_bridge
from alchemi_bridge.ensembles.content import hash_of_file, hash_of_settings
from alchemi_bridge.parity.machine import versions

#: Shared libraries, by their names.
_LIBRARY = re.compile(r"\.(so(\.\d+)*|dylib|dll)$")


def surroundings() -> str:
    """Hash of the code and the versions of packages in this process.

    The version of the bridge alone says nothing about a checkout that is being worked on. Plugins
    for engines are made of files of the package, too.
    """
    return hash_of_settings({"versions": versions(), "sources": hash_of_sources()})


@lru_cache(maxsize=1)
def hash_of_sources() -> str:
    """SHA-256 of all files of this package; takes some 20 ms, once in a process."""
    root = Path(alchemi_bridge.__file__).parent
    return _hash_of_files(root, (p for p in root.rglob("*") if "__pycache__" not in p.parts))


def hash_of_libraries(folder: str | None) -> str | None:
    """SHA-256 of the shared libraries in a folder, with all that is in it."""
    if folder is None:
        return None
    root = Path(folder)
    return _hash_of_files(root, (p for p in root.rglob("*") if _LIBRARY.search(p.name)))


def _hash_of_files(root: Path, paths: Iterable[Path]) -> str:
    files = sorted(path for path in paths if path.is_file())
    return hash_of_settings({str(path.relative_to(root)): hash_of_file(path) for path in files})
