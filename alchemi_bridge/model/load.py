"""Load a metatomic model: trust policy first, then the file, then what it says of itself."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    check_atomistic_model,
    is_atomistic_model,
)

from alchemi_bridge.device import select_device
from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    DeviceMismatchError,
    ModelLoadError,
    UnitError,
    UntrustedModelError,
    first_line,
)
from alchemi_bridge.model.execution import Execution
from alchemi_bridge.model.trust import (
    ModelRecords,
    check_trust,
    find_libraries,
    load_libraries,
    verify_unchanged,
)
from alchemi_bridge.units import conversion_factor

LOGGER = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model on its device, with the facts that the other stages need.

    Attributes
    ----------
    module
        The metatomic model, moved to ``device``. It can not be pickled; pass paths between
        processes.
    path
        File that it came from, ``None`` for a model handed over in memory.
    records
        What the file's records say, ``None`` for a model handed over in memory.
    device, dtype
        Where it runs, and the float type of its inputs and outputs.
    length_unit, energy_unit
        Units that the model itself uses.
    requests
        Neighbour lists that it requests; cutoffs in ``length_unit``.
    requested_inputs
        Extra data that it requests, by current (singular) name.
    """

    module: AtomisticModel
    path: Path | None
    records: ModelRecords | None
    device: torch.device
    dtype: torch.dtype
    length_unit: str
    energy_unit: str
    requests: tuple[NeighborListOptions, ...]
    requested_inputs: dict[str, ModelOutput]

    @cached_property
    def execution(self) -> Execution:
        """How the model is called."""
        # what a model wants besides the systems may have to be converted by metatomic
        return Execution(
            self.module, self.length_unit, self.dtype, converts=bool(self.requested_inputs)
        )

    @property
    def capabilities(self) -> ModelCapabilities:
        """What the model can compute, for which atoms, in which units."""
        return self.module.capabilities()

    @property
    def metadata(self) -> ModelMetadata:
        """Name, authors, description and references."""
        return self.module.metadata()

    @property
    def sha256(self) -> str | None:
        """Hash of the file, ``None`` for a model handed over in memory."""
        return None if self.records is None else self.records.sha256

    @property
    def cutoff(self) -> float:
        """Largest cutoff that the model requests, in ``length_unit``; 0.0 without requests."""
        return max((float(r.cutoff) for r in self.requests), default=0.0)

    @property
    def interaction_range(self) -> float:
        """Distance beyond which atoms do not influence each other, in ``length_unit``."""
        return float(self.capabilities.interaction_range)

    @property
    def atomic_types(self) -> frozenset[int]:
        """Types (atomic numbers) that the model knows."""
        return frozenset(int(t) for t in self.capabilities.atomic_types)

    @property
    def differentiates_internally(self) -> bool:
        """Whether the model may take derivatives with respect to positions by itself.

        Such a model needs pair vectors that are connected to the positions. For a model in memory
        this can not be read off the source, so the safe answer is given.
        """
        return self.records is None or self.records.differentiates_internally


def load_model(
    model: str | os.PathLike[str] | AtomisticModel | torch.jit.RecursiveScriptModule | LoadedModel,
    *,
    extensions_directory: str | Path | None = None,
    sha256: str | None = None,
    device: str | torch.device | None = None,
) -> LoadedModel:
    """Load a model file, or take a model that is in memory.

    A model file is code. Its zip records are read before anything of it is executed; see
    :func:`alchemi_bridge.model.trust.check_trust`.

    Parameters
    ----------
    model
        Path of a metatomic model, or a model in memory. A model in memory is moved to ``device``;
        a :class:`LoadedModel` is taken as it is.
    extensions_directory
        The only folder from which compiled extensions are loaded. Without it a model that needs
        extensions is refused.
    sha256
        Expected hash of the file.
    device
        Device to run on; by default the model's first choice among those that are there.

    Raises
    ------
    ModelLoadError
        Missing, corrupt or foreign file.
    UntrustedModelError
        The file asks for libraries that were not allowed, or is not the pinned one.
    DeviceMismatchError
        The device is not there, or not supported by the model.
    """
    records: ModelRecords | None
    if isinstance(model, LoadedModel):
        _require_same(model, sha256, device)
        return model
    if isinstance(model, (str, os.PathLike)):
        records = check_trust(Path(model), extensions_directory=extensions_directory, sha256=sha256)
        module = _load_file(records, extensions_directory)
    else:
        if sha256 is not None:
            raise ConfigurationError(
                "sha256",
                expected="a model file to compare it with",
                got="a model in memory",
                fix="pass the path of the file",
            )
        records = None
        module = _take(model)
    try:
        return _describe(module, records, device)
    except BridgeError:
        raise
    except Exception as error:  # the model's own code answers, and may raise anything
        raise _bad_description(error) from error


