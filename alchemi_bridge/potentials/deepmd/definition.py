"""What a DeePMD model is made of: the section ``model`` of DeePMD-kit's input format.

The same section stands in a training input and, with defaults filled in, in a frozen model. The
part that se_e2_a needs is read here. A key that is not known, or whose value asks for something
that is not supported, is an error that names it: a model that leaves out a term is a wrong model.

Source of keys and defaults: DeePMD-kit 3.2.0, https://docs.deepmodeling.com/projects/deepmd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alchemi_bridge.potentials.deepmd.section import Section

ACTIVATIONS = (
    *("tanh", "relu", "relu6", "softplus", "sigmoid", "gelu", "gelu_tf", "silu"),
    *("linear", "none"),
)
#: DeePMD's names of precisions; "default" is what DeePMD-kit is built with, by default float64.
PRECISIONS = {"default": "float64", "float64": "float64", "float32": "float32"}

# keys that do not change the energies of a model that has its weights
_MODEL_IGNORED = (
    *("type", "data_stat_nbatch", "data_stat_protect", "data_bias_nsample", "srtab_add_bias"),
    *("info", "model_branch_alias", "finetune_head", "bridging_r_inner", "bridging_r_outer"),
)
# keys that only say how the weights come about
_TRAINING_ONLY = ("preset_out_bias",)
_NET_IGNORED = ("seed", "trainable")
# keys of what is not supported, with the values that ask for nothing
_MODEL_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "pair_exclude_types": ([], None),
    "atom_exclude_types": ([], None),
    "preset_out_bias": (None,),
    "bridging_method": ("None", None),
    **dict.fromkeys(
        ("use_srtab", "smin_alpha", "sw_rmin", "sw_rmax", "spin", "modifier", "compress"), (None,)
    ),
    "type_embedding": (None,),
}
_DESCRIPTOR_NEUTRAL: dict[str, tuple[Any, ...]] = {"spin": (None,)}
_FITTING_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "numb_fparam": (0,),
    "numb_aparam": (0,),
    "default_fparam": (None,),
    "dim_case_embd": (0,),
    "use_aparam_as_mask": (False,),
    "layer_name": (None,),
}


@dataclass(frozen=True)
class Definition:
    """Settings of an se_e2_a model with an energy fitting net, in DeePMD's names.

    Attributes
    ----------
    type_map
        Name of each of the T types; the model counts types by their place in it.
    rcut, rcut_smth
        Cutoff, and where the switching function begins to fall, Å.
    sel
        How many neighbours of each type are taken, the nearest first.
    neuron, axis_neuron
        Widths of the embedding nets; columns of the second factor of the descriptor.
    activation, resnet_dt, precision
        Activation function, time step of the residual connections, ``"float64"`` or ``"float32"``.
    type_one_side
        One embedding net for each type of neighbour, instead of one for each pair of types.
    exclude_types
        Pairs of types that do not see each other.
    env_protection
        Added to distances before they are inverted, Å.
    set_davg_zero
        Whether statistics leave the mean of the environment matrix at zero.
    fitting_neuron, fitting_activation, fitting_resnet_dt, fitting_precision
        The same of the fitting nets.
    atom_ener
        Energies of lone atoms, eV, None where not given; for types where it is given, the fitting
        net's energy of an empty environment is subtracted. Empty: nothing is subtracted.
    rcond
        Smallest singular value, relative to the largest, in the fit of the energy bias.
    """

    type_map: tuple[str, ...]
    rcut: float
    rcut_smth: float
    sel: tuple[int, ...]
    neuron: tuple[int, ...]
    axis_neuron: int
    activation: str
    resnet_dt: bool
    precision: str
    type_one_side: bool
    exclude_types: tuple[tuple[int, int], ...]
    env_protection: float
    set_davg_zero: bool
    fitting_neuron: tuple[int, ...]
    fitting_activation: str
    fitting_resnet_dt: bool
    fitting_precision: str
    atom_ener: tuple[float | None, ...]
    rcond: float | None

    @property
    def n_types(self) -> int:
        """T."""
        return len(self.type_map)

    @property
    def subtracts_vacuum(self) -> tuple[bool, ...]:
        """For each type: is the energy of an empty environment subtracted."""
        if all(energy is None for energy in self.atom_ener):
            return (False,) * self.n_types
        # a list that is too short counts as given for the rest
        given = [energy is not None for energy in self.atom_ener[: self.n_types]]
        return tuple(given + [True] * (self.n_types - len(given)))

    def to_deepmd(self) -> dict[str, Any]:
        """The section ``model`` that DeePMD-kit reads."""
        return {
            "type_map": list(self.type_map),
            "descriptor": {
                "type": "se_e2_a",
                "rcut": self.rcut,
                "rcut_smth": self.rcut_smth,
                "sel": list(self.sel),
                "neuron": list(self.neuron),
                "axis_neuron": self.axis_neuron,
                "activation_function": self.activation,
                "resnet_dt": self.resnet_dt,
                "precision": self.precision,
                "type_one_side": self.type_one_side,
                "exclude_types": [list(pair) for pair in self.exclude_types],
                "env_protection": self.env_protection,
                "set_davg_zero": self.set_davg_zero,
            },
            "fitting_net": {
                "type": "ener",
                "neuron": list(self.fitting_neuron),
                "activation_function": self.fitting_activation,
                "resnet_dt": self.fitting_resnet_dt,
                "precision": self.fitting_precision,
                "atom_ener": list(self.atom_ener),
                "rcond": self.rcond,
            },
        }


def read_definition(
    model: Mapping[str, Any], where: str = "model", *, trained: bool = False
) -> Definition:
    """Read the section ``model`` of an input file or a frozen model.

    Parameters
    ----------
    model
        The section, as JSON gives it. Keys that begin with ``_`` are comments.
    where
        How messages name the section.
    trained
        Whether the model has its weights, so that it does not matter how they came about.

    Raises
    ------
    ConfigurationError
        If a key is missing, unknown, out of its range, or asks for what is not supported.
    """
    root = Section(model, where)
    kind = root.get("type", "standard")
    if kind != "standard":
        raise root.refuse("type", "'standard'", repr(kind), "only standard models are supported")
    type_map = root.texts("type_map")
    descriptor = root.section("descriptor")
    _check_kind(descriptor, "type", ("se_e2_a", "se_a"))
    fitting = root.section("fitting_net")
    _check_kind(fitting, "type", ("ener",), "ener")
    root.finish(_ignored(trained), _MODEL_NEUTRAL)

    rcut = descriptor.number("rcut", 6.0, above=0.0)
    rcut_smth = descriptor.number("rcut_smth", 0.5)
    if not 0.0 <= rcut_smth < rcut:
        raise descriptor.refuse(
            "rcut_smth",
            f"a length below rcut, {rcut:g} Å",
            f"{rcut_smth:g}",
            "choose a smaller one",
        )
    sel = descriptor.counts("sel")
    if len(sel) != len(type_map):
        raise descriptor.refuse(
            "sel",
            f"one number for each of the {len(type_map)} types in type_map",
            repr(list(sel)),
            "give one number of neighbours for each type",
        )
    neuron = descriptor.counts("neuron", (10, 20, 40))
    axis_neuron = descriptor.count("axis_neuron", 4)
    if axis_neuron > neuron[-1]:
        raise descriptor.refuse(
            "axis_neuron",
            f"at most the last of neuron, {neuron[-1]}",
            str(axis_neuron),
            "choose a smaller one",
        )
    result = Definition(
        type_map=type_map,
        rcut=rcut,
        rcut_smth=rcut_smth,
        sel=sel,
        neuron=neuron,
        axis_neuron=axis_neuron,
        activation=descriptor.choice("activation_function", ACTIVATIONS, "tanh"),
        resnet_dt=descriptor.flag("resnet_dt", False),
        precision=PRECISIONS[descriptor.choice("precision", tuple(PRECISIONS), "default")],
        type_one_side=descriptor.flag("type_one_side", False),
        exclude_types=_pairs(descriptor, len(type_map)),
        env_protection=descriptor.number("env_protection", 0.0, above=-1e-300),
        set_davg_zero=descriptor.flag("set_davg_zero", False),
        fitting_neuron=fitting.counts("neuron", (120, 120, 120)),
        fitting_activation=fitting.choice("activation_function", ACTIVATIONS, "tanh"),
        fitting_resnet_dt=fitting.flag("resnet_dt", True),
        fitting_precision=PRECISIONS[fitting.choice("precision", tuple(PRECISIONS), "default")],
        atom_ener=_energies(fitting),
        rcond=None if fitting.get("rcond") is None else fitting.number("rcond", 0.0),
    )
    descriptor.finish(_NET_IGNORED, _DESCRIPTOR_NEUTRAL)
    fitting.finish(_NET_IGNORED, _FITTING_NEUTRAL)
    return result


def check_model_keys(
    model: Mapping[str, Any], where: str = "model", *, trained: bool = False
) -> None:
    """Check the keys beside type map, descriptor and fitting net; those belong to whoever reads.

    Parameters
    ----------
    model, where, trained
        As for :func:`read_definition`.

    Raises
    ------
    ConfigurationError
        If a key is unknown, or asks for what is not supported.
    """
    root = Section(model, where)
    root.used |= {"type_map", "descriptor", "fitting_net"}
    root.finish(_ignored(trained), _MODEL_NEUTRAL)


def _ignored(trained: bool) -> tuple[str, ...]:
    return _MODEL_IGNORED + _TRAINING_ONLY if trained else _MODEL_IGNORED


def _check_kind(
    section: Section, key: str, known: tuple[str, ...], default: str | None = None
) -> None:
    kind = section.get(key, default)
    if kind not in known:
        raise section.refuse(
            key, f"'{known[0]}'", repr(kind), f"only {known[0]} is supported in this place"
        )


def _pairs(section: Section, n_types: int) -> tuple[tuple[int, int], ...]:
    value = section.get("exclude_types", [])
    good = isinstance(value, list) and all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(type(index) is int and 0 <= index < n_types for index in pair)
        for pair in value
    )
    if not good:
        raise section.refuse(
            "exclude_types",
            f"a list of pairs of types from 0 to {n_types - 1}",
            repr(value),
            "write [[0, 1]], for example",
        )
    return tuple((pair[0], pair[1]) for pair in value)


def _energies(section: Section) -> tuple[float | None, ...]:
    value = section.get("atom_ener", []) or []
    energies: list[float | None] = []
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, list) and len(entry) == 1:
            entry = entry[0]
        if entry is not None and (isinstance(entry, bool) or not isinstance(entry, (int, float))):
            raise section.refuse(
                "atom_ener", "a list of energies or null", repr(value), "give numbers in eV"
            )
        energies.append(None if entry is None else float(entry))
    return tuple(energies)
