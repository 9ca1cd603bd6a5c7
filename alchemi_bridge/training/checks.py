"""Do input, data and model of a training fit each other: what no single one of them shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.potentials.deepmd import Definition
from alchemi_bridge.training.input import TrainingInput
from alchemi_bridge.training.preparation import most_neighbours
from alchemi_bridge.training.systems import TrainingSystem

#: What a seed must be below, of torch's generators.
SEED_LIMIT = 2**63


def check_settings(settings: TrainingInput) -> None:
    """Refuse what a training would leave out without a word.

    Raises
    ------
    ConfigurationError
        If a net is to be kept as it is, or the seed is too large.
    """
    if settings.seed >= SEED_LIMIT:
        raise ConfigurationError(
            f"{settings.where}.training.seed",
            expected="an integer from 0 to below 2**63",
            got=str(settings.seed),
            fix="write 1, for example",
        )
    for name in ("descriptor", "fitting_net"):
        section = settings.model.get(name)
        wanted = section.get("trainable", True) if isinstance(section, Mapping) else True
        if not all(one is True for one in (wanted if isinstance(wanted, list) else [wanted])):
            raise ConfigurationError(
                f"{settings.where}.model.{name}.trainable",
                expected="true, or a list of true: all weights are trained",
                got=repr(wanted),
                fix="take the key out; keeping a part of the weights is not supported",
            )


def check_fit(
    settings: TrainingInput, definition: Definition, systems: Sequence[TrainingSystem]
) -> list[str]:
    """Check what the model learns from.

    Returns
    -------
    list of str
        Warnings.

    Raises
    ------
    ConfigurationError
        If no term of the loss has data, or the optimiser can not train this model.
    """
    unused = _unused(settings)
    if settings.optimiser.name == "lkf":
        if definition.precision != definition.fitting_precision:
            raise ConfigurationError(
                f"{settings.where}.model.fitting_net.precision",
                expected=f"{definition.precision}, as model.descriptor.precision: the Kalman "
                "filter keeps covariances of weights of both",
                got=definition.fitting_precision,
                fix="give both nets one precision, or train with Adam",
            )
        return unused
    weights = settings.weights
    virial = weights.virial.start or weights.virial.limit
    if not virial or any(system.virials is not None for system in systems):
        return unused
    others = (weights.energy, weights.force)
    if not any(one.start or one.limit for one in others):
        raise ConfigurationError(
            f"{settings.where}.loss",
            expected="a weight of something that the data have",
            got="weights of the virial only, and no virial.npy in any system",
            fix="set loss.start_pref_e or loss.start_pref_f, or add virial.npy",
        )
    return [
        *unused,
        "loss.start_pref_v and loss.limit_pref_v do nothing: no system with a cell has virial.npy",
    ]


def _unused(settings: TrainingInput) -> list[str]:
    keys = settings.optimiser.unused
    if not keys:
        return []
    why = "only the Kalman filter (opt_type LKF) uses them"
    if settings.optimiser.name == "lkf":
        why = (
            "the Kalman filter does not use them, as in DeePMD-kit; energies and forces have the "
            "weights kf_start_pref_e, kf_limit_pref_e, kf_start_pref_f and kf_limit_pref_f"
        )
    return [f"{', '.join(keys)}: {why}"]


def too_few_neighbours(
    model: Mapping[str, Any], definition: Definition, systems: Sequence[TrainingSystem]
) -> list[str]:
    """Warnings about numbers of neighbours, given in the input, that the data exceed."""
    descriptor = model.get("descriptor")
    if not isinstance(descriptor, Mapping) or not isinstance(descriptor.get("sel"), list):
        return []  # counted already
    return [
        f"model.descriptor.sel: atoms have up to {most} neighbours of the type {name}, of which "
        f"the nearest {given} are taken; energies jump where the others come and go"
        for name, given, most in zip(
            definition.type_map, definition.sel, most_neighbours(systems, definition), strict=True
        )
        if most > given
    ]
