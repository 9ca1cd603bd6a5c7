"""Tensors of a model by name, other values for them, and files with other values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from metatomic.torch import AtomisticModel

from alchemi_bridge.errors import (
    ConfigurationError,
    DtypeError,
    ModelLoadError,
    NonFiniteError,
    ShapeError,
    first_line,
)
from alchemi_bridge.model.archive import Archive, open_file
from alchemi_bridge.model.files import check_target, saved, write_atomically
from alchemi_bridge.model.load import load_script
from alchemi_bridge.model.trust import check_trust

_EXTRA = "/extra/"
_MAX_EXTRA = 16 << 20  # bytes, as in the check of the file, which comes before


@dataclass(frozen=True, eq=False)
class ModelTensor:
    """A tensor of floating-point numbers in a model.

    Attributes
    ----------
    name
        Its path inside the module that the metatomic model wraps (``energies.fitting.0.bias``).
    values
        The tensor itself, on the model's device, in the model's own units.
    is_parameter
        Whether the model calls it a parameter; others are buffers. Both can be changed.
    """

    name: str
    values: torch.Tensor
    is_parameter: bool


def tensors_of(model: AtomisticModel | torch.jit.RecursiveScriptModule) -> dict[str, ModelTensor]:
    """All parameters, then all buffers, that hold floating-point numbers, by name.

    Empty tensors are left out, and numbers that are constants of the model's code are no tensors.
    """
    module = model.module
    found = {}
    for is_parameter, named in ((True, module.named_parameters()), (False, module.named_buffers())):
        for name, values in named:
            if values.is_floating_point() and values.numel():
                found[name] = ModelTensor(name, values, is_parameter)
    return found


def choose(tensors: Mapping[str, ModelTensor], patterns: Sequence[str], what: str) -> list[str]:
    """Names that match, in the model's order.

    A pattern stands for parameters only: buffers are statistics of the training data, tables and
    constants, which are chosen by their full names.

    Parameters
    ----------
    tensors
        Of :func:`tensors_of`.
    patterns
        Names, or patterns of the shell (``energies.fitting.*``).
    what
        How errors call the model.

    Raises
    ------
    ConfigurationError
        If one of them matches nothing; the error lists what there is.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        fits = [name for name in tensors if fnmatchcase(name, pattern)]
        found = [name for name in fits if name == pattern or tensors[name].is_parameter]
        chosen.update(found)
        if fits and not found:
            raise ConfigurationError(
                f"parameter '{pattern}' of {what}",
                expected="a pattern that matches parameters, or the full name of a buffer",
                got=f"one that matches buffers only: {', '.join(fits)}",
                fix="give a full name if that buffer is to be changed, or another model",
            )
        if not fits:
            raise ConfigurationError(
                f"parameter '{pattern}' of {what}",
                expected=_listed(tensors),
                got="a name that matches none of them",
                fix="choose among these; * stands for any characters",
            )
    return [name for name in tensors if name in chosen]


def _listed(tensors: Mapping[str, ModelTensor]) -> str:
    if not tensors:
        return "a model with tensors to change, and this one has none"
    kinds = (
        f"{t.name} ({'parameter' if t.is_parameter else 'buffer'}, "
        f"{'x'.join(map(str, t.values.shape)) or 'scalar'})"
        for t in tensors.values()
    )
    return "one of " + ", ".join(kinds)


def check_names(tensors: Mapping[str, ModelTensor], names: Iterable[str], what: str) -> None:
    """Raise :class:`ConfigurationError`, which lists what there is, unless all are names of it."""
    for name in names:
        if name not in tensors:
            raise ConfigurationError(
                f"parameter '{name}' of {what}",
                expected=_listed(tensors),
                got="another name",
                fix="choose among these",
            )


def check_values(
    tensors: Mapping[str, ModelTensor], values: Mapping[str, torch.Tensor], what: str
) -> None:
    """Check that values fit the tensors of a model, before any of them is changed.

    Raises
    ------
    ConfigurationError
        If there is no tensor of a name.
    ShapeError, DtypeError, NonFiniteError
        If the values of one are of another shape or precision, or no numbers.
    """
    check_names(tensors, values, what)
    for name, value in values.items():
        label = f"parameter '{name}' of {what}"
        own = tensors[name].values
        if not isinstance(value, torch.Tensor) or value.dtype != own.dtype:
            raise DtypeError(
                label,
                expected=str(own.dtype),
                got=str(getattr(value, "dtype", type(value).__name__)),
                fix="convert the values",
            )
        if value.shape != own.shape:
            raise ShapeError(
                label,
                expected=f"shape {tuple(own.shape)}",
                got=f"shape {tuple(value.shape)}",
                fix="give values for the whole tensor",
            )
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(
                label,
                expected="finite numbers",
                got="NaN or infinite values",
                fix="look at the step that made them",
            )


def assign(tensors: Mapping[str, ModelTensor], values: Mapping[str, torch.Tensor]) -> None:
    """Write values that were checked into the tensors of a model, in place."""
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].values.copy_(value)


def write_model(
    path: str | os.PathLike[str],
    values: Mapping[str, torch.Tensor],
    output: str | os.PathLike[str],
    *,
    extensions_directory: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
) -> Path:
    """Write a model file that is another one with other values.

    Code, capabilities, metadata and the list of extensions are those of the file; only the version
    of torch that wrote it is this one.

    Parameters
    ----------
    path
        The model file that is read.
    values
        By the names of :func:`tensors_of`, on any device; tensors that are not named stay.
    output
        The file to write.
    extensions_directory, sha256
        See :func:`alchemi_bridge.model.load_model`.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    BridgeError
        What :func:`alchemi_bridge.model.load_model`, :func:`check_values` and
        :func:`alchemi_bridge.model.files.save_model` raise.
    """
    source, target = Path(path), Path(output)
    label = f"model file '{source}'"
    check_target(target, source)
    directory = None if extensions_directory is None else str(extensions_directory)
    records = check_trust(source, extensions_directory=directory, sha256=sha256)
    extra = _extra(source, label)
    script = load_script(records, directory)  # which is the file that was checked, or fails
    tensors = tensors_of(script)
    check_values(tensors, values, label)
    assign(tensors, values)
    # the code is written anew, by this version
    extra["torch-version"] = torch.__version__.encode()

    def save(file: Path) -> None:
        torch.jit.save(script, str(file), _extra_files=extra)

    try:
        content = saved(save, target.name)
    except RuntimeError as error:
        raise ModelLoadError(
            label,
            expected="a model that torch can write again",
            got=first_line(error),
            fix="export the model again from its source",
        ) from error
    write_atomically(target, content)
    return target


def _extra(path: Path, label: str) -> dict[str, bytes]:
    """The records of metatomic's."""
    with open_file(path, label) as stream:
        archive = Archive(stream, label)
        names: Iterable[str] = [name for name in archive.records if _EXTRA in name]
        return {name.partition(_EXTRA)[2]: archive.read(name, limit=_MAX_EXTRA) for name in names}
