"""Extended XYZ that keeps every digit, and the recovery of files that a killed process left behind.

ASE's own writer prints eight decimals. That is too few to restart a trajectory or to compare forces
at 1e-9 eV/Å, so :func:`write_frame` lets ASE choose columns and header and prints the numbers with
17 significant digits, which float64 survives unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.io.extxyz import output_column_format

from alchemi_bridge.engines.structure_files import parse_index

#: Format of real numbers: float64 -> text -> float64 is exact.
EXACT_FORMAT = "%.17g"


def count_frames(path: str | Path, index: str | int = ":") -> int | None:
    """Number of frames that ``index`` picks, or None where counting would mean reading all.

    Only (extended) XYZ is counted: skipping lines is much cheaper than parsing them.
    """
    path = Path(path)
    if path.suffix not in (".xyz", ".extxyz"):
        return None
    total = sum(1 for _ in frame_ranges(path))
    selection = parse_index(index)
    if isinstance(selection, slice):
        return len(range(total)[selection])
    return 1


def frame_ranges(path: str | Path) -> Iterator[tuple[int, int]]:
    """Byte ranges of the complete frames of an (extended) XYZ file.

    Yields
    ------
    (start, end)
        Offsets in bytes; a frame is complete if its last line ends with a newline. Iteration stops
        at the first place that is not the start of a complete frame: the tail that a killed
        process left behind.
    """
    with Path(path).open("rb") as file:
        while True:
            start = file.tell()
            try:
                n_atoms = int(file.readline())
            except ValueError:
                return
            if n_atoms < 0:
                return
            # the comment and one line per atom follow
            for _ in range(n_atoms + 1):
                if not file.readline().endswith(b"\n"):
                    return
            yield start, file.tell()


def write_frame(
    file: IO[str],
    atoms: Atoms,
    *,
    arrays: Mapping[str, np.ndarray] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Append one frame of extended XYZ, reals with 17 significant digits.

    Parameters
    ----------
    file
        An open text file.
    atoms
        The frame; its calculator is not asked for anything. Arrays (momenta, tags, ...), ``info``
        and fixed atoms (``move_mask``) are written as ASE writes them.
    arrays
        Further per-atom columns, shape (N,) or (N, k); names such as ``forces`` and ``energies``
        come back as results of a ``SinglePointCalculator`` when ASE reads the file.
    info
        Further entries of the header; ``energy``, ``free_energy`` and ``stress`` likewise come
        back as results.
    """
    frame = atoms.copy()
    columns: dict[str, np.ndarray] = {
        "symbols": np.asarray(frame.get_chemical_symbols()),
        "positions": frame.positions,
    }
    columns |= {k: v for k, v in frame.arrays.items() if k not in ("numbers", "positions")}
    columns |= {k: np.asarray(v) for k, v in (arrays or {}).items()}
    # a column holds a scalar or a row; ASE's header has no way to say more
    columns = {k: v.reshape(len(v), -1) if v.ndim > 2 else v for k, v in columns.items()}
    if frame.constraints:
        columns["move_mask"] = _move_mask(frame)
    frame.info.update(info or {})

    header, n_columns, dtype, line_format = output_column_format(frame, list(columns), columns)
    rows = np.zeros(len(frame), dtype)
    for (name, values), width in zip(columns.items(), n_columns, strict=True):
        if width == 1:
            rows[name] = np.reshape(values, len(frame))
        else:
            for c in range(width):
                rows[f"{name}{c}"] = values[:, c]
    exact = line_format.replace("%16.8f", EXACT_FORMAT)
    file.write(f"{len(frame)}\n{header}\n")
    file.writelines(exact % tuple(row) for row in rows)


def _move_mask(atoms: Atoms) -> np.ndarray:
    """True where an atom (or one of its components) may move, from ASE's two simple constraints."""
    simple = [c for c in atoms.constraints if isinstance(c, FixAtoms | FixCartesian)]
    cartesian = any(isinstance(c, FixCartesian) for c in simple)
    mask = np.ones((len(atoms), 3) if cartesian else len(atoms), dtype=bool)
    for constraint in simple:
        if isinstance(constraint, FixAtoms):
            mask[constraint.index] = False
        else:
            mask[constraint.index] &= ~constraint.mask
    return mask
