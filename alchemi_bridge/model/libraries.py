"""Shared libraries that a model file names: which entries are allowed, and which files they mean.

Opening a library runs its code. metatomic's own loader takes an entry's path literally (absolute
ones first, then below the extensions directory, ``..`` and symbolic links included), and as a last
resort gives the entry's *name* to the system's loader, which takes any path that stands there. Here
an entry has to be plain, and means one file below the folder that the user named, or none.
"""

from __future__ import annotations

import ctypes
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    ModelLoadError,
    UntrustedModelError,
)
from alchemi_bridge.model.archive import open_file, sha256_of

LOGGER = logging.getLogger(__name__)

# Provided by the packages that this one imports: metatomic's loader never opens them for a model.
PROVIDED = ("metatensor_torch", "metatomic_torch")


@dataclass(frozen=True)
class Extension:
    """A shared library that a model needs.

    Attributes
    ----------
    name
        Name without the platform's prefix and suffix (``featomic_torch``).
    path
        Relative path within the extensions directory.
    sha256
        Hash of the library that the model was exported with; empty if not recorded.
    """

    name: str
    path: str
    sha256: str


def find_files(
    libraries: tuple[Extension, ...], extensions_directory: str | Path | None, label: str
) -> tuple[Path, ...]:
    """Files of the libraries that still have to be loaded, in the order of loading.

    A library whose file name is that of a library in this process is left out, as metatomic does
    (which already does so for a part of the file name).

    Raises
    ------
    ConfigurationError
        ``extensions_directory`` is no folder.
    ModelLoadError
        A library is not in it.
    UntrustedModelError
        No folder was named, or a symbolic link leads out of it.
    """
    root = None if extensions_directory is None else _folder(extensions_directory)
    loaded = {file.name for file in loaded_files()} if libraries else set()
    files: list[Path] = []
    refused: list[str] = []
    for library in libraries:
        if library.path.rsplit("/", 1)[-1] in loaded:
            LOGGER.debug("library '%s' is loaded already", library.path)
        elif root is None:
            refused.append(f"'{library.path}'")
        else:
            files.append(_find(label, library, root))
    if refused:
        raise UntrustedModelError(
            label,
            expected="a model without compiled extensions, or the folder that holds them",
            got=f"a model that needs {', '.join(refused)}",
            fix="if you trust these libraries, name their folder with extensions_directory= "
            "(--extensions on the command line), or import the package that provides them first",
        )
    return tuple(files)


def load_libraries(files: tuple[Path, ...]) -> None:
    """Load the libraries that :func:`find_files` returned, from exactly these files.

    With this done metatomic's loader finds every library loaded and searches for none.

    Raises
    ------
    ModelLoadError
        If the system's loader refuses a library.
    """
    for file in files:
        LOGGER.info("loading extension '%s'", file)
        try:
            ctypes.CDLL(str(file))
        except OSError as error:
            raise ModelLoadError(
                f"extension '{file}'",
                expected="a shared library for this platform and this version of torch",
                got=str(error),
                fix="collect the extensions again with the versions that are installed here",
            ) from error


def check_library(library: Extension, what: str) -> None:
    """Raise UntrustedModelError unless name and path of an entry are plain; ``what`` names it."""

    def refuse(got: str) -> BridgeError:
        return UntrustedModelError(
            what,
            expected="plain paths of libraries, relative to the extensions directory",
            got=got,
            fix="do not load this file; if it is your own, export it again with "
            "collect_extensions=..., from an environment in which the libraries are installed",
        )

    path = library.path
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path):
        raise refuse(f"the absolute path {path!r}")
    # '$': dlopen expands $ORIGIN and its like; ':', '\\' and ends in '.' or ' ': other systems
    # understand them as drives, separators, or not at all; '~': shells and some loaders expand it
    if not path.isprintable() or re.search(r"[\\:$*?\"<>|]", path) or path.startswith("~"):
        raise refuse(f"the path {path!r}, with characters that have a meaning of their own")
    if not path.isascii():
        raise refuse(f"the path {path!r}, with characters outside of ASCII")
    for part in path.split("/"):
        if part == "..":
            raise refuse(f"the path {path!r}, which leads out of the folder")
        if part.strip(". ") == "" or part.endswith((".", " ")):
            raise refuse(f"the path {path!r}, with the part {part!r}")
    # the last resort of metatomic's loader is to open the name itself, path or not; a name that is
    # part of the file's name, and no file name of its own, leads nowhere
    name, file_name = library.name, path.rsplit("/", 1)[-1]
    is_file_name = name.startswith("lib") and re.search(r"\.(so|dylib|dll)", name) is not None
    if not name or name not in file_name or is_file_name:
        raise refuse(f"the name {name!r}, which does not fit to the path {path!r}")


def _folder(extensions_directory: str | Path) -> Path:
    path = Path(extensions_directory)
    if not path.is_dir():
        raise ConfigurationError(
            "extensions_directory",
            expected="an existing folder with the model's libraries",
            got=f"'{path}'",
            fix="name the folder that AtomisticModel.save(collect_extensions=...) filled",
        )
    return path.resolve()


def _find(label: str, library: Extension, root: Path) -> Path:
    what = f"library '{library.path}' of {label}"
    try:
        file = (root / library.path).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ModelLoadError(
            what,
            expected=f"a file in '{root}'",
            got="no such file" if isinstance(error, FileNotFoundError) else str(error),
            fix="name the folder that was filled when the model was exported",
        ) from error
    if not file.is_relative_to(root):
        raise UntrustedModelError(
            what,
            expected=f"a file in '{root}'",
            got=f"a symbolic link to '{file}', outside of it",
            fix="copy the library into the folder, if you trust it",
        )
    if not file.is_file():
        raise UntrustedModelError(
            what,
            expected="a file",
            got="a folder, a device or a pipe",
            fix="collect the extensions again",
        )
    if library.sha256:
        with open_file(file, what) as stream:
            digest = sha256_of(stream)
        if digest != library.sha256.lower():
            LOGGER.warning(
                "%s: the model was exported with another build (SHA-256 %s, this one has %s)",
                what,
                library.sha256,
                digest,
            )
    return file


def loaded_files() -> frozenset[Path]:
    """Files of the libraries in this process, where the system tells."""
    import torch

    paths = [str(path) for path in torch.ops.loaded_libraries]
    if sys.platform.startswith("linux"):
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                fields = line.rstrip("\n").split(maxsplit=5)
                # only what is mapped as code was opened as a library
                if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
                    paths.append(fields[5])
    return frozenset(Path(path) for path in paths)
