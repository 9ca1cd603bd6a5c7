"""DeePMD's input file: what is read, and what is refused by the name of its key."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import training_parts

from alchemi_bridge.errors import ConfigurationError, InputError
from alchemi_bridge.training import find_systems, read_input, read_system
from alchemi_bridge.training.preparation import most_neighbours, resolve
from alchemi_bridge.training.schedule import ExponentialDecay


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training_parts.write_data(tmp_path / "data")
    return tmp_path


def test_values_and_defaults(folder: Path) -> None:
    settings = read_input(training_parts.write_input(folder, training__save_freq=None))
    assert [path.name for path in settings.training.systems] == ["alloy", "copper"]
    assert settings.training.batch_sizes == (2, 2)
    assert settings.validation is None
    assert (settings.n_steps, settings.seed, settings.curve_freq) == (12, 3, 4)
    assert (settings.checkpoint, settings.checkpoint_freq) == ("model.ckpt", 1000)
    # DeePMD-kit's defaults of what the file leaves out
    assert (settings.weights.energy.start, settings.weights.energy.limit) == (0.02, 1.0)
    assert (settings.weights.force.start, settings.weights.force.limit) == (1000.0, 1.0)
    assert (settings.weights.virial.start, settings.weights.virial.limit) == (0.1, 1.0)
    optimiser = settings.optimiser
    assert (optimiser.name, optimiser.betas, optimiser.weight_decay) == ("adam", (0.9, 0.999), 0.0)
    assert not settings.weights.intensive
    path = training_parts.write_input(folder, learning_rate={"start_lr": 0.01}, optimizer={})
    rate = read_input(path).rate
    assert (rate.stop, rate.smooth, rate.warmup_steps) == (5e-8, False, 0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, (3, 3)), ([4, 1], (4, 1)), ("auto", (8, 4)), ("auto:9", (3, 2)), ("auto:8", (2, 1))],
)
def test_batch_sizes(folder: Path, value: Any, expected: tuple[int, int]) -> None:
    settings = read_input(
        training_parts.write_input(folder, training__training_data__batch_size=value)
    )
    assert tuple(settings.training.batch_size(k, n) for k, n in enumerate((4, 8))) == expected


def test_learning_rate_is_that_of_deepmd() -> None:
    """Against the formula in its documentation; the rate ends where it is told to."""
    rate = ExponentialDecay.over(4000, 1e-3, 1e-6, 500)
    factor = math.exp(math.log(1e-6 / 1e-3) / (4000 / 500))
    for step in (0, 499, 500, 1999, 3999):
        assert rate(step) == pytest.approx(1e-3 * factor ** (step // 500), rel=1e-12)
    assert rate(4000) == pytest.approx(1e-6, rel=1e-12)
    assert rate(10**6) == 1e-6
    assert ExponentialDecay.over(4000, 1e-3, 1e-6, 5000).decay_steps == 100
    assert ExponentialDecay.over(500, 1e-3, 1e-6, 5000).decay_steps == 6


def test_a_warm_up_goes_before() -> None:
    rate = ExponentialDecay.over(14, 1e-3, 1e-4, 5, warmup_steps=4, warmup_start=2e-4)
    assert [rate(step) for step in range(5)] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert rate(14) == pytest.approx(1e-4)


def test_all_names_of_the_number_of_steps(folder: Path) -> None:
    for name in ("stop_batch", "num_step", "num_steps", "numb_step"):
        changes = {"training__numb_steps": None, f"training__{name}": 7}
        assert read_input(training_parts.write_input(folder, **changes)).n_steps == 7


def test_a_system_comes_once(folder: Path) -> None:
    """Twice would put its frames twice into an epoch."""
    systems = [str(folder / "data" / name) for name in ("alloy", "copper", "../data/alloy")]
    path = training_parts.write_input(folder, training__training_data__systems=systems)
    with pytest.raises(ConfigurationError, match="every frame once") as caught:
        read_input(path)
    assert caught.value.what.endswith("training.training_data.systems")


def test_sel_is_counted_in_the_data(folder: Path) -> None:
    settings = read_input(training_parts.write_input(folder))
    systems = [read_system(one, ("Cu", "Au")) for one in find_systems(folder / "data")]
    definition = resolve(settings.model, systems)
    counted = most_neighbours(systems, definition)
    # twelve nearest neighbours in the copper crystals
    assert counted[0] >= 12
    assert [s % 4 for s in definition.sel] == [0, 0]
    assert all(n * 1.1 <= s < n * 1.1 + 4 for n, s in zip(counted, definition.sel, strict=True))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"training__nunb_steps": 3}, "training.nunb_steps"),
        ({"training_": {}}, "training_"),
        ({"loss__start_pref_x": 1}, "loss.start_pref_x"),
        ({"loss__start_pref_ae": 1}, "loss.start_pref_ae"),
        ({"loss__start_pref_e": -1}, "loss.start_pref_e"),
        ({"learning_rate__type": "cosine"}, "learning_rate.type"),
        ({"learning_rate__stop_lr": 1}, "learning_rate.stop_lr"),
        ({"learning_rate__start_lr": "fast"}, "learning_rate.start_lr"),
        ({"training__numb_steps": None}, "training.numb_steps"),
        ({"training__seed": -1}, "training.seed"),
        ({"training__training_data": None}, "training.training_data"),
        ({"training__training_data__systems": []}, "training.training_data.systems"),
        ({"training__training_data__batch_size": [2]}, "training.training_data.batch_size"),
        ({"training__training_data__batch_size": "auto:x"}, "training.training_data.batch_size"),
        ({"training__training_data__set_prefix": "set"}, "training.training_data.set_prefix"),
        ({"training__training_data__auto_prob": "prob_uniform"}, "training_data.auto_prob"),
        ({"training__opt_type": "SGD"}, "training.opt_type"),
        ({"model": 3}, "model"),
        ({"model__type_map": None}, "model.type_map"),
        ({"training__kf_start_pref_e": 0}, "training.kf_start_pref_e"),
        ({"optimizer": {"type": "AdaMuon"}}, "optimizer.type"),
        ({"optimizer": {"adam_beta1": 1.0}}, "optimizer.adam_beta1"),
        ({"optimizer": {"weight_decay": -1}}, "optimizer.weight_decay"),
        ({"optimizer": {"momentum": 0.9}}, "optimizer.momentum"),
        ({"learning_rate__stop_lr_ratio": 0.1}, "learning_rate.stop_lr_ratio"),
        ({"learning_rate__warmup_steps": 12}, "learning_rate.warmup_steps"),
        ({"learning_rate": {"warmup_ratio": 0.5, "warmup_steps": 2}}, "learning_rate.warmup_ratio"),
        ({"learning_rate__decay_rate": 1.5}, "learning_rate.decay_rate"),
        ({"learning_rate__scale_by_worker": "square"}, "learning_rate.scale_by_worker"),
        ({"loss__loss_func": "mae"}, "loss.loss_func"),
        ({"loss__use_huber": True}, "loss.use_huber"),
        ({"loss__start_pref_h": 1}, "loss.start_pref_h"),
        ({"loss__use_default_pf": True}, "loss.use_default_pf"),
        ({"training__num_epoch": 3, "training__numb_steps": None}, "training.num_epoch"),
        ({"training__stop_batch": 3}, "training.stop_batch"),
        ({"training__acc_freq": 2}, "training.acc_freq"),
        ({"training__enable_ema": True}, "training.enable_ema"),
        ({"training__gradient_max_norm": 5.0}, "training.gradient_max_norm"),
        ({"training__save_dir": "out"}, "training.save_dir"),
        ({"training__warmup_steps": 5}, "training.warmup_steps"),
        ({"training__training_data__numb_btch": 1}, "training.training_data.numb_btch"),
        ({"training__training_data__min_pair_dist": 1.0}, "training_data.min_pair_dist"),
        ({"training__training_data__rglob_patterns": ["*"]}, "training_data.rglob_patterns"),
        ({"training__training_data__batch_size": "max:8"}, "training.training_data.batch_size"),
        ({"validating": {"full_validation": True}}, "validating"),
    ],
)
def test_bad_keys_are_named(folder: Path, changes: dict[str, Any], key: str) -> None:
    path = training_parts.write_input(folder, **changes)
    with pytest.raises(ConfigurationError) as caught:
        read_input(path)
    assert key in caught.value.what
    assert "input.json" in caught.value.what


@pytest.mark.parametrize(
    ("document", "version"),
    [
        ({"use_smooth": True, "n_neuron": [10], "systems": []}, "DeePMD-kit 0"),
        ({"model": {}, "training": {"systems": [], "set_prefix": "set"}}, "DeePMD-kit 1"),
        ({"model": {"model_dict": {}}, "training": {}}, "several models"),
    ],
)
def test_other_versions_are_refused_by_name(
    tmp_path: Path, document: dict[str, Any], version: str
) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match="layout of DeePMD-kit 2 or 3") as caught:
        read_input(path)
    assert version in caught.value.got


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {}, "model": {}}', "\x00"])
def test_files_that_are_no_input(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"bad\.json"):
        read_input(path)
    with pytest.raises(ConfigurationError, match=r"none\.json"):
        read_input(tmp_path / "none.json")


@pytest.mark.parametrize("systems", ["nowhere", ["data/copper", "nowhere"]])
def test_folders_without_data(folder: Path, systems: Any) -> None:
    """The input file may say in a comment how the data are made."""
    path = training_parts.write_input(folder, training__training_data__systems=systems)
    with pytest.raises(InputError, match="nowhere") as caught:
        read_input(path)
    assert "comment" not in caught.value.fix
    path = training_parts.write_input(
        folder, training__training_data__systems=systems, _comment="run make_nowhere.py first"
    )
    with pytest.raises(InputError, match="nowhere") as caught:
        read_input(path)
    assert caught.value.fix.endswith("the input file says: run make_nowhere.py first")
