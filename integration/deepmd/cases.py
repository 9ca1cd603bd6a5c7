"""The models that are made with deepmd-kit, and the structures that they are compared on."""

from __future__ import annotations

from typing import Any

import numpy as np

FITTING = {"type": "ener", "neuron": [16, 16, 16], "resnet_dt": True, "seed": 3}


def _se_e2_a(**options: Any) -> dict[str, Any]:
    return {
        "type": "se_e2_a",
        "sel": [40, 70],
        "rcut": 4.0,
        "rcut_smth": 0.5,
        "neuron": [6, 12, 24],
        "axis_neuron": 4,
        "seed": 1,
        **options,
    }


def _dpa1(**options: Any) -> dict[str, Any]:
    return {
        "type": "dpa1",
        "sel": 110,
        "rcut": 4.0,
        "rcut_smth": 0.5,
        "neuron": [6, 12, 24],
        "axis_neuron": 4,
        "attn": 16,
        "attn_dotr": True,
        "seed": 1,
        **options,
    }


def _dpa3(**options: Any) -> dict[str, Any]:
    repflow = {
        "n_dim": 16,
        "e_dim": 8,
        "a_dim": 8,
        "nlayers": 3,
        "e_rcut": 4.0,
        "e_rcut_smth": 3.0,
        "e_sel": 110,
        "a_rcut": 3.0,
        "a_rcut_smth": 2.0,
        "a_sel": 50,
        "axis_neuron": 4,
        **options,
    }
    return {"type": "dpa3", "repflow": repflow, "seed": 1}


WATER = ["O", "H"]
FLOAT32 = {"precision": "float32"}
#: name: (type map, descriptor, changes of the fitting net)
MODELS: dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]] = {
    "se_e2_a-water": (WATER, _se_e2_a(type_one_side=False, resnet_dt=True), {}),
    "se_e2_a-one-side": (WATER, _se_e2_a(type_one_side=True, activation_function="gelu"), {}),
    "se_e2_a-copper": (["Cu"], _se_e2_a(sel=[90]), {"resnet_dt": False}),
    "se_e2_a-few-neighbours": (WATER, _se_e2_a(sel=[8, 11], type_one_side=True), {}),
    # one type has more neighbours than it may, although all together are fewer than they may
    "se_e2_a-uneven-sel": (WATER, _se_e2_a(sel=[5, 200]), {}),
    "se_e2_a-excluded": (
        WATER,
        _se_e2_a(type_one_side=False, exclude_types=[[0, 0]], set_davg_zero=True),
        {"activation_function": "silu"},
    ),
    "se_e2_a-vacuum": (WATER, _se_e2_a(set_davg_zero=True), {"atom_ener": [-3.0, None]}),
    "se_e2_a-preset-bias": (WATER, _se_e2_a(set_davg_zero=True), {}),
    "se_e2_a-float32": (WATER, _se_e2_a(precision="float32"), FLOAT32),
    "se_e2_a-float32-descriptor": (WATER, _se_e2_a(precision="float32"), {}),
    "se_e2_a-float32-fitting": (WATER, _se_e2_a(), FLOAT32),
    "dpa1-attention": (WATER, _dpa1(attn_layer=2), {}),
    "dpa1-smooth": (WATER, _dpa1(attn_layer=2, smooth_type_embedding=True), {}),
    "dpa1-excluded": (WATER, _dpa1(attn_layer=1, exclude_types=[[0, 1]]), {}),
    "dpa1-strip": (WATER, _dpa1(attn_layer=0, tebd_input_mode="strip"), {}),
    "dpa1-float32": (WATER, _dpa1(attn_layer=0, precision="float32"), FLOAT32),
    "dpa1-smooth-float32": (
        WATER,
        _dpa1(attn_layer=2, smooth_type_embedding=True, precision="float32"),
        FLOAT32,
    ),
    "dpa1-float32-descriptor": (WATER, _dpa1(attn_layer=0, precision="float32"), {}),
    "dpa1-float32-fitting": (WATER, _dpa1(attn_layer=0), FLOAT32),
    "dpa3": (WATER, _dpa3(), {}),
    "dpa3-dynamic": (WATER, _dpa3(use_dynamic_sel=True, smooth_edge_update=True), {}),
    "dpa3-few-neighbours": (WATER, _dpa3(e_sel=14, a_sel=9), {}),
    "dpa3-float32": (WATER, {**_dpa3(), "precision": "float32"}, FLOAT32),
    "dpa3-float32-descriptor": (WATER, {**_dpa3(), "precision": "float32"}, {}),
    "dpa3-float32-fitting": (WATER, _dpa3(), FLOAT32),
}

#: Keys of the section ``model`` beside those that every model has.
MODEL_KEYS: dict[str, dict[str, Any]] = {
    "se_e2_a-preset-bias": {"preset_out_bias": {"energy": [None, 2.0]}},
}

#: DeepPot 3.2.0 with torch 2.13 fails on these files ("a view of a leaf Variable that requires grad
#: is being used in an in-place operation"); the reference is the same model before it is scripted.
NOT_SCRIPTED = ("se_e2_a-vacuum",)


def model_section(name: str) -> dict[str, Any]:
    """The section ``model`` of deepmd-kit's input file."""
    type_map, descriptor, changes = MODELS[name]
    return {
        "type_map": type_map,
        "descriptor": descriptor,
        "fitting_net": {**FITTING, **changes},
        **MODEL_KEYS.get(name, {}),
    }


def single(name: str) -> bool:
    """Whether a part of the model computes in float32."""
    _, descriptor, changes = MODELS[name]
    return "float32" in (descriptor.get("precision"), changes.get("precision"))


def structures(n_types: int) -> dict[str, dict[str, np.ndarray]]:
    """Structures of ``n_types`` types: ``types`` (N,), ``positions`` (N, 3) Å, ``cell`` (3, 3) Å.

    A cell of zeros means no periodic boundaries.
    """
    random = np.random.default_rng(7)

    def lattice(shape: tuple[int, int, int], spacing: float, shear: float) -> dict[str, Any]:
        cell = np.diag([spacing * n for n in shape]).astype(float)
        cell[1, 0], cell[2, 0], cell[2, 1] = shear, -0.5 * shear, 0.3 * shear
        fractions = np.indices(shape).reshape(3, -1).T / np.array(shape)
        positions = fractions @ cell + random.normal(scale=0.15, size=(len(fractions), 3))
        return {
            "types": random.integers(0, n_types, len(positions)),
            "positions": positions,
            "cell": cell,
        }

    box = lattice((5, 5, 5), 2.3, 0.0)
    triclinic = lattice((4, 5, 4), 2.2, 1.1)
    small = lattice((2, 1, 2), 2.4, 0.4)  # thinner than the cutoff: an atom meets its own images
    molecule = lattice((3, 2, 2), 1.9, 0.0)
    molecule["cell"] = np.zeros((3, 3))
    apart = {
        "types": np.zeros(2, dtype=int),
        "positions": np.array([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]]),
        "cell": np.zeros((3, 3)),
    }
    return {
        "box": box,
        "triclinic": triclinic,
        "small": small,
        "molecule": molecule,
        "no-neighbours": apart,
    }
