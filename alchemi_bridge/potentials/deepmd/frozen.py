"""Frozen models of DeePMD-kit (``dp --pt freeze``), loaded without DeePMD-kit.

Such a file is TorchScript: code, like any model file. It passes the checks of
:mod:`alchemi_bridge.model.torchscript` first; what is loaded are the very bytes that were checked.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge.errors import BridgeError, ModelLoadError, last_line
from alchemi_bridge.model.archive import open_file
from alchemi_bridge.model.torchscript import ScriptKind, check_script
from alchemi_bridge.model.trust import normal_hash
from alchemi_bridge.potentials.deepmd.frozen_definition import (
    check_facts,
    check_precisions,
    definition_of,
    kind_of,
)
from alchemi_bridge.potentials.deepmd.rewrite import rewrite

_FREEZE = "freeze the model with DeePMD-kit's PyTorch backend ('dp --pt freeze -o MODEL.pth')"
_MODIFIER = "data_modifier.pth"
_COMPRESSED = ("compress", "tebd_compress", "geo_compress")
_FLOAT64 = 7  # torch's number of the type, as TorchScript keeps it


@dataclass(frozen=True, eq=False)
class FrozenFile:
    """A frozen model in memory.

    Attributes
    ----------
    module
        DeePMD-kit's scripted model, in evaluation mode, on the CPU.
    definition
        Section ``model`` of its training input, defaults filled in.
    kind
        ``"se_e2_a"``, ``"dpa1"`` or ``"dpa3"``.
    type_map
        Names of the types.
    rcut
        Cutoff, Å.
    interaction_range
        How far atoms influence each other's energies, Å.
    sha256
        Hash of the file.
    operators
        DeePMD-kit's C++ operators that were taken out of its code.
    """

    module: torch.jit.RecursiveScriptModule
    definition: dict[str, Any]
    kind: str
    type_map: tuple[str, ...]
    rcut: float
    interaction_range: float
    sha256: str
    operators: tuple[str, ...]


def read_frozen(path: str | Path, *, sha256: str | None = None) -> FrozenFile:
    """Check and load a frozen model.

    Parameters
    ----------
    path
        The file, usually ``*.pth``.
    sha256
        Expected hash of the file.

    Raises
    ------
    ConfigurationError
        ``sha256`` is no hash.
    ModelLoadError
        Missing, damaged or another kind of file; a model of a kind that was not tested, with parts
        that are not supported, or compressed.
    UntrustedModelError
        The file is not the pinned one, or holds what no exported model holds.
    """
    label = f"frozen model '{path}'"
    with open_file(path, label) as stream:
        data = stream.read()
    pin = None if sha256 is None else normal_hash(sha256)
    records = check_script(BytesIO(data), label, _KIND, pin=pin)
    if records.extra.get(_MODIFIER):
        raise _unsupported(
            label,
            "a model without a data modifier",
            "one whose energies a second model changes (model.modifier)",
            "use a model that was trained without 'modifier'",
        )
    data, operators = rewrite(data, records.code, label)
    module = _load(data, label)
    definition = definition_of(module, label)
    kind = kind_of(definition, label)
    check_precisions(kind, definition, label)
    try:
        _check_inputs(module, label)
        _check_compression(module, label)
        type_map = tuple(str(name) for name in module.get_type_map())
        rcut = float(module.get_rcut())
        n_layers = 1
        if module.has_message_passing():
            n_layers = int(module.atomic_model.descriptor.repflows.nlayers)
    except BridgeError:
        raise
    except Exception as error:  # the file's own code answers, and may raise anything
        raise _unsupported(
            label,
            "a model that answers as those of DeePMD-kit 3 do (types, cutoff, layers)",
            last_line(error),
            "freeze it again with DeePMD-kit 3.2",
        ) from error
    check_facts(kind, definition, label, type_map=type_map, rcut=rcut, n_layers=n_layers)
    return FrozenFile(
        module=module,
        definition=definition,
        kind=kind,
        type_map=type_map,
        rcut=rcut,
        interaction_range=n_layers * rcut,
        sha256=records.sha256,
        operators=operators,
    )


def _something_else(inside: Collection[str]) -> tuple[str, str] | None:
    if any(name.startswith("code/__torch__/deepmd/") for name in inside):
        return None
    if "extra/metatomic-version" in inside:
        return "a metatomic model already", "use it as it is"
    if "constants.pkl" in inside:
        return "a TorchScript file of something else", _FREEZE
    if any(name.endswith("data.pkl") for name in inside):
        return "a checkpoint (a file of torch.save)", _FREEZE
    if any(name.endswith((".so", ".wrapper.cpp", "archive_format")) for name in inside):
        return "a compiled package of torch.export (.pt2)", _FREEZE
    return "some other zip archive", _FREEZE


_KIND = ScriptKind(
    expected="a frozen model of DeePMD-kit's PyTorch backend",
    export=_FREEZE,
    extra=re.compile(r"data_modifier\.pth"),
    something_else=_something_else,
)


def _unsupported(what: str, expected: str, got: str, fix: str) -> ModelLoadError:
    return ModelLoadError(what, expected=expected, got=got, fix=fix)


def _load(data: bytes, label: str) -> torch.jit.RecursiveScriptModule:
    try:
        return torch.jit.load(BytesIO(data), map_location="cpu").eval()
    except Exception as error:  # the file's own code runs, and may raise anything
        raise ModelLoadError(
            label,
            expected="a frozen model that this version of torch can load",
            got=last_line(error),
            fix="freeze it again with a version of DeePMD-kit that uses a torch of about this age",
        ) from error


def _check_inputs(module: torch.jit.RecursiveScriptModule, label: str) -> None:
    for got, needed in (
        ("frame parameters (numb_fparam)", module.get_dim_fparam() > 0),
        ("atomic parameters (numb_aparam)", module.get_dim_aparam() > 0),
        ("charge and spin (add_chg_spin_ebd)", _says(module, "has_chg_spin_ebd")),
    ):
        if needed:
            raise _unsupported(
                label,
                "a model of positions, types and cell",
                f"one that also takes {got}",
                "use a model without this input",
            )
    if module.global_pt_float_precision != _FLOAT64:
        raise _unsupported(
            label,
            "a model that takes and gives float64",
            "one of a DeePMD-kit with DP_INTERFACE_PREC=low",
            "freeze it again with DP_INTERFACE_PREC=high",
        )


def _says(module: torch.jit.RecursiveScriptModule, question: str) -> bool:
    # older files do not know all questions
    return bool(getattr(module, question)()) if hasattr(module, question) else False


def _check_compression(module: torch.jit.RecursiveScriptModule, label: str) -> None:
    flags = any(
        getattr(part, name, False) is True for part in module.modules() for name in _COMPRESSED
    )
    tables = any(
        ".compress_data" in f".{name}" and tensor.numel() > 0
        for name, tensor in module.state_dict().items()
    )
    if flags or tables:
        raise _unsupported(
            label,
            "a model that is not compressed",
            "a compressed one: its tables need the C++ operators of DeePMD-kit's library, which "
            "are not part of the file",
            "convert the model that was given to 'dp --pt compress'",
        )
