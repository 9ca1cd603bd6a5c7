"""Structures for nnpot, the inputs that GROMACS makes of them, and runs of the loader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ase
import brute_force
import known_potentials
import numpy as np
import pytest
import torch
from ase.build import bulk

from alchemi_bridge.engines.nnpot.export import export
from alchemi_bridge.parity import oracles
from alchemi_bridge.units import conversion_factor

LOADER = Path(__file__).with_name("nnpot_loader.py")

#: nm, nnpot-pair-cutoff beyond the model's cutoff: the buffer that files have unless they are told
#: otherwise, and what is rounded
BUFFER = 0.101

ENERGY = conversion_factor("eV", "kJ/mol")
FORCE = conversion_factor("eV/angstrom", "kJ/mol/nm")

#: The project's own: both sides evaluate the same structure, rounded to what GROMACS hands over.
RTOL = 1e-6

#: The Lennard-Jones model of the tests that need one model only: nm, and its options.
CUTOFF = 0.6
OPTIONS = {"cutoff": 10.0 * CUTOFF}


# --- structures, in Å as ASE has them; what GROMACS knows of them is in single precision ---------


def rounded(atoms: ase.Atoms) -> ase.Atoms:
    """The structure that is left of it in nm and single precision."""
    atoms = atoms.copy()
    atoms.positions = np.float32(atoms.positions / 10.0).astype(np.float64) * 10.0
    atoms.cell[:] = np.float32(atoms.cell.array / 10.0).astype(np.float64) * 10.0
    return atoms


def argon_cubic() -> ase.Atoms:
    """108 argon and krypton atoms in a box of 1.6 nm, rattled."""
    atoms = bulk("Ar", "fcc", a=5.35, cubic=True) * (3, 3, 3)
    atoms.numbers[::5] = 36
    atoms.rattle(0.15, seed=1)
    return rounded(atoms)


def argon_tilted() -> ase.Atoms:
    """64 atoms in the most slanted box that GROMACS takes."""
    cell = 15.6 * np.array([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-0.5, 0.5, 1.0]])
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3) / 4.0
    atoms = ase.Atoms(np.where(np.arange(64) % 5, 18, 36), grid @ cell, cell=cell, pbc=True)
    atoms.rattle(0.15, seed=2)
    return rounded(atoms)


def argon_tiny() -> ase.Atoms:
    """Four atoms in a slanted box that is smaller than the cutoff."""
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.set_cell([[5.3, 0, 0], [2.6, 5.3, 0], [-2.6, 1.0, 5.3]], scale_atoms=True)
    atoms.rattle(0.1, seed=3)
    return rounded(atoms)


def silicon(repeat: int = 2, seed: int = 4) -> ase.Atoms:
    """8 repeat^3 atoms, rattled."""
    atoms = bulk("Si", cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(0.08, seed=seed)
    return rounded(atoms)


def silicon_scattered() -> ase.Atoms:
    """Atoms many boxes away from home."""
    atoms = silicon()
    hops = np.random.default_rng(5).integers(-3, 4, (len(atoms), 3))
    atoms.positions += hops @ atoms.cell.array
    return rounded(atoms)


def slab() -> ase.Atoms:
    """Periodic in x and y; the third vector of GROMACS' box is as long as the walls are apart."""
    atoms = silicon()
    atoms.cell[2, 2] = 30.0
    atoms.pbc = (True, True, False)
    return rounded(atoms)


def molecule() -> ase.Atoms:
    """Nine atoms in the void."""
    atoms = known_potentials.structure("molecule", "message-passing")
    atoms.pbc = False
    atoms.cell[:] = 0.0
    return rounded(atoms)


def subgroup() -> ase.Atoms:
    """The 30 atoms of a group around a corner of a slanted box of 6 nm, wrapped into it."""
    atoms = silicon()
    distance = np.linalg.norm(atoms.positions - atoms.positions.mean(axis=0), axis=1)
    atoms = atoms[np.argsort(distance)[:30]]
    atoms.positions -= atoms.positions.mean(axis=0)
    atoms.numbers[::4] = 8
    atoms.set_cell(60.0 * np.array([[1.0, 0, 0], [0.4, 0.9, 0], [-0.5, 0.4, 0.8]]))
    atoms.wrap()
    return rounded(atoms)


def lonely() -> ase.Atoms:
    """Three atoms without a neighbour."""
    return ase.Atoms("Si3", [[1, 1, 1], [20, 20, 20], [1, 30, 9]], cell=[40.0] * 3, pbc=True)


# --- inputs --------------------------------------------------------------------------------------


