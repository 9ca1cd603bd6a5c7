"""Which nvalchemi there is, and whether the bridge was tested with it. Imports nothing of it."""

from __future__ import annotations

import importlib.metadata

from packaging.specifiers import SpecifierSet

from alchemi_bridge.errors import ConfigurationError

#: How it is installed.
INSTALL = 'pip install "alchemi-bridge[nvalchemi]"'

#: The versions that the tests run with, as in the extra. Names and behaviour of nvalchemi change
#: between versions, some without an error, and what is wrong in this one is worked around.
TESTED = {"nvalchemi-toolkit": "==0.2.0", "nvalchemi-toolkit-ops": ">=0.4.1,<0.5"}


def missing() -> str | None:
    """Why nvalchemi can not be used, or ``None`` if it can; nothing is loaded."""
    if not any(map(_version, TESTED)):
        return f"nvalchemi is not installed ({INSTALL})"
    try:
        require_tested()
    except ConfigurationError as error:
        return str(error)
    return None


def require_tested() -> None:
    """Raise :class:`ConfigurationError` unless the installed versions are among those tested."""
    for name, tested in TESTED.items():
        version = _version(name)
        if version is None or version not in SpecifierSet(tested):
            raise ConfigurationError(
                name,
                expected=f"a version that the bridge was tested with ({tested})",
                got="none" if version is None else f"version {version}",
                fix=INSTALL,
            )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
