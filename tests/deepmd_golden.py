"""DeePMD-kit's numbers for se_e2_a models, as integration/deepmd stored them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alchemi_bridge.potentials.deepmd import (
    Definition,
    SeE2A,
    from_deepmd,
    pairs_of_frames,
    read_definition,
)

FOLDER = Path(__file__).parent / "golden" / "deepmd"
MODELS = tuple(sorted(path.stem for path in FOLDER.glob("*.npz")))
DOUBLE = tuple(name for name in MODELS if not name.endswith("float32"))
STRUCTURES = ("triclinic", "small", "molecule", "no-neighbours")

#: eV of an atom, eV/Å and eV: what converted models must keep.
LIMITS = {"energies": 1e-10, "forces": 1e-10, "virial": 1e-9}
#: The same for nets in float32: rounding is 6e-8 of energies of a few eV, and of sums of some
#: hundred terms.
LIMITS_FLOAT32 = {"energies": 1e-6, "forces": 1e-5, "virial": 1e-4}


def limits(name: str) -> dict[str, float]:
    """How close a model has to come."""
    return LIMITS_FLOAT32 if name.endswith("float32") else LIMITS


def arrays(name: str) -> dict[str, np.ndarray]:
    """Everything that is stored for a model."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def section(name: str) -> dict[str, Any]:
    """Section ``model`` of its training input."""
    return json.loads(str(arrays(name)["definition"]))


def weights(name: str) -> dict[str, torch.Tensor]:
    """Its state, with DeePMD-kit's names."""
    return {
        key.removeprefix("weights/"): torch.from_numpy(array)
        for key, array in arrays(name).items()
        if key.startswith("weights/")
    }


def load(name: str) -> tuple[SeE2A, Definition]:
    """The model, and its definition."""
    definition = read_definition(section(name))
    return from_deepmd(definition, weights(name)), definition


def frame(
    name: str, label: str
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, dict[str, np.ndarray]]:
    """Coordinates (1, N, 3), cells (1, 3, 3) or None, types (N,), and the results."""
    stored = arrays(name)
    cell = torch.from_numpy(stored[f"{label}/cell"])[None]
    results = {key: stored[f"{label}/{key}"] for key in LIMITS}
    return (
        torch.from_numpy(stored[f"{label}/positions"])[None],
        cell if bool(cell.any()) else None,
        torch.from_numpy(stored[f"{label}/types"]),
        results,
    )


def pairs(
    name: str, label: str, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arguments of the model: vectors, first and second atoms of every pair once, types."""
    coordinates, cells, types, _ = frame(name, label)
    found = pairs_of_frames(coordinates, cells, cutoff)
    return found.vectors(coordinates, cells), found.first, found.second, types
