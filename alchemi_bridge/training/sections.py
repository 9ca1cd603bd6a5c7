"""Sections learning_rate, loss and optimizer of DeePMD's training input.

Keys, defaults and what they mean are those of DeePMD-kit 3.2.0; ``integration/deepmd`` compares.
Source: https://docs.deepmodeling.com/projects/deepmd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alchemi_bridge.potentials.deepmd.section import Section
from alchemi_bridge.training.loss import LossWeights, Prefactor
from alchemi_bridge.training.schedule import ExponentialDecay

OPTIMISERS = ("adam", "adamw", "lkf")

_NEUTRAL_LOSS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("start_pref_ae", "limit_pref_ae", "start_pref_pf", "limit_pref_pf"), (0,)),
    **dict.fromkeys(("start_pref_gf", "limit_pref_gf", "numb_generalized_coord"), (0,)),
    **dict.fromkeys(("start_pref_h", "limit_pref_h"), (0,)),
    **dict.fromkeys(("enable_atom_ener_coeff", "use_default_pf"), (False,)),
    **dict.fromkeys(("use_huber", "f_use_norm", "use_l1_all"), (False,)),
    "loss_func": ("mse",),
    "relative_f": (None,),
}
# asks for nothing without use_huber
_IGNORED_LOSS = ("huber_delta",)
# DeePMD-kit's PyTorch backend accepts it and leaves the learning rate as it is
_NEUTRAL_RATE: dict[str, tuple[Any, ...]] = {"scale_by_worker": ("none", "linear", "sqrt")}


@dataclass(frozen=True)
class Growth:
    """A factor that goes from ``start`` to ``limit`` over the steps by equal ratios."""

    start: float
    limit: float

    def at(self, way: float) -> float:
        """The factor when this part of the steps is done."""
        return float(self.start * (self.limit / self.start) ** way)


@dataclass(frozen=True)
class OptimiserInput:
    """Which optimiser, and its settings.

    Attributes
    ----------
    name
        One of :data:`OPTIMISERS`.
    betas, weight_decay
        Of Adam.
    block_size
        Largest block of the Kalman filter.
    energy, force
        Factors of the filter's measurements.
    unused
        Keys and sections that the input has, and that only another optimiser looks at.
    """

    name: str
    betas: tuple[float, float]
    weight_decay: float
    block_size: int
    energy: Growth
    force: Growth
    unused: tuple[str, ...] = ()


def read_optimiser(root: Section, training: Section) -> OptimiserInput:
    """Read the section ``optimizer``, or where there is none the same keys in ``training``."""
    section, key = training, "opt_type"
    if "optimizer" in root.values:
        section, key = root.section("optimizer"), "type"
    name = section.choice(key, OPTIMISERS, "adam")
    betas = []
    for key, default in (("adam_beta1", 0.9), ("adam_beta2", 0.999)):
        beta = section.number(key, default)
        if not 0.0 <= beta < 1.0:
            raise section.refuse(key, "from 0 to below 1", f"{beta:g}", f"write {default:g}")
        betas.append(beta)
    decay = _not_negative(section, "weight_decay", 0.0)
    growths = [
        Growth(*(section.number(f"kf_{end}_pref_{one}", 1.0, above=0.0) for end in _ENDS))
        for one in ("e", "f")
    ]
    block_size = section.count("kf_blocksize", 5120)
    if section is not training:
        section.finish((), {})
    energy, force = growths
    unused = _unused(root, section, name)
    return OptimiserInput(name, (betas[0], betas[1]), decay, block_size, energy, force, unused)


def _unused(root: Section, section: Section, name: str) -> tuple[str, ...]:
    """What is given for another optimiser, as messages name it."""
    place = "training" if "optimizer" not in root.values else "optimizer"
    if name != "lkf":
        return tuple(f"{place}.{key}" for key in section.values if key.startswith("kf_"))
    found = [f"{place}.{key}" for key in _OF_ADAM if key in section.values]
    # prefactors of the virial are zero with the filter, which is no news
    found += [f"loss.{k}" for k in _optional(root, "loss").values if k in _OF_THE_LOSS]
    if any(not key.startswith("_") for key in _optional(root, "learning_rate").values):
        found.append("learning_rate")
    return tuple(found)


_ENDS = ("start", "limit")
_OF_ADAM = ("adam_beta1", "adam_beta2", "weight_decay")
_OF_THE_LOSS = ("intensive_ener_virial", *(f"{end}_pref_{one}" for end in _ENDS for one in "ef"))


def read_rate(root: Section, n_steps: int) -> ExponentialDecay:
    """Read the section ``learning_rate``."""
    section = _optional(root, "learning_rate")
    section.choice("type", ("exp",), "exp")
    start = section.number("start_lr", 1e-3, above=0.0)
    stop = _stop(section, start)
    warmup_steps = _warmup_steps(section, n_steps)
    first = start * _not_negative(section, "warmup_start_factor", 0.0)
    decay_steps = section.count("decay_steps", 5000)
    smooth = section.flag("smooth", False)
    if section.get("decay_rate") is None:
        rate = ExponentialDecay.over(n_steps, start, stop, decay_steps, smooth, warmup_steps, first)
    else:
        factor = section.number("decay_rate", 1.0, above=0.0)
        if factor > 1.0:
            raise section.refuse("decay_rate", "at most 1", f"{factor:g}", "write 0.95")
        rate = ExponentialDecay(start, stop, decay_steps, factor, smooth, warmup_steps, first)
    section.finish((), _NEUTRAL_RATE)
    return rate


def _stop(section: Section, start: float) -> float:
    ratio = section.get("stop_lr_ratio")
    if ratio is not None and section.get("stop_lr") is not None:
        raise section.refuse(
            "stop_lr_ratio", "one of stop_lr and stop_lr_ratio", "both", "take one out"
        )
    key, stop = "stop_lr", 5e-8
    if ratio is not None:
        key, stop = "stop_lr_ratio", start * _not_negative(section, "stop_lr_ratio", 0.0)
    elif section.get("stop_lr") is not None:
        stop = _not_negative(section, "stop_lr", 0.0)
    if stop > start:
        raise section.refuse(
            key, f"a rate of at most start_lr, {start:g}", f"{stop:g}", "choose a smaller one"
        )
    return stop


def _warmup_steps(section: Section, n_steps: int) -> int:
    value = section.get("warmup_steps", 0)
    if section.get("warmup_ratio") is not None:
        if value:
            raise section.refuse(
                "warmup_ratio", "one of warmup_steps and warmup_ratio", "both", "take one out"
            )
        value = int(_not_negative(section, "warmup_ratio", 0.0) * n_steps)
    if value is None or value == 0:
        return 0
    if type(value) is not int or not 0 < value < n_steps:
        raise section.refuse(
            "warmup_steps",
            f"an integer from 0 to below the number of steps, {n_steps}",
            repr(value),
            "choose fewer",
        )
    return value


def read_weights(root: Section) -> LossWeights:
    """Read the section ``loss``."""
    section = _optional(root, "loss")
    section.choice("type", ("ener",), "ener")
    found = []
    for letter, *defaults in (("e", 0.02, 1.0), ("f", 1000.0, 1.0), ("v", 0.0, 0.0)):
        keys = [f"{end}_pref_{letter}" for end in _ENDS]
        found.append(Prefactor(*map(_not_negative, [section] * 2, keys, defaults)))
    intensive = section.flag("intensive_ener_virial", False)
    section.finish(_IGNORED_LOSS, _NEUTRAL_LOSS)
    if all(one.start == one.limit == 0.0 for one in found):
        raise section.refuse(
            "start_pref_e", "a weight of energy, force or virial", "zeros only", "set one of them"
        )
    energy, force, virial = found
    return LossWeights(energy, force, virial, intensive)


def _not_negative(section: Section, key: str, default: float) -> float:
    value = section.number(key, default)
    if value < 0.0:
        raise section.refuse(key, "zero or more", f"{value:g}", "choose another number")
    return value


def _optional(root: Section, key: str) -> Section:
    return root.section(key) if key in root.values else Section({}, f"{root.where}.{key}")
