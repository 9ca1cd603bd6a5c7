"""DeePMD's systems in the npy format: frames of the same atoms with energies and forces.

A system is a folder with ``type.raw`` (one integer for each atom), usually ``type_map.raw`` (a name
for each type), and folders ``set.NNN`` with ``coord.npy`` (F, 3N) Å, ``box.npy`` (F, 9) Å unless
there is a file ``nopbc``, ``energy.npy`` (F,) eV, ``force.npy`` (F, 3N) eV/Å, and for periodic
systems perhaps ``virial.npy`` (F, 9) eV, which is minus dE/d(strain).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alchemi_bridge.errors import BridgeError, InputError, NonFiniteError, OverlapError, first_line
from alchemi_bridge.training.overlap import LEAST_DISTANCE, least_height, overlapping

#: Arrays of a set, with what their rows are made of.
_ARRAYS = {"coord": "3N", "box": "9", "energy": "1", "force": "3N", "virial": "9"}
#: Å³ and Å, of a cell: below there is no room for an atom.
_LEAST_VOLUME, _LEAST_HEIGHT = 1e-6, 0.3

#: Arrays on which the labels depend, but no model that can be trained here.
_NOT_SUPPORTED = {
    "real_atom_types": "frames of different compositions (mixed types)",
    "fparam": "parameters of the frames",
    "aparam": "parameters of the atoms",
    "spin": "spins",
}


@dataclass(frozen=True, eq=False)
class TrainingSystem:
    """F frames of the same N atoms.

    Attributes
    ----------
    folder
        Where it was read from.
    types
        (N,) int64, places in the model's type map.
    coordinates, forces
        (F, N, 3) float64, Å and eV/Å.
    cells
        (F, 3, 3) float64 Å, rows are the vectors; None without periodic boundaries.
    energies
        (F,) float64, eV.
    virials
        (F, 3, 3) float64 eV, dE/d(strain), the opposite of what the files hold; None if there are
        none.
    """

    folder: Path
    types: np.ndarray
    coordinates: np.ndarray
    cells: np.ndarray | None
    energies: np.ndarray
    forces: np.ndarray
    virials: np.ndarray | None

    @property
    def n_frames(self) -> int:
        """F."""
        return len(self.energies)

    @property
    def n_atoms(self) -> int:
        """N."""
        return len(self.types)


def find_systems(folder: Path) -> list[Path]:
    """All systems in a folder and the folders in it, sorted; links to folders are followed.

    Raises
    ------
    InputError
        If there is none.
    """
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above it, or to one that was there already
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        if "type.raw" in names:
            found.append(Path(place))
    found.sort()
    if not found:
        raise InputError(
            f"training data '{folder}'",
            expected="a folder with one or more systems (type.raw, set.*/coord.npy)",
            got="no type.raw in it" if folder.is_dir() else "no such folder",
            fix="check the path, which is taken from the working directory or the input file",
        )
    return found


def read_system(folder: Path, type_map: Sequence[str]) -> TrainingSystem:
    """Read and check a system.

    Parameters
    ----------
    folder
        With ``type.raw`` and ``set.*``.
    type_map
        The model's types.

    Raises
    ------
    InputError
        If a file is missing, can not be read, has the wrong shape, or names types that the model
        does not know; the message names the file.
    NonFiniteError
        If an array holds NaN or infinite values.
    OverlapError
        If two atoms of a frame are closer than
        :data:`~alchemi_bridge.training.overlap.LEAST_DISTANCE`.
    """
    types = _types(folder, type_map)
    sets = sorted(path for path in folder.glob("set.*") if path.is_dir())
    if not sets:
        raise _wrong(folder, "one or more folders set.*", "none", "name them set.000, set.001")
    periodic = not (folder / "nopbc").exists()
    parts = [_read_set(one, len(types), periodic) for one in sets]
    names = set(parts[0])
    for path, part in zip(sets, parts, strict=True):
        if set(part) != names:
            [name, *_] = sorted(set(part) ^ names)
            raise _wrong(
                path if name not in part else sets[0],
                f"{name}.npy in every set of the system, or in none",
                "it in some only",
                "add what is missing, or make them systems of their own",
            )
    whole = {name: np.concatenate([part[name] for part in parts]) for name in names}
    shape = (len(whole["energy"]), len(types), 3)
    cells = whole["box"].reshape(-1, 3, 3) if periodic else None
    return TrainingSystem(
        folder=folder,
        types=types,
        coordinates=whole["coord"].reshape(shape),
        cells=cells,
        energies=whole["energy"].reshape(-1),
        forces=whole["force"].reshape(shape),
        virials=-whole["virial"].reshape(-1, 3, 3) if "virial" in whole else None,
    )


def read_systems(folders: Sequence[Path], type_map: Sequence[str]) -> list[TrainingSystem]:
    """Read several systems; see :func:`read_system`."""
    return [read_system(folder, type_map) for folder in folders]


def names_of_types(folder: Path) -> set[str]:
    """Names of the types that atoms of a system have.

    Raises
    ------
    InputError
        If the system does not name them.
    """
    own, names = _own_types(folder)
    if names is None:
        raise _wrong(
            folder / "type_map.raw",
            "a name for each type: the model counts elements",
            "no such file",
            "write the names of the types, by their numbers in type.raw",
        )
    return {names[t] for t in own}


def _own_types(folder: Path) -> tuple[np.ndarray, list[str] | None]:
    """(N,) types as the system counts them, and their names if it names them."""
    path = folder / "type.raw"
    words = _words(path)
    try:
        own = np.array([int(word) for word in words], dtype=np.int64)
    except (ValueError, OverflowError):
        own = np.array([-1])
    if len(own) == 0 or own.min() < 0:
        raise _wrong(
            path,
            "an integer from 0 for each atom",
            "none" if len(own) == 0 else "something else",
            "write the place of each atom's type in type_map.raw",
        )
    names_file = folder / "type_map.raw"
    if not names_file.exists():
        return own, None
    names = _words(names_file)
    if own.max() >= len(names):
        raise _wrong(
            names_file,
            f"a name for each of the {own.max() + 1} types in type.raw",
            f"{len(names)} names",
            "add the missing names",
        )
    return own, names


def _types(folder: Path, type_map: Sequence[str]) -> np.ndarray:
    own, names = _own_types(folder)
    if names is None:
        if own.max() >= len(type_map):
            raise _wrong(
                folder / "type.raw",
                f"types below {len(type_map)}, the number of types in model.type_map",
                str(own.max()),
                "add type_map.raw, or the missing types to model.type_map",
            )
        return own
    missing = sorted({names[t] for t in np.unique(own)} - set(type_map))
    if missing:
        raise _wrong(
            folder / "type_map.raw",
            f"types of model.type_map ({', '.join(type_map)})",
            ", ".join(missing),
            "add them to model.type_map in the input file",
        )
    place = [type_map.index(name) if name in type_map else -1 for name in names]
    return np.array(place, dtype=np.int64)[own]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, "a text file", first_line(error), "check the folder") from error


def _read_set(folder: Path, n_atoms: int, periodic: bool) -> dict[str, np.ndarray]:
    """The arrays of one set, as (F, columns) float64."""
    for name, what in _NOT_SUPPORTED.items():
        if (folder / f"{name}.npy").exists():
            raise _wrong(
                folder / f"{name}.npy",
                "data of which energies and forces follow from positions, types and cell alone",
                what,
                "this is not supported; take the file out if the labels do not depend on it",
            )
    wanted = ["coord", "energy", "force"] + (["box"] if periodic else [])
    if periodic and (folder / "virial.npy").exists():
        wanted.append("virial")
    arrays: dict[str, np.ndarray] = {}
    for name in wanted:
        path = folder / f"{name}.npy"
        array = _load(path)
        columns = {"3N": 3 * n_atoms, "9": 9, "1": 1}[_ARRAYS[name]]
        n_frames = len(arrays["coord"]) if arrays else len(array)
        # no other shapes: of nine columns, nobody could tell three atoms from their transposed
        shapes = [(n_frames, columns)] + ([(n_frames,)] if columns == 1 else [])
        if array.shape not in shapes or n_frames == 0:
            of_atoms = f" for {n_atoms} atoms" if _ARRAYS[name] == "3N" else ""
            raise _wrong(
                path,
                f"the shape ({n_frames or 'frames'}, {columns}){of_atoms}, frames as in coord.npy",
                str(array.shape),
                "write every array with one row for each frame",
            )
        array = array.reshape(n_frames, columns).astype(np.float64)
        bad = ~np.isfinite(array).all(axis=1)
        if bad.any():
            raise _wrong(
                path,
                "finite numbers",
                f"NaN or infinite values in frame {int(np.flatnonzero(bad)[0])}",
                "take these frames out",
                NonFiniteError,
            )
        arrays[name] = array
    _check_geometry(folder, arrays)
    return arrays


def _check_geometry(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Cells have a volume, and no two atoms of a frame are on the same point."""
    coordinates = arrays["coord"].reshape(len(arrays["coord"]), -1, 3)
    cells = arrays["box"].reshape(-1, 3, 3) if "box" in arrays else None
    if cells is not None:
        small = ~(np.abs(np.linalg.det(cells)) > _LEAST_VOLUME)
        if not small.any():
            small = least_height(cells) < _LEAST_HEIGHT
        if small.any():
            raise _wrong(
                folder / "box.npy",
                "cells with a volume, whose rows are vectors in Å",
                f"a flat or a tiny one in frame {int(np.flatnonzero(small)[0])}",
                "check box.npy; a system without cells has a file 'nopbc' instead",
            )
    found = overlapping(coordinates, cells)
    if found is not None:
        frame, (one, other), distance = found
        raise _wrong(
            folder / "coord.npy",
            f"atoms that are at least {LEAST_DISTANCE:g} Å apart",
            f"{distance:.3g} Å between the atoms {one} and {other} in frame {frame}",
            "take these frames out; coordinates are in Å",
            OverlapError,
        )


def _load(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise _wrong(path, "a file", "none", "every set needs it") from error
    except (OSError, ValueError, EOFError, MemoryError, OverflowError) as error:
        raise _wrong(
            path,
            "an array of numbers, a row for each frame",
            first_line(error),
            "write it with numpy.save; rows of different lengths make no array",
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim == 0:
        kind = getattr(array, "dtype", type(array).__name__)
        raise _wrong(path, "an array of numbers", f"{kind}", "write it with numpy.save")
    return array


def _wrong(
    path: Path, expected: str, got: str, fix: str, kind: type[BridgeError] = InputError
) -> BridgeError:
    return kind(f"training data '{path}'", expected=expected, got=got, fix=fix)