def _load_file(records: ModelRecords, extensions_directory: str | Path | None) -> AtomisticModel:
    return _take(load_script(records, extensions_directory))


def load_script(
    records: ModelRecords, extensions_directory: str | Path | None
) -> torch.jit.RecursiveScriptModule:
    """Load the file that was checked, and libraries only from the files that were checked.

    metatomic's own loader is not asked: it would look for libraries by itself.

    Returns
    -------
    torch.jit.RecursiveScriptModule
        The scripted model as it stands in the file, on the CPU.

    Raises
    ------
    ModelLoadError, UntrustedModelError
        As of :func:`load_model`.
    """
    path = records.path
    load_libraries(find_libraries(records, extensions_directory))
    try:
        check_atomistic_model(str(path))  # warns about versions that do not fit
        script: torch.jit.RecursiveScriptModule = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # the file's own code runs, and may raise anything
        raise ModelLoadError(
            f"model file '{path}'",
            expected="a metatomic model that this version of torch and metatomic can load",
            got=first_line(error),
            fix="export the model again, or install the versions it was exported with "
            "(alchemi-bridge inspect --records-only shows them)",
        ) from error
    verify_unchanged(records)
    return script


def _require_same(
    loaded: LoadedModel, sha256: str | None, device: str | torch.device | None
) -> None:
    """What is asked of a model that is loaded already must be what it is."""
    if sha256 is not None and str(sha256).strip().lower() != loaded.sha256:
        raise UntrustedModelError(
            "loaded model",
            expected=f"the pinned file, SHA-256 {sha256}",
            got="a model in memory" if loaded.sha256 is None else f"SHA-256 {loaded.sha256}",
            fix="pass the path of the file",
        )
    if device is not None:
        wanted = select_device(list(loaded.capabilities.supported_devices), device)
        if wanted != loaded.device:
            raise DeviceMismatchError(
                "loaded model",
                expected=f"a model on {wanted}",
                got=f"a model on {loaded.device}",
                fix="load it again with this device",
            )


def _take(model: Any) -> AtomisticModel:
    if isinstance(model, AtomisticModel):
        return model
    if isinstance(model, torch.jit.RecursiveScriptModule) and is_atomistic_model(model):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*name is deprecated.*")
                return AtomisticModel(model, model.metadata(), model.capabilities())
        except Exception as error:  # its own code says what it is, and may raise anything
            raise _bad_description(error) from error
    raise ModelLoadError(
        "model",
        expected="a path, an AtomisticModel or a scripted AtomisticModel",
        got=type(model).__name__,
        fix="wrap the module in metatomic.torch.AtomisticModel",
    )


def _describe(
    module: AtomisticModel,
    records: ModelRecords | None,
    wanted_device: str | torch.device | None,
) -> LoadedModel:
    capabilities = module.capabilities()
    device = select_device(list(capabilities.supported_devices), wanted_device)
    if capabilities.dtype not in DTYPES:
        raise ModelLoadError(
            "dtype of the model",
            expected=" or ".join(DTYPES),
            got=repr(capabilities.dtype),
            fix="export the model with one of these",
        )
    dtype = DTYPES[capabilities.dtype]
    energies = [o for n, o in capabilities.outputs.items() if n.split("/")[0] == "energy"]
    return LoadedModel(
        module=_move(module, device),
        path=None if records is None else records.path,
        records=records,
        device=device,
        dtype=dtype,
        length_unit=_own_unit(capabilities.length_unit, "angstrom", "length"),
        energy_unit=_own_unit(energies[0].unit if energies else "eV", "eV", "energy"),
        requests=tuple(module.requested_neighbor_lists()),
        requested_inputs=dict(module.requested_inputs(use_new_names=True)),
    )


def _move(module: AtomisticModel, device: torch.device) -> AtomisticModel:
    try:
        # without dtype=: an integer buffer keeps its type, and so does a model's float type
        return module.to(device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceMismatchError(
            "device",
            expected=f"room for the model on '{device}'",
            got=first_line(error),
            fix="choose another device, or check it with 'alchemi-bridge doctor'",
        ) from error


def _bad_description(error: BaseException) -> ModelLoadError:
    return ModelLoadError(
        "description of the model",
        expected="capabilities and requests as metatomic defines them",
        got=first_line(error),
        fix="export the model again",
    )


def _own_unit(unit: str, default: str, what: str) -> str:
    """The model's unit, or the default where the model does not say."""
    if unit == "":
        LOGGER.warning("the model does not name its %s unit; taking it to be %s", what, default)
        return default
    try:
        conversion_factor(unit, default)
    except UnitError as error:
        raise ModelLoadError(
            f"{what} unit of the model",
            expected=f"a unit of {what}",
            got=repr(unit),
            fix="export the model again with a unit that metatomic knows",
        ) from error
    return unit
