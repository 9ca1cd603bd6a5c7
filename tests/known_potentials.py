"""Structures and a plain evaluation through metatomic, for the tests of potentials and oracles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from metatensor.torch import Labels, TensorBlock
from metatomic.torch import (
    ModelEvaluationOptions,
    ModelOutput,
    NeighborListOptions,
    System,
    register_autograd_neighbors,
)
from vesin.metatomic import NeighborList

POTENTIALS = ("lennard-jones", "stillinger-weber", "message-passing", "copper")
#: Those that are there in float32, too.
IN_SINGLE = ("lennard-jones", "stillinger-weber", "message-passing")
SHAPES = ("bulk", "small", "triclinic", "left-handed", "slab", "wire", "molecule", "outside")
EXCESS = 1.25  # range of the lists made for strict=False, in cutoffs
#: Two species that the potential knows.
SPECIES = {
    "lennard-jones": (18, 36),
    "stillinger-weber": (14, 14),
    "message-passing": (14, 8),
    "copper": (29, 29),
}
# typical nearest-neighbour distance over silicon's
_SCALE = {"lennard-jones": 1.6, "stillinger-weber": 1.0, "message-passing": 0.9, "copper": 1.08}


def structure(shape: str, potential: str) -> Atoms:
    """A small, irregular structure of one ``shape`` that suits ``potential``."""
    atoms = _SHAPES[shape]()
    atoms.set_cell(atoms.cell.array * _SCALE[potential], scale_atoms=False)
    atoms.positions *= _SCALE[potential]
    seed = SHAPES.index(shape)
    atoms.positions += np.random.default_rng(seed).normal(0.0, 0.08, (len(atoms), 3))
    one, other = SPECIES[potential]
    atoms.numbers = np.where(np.arange(len(atoms)) % 3 == 0, other, one)
    return atoms


def _silicon(repeat: tuple[int, int, int]) -> Atoms:
    return bulk("Si", "diamond", a=5.431, cubic=True).repeat(repeat)


def _small() -> Atoms:
    return Atoms(
        "Si2",
        positions=[[0.0, 0.0, 0.0], [1.3, 1.4, 1.2]],
        cell=[[3.0, 0.1, 0.0], [0.2, 2.9, -0.3], [0.4, 0.5, 3.1]],
        pbc=True,
    )


def _triclinic() -> Atoms:
    atoms = bulk("Si", "diamond", a=5.431).repeat((3, 2, 2))
    cell = atoms.cell.array
    cell[2] += 2 * cell[0]  # the same lattice, strongly slanted
    atoms.set_cell(cell, scale_atoms=False)
    return atoms


def _left_handed() -> Atoms:
    atoms = bulk("Si", "diamond", a=5.431).repeat((2, 2, 3))
    atoms.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=False)
    assert np.linalg.det(atoms.cell.array) < 0
    return atoms


def _slab() -> Atoms:
    atoms = _silicon((2, 1, 1))
    atoms.set_cell(np.vstack([atoms.cell.array[:2], np.zeros(3)]), scale_atoms=False)
    atoms.pbc = (True, True, False)
    return atoms


def _wire() -> Atoms:
    # periodic along the second vector only, which is no Cartesian axis
    atoms = bulk("Si", "diamond", a=5.431).repeat((2, 2, 2))
    cell = atoms.cell.array
    cell[[0, 2]] = 0.0
    atoms.set_cell(cell, scale_atoms=False)
    atoms.pbc = (False, True, False)
    return atoms


def _molecule() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.positions *= 1.9
    return atoms


def _outside() -> Atoms:
    atoms = _silicon((1, 1, 2))
    hops = np.random.default_rng(0).integers(-3, 4, (len(atoms), 3))
    atoms.positions += hops @ atoms.cell.array
    return atoms


_SHAPES: dict[str, Callable[[], Atoms]] = {
    "bulk": lambda: _silicon((2, 2, 1)),
    "small": _small,
    "triclinic": _triclinic,
    "left-handed": _left_handed,
    "slab": _slab,
    "wire": _wire,
    "molecule": _molecule,
    "outside": _outside,
}


@dataclass
class Evaluated:
    """Numbers of one system, float64 arrays."""

    energy: float
    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray


def make_system(
    atoms: Atoms,
    model,
    *,
    dtype: torch.dtype = torch.float64,
    strain: torch.Tensor | None = None,
    length_unit: str = "angstrom",
) -> tuple[System, torch.Tensor]:
    """A metatomic system with vesin's lists, and its positions, which require gradients."""
    cell = torch.tensor(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0), dtype=dtype)
    positions = torch.tensor(atoms.positions, dtype=dtype, requires_grad=True)
    x = positions
    if strain is not None:
        x, cell = x @ strain, cell @ strain
    system = System(
        types=torch.tensor(atoms.numbers, dtype=torch.int32),
        positions=x,
        cell=cell,
        pbc=torch.tensor(atoms.pbc),
    )
    for options in model.requested_neighbor_lists():
        if len(atoms) == 0:  # vesin refuses the null pointer of an empty tensor
            neighbors = _no_pairs(dtype)
            register_autograd_neighbors(system, neighbors, check_consistency=False)
            system.add_neighbor_list(options, neighbors)
        else:
            search = options
            if not options.strict:  # then pairs beyond the cutoff are allowed, so hand some over
                search = NeighborListOptions(EXCESS * options.cutoff, options.full_list, False)
                search.length_unit = options.length_unit
            neighbors = NeighborList(search, length_unit).compute(system)
            system.add_neighbor_list(options, neighbors)
    return system, positions


def _no_pairs(dtype: torch.dtype) -> TensorBlock:
    names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
    return TensorBlock(
        values=torch.zeros((0, 3, 1), dtype=dtype),
        samples=Labels(names, torch.zeros((0, 5), dtype=torch.int32)),
        components=[Labels(["xyz"], torch.tensor([[0], [1], [2]], dtype=torch.int32))],
        properties=Labels(["distance"], torch.zeros((1, 1), dtype=torch.int32)),
    )


def run(model, systems, sample_kind: str = "atom", selected: Labels | None = None):
    """The energy block of ``model``, with all of metatomic's checks on."""
    options = ModelEvaluationOptions(
        length_unit="angstrom",
        outputs={"energy": ModelOutput(unit="eV", sample_kind=sample_kind)},
        selected_atoms=selected,
    )
    return model(systems, options, check_consistency=True)["energy"].block()


def evaluate(model, atoms: Atoms, dtype: torch.dtype = torch.float64) -> Evaluated:
    """Evaluate one structure, energies per atom, forces and the virial as strain derivative."""
    strain = torch.eye(3, dtype=dtype, requires_grad=True)
    system, positions = make_system(atoms, model, dtype=dtype, strain=strain)
    energies = run(model, [system]).values[:, 0]
    position_gradient, virial = torch.autograd.grad(energies.sum(), [positions, strain])
    return Evaluated(
        energy=float(energies.detach().double().sum()),
        energies=energies.detach().double().numpy(),
        forces=-position_gradient.double().numpy(),
        virial=virial.double().numpy(),
    )
