"""DeePMD's training input: what is in the file, checked, without looking at the data.

The layout is that of DeePMD-kit 2 and 3. The part that se_e2_a needs is read; a key that is not
known, or that asks for something that is not supported, is an error that names it.

Source of keys and defaults: DeePMD-kit 3.2.0, https://docs.deepmodeling.com/projects/deepmd.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alchemi_bridge.errors import ConfigurationError, first_line
from alchemi_bridge.potentials.deepmd.section import Section
from alchemi_bridge.training.loss import LossWeights, Prefactor
from alchemi_bridge.training.schedule import ExponentialDecay
from alchemi_bridge.training.systems import find_systems

OPTIMISERS = ("adam", "lkf")

_IGNORED_TRAINING = (
    # about output that is not written here
    *("disp_training", "time_training", "profiling", "profiling_file", "enable_profiler"),
    *("tensorboard", "tensorboard_log_dir", "tensorboard_freq", "numb_test", "stat_file"),
)
_NEUTRAL_TRAINING: dict[str, tuple[Any, ...]] = {
    "mixed_precision": (None,),
    "warmup_steps": (0, None),
    "gradient_max_norm": (0, 0.0, None),
    "change_bias_after_training": (False, None),
    "zero_stage": (0, None),
    "numb_epoch": (None,),
}
_NEUTRAL_LOSS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("start_pref_ae", "limit_pref_ae", "start_pref_pf", "limit_pref_pf"), (0,)),
    **dict.fromkeys(("start_pref_gf", "limit_pref_gf", "numb_generalized_coord"), (0,)),
    **dict.fromkeys(("enable_atom_ener_coeff", "use_huber", "use_l1_all"), (False,)),
    "relative_f": (None,),
}
_NEUTRAL_RATE: dict[str, tuple[Any, ...]] = {
    "scale_by_worker": ("none",),
    "stop_lr_ratio": (None,),
    "warmup_steps": (0, None),
    "warmup_ratio": (None,),
}
_NEUTRAL_DATA: dict[str, tuple[Any, ...]] = {
    # the index table draws each system as often as it has batches, which is this
    "auto_prob": ("prob_sys_size",),
    "auto_prob_style": ("prob_sys_size",),
    "sys_probs": (None,),
    "sys_weights": (None,),
}


@dataclass(frozen=True)
class DataInput:
    """Which systems, and how many frames a batch has.

    Attributes
    ----------
    systems
        Folders.
    batch_sizes
        Frames in a batch of each system and rank; None: as many as ``least_atoms`` need.
    least_atoms
        Smallest number of atoms in a batch where its size is None.
    """

    systems: tuple[Path, ...]
    batch_sizes: tuple[int | None, ...]
    least_atoms: int = 32

    def batch_size(self, system: int, n_atoms: int) -> int:
        """Frames in a batch of a system with ``n_atoms`` atoms."""
        given = self.batch_sizes[system]
        return -(-self.least_atoms // n_atoms) if given is None else given


@dataclass(frozen=True)
class TrainingInput:
    """A training, as the input file describes it.

    Attributes
    ----------
    model
        The section ``model``; ``descriptor.sel`` may still be ``"auto"``.
    rate, weights
        Learning rate and loss weights over the steps.
    training, validation
        Data; validation may be None.
    n_steps, seed
        Number of steps; of the weights and of the order of the data.
    optimiser, block_size
        A name of :data:`OPTIMISERS`; largest block of the Kalman filter.
    curve_file, curve_freq
        Learning curve, and steps between its rows.
    checkpoint, checkpoint_freq, checkpoints_kept
        Beginning of the name, steps between two, and number of files that stay.
    """

    model: Mapping[str, Any]
    rate: ExponentialDecay
    weights: LossWeights
    training: DataInput
    validation: DataInput | None
    n_steps: int
    seed: int
    optimiser: str
    block_size: int
    curve_file: str
    curve_freq: int
    checkpoint: str
    checkpoint_freq: int
    checkpoints_kept: int


def read_input(path: str | Path) -> TrainingInput:
    """Read and check an input file.

    Parameters
    ----------
    path
        JSON. Folders with data are taken from the working directory, as by DeePMD-kit, or if they
        are not there from the folder of the file.

    Raises
    ------
    ConfigurationError
        If the file can not be read, has the layout of another version, or a key is missing,
        unknown, out of its range, or asks for what is not supported.
    InputError
        If a folder has no system.
    """
    path = Path(path)
    document = _document(path)
    _check_version(document, path)
    root = Section(document, f"'{path}'")
    # keys are named as in DeePMD-kit's documentation, under the file's name
    model = root.section("model")
    # the data are read by it; the rest of the section is checked when they are there
    model.texts("type_map")
    training = root.section("training")
    n_steps = training.count("numb_steps" if "stop_batch" not in training.values else "stop_batch",
                             0)  # fmt: skip
    optimiser, block_size = _optimiser(root, training)
    seed = training.get("seed", 1)
    if seed is None or isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise training.refuse("seed", "an integer from 0", repr(seed), "write 1, for example")
    validation = training.values.get("validation_data")
    result = TrainingInput(
        model=model.values,
        rate=_rate(root, n_steps),
        weights=_weights(root),
        training=_data(training, "training_data", path.parent),
        validation=_data(training, "validation_data", path.parent) if validation else None,
        n_steps=n_steps,
        seed=seed,
        optimiser=optimiser,
        block_size=block_size,
        curve_file=_name(training, "disp_file", "lcurve.csv"),
        curve_freq=training.count("disp_freq", 1000),
        checkpoint=_name(training, "save_ckpt", "model.ckpt"),
        checkpoint_freq=training.count("save_freq", 1000),
        checkpoints_kept=training.count("max_ckpt_keep", 5),
    )
    training.get("validation_data")
    training.finish(_IGNORED_TRAINING, _NEUTRAL_TRAINING)
    root.finish((), {"nvnmd": ({}, None), "validating": ({}, None)})
    return result


def _document(path: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {max(keys, key=keys.count)!r} twice in one section")
        return found

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"input file '{path}'",
            expected="a JSON file in DeePMD-kit's input format",
            got=first_line(error),
            fix="correct the file, or its path",
        ) from error


def _check_version(document: Any, path: Path) -> None:
    """Refuse layouts of other versions by name, before they look like unknown keys."""
    got = None
    if isinstance(document, dict):
        training, model = document.get("training"), document.get("model")
        if "model" not in document and {"use_smooth", "sel_a", "n_neuron", "systems"} & {*document}:
            got = "the flat layout of DeePMD-kit 0"
        elif isinstance(training, dict) and {"systems", "set_prefix", "batch_size"} & {*training}:
            key = min({"systems", "set_prefix", "batch_size"} & {*training})
            got = f"training.{key}, the layout of DeePMD-kit 1"
        elif "loss_dict" in document or (isinstance(model, dict) and "model_dict" in model):
            got = "several models (model_dict, loss_dict)"
    if got is not None:
        raise ConfigurationError(
            f"input file '{path}'",
            expected="the layout of DeePMD-kit 2 or 3 for one model: sections model, "
            "learning_rate, loss and training, data in training.training_data",
            got=got,
            fix="convert it ('dp convert-from' and 'dp train' of DeePMD-kit write the new layout)",
        )


def _optional(root: Section, key: str) -> Section:
    return root.section(key) if key in root.values else Section({}, f"{root.where}.{key}")


def _optimiser(root: Section, training: Section) -> tuple[str, int]:
    section, key = training, "opt_type"
    if "optimizer" in root.values:
        section, key = root.section("optimizer"), "type"
    name = section.choice(key, OPTIMISERS, "adam")
    block_size = section.count("kf_blocksize", 5120)
    for key in ("kf_start_pref_e", "kf_limit_pref_e", "kf_start_pref_f", "kf_limit_pref_f"):
        if section.number(key, 1.0) != 1.0:
            raise section.refuse(
                key, "1", repr(section.values[key]), "other weights are not supported"
            )
    if section is not training:
        section.finish((), {})
    return name, block_size


def _rate(root: Section, n_steps: int) -> ExponentialDecay:
    section = _optional(root, "learning_rate")
    section.choice("type", ("exp",), "exp")
    start = section.number("start_lr", 1e-3, above=0.0)
    stop = section.number("stop_lr", 1e-8, above=0.0)
    if stop > start:
        raise section.refuse(
            "stop_lr", f"at most start_lr, {start:g}", f"{stop:g}", "choose a smaller one"
        )
    decay_steps = section.count("decay_steps", 5000)
    smooth = section.flag("smooth", False)
    if section.get("decay_rate") is None:
        rate = ExponentialDecay.over(n_steps, start, stop, decay_steps, smooth)
    else:
        factor = section.number("decay_rate", 1.0, above=0.0)
        rate = ExponentialDecay(start, stop, decay_steps, factor, smooth)
    section.finish((), _NEUTRAL_RATE)
    return rate


def _weights(root: Section) -> LossWeights:
    section = _optional(root, "loss")
    section.choice("type", ("ener",), "ener")
    found = []
    for letter, start, limit in (("e", 0.02, 1.0), ("f", 1000.0, 1.0), ("v", 0.0, 0.0)):
        pair = []
        for key, default in ((f"start_pref_{letter}", start), (f"limit_pref_{letter}", limit)):
            value = section.number(key, default)
            if value < 0.0:
                raise section.refuse(key, "zero or more", f"{value:g}", "choose another weight")
            pair.append(value)
        found.append(Prefactor(*pair))
    section.finish((), _NEUTRAL_LOSS)
    if all(one.start == one.limit == 0.0 for one in found):
        raise section.refuse(
            "start_pref_e", "a weight of energy, force or virial", "zeros only", "set one of them"
        )
    return LossWeights(*found)


def _data(training: Section, key: str, beside: Path) -> DataInput:
    section = training.section(key)
    entry = section.get("systems")
    names = [entry] if isinstance(entry, str) else entry
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise section.refuse(
            "systems",
            "a folder or a list of folders",
            repr(entry),
            'write ["data/copper"], for example',
        )
    folders = []
    for name in names:
        folder = Path(name)
        if not folder.is_absolute() and not folder.exists() and (beside / folder).exists():
            folder = beside / folder
        folders.append(folder)
    # a list names systems, one text a folder in which they are
    systems = [s for f in folders for s in (find_systems(f) if isinstance(entry, str) else [f])]
    sizes, least = _batch_sizes(section, len(systems))
    section.finish(("numb_btch", "numb_batch"), _NEUTRAL_DATA)
    return DataInput(tuple(systems), sizes, least)


def _batch_sizes(section: Section, n_systems: int) -> tuple[tuple[int | None, ...], int]:
    value = section.get("batch_size", "auto")
    if isinstance(value, str):
        word, _, number = value.partition(":")
        if word == "auto" and (number.isdecimal() or number == "" == value[4:]):
            return (None,) * n_systems, max(int(number or 32), 1)
    sizes = value if isinstance(value, list) else [value] * n_systems
    if len(sizes) != n_systems or not all(type(n) is int and n > 0 for n in sizes):
        raise section.refuse(
            "batch_size",
            f"a positive integer, one for each of the {n_systems} systems, 'auto' or 'auto:N'",
            repr(value),
            "write 4, for example",
        )
    return tuple(sizes), 32


def _name(section: Section, key: str, default: str) -> str:
    value = section.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise section.refuse(key, "the name of a file", repr(value), f"write '{default}'")
    return value
