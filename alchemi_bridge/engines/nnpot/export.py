"""Write a metatomic model as a file for GROMACS' nnpot module."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from alchemi_bridge import __version__
from alchemi_bridge.engines.nnpot.check import compare
from alchemi_bridge.engines.nnpot.evaluation import Facts
from alchemi_bridge.engines.nnpot.given import PairsModule
from alchemi_bridge.engines.nnpot.reach import MOST_SKIN, SKIN
from alchemi_bridge.engines.nnpot.record import needed_libraries, record
from alchemi_bridge.engines.nnpot.searching import SearchingModule
from alchemi_bridge.errors import (
    ConfigurationError,
    MissingInputError,
    ModelLoadError,
    UnsupportedOutputError,
    first_line,
)
from alchemi_bridge.model import LoadedModel, OutputPlan, Wanted, load_model, plan_outputs
from alchemi_bridge.model.evaluate import requests_for
from alchemi_bridge.model.files import replacing
from alchemi_bridge.neighbors.guard import MIN_DISTANCE_ANGSTROM
from alchemi_bridge.units import conversion_factor

Contract = Literal["2025", "2026"]

#: Inputs of the mdp file, in the order of the arguments. Those of the box come last: they are left
#: out in a run without periodicity.
ATOMS, PAIRS, BOX = (
    ("atom-positions", "atom-numbers"),
    ("atom-pairs", "pair-shifts"),
    ("box", "pbc"),
)
INPUTS: dict[str, tuple[str, ...]] = {
    "2025": (*ATOMS, *BOX),
    "2026": (*ATOMS, *PAIRS, *BOX),
}
MODULES = {"2025": SearchingModule, "2026": PairsModule}

#: GROMACS knows models by this.
SUFFIX = ".pt"


@dataclass(frozen=True)
class Exported:
    """A file for GROMACS.

    Attributes
    ----------
    path
        The file.
    contract
        ``"2025"`` or ``"2026"``.
    inputs
        Values of ``nnpot-model-input1``, 2, ...
    libraries
        Files that GROMACS has to find, in the order of loading.
    extension_libs
        The record that names them.
    cutoff
        Largest cutoff, nm; 0.0 for a model without neighbour lists.
    skin
        Buffer of lists beyond it, nm.
    types
        Atomic numbers that the model knows, sorted.
    torch_version
        Of the torch that the file was written with; GROMACS' libtorch must have the same first two
        numbers.
    checked
        Relative difference from the provider of energy and forces of a small structure; ``None`` if
        the model can not evaluate it.
    """

    path: Path
    contract: Contract
    inputs: tuple[str, ...]
    libraries: tuple[Path, ...]
    extension_libs: str
    cutoff: float
    skin: float
    types: tuple[int, ...]
    torch_version: str
    checked: float | None


def export(
    model: Any,
    out: str | os.PathLike[str],
    *,
    contract: Contract = "2025",
    skin: float = SKIN,
    libraries: Literal["paths", "names"] = "paths",
    variants: Mapping[str, str | None] | None = None,
    non_conservative: bool = False,
    extensions_directory: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
) -> Exported:
    """Write a model for ``nnpot-modelfile``.

    Parameters
    ----------
    model
        Path of a metatomic model, or a model in memory.
    out
        The file to write; its name must end in ``.pt``.
    contract
        ``"2025"``: the file searches pairs by itself, for 2025 and later. ``"2026"``: it takes
        GROMACS' pairs, for 2026 and later.
    skin
        Buffer of the list that the file keeps from step to step, nm, at most
        :data:`~alchemi_bridge.engines.nnpot.reach.MOST_SKIN`. With the pairs of GROMACS
        ``nnpot-pair-cutoff`` has to reach as far.
    libraries
        How libraries are named, see :func:`~alchemi_bridge.engines.nnpot.record.record`.
    variants
        Variants of energy and forces, see :func:`~alchemi_bridge.model.plan_outputs`.
    non_conservative
        Take forces directly from the model.
    extensions_directory, sha256
        Trust policy, see :func:`~alchemi_bridge.model.load_model`.

    Raises
    ------
    ConfigurationError
        An option or a name that can not be.
    UnsupportedOutputError, VariantError
        The model has no energy, or not this variant.
    MissingInputError
        The model wants what GROMACS does not hand over.
    ModelLoadError
        It can not be loaded, or not be compiled.
    EvaluationError
        The file that was written does not give what the provider does.
    """
    target = _target(out, model)
    _check_options(contract, skin)
    loaded = load_model(
        model,
        extensions_directory=None if extensions_directory is None else str(extensions_directory),
        sha256=sha256,
        device="cpu",
    )
    _check_inputs(loaded)
    plan = plan_outputs(
        loaded.capabilities,
        variants=variants,
        non_conservative="forces" if non_conservative else False,
        uncertainty=False,
    )
    if plan.energy is None:
        raise UnsupportedOutputError(
            "energy",
            expected="a model with an energy output",
            got="a model without one",
            fix="see 'alchemi-bridge inspect MODEL' for what it offers",
        )
    files = needed_libraries(loaded)
    names = record(files, libraries)
    module = _script(loaded, plan, contract, skin)
    facts = {
        "alchemi-bridge-version": __version__,
        "contract": contract,
        "model": loaded.metadata.name,
        "model-sha256": loaded.sha256,
        "torch-version": torch.__version__,
    }
    buffer = io.BytesIO()  # not a file: torch ends the process if a disk is full
    with replacing(target) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(
            module,
            buffer,
            _extra_files={"extension_libs": names, "alchemi-bridge": json.dumps(facts)},
        )
        partial.write_bytes(buffer.getvalue())
        checked = compare(partial, contract, loaded, skin, variants, non_conservative)
    return Exported(
        path=target,
        contract=contract,
        inputs=INPUTS[contract],
        libraries=files,
        extension_libs=names,
        cutoff=loaded.cutoff * conversion_factor(loaded.length_unit, "nm"),
        skin=skin,
        types=tuple(sorted(loaded.atomic_types)),
        torch_version=torch.__version__,
        checked=checked,
    )


def _target(out: str | os.PathLike[str], model: Any) -> Path:
    target = Path(out)
    if target.suffix != SUFFIX:
        raise ConfigurationError(
            "name of the file to write",
            expected=f"a name that ends in {SUFFIX}, by which GROMACS knows models",
            got=f"'{target}'",
            fix=f"write to '{target.with_suffix(SUFFIX)}'" if target.name else "name a file",
        )
    if not target.parent.is_dir():
        raise ConfigurationError(
            "file to write",
            expected="an existing folder",
            got=f"'{target.parent}'",
            fix="make it first",
        )
    if target.is_dir():
        raise ConfigurationError(
            "file to write", expected="a file", got=f"the folder '{target}'", fix="add a name to it"
        )
    is_file = isinstance(model, (str, os.PathLike))
    if is_file and target.exists() and Path(model).exists() and target.samefile(model):
        raise ConfigurationError(
            "file to write",
            expected="another file than the model's",
            got=f"'{target}'",
            fix="choose another name",
        )
    return target


def _check_options(contract: str, skin: float) -> None:
    if contract not in INPUTS:
        raise ConfigurationError(
            "contract", expected="'2025' or '2026'", got=repr(contract), fix="choose one of them"
        )
    if not (0.0 <= skin <= MOST_SKIN):
        raise ConfigurationError(
            "skin",
            expected=f"a length in nm, from zero to {MOST_SKIN:g}",
            got=repr(skin),
            fix=f"leave it at {SKIN}",
        )


def _check_inputs(loaded: LoadedModel) -> None:
    if loaded.requested_inputs:
        raise MissingInputError(
            "inputs of the model",
            expected="a model that needs elements, positions, box and neighbours only",
            got=f"one that requests {', '.join(sorted(loaded.requested_inputs))}",
            fix="use another engine: GROMACS does not hand this over to a model",
        )


def _script(
    loaded: LoadedModel, plan: OutputPlan, contract: Contract, skin: float
) -> torch.jit.ScriptModule:
    assert plan.energy is not None
    wanted = Wanted(energy=True, forces=True)
    length_factor = conversion_factor("nm", loaded.length_unit)
    facts = Facts(
        types=sorted(loaded.atomic_types),
        devices=[str(device) for device in loaded.capabilities.supported_devices],
        length_unit=loaded.length_unit,
        cutoff=loaded.cutoff,
        skin=skin * length_factor,
        closest=MIN_DISTANCE_ANGSTROM * conversion_factor("angstrom", loaded.length_unit),
        length_factor=length_factor,
        energy_factor=conversion_factor(loaded.energy_unit, "kJ/mol"),
        requests=requests_for(loaded, plan, wanted),
        energy=plan.energy,
        force=plan.force or "",
        connected=loaded.differentiates_internally,
        dtype=loaded.dtype,
    )
    module = MODULES[contract](loaded.module, facts)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            scripted = torch.jit.script(module.eval())
    except Exception as error:  # the model's own code is compiled, and anything may be raised
        raise ModelLoadError(
            "model",
            expected="one that TorchScript can compile into another module",
            got=first_line(error),
            fix="export it as a metatomic file first, and pass that",
        ) from error
    for parameter in scripted.parameters():
        parameter.requires_grad_(False)
    return scripted
