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

from alchemi_bridge.errors import ConfigurationError, InputError, first_line
from alchemi_bridge.potentials.deepmd.section import Section
from alchemi_bridge.training.loss import LossWeights
from alchemi_bridge.training.schedule import ExponentialDecay
from alchemi_bridge.training.sections import (
    OptimiserInput,
    read_optimiser,
    read_rate,
    read_weights,
)
from alchemi_bridge.training.systems import find_systems

#: Names of the number of steps, and of epochs.
_STEPS = ("numb_steps", "stop_batch", "num_step", "num_steps", "numb_step")
_EPOCHS = ("numb_epoch", "num_epochs", "num_epoch", "numb_epochs")

_IGNORED_TRAINING = (
    # about output that is not written here
    *("disp_training", "time_training", "profiling", "profiling_file", "enable_profiler"),
    *("tensorboard", "tensorboard_log_dir", "tensorboard_freq", "numb_test", "disp_avg"),
    *("stat_file", "stat_file_mode"),
    # about how things are computed there, not what
    *("neighbor_graph_method", "enable_compile"),
    # ask for nothing without enable_ema
    *("ema_decay", "ema_ckpt_keep"),
)
_NEUTRAL_TRAINING: dict[str, tuple[Any, ...]] = {
    "mixed_precision": (None,),
    **dict.fromkeys(("warmup_steps", "warmup_ratio", "warmup_start_factor"), (0, None)),
    "gradient_max_norm": (0, 0.0, None),
    "change_bias_after_training": (False, None),
    "zero_stage": (0, None),
    "acc_freq": (1,),
    **dict.fromkeys(("enable_ema", "enable_tf32"), (False,)),
    **dict.fromkeys(("save_dir", "ckpt_keep_ratio"), (None,)),
    **dict.fromkeys(_EPOCHS, (None,)),
}
_NEUTRAL_DATA: dict[str, tuple[Any, ...]] = {
    # the index table draws each system as often as it has batches, which is this
    "auto_prob": ("prob_sys_size",),
    "auto_prob_style": ("prob_sys_size",),
    "sys_probs": (None,),
    "sys_weights": (None,),
    "rglob_patterns": (None,),
    "min_pair_dist": (0, None),
}


_NEUTRAL_ROOT: dict[str, tuple[Any, ...]] = {"nvnmd": ({}, None), "validating": ({}, None)}


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
    n_batches
        Of validation data: how many batches a row of the learning curve is made of; all if None.
    """

    systems: tuple[Path, ...]
    batch_sizes: tuple[int | None, ...]
    least_atoms: int = 32
    n_batches: int | None = None

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
    optimiser
        Which one, and its settings.
    curve_file, curve_freq
        Learning curve, and steps between its rows.
    checkpoint, checkpoint_freq, checkpoints_kept
        Beginning of the name, steps between two, and number of files that stay.
    path
        The input file.
    """

    model: Mapping[str, Any]
    rate: ExponentialDecay
    weights: LossWeights
    training: DataInput
    validation: DataInput | None
    n_steps: int
    seed: int
    optimiser: OptimiserInput
    curve_file: str
    curve_freq: int
    checkpoint: str
    checkpoint_freq: int
    checkpoints_kept: int
    path: Path

    @property
    def where(self) -> str:
        """How messages name the file, before the name of a section."""
        return f"'{self.path}'"


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
    n_steps = _steps(training)
    optimiser = read_optimiser(root, training)
    seed = training.get("seed", 1)
    if seed is None or isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise training.refuse("seed", "an integer from 0", repr(seed), "write 1, for example")
    rate, weights = read_rate(root, n_steps), read_weights(root)
    try:
        data = _data(training, "training_data", path.parent)
        given = training.get("validation_data")
        validation = _data(training, "validation_data", path.parent) if given else None
    except InputError as error:
        raise _with_comment(error, document.get("_comment")) from error
    result = TrainingInput(
        model=model.values,
        rate=rate,
        weights=weights,
        training=data,
        validation=validation,
        n_steps=n_steps,
        seed=seed,
        optimiser=optimiser,
        curve_file=_name(training, "disp_file", "lcurve.csv"),
        curve_freq=training.count("disp_freq", 1000),
        checkpoint=_name(training, "save_ckpt", "model.ckpt"),
        checkpoint_freq=training.count("save_freq", 1000),
        checkpoints_kept=training.count("max_ckpt_keep", 5),
        path=path,
    )
    training.finish(_IGNORED_TRAINING, _NEUTRAL_TRAINING)
    root.finish((), _NEUTRAL_ROOT)
    return result


