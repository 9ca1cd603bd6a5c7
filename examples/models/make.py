"""Make the models of this folder and the structures beside it: python examples/models/make.py"""

from pathlib import Path

from ase.build import bulk, molecule
from ase.io import write

from alchemi_bridge import potentials
from alchemi_bridge.parity import structures

MODELS = Path(__file__).resolve().parent
STRUCTURES = MODELS.parent / "structures"

#: File, potential and its options.
MADE = {
    "argon.pt": ("lennard-jones", {"types": (18,), "epsilon": (0.0103,), "sigma": (3.405,)}),
    "silicon.pt": ("stillinger-weber", {}),
    "message-passing-f32.pt": (
        "message-passing",
        {"types": (1, 6, 7, 8, 14, 18), "cutoff": 4.0, "dtype": "float32"},
    ),
}


def frames():
    """Structures by the name of their file: seeded, the same every time."""
    argon, ethanol = structures.liquid_argon(), molecule("CH3CH2OH")
    silicon = bulk("Si", cubic=True) * (2, 2, 2)
    return {
        "argon-liquid.xyz": [argon, structures.stepped(argon, 1)],
        "argon-crystal.xyz": [bulk("Ar", "fcc", a=a) for a in (5.2, 5.3, 5.4)],
        "silicon-crystal.xyz": [structures.rattled(silicon, 0.1, seed=2)],
        "silicon-slab.xyz": [structures.slab()],
        "ethanol.xyz": [structures.rattled(ethanol, 0.03, seed=number) for number in range(3)],
        "mixture.xyz": [structures.mixture()],
    }


if __name__ == "__main__":
    STRUCTURES.mkdir(exist_ok=True)
    for file, (name, options) in MADE.items():
        potentials.export(name, MODELS / file, **options)
    for file, made in frames().items():
        write(STRUCTURES / file, made, format="extxyz", columns=["symbols", "positions"])
