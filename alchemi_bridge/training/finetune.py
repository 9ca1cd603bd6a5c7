"""Weights that a fine-tuning begins with: of a checkpoint, or of a model of DeePMD-kit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alchemi_bridge.errors import ModelLoadError
from alchemi_bridge.potentials.deepmd import Definition, SeE2A, from_deepmd, read_definition
from alchemi_bridge.potentials.deepmd.frozen import read_frozen
from alchemi_bridge.training import checkpoint


def starting_model(path: Path) -> tuple[SeE2A, Definition]:
    """Read a model to begin with.

    Parameters
    ----------
    path
        A checkpoint (see :func:`alchemi_bridge.training.checkpoint.load`), a frozen model of
        DeePMD-kit's PyTorch backend (``*.pth``), or a checkpoint of it.

    Raises
    ------
    ConfigurationError, ModelLoadError
        If the file is missing or damaged, or holds another kind of model than se_e2_a.
    UntrustedModelError
        If a frozen model holds what no exported model holds.
    """
    if path.suffix == ".pth":
        label = f"frozen model '{path}'"
        file = read_frozen(path)
        if file.kind != "se_e2_a":
            raise ModelLoadError(
                label,
                expected="an se_e2_a model, the one that can be trained here",
                got=f"a {file.kind} model",
                fix="'alchemi-bridge convert' makes a metatomic model of it as it is",
            )
        definition = read_definition(file.definition, f"{label}, model")
        return from_deepmd(definition, file.module.state_dict(), label), definition
    state = _state_of_deepmd(path)
    if state is not None:
        label = f"checkpoint '{path}'"
        section = state["_extra_state"]["model_params"]
        definition = read_definition(section, f"{label}, model")
        weights = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
        return from_deepmd(definition, weights, label), definition
    found = checkpoint.load(path)
    return found.build(), found.definition


def _state_of_deepmd(path: Path) -> Mapping[str, Any] | None:
    """What a checkpoint of DeePMD-kit holds; None if the file is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content.get("model", content)
        return state if "model_params" in state["_extra_state"] else None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, AttributeError,
            pickle.UnpicklingError):  # fmt: skip
        return None