def atom_inputs(atoms: ase.Atoms) -> dict[str, np.ndarray]:
    """Positions and numbers, and box and pbc if there is any periodicity."""
    arrays = {
        "atom-positions": np.float32(atoms.positions / 10.0),
        "atom-numbers": atoms.numbers.astype(np.int32),
    }
    if atoms.pbc.any():
        arrays["box"] = np.float32(atoms.cell.array / 10.0)
        arrays["pbc"] = np.array(atoms.pbc)
    return arrays


def pair_inputs(atoms: ase.Atoms, cutoff: float, *, fault: bool = True) -> dict[str, np.ndarray]:
    """``atom-pairs`` and ``pair-shifts`` within ``cutoff`` (nm), each pair in either direction.

    With ``fault`` the whole numbers are multiplied with the box from the wrong side, as
    ``mvmul_ur0`` does upstream.
    """
    box = atoms.cell.array / 10.0
    half = brute_force.find(atoms.positions / 10.0, box, tuple(atoms.pbc), cutoff).half().samples
    turned = np.random.default_rng(6).random(len(half)) < 0.5
    first = np.where(turned, half[:, 1], half[:, 0])
    second = np.where(turned, half[:, 0], half[:, 1])
    # GROMACS: d = x[first] - x[second] + n box; here r = x[second] - x[first] + S box
    n = np.where(turned[:, None], half[:, 2:], -half[:, 2:])
    return {
        "atom-pairs": np.column_stack([first, second]).astype(np.int32),
        "pair-shifts": np.float32(n @ box.T if fault else n @ box),
    }


INPUTS = {
    "2025": ["atom-positions", "atom-numbers", "box", "pbc"],
    "2026": ["atom-positions", "atom-numbers", "atom-pairs", "pair-shifts", "box", "pbc"],
}


def argon_files(model_file: Callable[..., Path], folder: Path) -> dict[str, Path]:
    """One file of each contract with that model, which does not know hydrogen."""
    model = model_file("lennard-jones", **OPTIONS)
    return {c: export(model, folder / f"{c}.pt", contract=c).path for c in INPUTS}


def argon_inputs(atoms: ase.Atoms, contract: str) -> dict[str, np.ndarray]:
    """All inputs for such a file."""
    arrays = atom_inputs(atoms)
    if contract == "2026":
        arrays.update(pair_inputs(atoms, CUTOFF + BUFFER))
    return arrays


def tensors(arrays: dict[str, np.ndarray], contract: str) -> list[torch.Tensor]:
    """Arguments as GROMACS makes them."""
    names = [name for name in INPUTS[contract] if name in arrays]
    found = [torch.from_numpy(arrays[name].copy()) for name in names]
    found[0].requires_grad_(True)
    return found


def expect_argon(energy: float, forces: np.ndarray, atoms: ase.Atoms) -> None:
    """Assert what the oracle of that model says of the atoms; kJ/mol and nm."""
    expected = oracles.build("lennard-jones", **OPTIONS).evaluate(atoms)
    assert energy == pytest.approx(expected.energy * ENERGY, rel=RTOL)
    scale = np.abs(expected.forces).max() * FORCE
    assert np.abs(forces - expected.forces * FORCE).max() < RTOL * scale


# --- runs ----------------------------------------------------------------------------------------


@dataclass
class Request:
    """A file, and what GROMACS hands over in one call after the other."""

    file: Path
    contract: str
    calls: list[dict[str, np.ndarray]] = field(default_factory=list)
    #: Values of nnpot-model-input1, 2, ...; by default all that the first call has.
    inputs: list[str] | None = None

    def names(self) -> list[str]:
        """Inputs in their order."""
        return self.inputs or [name for name in INPUTS[self.contract] if name in self.calls[0]]


@dataclass
class Answer:
    """What came back, kJ/mol and nm."""

    energies: list[float]
    forces: list[np.ndarray]
    errors: list[str]
    searches: int
    lists: int | None
    refused: int | None


def run(requests: list[Request], folder: Path) -> list[Answer]:
    """Run the loader in a process of its own, without this project on its path."""
    folder.mkdir()
    arrays, described = {}, []
    for r, request in enumerate(requests):
        names = request.names()
        described.append(
            {
                "file": str(request.file),
                "inputs": names,
                "calls": len(request.calls),
                "optimize": request.contract == "2025",
            }
        )
        for c, call in enumerate(request.calls):
            arrays.update({f"{r}-{c}-{name}": call[name] for name in names})
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "requests.json").write_text(json.dumps(described))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(LOADER), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((folder / "results.json").read_text())
    assert told["imported"] == []
    found = np.load(folder / "results.npz")
    answers = []
    for r, fact in enumerate(told["facts"]):
        good = [c for c in range(len(requests[r].calls)) if f"{r}-{c}-energy" in found]
        answers.append(
            Answer(
                energies=[float(found[f"{r}-{c}-energy"]) for c in good],
                forces=[found[f"{r}-{c}-forces"] for c in good],
                **fact,
            )
        )
    return answers
