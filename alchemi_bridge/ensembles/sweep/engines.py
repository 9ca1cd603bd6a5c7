"""The engines of a sweep: paths of the parity harness by name, and whether they are there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from alchemi_bridge.ensembles.sweep.surroundings import surroundings
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.parity.paths import ParityPath, registered

#: Other names of paths.
ALIASES = {"ase": "bridge-cpu"}

#: The reference where it is installed.
PEER = "metatomic-ase"

#: Paths that need a GPU.
ON_GPU = frozenset({"bridge-cuda"})


@dataclass(frozen=True)
class Engine:
    """A way to compute.

    Attributes
    ----------
    name
        As the user calls it; in reports.
    path
        What computes. It crosses processes, so that it is an object of a module's class.
    version
        Of the program behind it, where that is none of the packages that are named anyway.
    surroundings
        Hash of the packages where it runs; None until somebody looked there.
    """

    name: str
    path: ParityPath
    version: str | None = None
    surroundings: str | None = None


def engines(names: Sequence[str]) -> list[Engine]:
    """Engines by name.

    Raises
    ------
    ConfigurationError
        If a name is unknown, or an engine comes twice.
    """
    chosen = [engine(name) for name in names]
    for number, one in enumerate(chosen):
        before = [other.name for other in chosen[:number] if other.path.name == one.path.name]
        if before:
            raise ConfigurationError(
                "--engines",
                expected="each engine once",
                got=f"'{before[0]}' and '{one.name}', which is the same"
                if before[0] != one.name
                else f"'{one.name}' twice",
                fix="leave one of them out",
            )
    return chosen


def engine(name: str) -> Engine:
    """One engine by name.

    Raises
    ------
    ConfigurationError
        If there is none of that name, or it computes built-in potentials only.
    """
    known = registered()
    path = known.get(ALIASES.get(name, name))
    if path is None:
        choice = [*ALIASES, *known]
        near = difflib.get_close_matches(name, choice, n=1)
        raise ConfigurationError(
            f"engine '{name}'",
            expected=f"one of {', '.join(choice)}",
            got="another name",
            fix=f"did you mean '{near[0]}'?"
            if near
            else "choose one of them; 'alchemi-bridge parity --list' describes them",
        )
    return Engine(name, path)


@dataclass(frozen=True)
class Inspection:
    """What an engine is like where it was looked at.

    Attributes
    ----------
    missing
        Why it can not run there, or None.
    version, surroundings
        As those of an :class:`Engine`.
    """

    missing: str | None
    version: str | None = None
    surroundings: str | None = None


def inspect_engine(path: ParityPath) -> Inspection:
    """Look at a path in this process."""
    why = path.unavailable()
    return Inspection(why, None if why else path.version(), surroundings())


def installed(one: Engine, found: Inspection) -> Engine:
    """The engine as it was found.

    Raises
    ------
    ConfigurationError
        If it can not run.
    """
    if found.missing is not None:
        raise ConfigurationError(
            f"engine '{one.name}'",
            expected="an engine that is installed",
            got=found.missing,
            fix="install it, or leave it out",
        )
    return Engine(one.name, one.path, found.version, found.surroundings)
