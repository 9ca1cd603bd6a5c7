"""What a model takes from its data before the first step: sel, statistics, energy bias."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.potentials.deepmd import (
    Definition,
    EnvironmentStatistics,
    SeE2A,
    energy_bias,
    pairs_of_frames,
    read_definition,
)
from alchemi_bridge.training.rmse import predict
from alchemi_bridge.training.systems import TrainingSystem

#: By how much the largest number of neighbours is exceeded by ``sel: "auto"``, and of what the
#: result is a multiple, as in DeePMD-kit.
AUTO_RATIO = 1.1
AUTO_MULTIPLE = 4
#: Frames of each system that the statistics of the environment matrix are made of, at most.
STATISTICS_FRAMES = 100


def resolve(
    model: Mapping[str, Any], systems: Sequence[TrainingSystem], where: str = "model"
) -> Definition:
    """Read the section ``model`` of an input; ``sel: "auto"`` is counted in the data.

    Parameters
    ----------
    model, where
        As for :func:`alchemi_bridge.potentials.deepmd.read_definition`.
    systems
        Where neighbours are counted.

    Raises
    ------
    ConfigurationError
        As :func:`alchemi_bridge.potentials.deepmd.read_definition`.
    """
    descriptor = model.get("descriptor")
    sel = descriptor.get("sel", "auto") if isinstance(descriptor, Mapping) else None
    if not isinstance(descriptor, Mapping) or not isinstance(sel, str):
        return _finite(read_definition(model, where), where)
    ratio = _ratio(sel, where)
    n_types = len(model.get("type_map") or [])
    # all the rest is checked before the data are looked at
    model = {**model, "descriptor": {**descriptor, "sel": [1] * n_types}}
    definition = _finite(read_definition(model, where), where)
    counted = [_multiple(ratio * n) for n in most_neighbours(systems, definition)]
    return read_definition({**model, "descriptor": {**descriptor, "sel": counted}}, where)


def _finite(definition: Definition, where: str) -> Definition:
    """The same; JSON has no NaN, but Python's reader takes it."""
    if not all(math.isfinite(energy) for energy in definition.atom_ener if energy is not None):
        raise ConfigurationError(
            f"{where}.fitting_net.atom_ener",
            expected="finite energies in eV, or null",
            got=str(list(definition.atom_ener)),
            fix="write null where the energy is not known",
        )
    return definition


def most_neighbours(systems: Sequence[TrainingSystem], definition: Definition) -> list[int]:
    """The largest number of neighbours of each type that an atom of the data has."""
    n_types = definition.n_types
    most = torch.zeros(n_types, dtype=torch.int64)
    for system in systems:
        types = torch.from_numpy(system.types)
        for frame in range(system.n_frames):
            pairs = pairs_of_frames(*_frame(system, frame), definition.rcut)
            center = torch.cat([pairs.first, pairs.second])
            group = center * n_types + types[torch.cat([pairs.second, pairs.first])]
            counts = torch.bincount(group, minlength=system.n_atoms * n_types)
            most = torch.maximum(most, counts.reshape(-1, n_types).amax(dim=0))
    return most.tolist()


def new_model(definition: Definition, systems: Sequence[TrainingSystem], seed: int) -> SeE2A:
    """A model with random weights, and the statistics and the energy bias of the data."""
    model = SeE2A(definition)
    model.initialise(seed)
    statistics = EnvironmentStatistics(definition)
    for system in systems:
        types = torch.from_numpy(system.types)
        n_chosen = min(system.n_frames, STATISTICS_FRAMES)
        for frame in np.linspace(0, system.n_frames - 1, n_chosen).round().astype(int):
            x, cell = _frame(system, int(frame))
            pairs = pairs_of_frames(x, cell, definition.rcut)
            statistics.add(pairs.vectors(x, cell), pairs.first, pairs.second, types)
    statistics.store(model)
    bias = energy_bias(
        _counts(systems, definition.n_types),
        np.concatenate([system.energies for system in systems]),
        assigned=definition.atom_ener[: definition.n_types],
        rcond=definition.rcond,
    )
    model.energy_bias.copy_(torch.from_numpy(bias))
    return model


def shift_bias(model: SeE2A, definition: Definition, systems: Sequence[TrainingSystem]) -> None:
    """Add to the energy bias what fits the model's energies best to other data (fine-tuning)."""
    errors = np.concatenate(
        [system.energies - predict(model, system, definition.rcut).energies for system in systems]
    )
    shift = energy_bias(_counts(systems, definition.n_types), errors, rcond=definition.rcond)
    model.energy_bias.add_(torch.from_numpy(shift))


def _frame(system: TrainingSystem, frame: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    x = torch.from_numpy(system.coordinates[frame : frame + 1])
    cells = system.cells
    return x, None if cells is None else torch.from_numpy(cells[frame : frame + 1])


def _counts(systems: Sequence[TrainingSystem], n_types: int) -> np.ndarray:
    """(F, T) numbers of atoms of each type in every frame."""
    rows = [np.bincount(system.types, minlength=n_types) for system in systems]
    return np.repeat(rows, [system.n_frames for system in systems], axis=0)


def _ratio(sel: str, where: str) -> float:
    word, colon, text = sel.partition(":")
    try:
        ratio = float(text) if colon else AUTO_RATIO
    except ValueError:
        ratio = math.nan
    if word not in ("auto", "auto_factor") or not 1.0 <= ratio < math.inf:
        raise ConfigurationError(
            f"{where}.descriptor.sel",
            expected="numbers of neighbours, 'auto', or 'auto:' and a factor of at least 1",
            got=repr(sel),
            fix="write 'auto' or 'auto:1.1'",
        )
    return ratio


def _multiple(n: float) -> int:
    return max(AUTO_MULTIPLE * math.ceil(n / AUTO_MULTIPLE), AUTO_MULTIPLE)
