"""Structures and batches for the tests of the nvalchemi engine."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from known_potentials import SPECIES, structure

from alchemi_bridge.engines.nvalchemi_version import missing

#: What nvalchemi and its dependencies warn of when they are imported, on machines without a GPU
#: for one, is not for the tests to judge.
IMPORT_WARNINGS = (UserWarning, DeprecationWarning, FutureWarning, ImportWarning)


#: Warp and torch.compile, which nvalchemi's integrators use, warn of their own future.
QUIET = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


def engine() -> Any:
    """The module, or a skipped test that says why."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason, allow_module_level=True)
    with warnings.catch_warnings():
        for category in IMPORT_WARNINGS:
            warnings.simplefilter("ignore", category)
        import nvalchemi.dynamics  # noqa: F401  (warns, too, when it is first imported)

        import alchemi_bridge.engines.nvalchemi as module
    return module


def crystal(potential: str, repeat: tuple[int, int, int], seed: int) -> ase.Atoms:
    """An irregular crystal whose nearest neighbours are a little apart, periodic."""
    one, other = SPECIES[potential]
    if potential == "stillinger-weber":
        atoms = bulk("Si", "diamond", a=5.43 + 0.02 * seed, cubic=True)
    else:
        constant = 3.62 if potential == "copper" else 5.3
        atoms = bulk("Cu", "fcc", a=constant * (1.0 + 0.01 * seed), cubic=True)
    atoms = atoms.repeat(repeat)
    atoms.rattle(0.05, seed=seed)
    random = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + random.normal(0.0, 0.01, (3, 3))), True)
    atoms.numbers = np.where(np.arange(len(atoms)) % 3 == 0, other, one)
    return atoms


def mixed(potential: str) -> list[ase.Atoms]:
    """Different sizes, species, cells and periodicities; cells below the cutoff among them."""
    shapes = ("bulk", "small", "triclinic", "slab", "wire", "molecule", "outside")
    alone = ase.Atoms([SPECIES[potential][0]], positions=[[0.3, -0.2, 100.0]])
    far = ase.Atoms([SPECIES[potential][0]] * 2, positions=[[0.0] * 3, [0.0, 0.0, 50.0]])
    one_in_cell = ase.Atoms(
        [SPECIES[potential][0]], cell=np.diag([3.1, 3.0, 3.2]), pbc=True, positions=[[0.1] * 3]
    )
    return [*(structure(shape, potential) for shape in shapes), alone, far, one_in_cell]


def split(values: Any, structures: list[ase.Atoms]) -> list[np.ndarray]:
    """Rows of each structure."""
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    return np.split(values.numpy(), ends)


def hot(repeat: tuple[int, int, int], kelvin: float, seed: int) -> ase.Atoms:
    """An irregular argon crystal with velocities, at rest as a whole."""
    atoms = crystal("lennard-jones", repeat, seed)
    random = np.random.default_rng(seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=random)
    Stationary(atoms)
    return atoms


def kinetic(batch: Any) -> torch.Tensor:
    """(n_atoms,) kinetic energies in eV."""
    return 0.5 * batch.atomic_masses * (batch.velocities**2).sum(dim=1)


def by_system(values: torch.Tensor, batch: Any) -> torch.Tensor:
    """(n_systems,) sums over the atoms."""
    sums = values.new_zeros(batch.num_graphs)
    return sums.index_add(0, batch.batch_idx.long(), values)


class Watch:
    """A hook of nvalchemi that hands the batch to a function, at one stage of each step."""

    frequency, stage = 1, None

    def __init__(self, name: str, function: Callable[[Any], object]) -> None:
        self.name, self.function = name, function

    def _runs_on_stage(self, stage: Any) -> bool:
        return bool(stage.name == self.name)

    def __call__(self, context: Any, stage: Any) -> None:
        self.function(context.batch)


def steps_in_stages(fused: Any, n_systems: int) -> torch.Tensor:
    """(n_systems, n_stages), which a run of a fused stage fills."""
    lasted = torch.zeros(n_systems, len(fused.sub_stages), dtype=torch.int64)

    def count(batch: Any) -> None:
        for k, status in enumerate(batch.status.flatten().tolist()):
            if status < lasted.shape[1]:
                lasted[k, status] += 1

    fused.register_hook(Watch("BEFORE_STEP", count))
    return lasted


class Structures:
    """A data set as nvalchemi's sampler wants it; ``given`` are those that it has taken."""

    def __init__(self, structures: list[ase.Atoms], stress: bool = False) -> None:
        self.structures, self.stress = structures, stress
        self.given: list[int] = []

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, k: int) -> tuple[Any, dict]:
        self.given.append(k)
        return engine().atomic_data(self.structures[k], stress=self.stress), {}

    def get_metadata(self, k: int) -> tuple[int, int]:
        return len(self.structures[k]), 0
