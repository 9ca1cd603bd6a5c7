"""Checks of what users ask of a potential, and the wrapping into an :class:`AtomisticModel`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from metatomic.torch import AtomisticModel, ModelCapabilities, ModelMetadata, ModelOutput

from alchemi_bridge.errors import ConfigurationError

DTYPES = {"float32": torch.float32, "float64": torch.float64}
#: keys of ``ModelMetadata.extra`` that say how a file was made, so that a reader can rebuild it
POTENTIAL_KEY = "alchemi_bridge::potential"
OPTIONS_KEY = "alchemi_bridge::options"
_HEAVIEST = 118


def torch_dtype(dtype: str) -> torch.dtype:
    """Return the torch type that ``dtype`` names, ``"float32"`` or ``"float64"``."""
    if dtype not in DTYPES:
        raise ConfigurationError(
            "dtype",
            expected="'float32' or 'float64'",
            got=repr(dtype),
            fix="choose one of the two",
        )
    return DTYPES[dtype]


def number(name: str, value: float, *, above: float = -math.inf) -> float:
    """Return ``value`` as a finite float larger than ``above``, or raise ConfigurationError."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result) or result <= above:
        raise ConfigurationError(
            name,
            expected="a finite number" + (f" above {above:g}" if above > -math.inf else ""),
            got=repr(value),
            fix=f"pass a valid {name}",
        )
    return result


def count(name: str, value: int, *, least: int = 1) -> int:
    """Return ``value`` as an integer of at least ``least``, or raise ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            name,
            expected=f"an integer of at least {least}",
            got=repr(value),
            fix=f"pass a valid {name}",
        )
    return value


def atomic_types(types: Sequence[int]) -> list[int]:
    """Return ``types`` as a list of distinct atomic numbers, or raise ConfigurationError."""
    result = [count("atomic type", value) for value in types]
    if not result or len(set(result)) != len(result) or max(result) > _HEAVIEST:
        raise ConfigurationError(
            "types",
            expected=f"one or more distinct atomic numbers between 1 and {_HEAVIEST}",
            got=repr(list(types)),
            fix="list every atomic number once",
        )
    return result


def to_model(
    module: torch.nn.Module,
    *,
    name: str,
    options: dict[str, Any],
    types: list[int],
    interaction_range: float,
    dtype: str,
    metadata: ModelMetadata,
    authors: Sequence[str] = ("the alchemi_bridge developers",),
) -> AtomisticModel:
    """Wrap ``module`` into a metatomic model that computes ``"energy"`` per atom, in eV and Å.

    ``name`` and ``options`` go into the metadata, so that a reader of the file knows what it holds.
    ``authors`` are those of the model, weights included.
    """
    metadata.authors = list(authors)
    metadata.extra = {POTENTIAL_KEY: name, OPTIONS_KEY: json.dumps(options, sort_keys=True)}
    capabilities = ModelCapabilities(
        outputs={
            "energy": ModelOutput(
                unit="eV",
                sample_kind="atom",
                explicit_gradients=[],
                description="potential energy",
            )
        },
        atomic_types=types,
        interaction_range=interaction_range,
        length_unit="angstrom",
        supported_devices=["cuda", "cpu"],
        dtype=dtype,
    )
    return AtomisticModel(module.eval(), metadata, capabilities)
