"""Write ``golden/*.json``: small systems and their pairs, from the brute-force oracle.

Run ``python make_golden.py`` in this folder. The files are of the same kind as those with which
metatomic tests pair lists of engines (https://github.com/metatensor/metatensor,
``metatensor-torch/tests/neighbor-checks``), with ``pbc`` in addition: ``samples`` are
``first_atom, second_atom, cell_shift_a, cell_shift_b, cell_shift_c`` and ``distances`` are the
vectors from the first atom to the second. Order does not matter, and in a half list a pair may be
listed in either direction.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import brute_force
import numpy as np

FOLDER = Path(__file__).parent / "golden"

#: No pair may be this close to the cutoff (in units of length): the list would depend on rounding,
#: also on that of float32.
MARGIN = 1e-4

PERIODIC = (True, True, True)


@dataclass(frozen=True)
class Case:
    """A system and a request."""

    name: str
    description: str
    positions: np.ndarray
    cell: np.ndarray
    pbc: tuple[bool, bool, bool]
    cutoff: float
    full_list: bool = True


def scattered(seed: int, cell: np.ndarray, n_atoms: int, apart: float) -> np.ndarray:
    """Random positions in a cell, no two atoms (or images) closer than ``apart``."""
    rng = np.random.default_rng(seed)
    positions: list[np.ndarray] = []
    while len(positions) < n_atoms:
        trial = [*positions, np.round(rng.random(3) @ cell, 3)]
        if len(brute_force.find(np.array(trial), cell, PERIODIC, apart).samples) == 0:
            positions = trial
    return np.array(positions)


def cases() -> list[Case]:
    """All golden systems."""
    fcc = 1.8 * (1.0 - np.eye(3))  # primitive vectors, cubic lattice constant 3.6
    slanted = np.array([[3.1, 0.0, 0.0], [4.2, 2.7, 0.0], [-2.4, 3.9, 3.3]])
    large = np.diag([31.0, 29.0, 33.0])
    tiny = np.array([[1.9, 0.2, 0.0], [-0.3, 2.1, 0.1], [0.0, 0.4, 1.7]])
    slab = np.array([[4.4, 0.0, 0.0], [1.1, 4.1, 0.0], [0.0, 0.0, 9.0]])
    layers = np.array([[3.7, 0.5, 0.2], [0.0, 0.0, 0.0], [0.9, -0.3, 4.3]])
    chain = np.array([[0.0, 0.0, 0.0], [1.2, 2.2, 0.7], [0.0, 0.0, 0.0]])
    left = np.array([[0.0, 3.9, 0.4], [4.2, 0.0, -0.6], [0.8, 0.3, 4.0]])
    none = np.zeros((3, 3))
    box = np.array([[4.7, 0.0, 0.0], [0.9, 4.3, 0.0], [-0.6, 0.8, 4.9]])
    strewn = scattered(7, box, 5, 1.6)
    away = np.array([[-9, 4, 12], [0, 0, 0], [3, -7, 1], [40, 2, -21], [-1, 0, 0]]) @ box
    corners = np.array(
        [
            [0.4, 0.3, 0.6],
            [30.5, 0.2, 0.9],
            [30.7, 28.6, 32.4],
            [15.0, 14.0, 16.0],
            [16.1, 14.6, 17],
        ]
    )
    molecule = np.array(
        [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0], [2.8, 0.3, 0.1], [8.0, 8.0, 8.0]]
    )
    return [
        Case("fcc-full", "full list of an fcc lattice", np.zeros((1, 3)), fcc, PERIODIC, 4.5),
        Case(
            "fcc-half", "half list of an fcc lattice", np.zeros((1, 3)), fcc, PERIODIC, 4.5, False
        ),
        Case(
            "slanted", "strongly skewed cell", scattered(3, slanted, 3, 1.2), slanted, PERIODIC, 4
        ),
        Case(
            "slanted-half",
            "half list of a strongly skewed cell",
            scattered(3, slanted, 3, 1.2),
            slanted,
            PERIODIC,
            4.0,
            False,
        ),
        Case(
            "large-cell", "few pairs across the faces of a large cell", corners, large, PERIODIC, 4
        ),
        Case("empty", "no atoms, nothing periodic", np.zeros((0, 3)), none, (False,) * 3, 3.4),
        Case(
            "empty-periodic",
            "no atoms in a periodic cell, half list",
            np.zeros((0, 3)),
            fcc,
            PERIODIC,
            3.4,
            False,
        ),
        Case(
            "no-pairs",
            "atoms that are all farther apart than the cutoff",
            np.array([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]]),
            np.diag([10.0, 10.0, 10.0]),
            PERIODIC,
            3.0,
        ),
        Case("molecule", "nothing periodic", molecule, none, (False,) * 3, 3.0),
        Case(
            "small-cell",
            "cell smaller than the cutoff",
            np.array([[0.1, 0.2, 0.3], [1.0, 1.3, 0.9]]),
            tiny,
            PERIODIC,
            4.6,
        ),
        Case(
            "slab",
            "periodic along a and b only",
            scattered(5, slab, 6, 1.5),
            slab,
            (True, True, False),
            4.8,
        ),
        Case(
            "layer-half",
            "half list, skewed, periodic along a and c only",
            scattered(6, np.array([layers[0], [0.0, 5.0, 0.0], layers[2]]), 4, 1.4),
            layers,
            (True, False, True),
            4.4,
            False,
        ),
        Case(
            "chain",
            "periodic along b only, not along an axis",
            np.array([[0.0, 0.0, 0.0], [1.0, -0.7, 0.4], [-0.2, 1.1, -1.3]]),
            chain,
            (False, True, False),
            5.1,
        ),
        Case("left-handed", "left-handed cell", scattered(8, left, 4, 1.5), left, PERIODIC, 4.2),
        Case("outside", "atoms many cells away", strewn + away, box, PERIODIC, 4.1),
    ]


def document(case: Case) -> dict:
    """A case with its pairs, as JSON holds it."""
    pairs = brute_force.find(case.positions, case.cell, case.pbc, case.cutoff + 1.0)
    if np.any(np.abs(pairs.distances - case.cutoff) < MARGIN):
        raise ValueError(f"{case.name}: a pair is too close to the cutoff")
    pairs = pairs.within(case.cutoff)
    if not case.full_list:
        pairs = pairs.half()
    return {
        "description": case.description,
        "system": {
            "positions": case.positions.tolist(),
            "cell": case.cell.tolist(),
            "pbc": list(case.pbc),
        },
        "options": {"cutoff": float(case.cutoff), "full_list": case.full_list},
        "expected-neighbors": {
            "samples": pairs.samples.tolist(),
            "distances": pairs.vectors.tolist(),
        },
    }


def text(data: dict) -> str:
    """JSON with one row of numbers per line."""
    lines = json.dumps(data, indent=2)
    innermost = r"\[\s+([^\[\]]+?)\s+\]"
    return re.sub(innermost, lambda m: f"[{' '.join(m[1].split())}]", lines) + "\n"


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(exist_ok=True)
    for case in cases():
        data = document(case)
        (FOLDER / f"{case.name}.json").write_text(text(data))
        print(f"{case.name}: {len(data['expected-neighbors']['samples'])} pairs")


if __name__ == "__main__":
    main()
