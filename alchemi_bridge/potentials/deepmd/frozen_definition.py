"""What a frozen model says of itself: its definition, and whether its code agrees with that."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from alchemi_bridge.errors import BridgeError, ModelLoadError, last_line
from alchemi_bridge.potentials.deepmd.definition import PRECISIONS, check_model_keys

#: DeePMD's names of the descriptors that were compared with DeePMD-kit, and ours.
TESTED = {
    "se_e2_a": "se_e2_a",
    "se_a": "se_e2_a",
    "dpa1": "dpa1",
    "se_atten": "dpa1",
    "dpa3": "dpa3",
}
_RCUT, _NLAYERS = 6.0, 6  # DeePMD-kit's defaults; files of its training have them filled in
_AGAIN = "freeze it again from its checkpoint"


def definition_of(module: torch.jit.RecursiveScriptModule, label: str) -> dict[str, Any]:
    """Section ``model`` of the training input, as the file holds it.

    Raises
    ------
    ModelLoadError
        If there is none.
    """
    try:
        definition = json.loads(module.get_model_def_script())
    except Exception as error:  # older files have none, or their own code fails
        raise ModelLoadError(
            label,
            expected="a file that says what is in it (get_model_def_script)",
            got=last_line(error),
            fix="freeze it again with DeePMD-kit 3",
        ) from error
    if not isinstance(definition, dict) or not definition:
        raise ModelLoadError(
            f"{label}, definition of the model",
            expected="the section 'model' of a training input",
            got=str(definition)[:40],
            fix="freeze it again with DeePMD-kit 3",
        )
    return definition


def kind_of(definition: Mapping[str, Any], label: str) -> str:
    """``"se_e2_a"``, ``"dpa1"`` or ``"dpa3"``.

    Raises
    ------
    ModelLoadError
        If it is another kind, or has parts that were not tested; the message names them.
    """
    known = ", ".join(sorted(set(TESTED.values())))
    model, descriptor = str(definition.get("type", "standard")), _type(definition, "descriptor")
    fitting = _type(definition, "fitting_net", "ener")
    for got, good in (
        (f"a model of type '{model}'", model == "standard"),
        (f"descriptor '{descriptor}'", descriptor in TESTED),
        (f"fitting net '{fitting}'", fitting == "ener"),
    ):
        if not good:
            raise ModelLoadError(
                label,
                expected=f"a standard model of {known} with an energy fitting net",
                got=got,
                fix="other kinds have not been compared with DeePMD-kit; convert one of these",
            )
    try:
        check_model_keys(definition, trained=True)
    except BridgeError as error:
        raise ModelLoadError(
            f"{label}, {error.what}", expected=error.expected, got=error.got, fix=error.fix
        ) from error
    return TESTED[descriptor]


def check_precisions(kind: str, definition: Mapping[str, Any], label: str) -> None:
    """Check the precisions inside the model.

    Raises
    ------
    ModelLoadError
        If one was not tested, or is known to give no forces.
    """
    names = {}
    for part in ("descriptor", "fitting_net"):
        name = str(definition[part].get("precision", "default")).lower()
        if name not in PRECISIONS:
            raise ModelLoadError(
                f"{label}, model.{part}.precision",
                expected=f"one of {', '.join(PRECISIONS)}",
                got=repr(name),
                fix="others have not been compared with DeePMD-kit; train with one of these",
            )
        names[part] = PRECISIONS[name]
    if names["descriptor"] == "float32" and jumps_at_cutoff(kind, definition):
        raise ModelLoadError(
            label,
            expected="a DPA1 model in float32 without attention, or with smooth_type_embedding",
            got=f"{definition['descriptor'].get('attn_layer', 2)} attention layers and "
            "smooth_type_embedding false",
            fix="its forces are rounding errors, in DeePMD-kit as well; train with "
            "smooth_type_embedding, or in float64",
        )


def jumps_at_cutoff(kind: str, definition: Mapping[str, Any]) -> bool:
    """Whether its energy is known to jump when an atom passes the cutoff.

    Attention weights of DPA1 are normalised over the neighbours; without the switching function in
    them a neighbour takes a part of the weight as soon as it is in the list.
    """
    descriptor = definition["descriptor"]
    if kind != "dpa1" or descriptor.get("attn_layer", 2) == 0:
        return False
    # the second name is an alias in DeePMD-kit
    smooth = descriptor.get("smooth_type_embedding", descriptor.get("smooth_type_embdding", False))
    return not smooth


def check_facts(
    kind: str,
    definition: Mapping[str, Any],
    label: str,
    *,
    type_map: tuple[str, ...],
    rcut: float,
    n_layers: int,
) -> None:
    """Compare what the code answers with the definition.

    Parameters
    ----------
    type_map, rcut, n_layers
        Of the code: names of the types, cutoff in Å, and layers that pass messages.

    Raises
    ------
    ModelLoadError
        If they differ, or the cutoff is no length.
    """
    descriptor = definition["descriptor"]
    said: dict[str, tuple[Any, Any]] = {"type_map": (list(type_map), definition.get("type_map"))}
    if kind == "dpa3":
        repflow = descriptor.get("repflow")
        repflow = repflow if isinstance(repflow, Mapping) else {}
        said["descriptor.repflow.e_rcut"] = rcut, repflow.get("e_rcut", _RCUT)
        said["descriptor.repflow.nlayers"] = n_layers, repflow.get("nlayers", _NLAYERS)
    else:
        said["descriptor.rcut"] = rcut, descriptor.get("rcut", _RCUT)
    if not (math.isfinite(rcut) and rcut > 0.0):
        raise ModelLoadError(
            f"{label}, cutoff", expected="a length above zero, in Å", got=f"{rcut:g}", fix=_AGAIN
        )
    for key, (code, written) in said.items():
        if code != written:
            raise ModelLoadError(
                f"{label}, model.{key}",
                expected=f"what the model's own code says, {code}",
                got=str(written)[:80],
                fix=_AGAIN,
            )


def _type(definition: Mapping[str, Any], key: str, default: str = "none") -> str:
    section = definition.get(key)
    return str(section.get("type", default) if isinstance(section, Mapping) else None)
