"""Definitions and weights of se_e2_a models: what is read, and what is refused by name."""

from __future__ import annotations

import copy
from typing import Any

import deepmd_golden as golden
import pytest
import torch
from trust_files import check_message

from alchemi_bridge.errors import ConfigurationError, ModelLoadError
from alchemi_bridge.potentials.deepmd import (
    SeE2A,
    from_deepmd,
    read_definition,
    to_deepmd,
    to_metatomic,
)
from alchemi_bridge.potentials.deepmd.elements import atomic_numbers

SMALL: dict[str, Any] = {
    "type_map": ["O", "H"],
    "descriptor": {"type": "se_e2_a", "sel": [4, 6]},
    "fitting_net": {},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The small definition with one key set; ``a.b`` is key b of section a."""
    model = copy.deepcopy(SMALL)
    *sections, key = path.split(".")
    target = model
    for section in sections:
        target = target[section]
    target[key] = value
    return model


def test_defaults_of_deepmd_kit() -> None:
    """Those of the documentation of deepmd-kit 3.2.0."""
    found = read_definition(SMALL)
    assert (found.rcut, found.rcut_smth) == (6.0, 0.5)
    assert (found.neuron, found.axis_neuron) == ((10, 20, 40), 4)
    assert (found.activation, found.precision) == ("tanh", "float64")
    assert (found.resnet_dt, found.type_one_side, found.set_davg_zero) == (False, False, False)
    assert found.fitting_neuron == (120, 120, 120)
    assert found.fitting_resnet_dt is True
    assert found.subtracts_vacuum == (False, False)


def test_comments_and_what_does_not_matter_are_left_alone() -> None:
    model = changed("_comment", "water")
    model["descriptor"].update(_note="none", seed=1, trainable=True)
    model["data_stat_nbatch"] = 20
    assert read_definition(model) == read_definition(SMALL)


@pytest.mark.parametrize("name", golden.MODELS)
def test_a_definition_survives_writing(name: str) -> None:
    definition = read_definition(golden.section(name))
    assert read_definition(definition.to_deepmd()) == definition


def test_lone_atoms() -> None:
    assert read_definition(changed("fitting_net.atom_ener", [-3.0, None])).subtracts_vacuum == (
        True,
        False,
    )
    # a list that is too short counts as given for the others, as in DeePMD-kit
    assert read_definition(changed("fitting_net.atom_ener", [[-3.0]])).subtracts_vacuum == (
        True,
        True,
    )


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("type", "linear_ener", "only standard models"),
        ("type_map", "OH", "a list of names"),
        ("type_map", [], "a list of names"),
        ("type_map", ["O", "O"], "different names"),
        ("descriptor", None, "a section"),
        ("descriptor.type", "se_e3", "'se_e2_a'"),
        ("descriptor.type", "dpa2", "'se_e2_a'"),
        ("descriptor.sel", "auto", "positive integers"),
        ("descriptor.sel", [4, 0], "positive integers"),
        ("descriptor.sel", [4], "each of the 2 types"),
        ("descriptor.sel", [4, 6, 8], "each of the 2 types"),
        ("descriptor.rcut", -1, "above 0"),
        ("descriptor.rcut", True, "finite number"),
        ("descriptor.rcut", "6", "finite number"),
        ("descriptor.rcut_smth", 6.0, "below rcut"),
        ("descriptor.rcut_smth", -0.5, "below rcut"),
        ("descriptor.neuron", [], "positive integers"),
        ("descriptor.neuron", [2.5], "positive integers"),
        ("descriptor.axis_neuron", 41, "at most the last of neuron"),
        ("descriptor.axis_neuron", 0, "at least 1"),
        ("descriptor.activation_function", "silut:3.0", "one of tanh"),
        ("descriptor.precision", "float16", "one of default"),
        ("descriptor.resnet_dt", 1, "true or false"),
        ("descriptor.type_one_side", "yes", "true or false"),
        ("descriptor.exclude_types", [[0, 2]], "pairs of types from 0 to 1"),
        ("descriptor.exclude_types", [0, 1], "pairs of types"),
        ("descriptor.spin", {}, "not supported"),
        ("descriptor.axis_neurons", 4, "unknown key"),
        ("fitting_net.type", "dipole", "'ener'"),
        ("fitting_net.numb_fparam", 1, "not supported"),
        ("fitting_net.dim_case_embd", 2, "not supported"),
        ("fitting_net.atom_ener", ["-3"], "energies or null"),
        ("fitting_net.neurons", [1], "unknown key"),
        ("pair_exclude_types", [[0, 1]], "not supported"),
        ("use_srtab", "table", "not supported"),
        ("spin", {"use_spin": [True]}, "not supported"),
        ("modifier", {"type": "dipole_charge"}, "not supported"),
        ("bridging_method", "zbl", "not supported"),
        ("hybrid", True, "unknown key"),
    ],
)
def test_refused(path: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_definition(changed(path, value))
    check_message(error)
    assert path in error.value.what
    assert words in str(error.value)


def test_a_definition_is_a_section() -> None:
    with pytest.raises(ConfigurationError, match=r"model: expected a section"):
        read_definition([])  # type: ignore[arg-type]


# --- elements -----------------------------------------------------------------------------------


def test_atomic_numbers() -> None:
    assert atomic_numbers(["O", "H"], {}) == [8, 1]
    assert atomic_numbers(["Ow", "H"], {"Ow": 8}) == [8, 1]
    assert atomic_numbers(["O", "H"], {"H": 3}) == [8, 3]


@pytest.mark.parametrize(
    ("type_map", "numbers", "words"),
    [
        (["Ow"], {}, "--types Ow=NUMBER"),
        (["X"], {}, "type 'X'"),
        (["O", "Ow"], {"Ow": 8}, "distinct"),
        (["O"], {"C": 6}, "types of the model, O"),
        (["O"], {"O": 300}, "between 1 and 118"),
    ],
)
def test_types_that_are_no_elements(
    type_map: list[str], numbers: dict[str, int], words: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        atomic_numbers(type_map, numbers)
    check_message(error)
    assert words in str(error.value)


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden.MODELS)
def test_weights_go_there_and_back(name: str) -> None:
    model, definition = golden.load(name)
    back = to_deepmd(model, definition)
    for key, tensor in golden.weights(name).items():
        if key not in ("min_nbor_dist", "atomic_model.out_std"):
            assert torch.equal(back[key], tensor), key
    again = from_deepmd(definition, {f"model.Default.{k}": v for k, v in back.items()})
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


NET = "atomic_model.descriptor.sea.filter_layers.networks.0.layers.1."


def test_weights_that_do_not_fit() -> None:
    name = "se_e2_a-water"
    definition = read_definition(golden.section(name))
    good = golden.weights(name)
    bias = f"{NET}bias"
    mean = "atomic_model.descriptor.sea.mean"
    uneven = good[mean].clone()
    uneven[0, 3, 0] += 1.0
    for state, words in (
        ({k: v for k, v in good.items() if k != bias}, f"{bias}.*got none"),
        ({**good, bias: good[bias][:3]}, r"expected \(12,\).*got \(3,\)"),
        ({**good, bias: good[bias].float()}, "got .*float32"),
        ({**good, bias: torch.full_like(good[bias], torch.nan)}, "finite numbers"),
        ({**good, f"{NET}gain": good[bias]}, "also .*gain"),
        ({**good, mean: uneven}, "the same statistics for every neighbour"),
        ({}, "0 such tensors"),
        ({**good, "other.atomic_model.out_bias": good[bias]}, "2 such tensors"),
    ):
        with pytest.raises(ModelLoadError, match=words) as error:
            from_deepmd(definition, state)
        check_message(error)


def test_export_leaves_the_model_trainable() -> None:
    definition = read_definition(SMALL)
    model = SeE2A(definition)
    model.initialise(seed=0)
    model.train()
    exported = to_metatomic(model, definition)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert exported.capabilities().interaction_range == definition.rcut
    assert exported.capabilities().atomic_types == [8, 1]
