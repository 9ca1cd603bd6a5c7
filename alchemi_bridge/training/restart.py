"""Going on from a checkpoint: is it of this model and this optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge.errors import ConfigurationError, first_line
from alchemi_bridge.potentials.deepmd import Definition
from alchemi_bridge.training.checkpoint import damaged
from alchemi_bridge.training.input import OptimiserInput, TrainingInput
from alchemi_bridge.training.preparation import resolve


def restore(
    optimiser: torch.optim.Optimizer, wanted: OptimiserInput, found: Mapping[str, Any], path: Path
) -> list[str]:
    """Give an optimiser the state that a checkpoint has of it; its settings stay as they are.

    Parameters
    ----------
    optimiser
        What is to go on.
    wanted
        What the input says of it.
    found, path
        The state with its ``"name"``, and the file that it is from.

    Returns
    -------
    list of str
        In which settings it is not the optimiser of the checkpoint.

    Raises
    ------
    ConfigurationError
        If the state is that of another optimiser, or of other blocks of the filter.
    ModelLoadError
        If it is damaged.
    """
    state = dict(found)
    name = state.pop("name", None)
    if name != wanted.name:
        raise ConfigurationError(
            "training.opt_type",
            expected=f"{name}, as in '{path}'",
            got=f"{wanted.name}: the checkpoint has the state of another optimiser",
            fix="choose the optimiser of that training, or start with --finetune",
        )
    try:
        size = state["param_groups"][0].get("block_size")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise damaged(path, "no settings of the optimiser") from error
    if size is not None and size != wanted.block_size:
        raise ConfigurationError(
            "training.kf_blocksize",
            expected=f"{size}, the blocks whose covariances are in '{path}'",
            got=str(wanted.block_size),
            fix="use the blocks of that training, or start with --finetune",
        )
    # the filter has one state, Adam one for each of its tensors
    n_states = len(optimiser.param_groups[0]["params"]) if size is None else 1
    # load_state_dict replaces them by those of the checkpoint
    [settings] = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimiser.param_groups
    ]
    try:
        optimiser.load_state_dict(state)
        if len(state["state"]) != n_states:
            raise ValueError(f"{len(state['state'])} states instead of {n_states}")
        [group] = optimiser.param_groups
        was, now = _of_adam(group), _of_adam(settings)
        changed = [f"{k}: {was[k]:g} before, {now[k]:g} now" for k in now if was[k] != now[k]]
        group.update(settings)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        got = f"a state of the optimiser that does not fit: {first_line(error)}"
        raise damaged(path, got) from error
    return changed


def _of_adam(group: Mapping[str, Any]) -> dict[str, float]:
    """What the input says of Adam, under its names; the learning rate is set in every step."""
    if "betas" not in group:
        return {}
    first, second = group["betas"]
    return {"adam_beta1": first, "adam_beta2": second, "weight_decay": group["weight_decay"]}


def check_same_model(settings: TrainingInput, definition: Definition) -> None:
    """The input asks for the model of the checkpoint; ``sel: "auto"`` is what it was.

    Raises
    ------
    ConfigurationError
        If it asks for another one; the message names the first key that differs.
    """
    descriptor = settings.model.get("descriptor")
    model = dict(settings.model)
    if isinstance(descriptor, dict) and isinstance(descriptor.get("sel", "auto"), str):
        model["descriptor"] = {**descriptor, "sel": list(definition.sel)}
    wanted = resolve(model, [], f"{settings.where}.model").to_deepmd()
    known = definition.to_deepmd()
    for section in ("type_map", "descriptor", "fitting_net"):
        if wanted[section] == known[section]:
            continue
        keys = [section]
        if isinstance(known[section], dict):
            [key, *_] = [k for k in known[section] if known[section][k] != wanted[section][k]]
            keys = [section, key]
        theirs, ours = known, wanted
        for key in keys:
            theirs, ours = theirs[key], ours[key]
        raise ConfigurationError(
            f"{settings.where}.model.{'.'.join(keys)}",
            expected=f"{theirs!r}, as in the checkpoint",
            got=repr(ours),
            fix="use the section model of the first training",
        )
