"""Structures and models for runs on several ranks, and a force provider's results for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ase
import ase.build
import numpy as np
import torch
from metatomic.torch import AtomisticModel
from zoo_messages import two_lists

from alchemi_bridge import potentials
from alchemi_bridge.bench.schnet import schnet_like
from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import Atoms, ForceBuffers, Step
from alchemi_bridge.pairs import Search

SHEAR = np.array([[1.0, 0.0, 0.0], [0.25, 1.0, 0.0], [-0.3, 0.15, 1.0]])


def argon_model(**options: Any) -> AtomisticModel:
    """Lennard-Jones argon."""
    keywords = {"cutoff": 6.0, "full_list": True, "strict": False, **options}
    return potentials.lennard_jones(types=[18], epsilon=[0.0104], sigma=[3.4], **keywords)


def crystal(name: str, cells: tuple[int, int, int], seed: int = 0) -> ase.Atoms:
    """A shaken crystal."""
    lattice = {"Ar": ("fcc", 5.3), "Si": ("diamond", 5.431), "Cu": ("fcc", 3.61)}[name]
    atoms = ase.build.bulk(name, lattice[0], a=lattice[1], cubic=True) * cells
    atoms.rattle(0.1, seed=seed)
    return atoms


def sheared(atoms: ase.Atoms) -> ase.Atoms:
    """In a triclinic cell, some atoms several cells away."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ SHEAR, scale_atoms=True)
    cells = np.random.default_rng(3).integers(-2, 3, (len(atoms), 3))
    atoms.positions += cells @ atoms.cell.array
    return atoms


def mixed(atoms: ase.Atoms, model: AtomisticModel) -> ase.Atoms:
    """With types that the model knows."""
    atoms = atoms.copy()
    known = sorted(model.capabilities().atomic_types)
    atoms.numbers[:] = np.random.default_rng(4).choice(known, len(atoms))
    return atoms


def cases() -> Iterator[tuple[str, AtomisticModel, ase.Atoms]]:
    """Name, model and structure of each."""
    argon, silicon = crystal("Ar", (3, 3, 2)), crystal("Si", (2, 2, 2))
    net = potentials.message_passing()
    yield "argon", argon_model(), argon
    yield (
        "argon, half list, long box",
        argon_model(full_list=False, strict=True),
        crystal("Ar", (8, 2, 2)),
    )
    yield "argon, triclinic", argon_model(), sheared(argon)
    yield "silicon", potentials.stillinger_weber(), silicon
    yield "silicon, triclinic", potentials.stillinger_weber(), sheared(silicon)
    yield "net", net, mixed(crystal("Si", (3, 2, 2)), net)
    yield "net, triclinic", net, mixed(sheared(silicon), net)
    slab = mixed(sheared(silicon), net)
    slab.pbc = (True, True, False)
    yield "net, slab", net, slab
    molecule = mixed(silicon, net)[:23]
    molecule.pbc = False
    yield "net, molecule", net, molecule
    long = mixed(crystal("Si", (10, 1, 1)), net)
    # in a triclinic box, with rows that one of two lists has and the other not
    argon_long = sheared(crystal("Ar", (6, 2, 2)))
    yield "two lists, short first", two_lists(3.0, 5.0), argon_long
    yield "two lists, long first", two_lists(5.0, 3.0), argon_long
    yield "copper, triclinic, long box", potentials.copper(), sheared(crystal("Cu", (6, 2, 2)))
    yield "net, long box", schnet_like(n_layers=2, cutoff=4.0, dtype="float64"), long


@dataclass
class Results:
    """Of one step."""

    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    energies: np.ndarray


def start(provider: Any, atoms: ase.Atoms, skin: float = 0.6) -> None:
    """Hand over atoms, and the order to search."""
    provider.set_atoms(Atoms(atoms.numbers.astype(np.int64)))
    provider.set_pairs(Search(skin), Cell.of(atoms.cell.array, atoms.pbc))


def step(provider: Any, atoms: ase.Atoms) -> Results:
    """One step, everything wanted, in the memory of the provider's device."""
    n_atoms, device = len(atoms), provider.loaded.device
    forces, energy, virial, energies = (
        torch.zeros(shape, dtype=torch.float64, device=device)
        for shape in ((n_atoms, 3), (1,), (3, 3), (n_atoms,))
    )
    cell = Cell.of(atoms.cell.array, atoms.pbc)
    positions = torch.from_numpy(atoms.positions.copy()).to(device)
    request = Step(positions, cell, virial=True, energies=True)
    out = ForceBuffers(forces, energy, virial, energies)
    provider.compute(request, out).synchronize()
    return Results(*(values.cpu().numpy() for values in (energy, forces, virial, energies)))
