"""One path on one job: what is common to a run of parity and to a cell of a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from alchemi_bridge.errors import BridgeError, ConfigurationError
from alchemi_bridge.model import LoadedModel, load_model
from alchemi_bridge.parity.cases import Case
from alchemi_bridge.parity.compare import Precision
from alchemi_bridge.parity.paths import Evaluator, Job
from alchemi_bridge.parity.results import PathResult
from alchemi_bridge.parity.structures import single_precision


def load_facts(case: Case, options: Mapping[str, Any], sha256: str | None) -> LoadedModel:
    """The model of a user's case as :attr:`~.paths.Job.loaded` has it: on the CPU, checked.

    Parameters
    ----------
    case
        Whose model it is.
    options
        Those of the job.
    sha256
        Hash that the file must have.

    Raises
    ------
    ConfigurationError
        If the case has no model file.
    ModelError
        If the file can not be used.
    """
    if case.model is None:
        raise ConfigurationError(
            f"case '{case.name}'",
            expected="a potential or a model file",
            got="neither",
            fix="give one of them",
        )
    return load_model(
        case.model,
        device="cpu",
        sha256=sha256,
        extensions_directory=options.get("extensions_directory"),
    )


def with_frames(job: Job) -> Job:
    """The job with the frames of its case.

    For a model in single precision they are rounded: every path then starts from the same numbers,
    however it rounds them.
    """
    frames = job.case.make_frames()
    if job.dtype == "float32":
        frames = [single_precision(atoms) for atoms in frames]
    return dataclasses.replace(job, frames=frames)


def precision(job: Job, reference: str) -> Precision:
    """What the tolerances of a job depend on, if it is compared with a path of that name."""
    exact = job.dtype == "float64" or reference == "oracle"
    return Precision(job.dtype, _extent(job.frames), exact)


def _extent(frames: Sequence[Atoms]) -> float:
    """Largest coordinate or length of a cell vector, Å."""
    lengths = [np.abs(atoms.positions).max(initial=0.0) for atoms in frames]
    return float(max(*lengths, *(atoms.cell.lengths().max() for atoms in frames)))


def evaluate_frames(evaluator: Evaluator, job: Job) -> list[PathResult]:
    """Results of all frames; an error of a user's frame says which one it was."""
    try:
        return evaluator.evaluate([atoms.copy() for atoms in job.frames])
    except BridgeError as error:
        label = job.case.frame_label
        if label is None:
            raise
        for number, atoms in enumerate(job.frames):
            try:
                evaluator.evaluate([atoms.copy()])
            except BridgeError as own:
                raise _about(label(number), own) from error
        raise _about(f"'{job.case.name}'", error) from error


def _about(where: str, error: BridgeError) -> BridgeError:
    what = f"{where}: {error.what}"
    return type(error)(what, expected=error.expected, got=error.got, fix=error.fix)


def in_one_line(error: Exception) -> str:
    """What an error says, with its type where it is none of the bridge's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    what = "" if isinstance(error, BridgeError) else f"{type(error).__name__}: "
    return what + (lines[0] if lines else "no message")