def _with_comment(error: InputError, comment: Any) -> InputError:
    """The same error; who wrote the file may have said there where the data come from."""
    if not isinstance(comment, str):
        return error
    fix = f"{error.fix}; the input file says: {comment}"
    return InputError(error.what, expected=error.expected, got=error.got, fix=fix)


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
    fix = "convert it ('dp convert-from' and 'dp train' of DeePMD-kit write the new layout)"
    if isinstance(document, dict):
        training, model = document.get("training"), document.get("model")
        if "model" not in document and {"use_smooth", "sel_a", "n_neuron", "systems"} & {*document}:
            got = "the flat layout of DeePMD-kit 0"
        elif isinstance(training, dict) and {"systems", "set_prefix", "batch_size"} & {*training}:
            key = min({"systems", "set_prefix", "batch_size"} & {*training})
            got = f"training.{key}, the layout of DeePMD-kit 1"
        elif "loss_dict" in document or (isinstance(model, dict) and "model_dict" in model):
            got = "several models (model_dict, loss_dict)"
            fix = "write an input for one model: that of one branch with its loss and its data"
    if got is not None:
        raise ConfigurationError(
            f"input file '{path}'",
            expected="the layout of DeePMD-kit 2 or 3 for one model: sections model, "
            "learning_rate, loss and training, data in training.training_data",
            got=got,
            fix=fix,
        )


def _steps(training: Section) -> int:
    given = [key for key in (*_STEPS, *_EPOCHS) if training.values.get(key) is not None]
    if len(given) > 1:
        raise training.refuse(given[1], "one number of steps", f"also {given[0]}", "take one out")
    if given and given[0] in _EPOCHS:
        raise training.refuse(
            given[0],
            "the number of steps, numb_steps",
            "a number of epochs",
            "multiply it by the batches of an epoch, which 'train --json' reports",
        )
    training.used |= set(_STEPS)
    if not given:
        raise training.refuse(_STEPS[0], "the number of steps", "none", "write 100000, for example")
    return training.count(given[0], 0)


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
    whole = isinstance(entry, list)
    for folder in folders if whole else ():
        if folder.is_dir() and not (folder / "type.raw").exists():
            raise section.refuse(
                "systems",
                "a list of systems, or one text that names a folder with systems in it",
                f"'{folder}' in a list, which holds {len(find_systems(folder))} systems",
                f'list its systems, or write "systems": "{folder}" without brackets',
            )
    systems = [s for f in folders for s in ([f] if whole and f.is_dir() else find_systems(f))]
    places = [system.resolve() for system in systems]
    if len(set(places)) < len(places):
        twice = systems[max(range(len(places)), key=lambda k: places.count(places[k]))]
        raise section.refuse(
            "systems", "every system once: an epoch has every frame once", f"'{twice}' twice",
            "take one out",
        )  # fmt: skip
    sizes, least = _batch_sizes(section, len(systems))
    n_batches = None
    if key == "validation_data":
        name = "numb_batch" if "numb_batch" in section.values else "numb_btch"
        n_batches = None if section.get(name) is None else section.count(name, 1)
    section.finish((), _NEUTRAL_DATA)
    return DataInput(tuple(systems), sizes, least, n_batches)


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
