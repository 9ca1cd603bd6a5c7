"""A small fit of argon: a model 15 % off, a liquid, targets, and the configuration."""

from __future__ import annotations

import csv
from pathlib import Path

import ase.io
import numpy as np
from ase.build import bulk

from alchemi_bridge import potentials

TRUE = {"epsilon": 0.01042332, "sigma": 3.40}
TEMPERATURE = 94.4

CONFIG = """\
model = "start.pt"
steps = {steps}

[parameters]
names = ["epsilon", "sigma"]
scale = "log"

[[simulators]]
name = "liquid"
engine = "ase"
structure = "liquid.xyz"
temperature = 94.4
timestep = 10.0
steps = 60
equilibration = 40
every = 10

[[objectives]]
name = "argon"
kind = "reweighted"
simulators = ["liquid"]

[[objectives.targets]]
kind = "rdf"
file = "rdf.csv"
scale = 0.2

[[objectives.targets]]
kind = "mean-energy"
value = -0.05
scale = 0.002

[optimizer]
rate = 0.01
decay = 0.9
"""


def argon_model(path: Path, factor: float = 1.0) -> Path:
    """Argon with epsilon and sigma off by a factor."""
    values = {name: [factor * value] for name, value in TRUE.items()}
    options = {"types": [18], "cutoff": 6.5, "trainable": True, **values}
    return Path(potentials.export("lennard-jones", path, **options))


def problem(folder: Path, *, steps: int = 3, replace: tuple[tuple[str, str], ...] = ()) -> Path:
    """Model, structure, target and configuration in a folder; the path of the last."""
    if not (folder / "start.pt").exists():  # a file that is made again has another hash
        argon_model(folder / "start.pt", 0.95)
    ase.io.write(folder / "liquid.xyz", bulk("Ar", "fcc", cubic=True, a=5.78) * (2, 2, 2))
    with (folder / "rdf.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["r", "g"])
        for r in np.arange(0.05, 6.0, 0.1):
            writer.writerow([f"{r:.4f}", f"{float(r > 3.2):.4f}"])
    text = CONFIG.format(steps=steps)
    for old, new in replace:
        assert old in text
        text = text.replace(old, new)
    path = folder / "fit.toml"
    path.write_text(text)
    return path
