"""The libraries under ``plugins/``, compiled on first use for this environment.

Nothing of this loads torch: the pair style's is built, or found in the cache, at every start of
LAMMPS.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from alchemi_bridge import compiling
from alchemi_bridge.compiling import UnavailableError
from alchemi_bridge.errors import ConfigurationError

PACKAGE = Path(__file__).resolve().parent.parent

#: In a wheel the sources lie in the package; in a checkout beside it.
FOLDERS = (PACKAGE / "plugins", PACKAGE.parent / "plugins")

HEADER = "include/alchemi_bridge.h"
SHIM = "shim/alchemi_bridge_shim.cpp"

FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-w")


@cache
def folder() -> Path:
    """Folder of the sources.

    Raises
    ------
    UnavailableError
        If they were not installed.
    """
    found = next((path for path in FOLDERS if (path / HEADER).is_file()), None)
    if found is None:
        raise UnavailableError("the sources of the plugins are not installed")
    return found


def shared_python() -> Path | None:
    """The shared library of this Python, with which it can run inside another program."""
    name = sysconfig.get_config_var("INSTSONAME") or sysconfig.get_config_var("LDLIBRARY") or ""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folders = [
        sysconfig.get_config_var("LIBDIR"),
        os.path.join(sys.base_prefix, "lib"),
        # a Debian Python is linked statically, its library is a package of its own
        os.path.join("/usr/lib", sysconfig.get_config_var("MULTIARCH") or ""),
    ]
    names = [name, f"libpython{version}.so.1.0", f"libpython{version}.so"]
    for place in folders:
        for file in names:
            if place and ".so" in file and (path := Path(place) / file).is_file():
                return path
    return None


def compiled(
    name: str,
    sources: Sequence[str],
    *,
    defines: dict[str, str],
    includes: Sequence[Path] = (),
    depends: Sequence[str] = (),
) -> Path:
    """Compile a shared library, or take it from the cache.

    Parameters
    ----------
    name
        File name without folder; libraries of different builds lie in folders of their own.
    sources
        C++ files under the folder of the plugins. Its headers, and those beside them, are found.
    defines
        String macros.
    includes
        Further folders with headers.
    depends
        What else the result depends on, such as the version of somebody's headers.

    Raises
    ------
    UnavailableError
        Without sources or compiler, or if the compiler fails.
    """
    home, compiler = folder(), compiling.require_compiler()
    files = [home / source for source in sources]
    headers = sorted(
        {*(home / "include").glob("*.h"), *(h for f in files for h in f.parent.glob("*.h"))}
    )
    texts = [path.read_text(encoding="utf-8") for path in [*files, *headers]]
    macros = [f'-D{key}="{_quoted(value)}"' for key, value in sorted(defines.items())]
    version = compiling.version_of(compiler)
    key = compiling.key_of([*texts, *macros, *FLAGS, os.path.realpath(compiler), version, *depends])
    made = compiling.cache_folder() / f"{Path(name).stem}-{key}" / name
    if not made.is_file():
        search = [f"-I{path}" for path in (home / "include", *includes)]
        compiling.build([compiler, *FLAGS, *macros, *search, *map(str, files), "-ldl"], made)
    return made


def shim() -> Path:
    """The library through which foreign programs get the function table of this environment.

    Raises
    ------
    UnavailableError
        See :func:`compiled`.
    """
    library = shared_python()
    defines = {"AB_PYTHON": sys.executable, "AB_LIBPYTHON": "" if library is None else str(library)}
    return compiled("libalchemi_bridge.so", [SHIM], defines=defines)


def unavailable(what: str, error: UnavailableError) -> ConfigurationError:
    """The error for a library that can not be had."""
    return ConfigurationError(
        what,
        expected="to be compiled on first use",
        got=str(error),
        fix="mend that, and see 'alchemi-bridge doctor' for what is there",
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
