"""Which of a model's outputs to ask for: variants, direct forces, uncertainty, extra outputs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Literal

import torch
from metatomic.torch import ModelCapabilities, ModelOutput, pick_output

from alchemi_bridge.errors import (
    ConfigurationError,
    UnsupportedOutputError,
    VariantError,
)

LOGGER = logging.getLogger(__name__)

NonConservative = bool | Literal["forces", "stress"]

#: Spellings of metatomic before its quantities became singular, and ASE-like ones.
ALIASES = {
    "non_conservative_forces": "non_conservative_force",
    "features": "feature",
    "positions": "position",
    "momenta": "momentum",
    "masses": "mass",
    "velocities": "velocity",
    "charges": "charge",
}

#: Quantities whose variant follows that of the energy unless it is named.
FOLLOW_ENERGY = ("energy_uncertainty", "non_conservative_force", "non_conservative_stress")


@dataclass(frozen=True, eq=False)
class OutputPlan:
    """Names of the outputs that play each part; ``None`` for a part that nobody plays.

    Attributes
    ----------
    energy, uncertainty, force, stress
        Keys of the model's outputs. ``force`` and ``stress`` are the non-conservative ones.
    energy_per_atom
        Whether the model gives the energy of each atom.
    extra
        Further outputs to evaluate each time, with what to request of each.
    """

    energy: str | None
    energy_per_atom: bool
    uncertainty: str | None = None
    force: str | None = None
    stress: str | None = None
    extra: Mapping[str, ModelOutput] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What to compute; ``virials`` are those of each atom."""

    energy: bool = True
    forces: bool = True
    virial: bool = False
    energies: bool = False
    virials: bool = False

    def by_gradient(self, plan: OutputPlan) -> bool:
        """Whether something has to be taken from the gradient of the energy."""
        by_force, by_virial = self.forces and plan.force is None, self.virial and not plan.stress
        return by_force or by_virial or self.virials

    def needs_energy(self, plan: OutputPlan) -> bool:
        """Whether the energy output has to be evaluated, for itself or for its gradient."""
        return self.energy or self.energies or self.by_gradient(plan)


def plan_outputs(
    capabilities: ModelCapabilities,
    *,
    variants: Mapping[str, str | None] | None = None,
    non_conservative: NonConservative = False,
    uncertainty: bool = True,
    extra: Iterable[str] | Mapping[str, ModelOutput] = (),
) -> OutputPlan:
    """Choose outputs, or say why one can not be had.

    Parameters
    ----------
    capabilities
        Of the loaded model.
    variants
        Variant by quantity, e.g. ``{"energy": "pbe"}``. Uncertainty and non-conservative outputs
        follow the energy unless they are named, too (``None`` names the plain one).
    non_conservative
        ``True``, ``"forces"`` or ``"stress"``: take forces and/or stress directly from the model.
    uncertainty
        Also evaluate the uncertainty of each atom's energy, if the model has it.
    extra
        Names of further outputs, or names with the metatomic ``ModelOutput`` to request.

    Raises
    ------
    VariantError
        A variant that the model lacks, or no default among several variants.
    UnsupportedOutputError
        An output that the model lacks.
    ConfigurationError
        An option outside its range.
    """
    if not isinstance(non_conservative, (bool, str)) or non_conservative not in (
        *(True, False, "forces", "stress"),
    ):
        raise ConfigurationError(
            "non_conservative",
            expected="True, False, 'forces' or 'stress'",
            got=repr(non_conservative),
            fix="choose one of these",
        )
    if not isinstance(variants, (Mapping, NoneType)):
        raise ConfigurationError(
            "variants",
            expected="variants by quantity, such as {'energy': 'pbe'}",
            got=repr(variants),
            fix="pass a dictionary",
        )
    outputs = capabilities.outputs
    chosen = _resolve_variants(variants or {})
    energy = None
    if _offers(outputs, "energy"):
        energy = _pick("energy", outputs, chosen["energy"])
    elif (variants or {}).get("energy") is not None:
        raise _unsupported("energy", outputs)
    force = stress = None
    if non_conservative in (True, "forces"):
        force = _pick("non_conservative_force", outputs, chosen["non_conservative_force"])
    if non_conservative in (True, "stress"):
        stress = _pick("non_conservative_stress", outputs, chosen["non_conservative_stress"])
    return OutputPlan(
        energy=energy,
        energy_per_atom=energy is not None and outputs[energy].sample_kind == "atom",
        uncertainty=_pick_uncertainty(outputs, variants or {}, chosen) if uncertainty else None,
        force=force,
        stress=stress,
        extra=plan_extra(capabilities, extra),
    )


