"""Frames with reference energies and forces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np

from alchemi_bridge.engines.structure_files import read_structures
from alchemi_bridge.errors import InputError


@dataclass(frozen=True, eq=False)
class Labels:
    """Frames of any compositions, and what they should have.

    Attributes
    ----------
    frames
        Structures.
    energies
        (n_frames,) float64, eV.
    forces
        (n_atoms of all frames, 3) float64, eV/Å; ``None`` if there are none.
    """

    frames: Sequence[ase.Atoms]
    energies: np.ndarray
    forces: np.ndarray | None

    @classmethod
    def of(cls, frames: Sequence[ase.Atoms], with_forces: bool, where: str = "frames") -> Labels:
        """What the frames carry: results of their calculators, as readers of files leave them.

        Parameters
        ----------
        frames
            At least one.
        with_forces
            Whether forces are needed.
        where
            How messages name the frames.

        Raises
        ------
        InputError
            If there is no frame, or one has no energy, no forces, those of another state (a shared
            calculator's, or a frame that was moved), or such that are not finite.
        """
        if not frames:
            raise InputError(
                where, expected="at least one frame", got="none", fix="add frames with labels"
            )
        energies = [_label(frame, "energy", where, k) for k, frame in enumerate(frames)]
        forces = None
        if with_forces:
            forces = np.concatenate(
                [_label(frame, "forces", where, k) for k, frame in enumerate(frames)]
            )
        return cls(list(frames), np.array(energies, dtype=np.float64), forces)

    @classmethod
    def read(cls, path: str | Path, with_forces: bool, index: str | int = ":") -> Labels:
        """From a file that ASE reads (extended XYZ with ``energy=`` and a column ``forces``).

        Raises
        ------
        StructureFileError
            If the file can not be read.
        InputError
            See :meth:`of`.
        """
        return cls.of(list(read_structures(path, index)), with_forces, f"'{path}'")


def _label(frame: ase.Atoms, name: str, where: str, number: int) -> np.ndarray:
    """One label; ASE's reader of extended XYZ makes a calculator of them."""
    found = {} if frame.calc is None else frame.calc.results
    value = found.get(name)
    if value is not None and frame.calc.check_state(frame):
        raise InputError(
            f"frame {number} of {where}",
            expected=f"its own {name}",
            got="that of other positions, cells or atoms: the frame was changed, or its "
            "calculator computed another one since",
            fix="give each frame a SinglePointCalculator of its own with its results",
        )
    if value is None:
        raise InputError(
            f"frame {number} of {where}",
            expected=f"a reference of its {name}",
            got="none",
            fix=f"write its {name} to the file (extended XYZ), or give {name} no weight",
        )
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise InputError(
            f"{name} of frame {number} of {where}",
            expected="finite numbers",
            got="NaN or infinite ones",
            fix="take the frame out",
        )
    return array
