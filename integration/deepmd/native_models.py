"""Models of this package with random weights, for DeePMD-kit to load.

``python native_models.py FOLDER``: for some definitions of ``cases`` writes ``NAME-native.npz``,
the weights under DeePMD-kit's names and the energies of the atoms (eV) of each structure.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from cases import model_section, structures

from alchemi_bridge.potentials.deepmd import (
    EnvironmentStatistics,
    SeE2A,
    pairs_of_frames,
    read_definition,
    to_deepmd,
)

NAMES = ("se_e2_a-water", "se_e2_a-one-side", "se_e2_a-few-neighbours", "se_e2_a-excluded")


def main(folder: Path) -> None:
    """Make the models and evaluate them."""
    for name in NAMES:
        definition = read_definition(model_section(name))
        model = SeE2A(definition)
        model.initialise(seed=4)
        model.energy_bias.copy_(-torch.arange(1.0, definition.n_types + 1))
        frames = {}
        statistics = EnvironmentStatistics(definition)
        for label, structure in structures(definition.n_types).items():
            x = torch.from_numpy(structure["positions"])[None]
            periodic = bool(structure["cell"].any())
            cell = torch.from_numpy(structure["cell"])[None] if periodic else None
            types = torch.from_numpy(structure["types"])
            pairs = pairs_of_frames(x, cell, definition.rcut)
            frames[label] = (pairs.vectors(x, cell), pairs.first, pairs.second, types)
            statistics.add(*frames[label])
        statistics.store(model)
        results = {f"energies/{k}": model(*frame).detach().numpy() for k, frame in frames.items()}
        weights = {f"weights/{k}": v.numpy() for k, v in to_deepmd(model, definition).items()}
        np.savez(folder / f"{name}-native.npz", **results, **weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
