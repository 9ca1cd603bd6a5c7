"""Model files in the workers: loaded once per process, with the parameters of each task.

A loaded model can not be pickled. What travels is a :class:`ModelFile` and ``{name: tensor}``;
the worker loads the file once, keeps it, and writes the values of the task into it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from alchemi_bridge.ensembles.work import Parameters
from alchemi_bridge.errors import ConfigurationError, UntrustedModelError
from alchemi_bridge.model import LoadedModel, load_model
from alchemi_bridge.model.trust import check_trust, normal_hash
from alchemi_bridge.model.values import (
    ModelTensor,
    assign,
    check_names,
    check_values,
    choose,
    tensors_of,
    write_model,
)

__all__ = ["ModelFile", "ModelTensor", "WorkerModel", "forget", "write_model"]

#: Loaded models that a worker keeps; the one that was used longest ago goes first.
MAX_KEPT = 4


@dataclass(frozen=True)
class ModelFile:
    """A model that workers load: what travels in its place.

    Attributes
    ----------
    path
        The file. It is made absolute, because workers may have another folder; they must see the
        same files.
    sha256
        Expected hash of the file.
    extensions_directory
        The only folder from which compiled extensions are loaded.
    device
        Where it runs; by default the model's first choice among what is there.
    """

    path: Path
    sha256: str | None = None
    extensions_directory: Path | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).absolute())
        if self.extensions_directory is not None:
            directory = Path(self.extensions_directory).absolute()
            object.__setattr__(self, "extensions_directory", directory)
        if self.sha256 is not None:
            object.__setattr__(self, "sha256", normal_hash(self.sha256))

    @classmethod
    def of(cls, model: str | os.PathLike[str] | ModelFile) -> ModelFile:
        """A path as a model file; one that is one already stays what it is."""
        return model if isinstance(model, ModelFile) else cls(Path(model))

    def check(self) -> ModelFile:
        """Apply the trust policy, without loading; the same file with its hash.

        Raises
        ------
        BridgeError
            See :func:`alchemi_bridge.model.trust.check_trust`.
        """
        records = check_trust(
            self.path, extensions_directory=self.extensions_directory, sha256=self.sha256
        )
        return replace(self, sha256=records.sha256)

    def load(self, parameters: Parameters | None = None, *, use: str = "") -> WorkerModel:
        """The model of this process, with these values.

        Parameters
        ----------
        parameters
            Values that replace those of the file; all other tensors have those of the file,
            whatever was there before. Empty or ``None``: the file as it is.
        use
            Users that must not share one loaded model name themselves.

        Raises
        ------
        BridgeError
            What :func:`alchemi_bridge.model.load_model` and
            :func:`alchemi_bridge.model.values.check_values` raise.
        """
        model = _kept(self, use)
        model.set(parameters or {})
        return model

    def facts(self) -> LoadedModel:
        """The model for what it says of itself, on whatever device this process has.

        Workers may have the device that is named, and this process none of the kind.
        """
        return replace(self, device=None).load().loaded

    def write(self, parameters: Parameters, output: str | os.PathLike[str]) -> Path:
        """Write a file with these values; see :func:`alchemi_bridge.model.values.write_model`."""
        return write_model(
            self.path,
            parameters,
            output,
            extensions_directory=self.extensions_directory,
            sha256=self.sha256,
        )


class WorkerModel:
    """A loaded model whose values can be exchanged.

    Tasks of one process share it, one after the other; each begins with :meth:`ModelFile.load`.

    Attributes
    ----------
    loaded
        The model, for the provider and the calculators.
    tensors
        What can be exchanged, by name: parameters, then buffers.
    allowed
        Names and hashes under which the trust policy has let it in.
    """

    def __init__(self, file: ModelFile) -> None:
        self.loaded: LoadedModel = load_model(
            file.path,
            extensions_directory=file.extensions_directory,
            sha256=file.sha256,
            device=file.device,
        )
        # what the file says of gradients would keep graphs that nobody asked for
        for values in self.loaded.module.parameters():
            values.requires_grad_(False)
        self.tensors: dict[str, ModelTensor] = tensors_of(self.loaded.module)
        self.allowed = {file}
        self._label = f"model '{file.path}'"
        self._original: dict[str, torch.Tensor] = {}  # of the file, for what was ever exchanged

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        assert self.loaded.sha256 is not None  # it came from a file
        return self.loaded.sha256

    def names(self, patterns: Sequence[str]) -> list[str]:
        """Names of tensors, in the model's order; see :func:`alchemi_bridge.model.values.choose`.

        Patterns of the shell stand for parameters only, buffers have to be named in full.

        Raises
        ------
        ConfigurationError
            If one of them matches nothing; the error lists what there is.
        """
        return choose(self.tensors, patterns, self._label)

    def values(self, names: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Copies of the present values on the host, of all parameters by default.

        Buffers are among them only if they are named.
        """
        parameters = [name for name, tensor in self.tensors.items() if tensor.is_parameter]
        chosen = parameters if names is None else names
        return {name: self.tensors[name].values.detach().cpu().clone() for name in chosen}

    def set(self, parameters: Parameters) -> None:
        """Take these values, and those of the file for everything else.

        Raises
        ------
        ConfigurationError, ShapeError, DtypeError, NonFiniteError
            If they do not fit; then nothing was changed.
        """
        check_values(self.tensors, parameters, self._label)
        for name in parameters:
            if name not in self._original:
                self._original[name] = self.tensors[name].values.detach().clone()
        assign(self.tensors, {**self._original, **parameters})

    @contextmanager
    def differentiable(self, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
        """The tensors of these names, which need a gradient within the block, in the model itself.

        Yields
        ------
        dict
            By name, on the model's device. They must not be changed within the block.

        Raises
        ------
        ConfigurationError
            If there is no tensor of a name.
        """
        check_names(self.tensors, names, self._label)
        leaves = {name: self.tensors[name].values for name in names}
        try:
            for leaf in leaves.values():
                leaf.requires_grad_(True)
            yield leaves
        finally:
            for leaf in leaves.values():
                leaf.requires_grad_(False)


def require_same_file(model: WorkerModel, sha256: str, what: str) -> None:
    """Raise :class:`UntrustedModelError` unless ``what`` was made with this model file."""
    if model.sha256 != sha256:
        raise UntrustedModelError(
            what,
            expected=f"one that was made with the same model file, SHA-256 {model.sha256}",
            got=f"one that was made with SHA-256 {sha256}",
            fix="simulate with the file that is fitted",
        )


def require_no_inputs(file: ModelFile, what: str) -> None:
    """Raise :class:`ConfigurationError` if a model reads more than positions and elements.

    A trajectory has nothing else for each frame: no charges, no spins.
    """
    requested = sorted(file.facts().requested_inputs)
    if requested:
        raise ConfigurationError(
            f"model '{file.path}' of {what}",
            expected="one that reads positions, elements and cells only, as trajectories have them",
            got=f"one that reads {', '.join(requested)}",
            fix="fit it to energies and forces of frames, or choose another model",
        )


_models: OrderedDict[tuple, WorkerModel] = OrderedDict()
_listeners: list[Callable[[LoadedModel], None]] = []


def _kept(file: ModelFile, use: str) -> WorkerModel:
    try:
        found = os.stat(file.path)
        state: tuple = (found.st_ino, found.st_size, found.st_mtime_ns)
    except OSError:
        state = ()  # loading says what is wrong
    # a hash that is expected makes no other model of a file: it is checked below
    same = (os.path.realpath(file.path), file.extensions_directory, file.device, use)
    key = (same, state)
    if key not in _models:
        # an older state of the same file is of no use to anybody
        for other in [k for k in _models if k[0] == same]:
            _drop(other)
        made = WorkerModel(file)
        while len(_models) >= MAX_KEPT:
            _drop(next(iter(_models)))
        _models[key] = made
    elif file not in _models[key].allowed:
        file.check()  # what may be loaded under one name or hash need not be under another
        _models[key].allowed.add(file)
    _models.move_to_end(key)
    return _models[key]


def _drop(key: tuple) -> None:
    leaving = _models.pop(key)
    for tell in _listeners:
        tell(leaving.loaded)


def when_dropped(tell: Callable[[LoadedModel], None]) -> None:
    """Let somebody know of each model that this process no longer keeps."""
    _listeners.append(tell)


def forget() -> None:
    """Let go of all models that this process keeps."""
    for key in list(_models):
        _drop(key)
