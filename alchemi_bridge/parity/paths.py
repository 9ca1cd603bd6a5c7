"""The paths: ways to compute the same numbers. Further ones join with :func:`register`.

A path says whether it can run here (:meth:`ParityPath.unavailable`) and for a case
(:meth:`ParityPath.refuses`), and makes an :class:`Evaluator` for a model file. Whatever it talks
to, results come back in eV and Å on the host.
"""

from __future__ import annotations

import pathlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ase import Atoms

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.model import LoadedModel
from alchemi_bridge.parity.cases import Case
from alchemi_bridge.parity.results import PathResult


@dataclass(frozen=True)
class Job:
    """One case, ready to be computed.

    Attributes
    ----------
    case
        The case.
    model_file
        The model as a file: every path starts from it, so that export and loading are covered.
    loaded
        The model as the bridge loads it on the CPU, for its facts (and checked for trust).
    options
        Keywords that both ASE calculators understand: ``extensions_directory``, ``variants``,
        ``non_conservative``.
    frames
        The structures.
    """

    case: Case
    model_file: pathlib.Path
    loaded: LoadedModel
    options: Mapping[str, Any] = field(default_factory=dict)
    frames: Sequence[Atoms] = ()

    @property
    def dtype(self) -> str:
        """Precision that the model computes in: ``"float64"`` or ``"float32"``."""
        return str(self.loaded.capabilities.dtype)

    @property
    def expected(self) -> frozenset[str]:
        """Quantities that any path must deliver for this model."""
        quantities = {"energy", "forces", "virial"}
        # a stress that the model predicts needs a volume to become a virial
        if self.options.get("non_conservative") in (True, "stress") and not all(
            atoms.pbc.all() for atoms in self.frames
        ):
            quantities.remove("virial")
        if any(
            name.split("/")[0] == "energy" and output.sample_kind == "atom"
            for name, output in self.loaded.capabilities.outputs.items()
        ):
            quantities.add("energies")
        return frozenset(quantities)


class Evaluator(ABC):
    """A path set up for one job."""

    @abstractmethod
    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        """Everything the path can compute, for each frame."""

    @abstractmethod
    def step(self, atoms: Atoms) -> float:
        """One step as in molecular dynamics, energy and forces only; the time it took, ms."""


class ParityPath(ABC):
    """A way to compute energy, forces, virial and per-atom energies.

    Attributes
    ----------
    name
        Name on the command line and in the report.
    description
        One line on what it is.
    """

    name: str
    description: str

    def unavailable(self) -> str | None:
        """Why this path can not run on this machine, or None if it can."""
        return None

    def version(self) -> str | None:
        """Version of the program behind it, where it is none of the packages that are named."""
        return None

    def refuses(self, job: Job) -> str | None:
        """Why this path does not serve a job, or None if it does."""
        del job
        return None

    def expected(self, job: Job) -> frozenset[str]:
        """Quantities that the path promises for a job; one that it then lacks is a failure."""
        return job.expected

    @abstractmethod
    def prepare(self, job: Job) -> Evaluator:
        """Load the model and set up what a simulation would set up once."""


_REGISTRY: dict[str, ParityPath] = {}


def register(path: ParityPath) -> ParityPath:
    """Add a path; it takes part in every run from now on.

    Raises
    ------
    ConfigurationError
        If the name is taken.
    """
    if path.name in _REGISTRY:
        raise ConfigurationError(
            "path to register",
            expected="a name that is not taken",
            got=f"'{path.name}'",
            fix="choose another name",
        )
    _REGISTRY[path.name] = path
    return path


def unregister(name: str) -> None:
    """Take a path out again; unknown names are ignored."""
    _REGISTRY.pop(name, None)


def registered() -> dict[str, ParityPath]:
    """All paths by name: the built-in ones, whoever was imported first, and those that joined."""
    # the built-in ones join when their module is imported
    from alchemi_bridge.parity import (
        builtin_paths,
        engine_path,
        gromacs_path,
        lammps_path,
        mpi_path,
        nvalchemi_path,
    )

    modules = (builtin_paths, engine_path, gromacs_path, lammps_path, mpi_path, nvalchemi_path)
    order = {module.__name__: place for place, module in enumerate(modules)}
    joined = sorted(_REGISTRY.values(), key=lambda p: order.get(type(p).__module__, len(order)))
    return {path.name: path for path in joined}


def select(names: Sequence[str] = ()) -> list[ParityPath]:
    """Paths by name, in the order of the registry; all for no name.

    Raises
    ------
    ConfigurationError
        If a name is unknown.
    """
    known = registered()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(
            "path",
            expected=f"one of {', '.join(known)}",
            got=f"'{unknown[0]}'",
            fix="choose one of them; 'alchemi-bridge parity --list' describes them",
        )
    return [path for path in known.values() if not names or path.name in names]


class Stopwatch:
    """``with Stopwatch() as watch: ...`` and then ``watch.ms``, the wall time in milliseconds."""

    ms: float = 0.0

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.ms = 1e3 * (time.perf_counter() - self._start)
