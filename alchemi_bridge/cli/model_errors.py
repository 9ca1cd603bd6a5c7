"""Errors of any metatomic model on labelled systems, for ``alchemi-bridge test``."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alchemi_bridge.engines.ase import BridgeCalculator
    from alchemi_bridge.training import TrainingSystem
    from alchemi_bridge.training.rmse import ErrorSums


def is_model_file(path: Path) -> bool:
    """Whether this is TorchScript, as metatomic models are, and no checkpoint."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def systems_with_elements(
    folders: Sequence[Path], numbers: Mapping[str, int]
) -> tuple[list[TrainingSystem], list[int]]:
    """Read systems, and the atomic numbers of the types that they count.

    Parameters
    ----------
    folders
        Each with ``type_map.raw``.
    numbers
        Atomic numbers of types that are not named by their symbols.

    Raises
    ------
    InputError, ConfigurationError
        If a system is not usable, or a type is no element.
    """
    from alchemi_bridge.potentials.deepmd.elements import atomic_numbers
    from alchemi_bridge.training import read_system
    from alchemi_bridge.training.systems import names_of_types

    names = sorted({name for folder in folders for name in names_of_types(folder)})
    return [read_system(folder, names) for folder in folders], atomic_numbers(names, numbers)


def errors_of_model(
    calculator: BridgeCalculator, system: TrainingSystem, numbers: Sequence[int]
) -> ErrorSums:
    """Sums of the errors of every frame of a system, evaluated through the bridge."""
    import torch
    from ase import Atoms

    from alchemi_bridge.potentials.deepmd import FrameResults
    from alchemi_bridge.training.loss import Targets
    from alchemi_bridge.training.rmse import ErrorSums

    sums = ErrorSums()
    for frame in range(system.n_frames):
        cell = None if system.cells is None else system.cells[frame]
        atoms = Atoms(
            [numbers[t] for t in system.types],
            system.coordinates[frame],
            cell=cell,
            pbc=cell is not None,
        )
        atoms.calc = calculator
        virial, wanted = torch.zeros(1, 3, 3, dtype=torch.float64), None
        if system.virials is not None:
            virial = torch.from_numpy(atoms.get_stress(voigt=False) * atoms.get_volume())[None]
            wanted = torch.from_numpy(system.virials[frame : frame + 1])
        sums.add(
            FrameResults(
                torch.tensor([atoms.get_potential_energy()], dtype=torch.float64),
                torch.from_numpy(atoms.get_forces())[None],
                virial,
            ),
            Targets(
                torch.from_numpy(system.energies[frame : frame + 1]),
                torch.from_numpy(system.forces[frame : frame + 1]),
                wanted,
                torch.ones(1, dtype=torch.float64),
            ),
        )
    return sums
