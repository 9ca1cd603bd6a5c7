"""Outputs of a model as columns and header entries of extended XYZ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from alchemi_bridge.errors import UnsupportedOutputError

if TYPE_CHECKING:
    from metatensor.torch import TensorBlock, TensorMap

#: Names that mean something else in extended XYZ.
_TAKEN = frozenset(
    {"species", "pos", "Z", "positions", "numbers", "symbols", "energy", "forces", "stress"}
    | {"energies", "free_energy", "momenta", "masses", "move_mask", "pbc", "Lattice", "Properties"}
)


def column_name(output: str, suffix: str = "") -> str:
    """Name of an output in extended XYZ, which knows letters, digits and underscores only.

    ``zoo::x/pbe`` becomes ``zoo_x_pbe``. A trailing digit gets an underscore, because columns of
    several components are numbered by ASE's reader.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "_", output + suffix).strip("_") or "output"
    if name in _TAKEN or name[0].isdigit():
        name = f"output_{name}"
    return f"{name}_" if name[-1].isdigit() else name


def split_by_system(
    output: str, values: TensorMap, sizes: Sequence[int]
) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Values of an output for each system.

    Parameters
    ----------
    output
        Name of the output.
    values
        What the model returned for all systems together.
    sizes
        Number of atoms of each system.

    Returns
    -------
    list of (arrays, info)
        Per system: columns per atom, (n_atoms, k) or (n_atoms,), NaN for atoms without a value, and
        entries per system, (k,). Blocks of several keys come under a name each.

    Raises
    ------
    UnsupportedOutputError
        If the values are neither per atom nor per system.
    """
    found: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = [({}, {}) for _ in sizes]
    names = values.keys.names
    for key, block in values.items():
        several = len(values) > 1
        suffix = "".join(f"_{n}_{int(key[n])}" for n in names) if several else ""
        name = column_name(output, suffix)
        samples = list(block.samples.names)
        if samples == ["system", "atom"]:
            for (arrays, _), column in zip(found, _per_atom(block, sizes), strict=True):
                arrays[name] = column
        elif samples == ["system"]:
            systems = block.samples.column("system").cpu().numpy()
            for row, system in zip(_rows(block), systems, strict=True):
                found[system][1][name] = row
        else:
            raise UnsupportedOutputError(
                f"output '{output}'",
                expected="values per atom or per system",
                got=f"values per {', '.join(samples)}",
                fix="leave it out; BridgeCalculator.run_model gives it in Python",
            )
    return found


def _rows(block: TensorBlock) -> np.ndarray:
    values = block.values.detach().cpu().numpy()
    return values.reshape(len(values), -1).astype(np.float64)


def _per_atom(block: TensorBlock, sizes: Sequence[int]) -> list[np.ndarray]:
    rows = _rows(block)
    systems = block.samples.column("system").cpu().numpy()
    atoms = block.samples.column("atom").cpu().numpy()
    columns = []
    for system, size in enumerate(sizes):
        column = np.full((size, rows.shape[1]), np.nan)
        own = systems == system
        column[atoms[own]] = rows[own]
        columns.append(column[:, 0] if column.shape[1] == 1 else column)
    return columns
