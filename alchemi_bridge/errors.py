"""One tree of errors: every problem that the bridge finds is a :class:`BridgeError`.

A message has four parts, so that nobody has to guess: what was wrong, what was expected, what came
instead, and what to do about it.
"""

from __future__ import annotations


class BridgeError(Exception):
    """Base class of all errors that the bridge raises.

    Parameters
    ----------
    what
        The thing that is wrong, as the user knows it (``"positions"``, ``"model file 'lj.pt'"``).
    expected
        What it should have been.
    got
        What it was.
    fix
        What the user can do, in the imperative.
    """

    def __init__(self, what: str, *, expected: str, got: str, fix: str) -> None:
        self.what = what
        self.expected = expected
        self.got = got
        self.fix = fix
        #: The rank whose error this is a copy of, in a parallel run.
        self.of_rank: int | None = None
        super().__init__(f"{what}: expected {expected}, got {got}; {fix}")

    def __reduce__(self) -> tuple:
        # keyword-only arguments do not survive the default pickling of exceptions, and errors cross
        # processes (MPI ranks, Ray workers)
        return (_rebuild, (type(self), self.what, self.expected, self.got, self.fix))


def _rebuild(kind: type[BridgeError], what: str, expected: str, got: str, fix: str) -> BridgeError:
    return kind(what, expected=expected, got=got, fix=fix)


# --- what the caller handed over ---------------------------------------------------------------


class InputError(BridgeError, ValueError):
    """Data handed over by the engine or the user is not usable."""


class ShapeError(InputError):
    """An array has the wrong shape or strides."""


class DtypeError(InputError):
    """An array has the wrong data type."""


class DeviceMismatchError(InputError):
    """A buffer lives on another device than the one that was asked for."""


class BufferAccessError(InputError):
    """Memory can not be read or written as described (null or misaligned pointer, read-only)."""


class NonFiniteError(InputError):
    """Positions, cell or another input hold NaN or infinite values."""


class CellError(InputError):
    """The cell is singular, or does not fit the periodic directions."""


class OverlapError(InputError):
    """Two atoms sit on the same point.

    Attributes
    ----------
    atoms
        Their rows, where the error was found; ``None`` if it came from another process.
    """

    atoms: tuple[int, int] | None = None


class SpeciesError(InputError):
    """Atoms of a kind that the model does not know."""


class StructureFileError(InputError):
    """A structure file is missing or can not be read."""


# --- pair lists ---------------------------------------------------------------------------------


class PairListError(InputError):
    """A pair list is inconsistent: index out of range, missing reverse pair, too short a range."""


class StalePairsError(PairListError):
    """Atoms or cell moved farther than the pair list allows since the pair search."""


# --- the model ----------------------------------------------------------------------------------


class ModelError(BridgeError):
    """Something about the model is not usable."""


class ModelLoadError(ModelError):
    """The model file is missing, corrupt, or not a metatomic model."""


class UntrustedModelError(ModelError):
    """The model file asks for something that was not allowed, or is not the pinned file."""


class UnsupportedOutputError(ModelError):
    """A requested output is not among the model's outputs."""


class VariantError(ModelError):
    """A requested variant of an output does not exist, or no default can be chosen."""


class MissingInputError(ModelError, ValueError):
    """The model requests extra data (charges, velocities, ...) that was not handed over."""


class EvaluationError(ModelError):
    """The model failed while it was being evaluated."""


class NonFiniteResultError(EvaluationError):
    """The model returned NaN or infinite values; they are never handed on."""


# --- everything else ----------------------------------------------------------------------------


class UnitError(BridgeError, ValueError):
    """A unit expression is unknown, or its dimension does not fit."""


class ConfigurationError(BridgeError, ValueError):
    """Options contradict each other, or are out of their range."""


class ProtocolError(BridgeError, RuntimeError):
    """Calls came in the wrong order (``compute`` before ``set_pairs``, for example)."""


class RankFailedError(BridgeError, RuntimeError):
    """Another rank of a parallel run failed, with an error that is none of the bridge's."""


class WorkerDiedError(BridgeError, RuntimeError):
    """The process of a task ended more often than it may be tried again."""


class NotReadyError(BridgeError, RuntimeError):
    """An objective asks for fresh simulations, and those had their last attempt."""


class NonFiniteStepError(BridgeError, RuntimeError):
    """A loss, its gradient or the parameters of a step of a fit are NaN or infinite."""


# --- other people's errors ----------------------------------------------------------------------


def first_line(error: BaseException) -> str:
    """What a foreign error says, in one line: the first, or its type if it says nothing."""
    return (_lines(error) or [type(error).__name__])[0]


def last_line(error: BaseException) -> str:
    """The same from the end: TorchScript puts the cause after its traceback."""
    return (_lines(error) or [type(error).__name__])[-1]


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()]
