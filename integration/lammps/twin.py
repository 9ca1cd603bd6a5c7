"""What the twins share: what LAMMPS wrote, and how far it may be from ASE."""

from __future__ import annotations

from pathlib import Path

import ase
import ase.io
import numpy as np


def frames(dump: str, kinds: dict[int, str]) -> list[ase.Atoms]:
    """Frames of a dump, with LAMMPS' forces in ``arrays["lammps_forces"]`` where they are."""
    read = ase.io.read(dump, index=":", format="lammps-dump-text", specorder=list(kinds.values()))
    for atoms in read:
        atoms.set_chemical_symbols([kinds[number] for number in lammps_types(atoms, kinds)])
        if atoms.calc is not None:
            atoms.arrays["lammps_forces"] = np.array(atoms.get_forces())
            atoms.calc = None
    return read


def lammps_types(atoms: ase.Atoms, kinds: dict[int, str]) -> list[int]:
    """LAMMPS' type of each atom."""
    types = {symbol: number for number, symbol in kinds.items()}
    return [types[symbol] for symbol in atoms.get_chemical_symbols()]


def thermo(log: str = "log.lammps") -> list[dict[str, float]]:
    """Rows of the last run's thermo output, by LAMMPS' names of the columns."""
    rows: list[dict[str, float]] = []
    names: list[str] = []
    for line in Path(log).read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            names, rows = words, []
        elif names and len(words) == len(names):
            try:
                rows.append(dict(zip(names, map(float, words), strict=True)))
            except ValueError:
                names = []
        elif names:
            names = []
    return rows


def report(name: str, error: float, limit: float) -> None:
    """Print an error, and fail if it is too large."""
    print(f"{name:<40} {error:.1e}  (limit {limit:.0e})")
    if not error <= limit:
        raise SystemExit(f"{name}: {error:.3e} is above {limit:.0e}")
