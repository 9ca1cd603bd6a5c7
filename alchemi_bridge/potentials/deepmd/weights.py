"""Weights of se_e2_a models by the names that DeePMD-kit gives them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from alchemi_bridge.errors import ModelLoadError
from alchemi_bridge.potentials.deepmd.definition import Definition
from alchemi_bridge.potentials.deepmd.model import SeE2A

_DESCRIPTOR = "atomic_model.descriptor.sea."
_FITTING = "atomic_model.fitting_net."
_OUT_BIAS = "atomic_model.out_bias"
_OUT_STD = "atomic_model.out_std"
_EMBEDDING_NETS = f"{_DESCRIPTOR}filter_layers.networks."
_FITTING_NETS = f"{_FITTING}filter_layers.networks."
# nothing of the energy: a second name of the nets, tables of compressed models (empty otherwise),
# and what the training knows of the data
_ASIDE = (
    f"{_DESCRIPTOR}filter_layers._networks.",
    f"{_FITTING}filter_layers._networks.",
    f"{_DESCRIPTOR}compress_",
    # made from exclude_types
    f"{_DESCRIPTOR}emask.",
    f"{_FITTING}emask.",
    f"{_FITTING}default_fparam_tensor",
    _OUT_STD,
    "min_nbor_dist",
)


def from_deepmd(
    definition: Definition, state: Mapping[str, torch.Tensor], where: str = "weights"
) -> SeE2A:
    """Build a model from DeePMD-kit's weights.

    Parameters
    ----------
    definition
        Settings of the model.
    state
        ``state_dict()`` of DeePMD-kit's model. A common prefix, such as the ``model.Default.`` of
        checkpoints, is taken off.
    where
        How messages name the weights.

    Returns
    -------
    SeE2A
        On the CPU.

    Raises
    ------
    ModelLoadError
        If tensors are missing or left over, or have the wrong shape or precision; if the tables of
        a compressed model are among them, or statistics that differ between neighbours.
    """
    state = _without_prefix(state, where)
    model = SeE2A(definition)
    own = dict(model.named_parameters())
    left = {key for key in state if not key.startswith(_ASIDE)}
    with torch.no_grad():
        for name, target in own.items():
            key = _deepmd_name(name)
            left.discard(key)
            target.copy_(_checked(state, key, tuple(target.shape), target.dtype, where))
        for name, buffer in (("mean", model.davg), ("stddev", model.dstd)):
            key = f"{_DESCRIPTOR}{name}"
            left.discard(key)
            buffer.copy_(_statistics(state, key, definition, buffer.dtype, where))
        for key, buffer, shape in (
            (f"{_FITTING}bias_atom_e", model.fitting_bias, (definition.n_types, 1)),
            (_OUT_BIAS, model.energy_bias, (1, definition.n_types, 1)),
        ):
            left.discard(key)
            buffer.copy_(_checked(state, key, shape, torch.float64, where).reshape(-1))
    if left:
        raise ModelLoadError(
            where,
            expected="the weights of an se_e2_a model with an energy fitting net",
            got=f"also {', '.join(sorted(left)[:4])}" + (" and more" if len(left) > 4 else ""),
            fix="check that definition and weights belong together",
        )
    return model


def to_deepmd(model: SeE2A, definition: Definition) -> dict[str, torch.Tensor]:
    """Weights of a model under DeePMD-kit's names, for ``load_state_dict(..., strict=False)``.

    Left out are what DeePMD-kit keeps beside the weights: the tables of compressed models and the
    smallest distance in the data.
    """
    state: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        key = _deepmd_name(name)
        state[key] = parameter.detach().clone()
        for nets in (_EMBEDDING_NETS, _FITTING_NETS):
            if key.startswith(nets):
                other = nets.replace(".networks.", "._networks.") + key.removeprefix(nets)
                state[other] = state[key]
    n_rows = sum(definition.sel)
    for name, buffer in (("mean", model.davg), ("stddev", model.dstd)):
        state[f"{_DESCRIPTOR}{name}"] = buffer.unsqueeze(1).repeat(1, n_rows, 1)
    state[f"{_FITTING}bias_atom_e"] = model.fitting_bias.reshape(-1, 1).clone()
    state[_OUT_BIAS] = model.energy_bias.reshape(1, -1, 1).clone()
    state[_OUT_STD] = torch.ones_like(state[_OUT_BIAS])
    return state


def _deepmd_name(name: str) -> str:
    kind, _, rest = name.partition(".")
    return (_EMBEDDING_NETS if kind == "embedding" else _FITTING_NETS) + rest


def _without_prefix(state: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    prefixes = {key[: -len(_OUT_BIAS)] for key in state if key.endswith(_OUT_BIAS)}
    if len(prefixes) != 1:
        raise ModelLoadError(
            where,
            expected=f"weights of one model of DeePMD-kit, with '{_OUT_BIAS}'",
            got=f"{len(prefixes)} such tensors",
            fix="freeze one head of a multi-task model; retrain models of versions before 3",
        )
    [prefix] = prefixes
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def _checked(
    state: Mapping[str, torch.Tensor],
    key: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    where: str,
) -> torch.Tensor:
    tensor = state.get(key)
    if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != dtype:
        got = "none" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise ModelLoadError(
            f"{where}, tensor '{key}'",
            expected=f"{shape} of {dtype}",
            got=got,
            fix="check that definition and weights belong together",
        )
    if not bool(torch.isfinite(tensor).all()):
        raise ModelLoadError(
            f"{where}, tensor '{key}'",
            expected="finite numbers",
            got="NaN or infinite values",
            fix="train again from an earlier checkpoint; the training diverged",
        )
    return tensor


def _statistics(
    state: Mapping[str, torch.Tensor],
    key: str,
    definition: Definition,
    dtype: torch.dtype,
    where: str,
) -> torch.Tensor:
    """(T, 4) statistics; the file has them once for every row."""
    shape = (definition.n_types, sum(definition.sel), 4)
    tensor = _checked(state, key, shape, dtype, where)
    if not torch.equal(tensor, tensor[:, :1].expand_as(tensor)):
        raise ModelLoadError(
            f"{where}, tensor '{key}'",
            expected="the same statistics for every neighbour of an atom",
            got="different ones",
            fix="convert the model with its own code instead (--code deepmd)",
        )
    return tensor[:, 0]