def _resolve_variants(variants: Mapping[str, str | None]) -> dict[str, str | None]:
    known = ("energy", *FOLLOW_ENERGY)
    named: dict[str, str | None] = {}
    for key, value in variants.items():
        name = ALIASES.get(key, key)
        if not isinstance(value, (str, NoneType)):
            raise VariantError(
                f"variant of '{key}'",
                expected="the name of a variant, or None for the default",
                got=repr(value),
                fix="see 'alchemi-bridge inspect MODEL' for what the model offers",
            )
        if name not in known:
            raise VariantError(
                "variants",
                expected=f"variants of {', '.join(known)}",
                got=f"a variant of '{key}'",
                fix=f"ask for the extra output '{key}/{value}' by its name",
            )
        if name in named and named[name] != value:
            raise ConfigurationError(
                "variants",
                expected="one variant for each quantity",
                got=f"'{name}' under its old and its new name, with different values",
                fix=f"use only '{name}'",
            )
        named[name] = value
    default = named.get("energy")
    return {name: named.get(name, default) for name in known}


def _offers(outputs: Mapping[str, ModelOutput], quantity: str) -> bool:
    return any(key.split("/")[0] == quantity for key in outputs)


def _pick(quantity: str, outputs: Mapping[str, ModelOutput], variant: str | None) -> str:
    if not _offers(outputs, quantity):
        raise _unsupported(quantity, outputs)
    try:
        return str(pick_output(quantity, outputs, variant))
    except (ValueError, RuntimeError) as error:
        offered = sorted(
            key.partition("/")[2] or "(default)" for key in outputs if key.split("/")[0] == quantity
        )
        raise VariantError(
            f"variant of '{quantity}'",
            expected=f"one of {', '.join(offered)}",
            got="no variant, but the model has several" if variant is None else repr(variant),
            fix=f"pass variants={{'{quantity}': ...}} with one of these",
        ) from error


def _pick_uncertainty(
    outputs: Mapping[str, ModelOutput],
    variants: Mapping[str, str | None],
    chosen: Mapping[str, str | None],
) -> str | None:
    """Uncertainty per atom, if the model has it for this variant; it is an offer, not a demand."""
    quantity = "energy_uncertainty"
    if not _offers(outputs, quantity):
        if variants.get(quantity) is not None:
            raise _unsupported(quantity, outputs)
        return None
    try:
        key = _pick(quantity, outputs, chosen[quantity])
    except VariantError as error:
        if quantity in variants:
            raise
        LOGGER.warning("no uncertainty for this variant of the energy: %s", error)
        return None
    # a number for the whole system says nothing about atoms in an unknown environment
    return key if outputs[key].sample_kind == "atom" else None


def plan_extra(
    capabilities: ModelCapabilities, extra: Iterable[str] | Mapping[str, ModelOutput]
) -> dict[str, ModelOutput]:
    """Extra outputs with what to request of each; parameters and errors as above."""
    outputs = capabilities.outputs
    requests: dict[str, ModelOutput] = {}
    for name in (extra := _checked_extra(extra)):
        key = name if name in outputs else current_name(name)
        if key not in outputs:
            raise _unsupported(name, outputs)
        if current_name(name) in map(current_name, requests):
            raise ConfigurationError(
                "extra outputs",
                expected="each output once",
                got=f"'{current_name(name)}' under its old and its new name",
                fix=f"use only '{current_name(name)}'",
            )
        if isinstance(extra, Mapping):
            requests[name] = extra[name]
        else:
            declared = outputs[key]
            requests[name] = ModelOutput(unit=declared.unit, sample_kind=declared.sample_kind)
    return requests


def current_name(name: str) -> str:
    """An output's name of today; metatomic takes older ones, too, but warns about them."""
    base, slash, variant = name.partition("/")
    return ALIASES.get(base, base) + slash + variant


def _checked_extra(
    extra: Iterable[str] | Mapping[str, ModelOutput],
) -> tuple[str, ...] | Mapping[str, ModelOutput]:
    if isinstance(extra, Mapping):
        names, values_fit = tuple(extra), all(map(_is_model_output, extra.values()))
    else:
        several = isinstance(extra, Iterable) and not isinstance(extra, (str, bytes))
        names, values_fit = tuple(extra) if several else (None,), True
    if values_fit and all(isinstance(name, str) for name in names):
        return extra if isinstance(extra, Mapping) else names
    raise ConfigurationError(
        "extra outputs",
        expected="names of outputs, or {name: metatomic.torch.ModelOutput}",
        got=repr(extra),
        fix="pass for example ['feature']",
    )


def _is_model_output(value: object) -> bool:
    # ModelOutput is a TorchScript class: its objects share one Python type with all others
    return isinstance(value, torch.ScriptObject) and hasattr(value, "sample_kind")


def _unsupported(name: str, outputs: Mapping[str, ModelOutput]) -> UnsupportedOutputError:
    return UnsupportedOutputError(
        f"output '{name}'",
        expected=f"one of the model's outputs ({', '.join(sorted(outputs))})",
        got="an output that the model lacks",
        fix="see 'alchemi-bridge inspect MODEL' for what it offers",
    )
