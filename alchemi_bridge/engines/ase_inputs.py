"""Extra inputs that a model requests, taken from an :class:`ase.Atoms`.

The names and ``info`` keys are those that metatomic's own ASE calculator reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ase
import numpy as np
from metatomic.torch import ModelOutput

from alchemi_bridge.contract import Quantity
from alchemi_bridge.errors import MissingInputError

ARRAYS = "ase::arrays::"
INFO = "ase::info::"


PER_ATOM: dict[str, tuple[Callable[[ase.Atoms], np.ndarray], str]] = {
    # the initial ones, which are input; charges of an attached calculator are its output
    "charge": (ase.Atoms.get_initial_charges, "e"),
    "mass": (ase.Atoms.get_masses, "u"),
    "momentum": (ase.Atoms.get_momenta, "(eV*u)^(1/2)"),
    "velocity": (ase.Atoms.get_velocities, "(eV/u)^(1/2)"),
    "position": (ase.Atoms.get_positions, "angstrom"),
    "ase::initial_magmoms": (ase.Atoms.get_initial_magnetic_moments, "e * hbar / (2 * m_e)"),
    "ase::initial_charges": (ase.Atoms.get_initial_charges, "e"),
    "ase::tags": (ase.Atoms.get_tags, ""),
}

#: ``info`` keys that hold a quantity of the system (the first that is there counts), the value
#: without any of them, and the unit.
PER_SYSTEM: dict[str, tuple[tuple[str, ...], float, str]] = {
    "charge": (("charge",), 0.0, "e"),
    "spin_multiplicity": (("spin_multiplicity", "spin"), 1.0, ""),
}


def quantities(atoms: ase.Atoms, requested: Mapping[str, ModelOutput]) -> dict[str, Quantity]:
    """Values for all requested inputs.

    Raises
    ------
    MissingInputError
        If the model requests something that ASE does not have, or these atoms lack.
    """
    return {
        name: _per_atom(atoms, name) if request.sample_kind == "atom" else _per_system(atoms, name)
        for name, request in requested.items()
    }


def watched_info(requested: Mapping[str, ModelOutput]) -> tuple[str, ...]:
    """Keys of ``atoms.info`` on which the results depend."""
    keys: list[str] = []
    for name, request in requested.items():
        if request.sample_kind != "system":
            continue
        if name.startswith(INFO):
            keys.append(name.removeprefix(INFO))
        elif name in PER_SYSTEM:
            keys.extend(PER_SYSTEM[name][0])
    return tuple(keys)


def watched_arrays(requested: Mapping[str, ModelOutput]) -> tuple[str, ...]:
    """Names of ``atoms.arrays`` on which the results depend."""
    by_input = {
        "mass": "masses",
        "momentum": "momenta",
        "ase::initial_magmoms": "initial_magmoms",
        "ase::initial_charges": "initial_charges",
        "charge": "initial_charges",
        "ase::tags": "tags",
    }
    arrays: list[str] = []
    for name, request in requested.items():
        if request.sample_kind != "atom":
            continue
        if name == "velocity":
            arrays += ["momenta", "masses"]
        elif name.startswith(ARRAYS):
            arrays.append(name.removeprefix(ARRAYS))
        elif name in by_input:
            arrays.append(by_input[name])
    return tuple(arrays)


def _per_atom(atoms: ase.Atoms, name: str) -> Quantity:
    if name.startswith(ARRAYS):
        key = name.removeprefix(ARRAYS)
        if key not in atoms.arrays:
            raise _missing(name, f"atoms.arrays['{key}']", atoms.arrays)
        return Quantity(_floats(name, atoms.arrays[key]))
    if name in PER_ATOM:
        getter, unit = PER_ATOM[name]
        return Quantity(_floats(name, getter(atoms)), unit)
    raise _missing(name, "a quantity per atom that ASE has", PER_ATOM)


def _per_system(atoms: ase.Atoms, name: str) -> Quantity:
    if name.startswith(INFO):
        key = name.removeprefix(INFO)
        if key not in atoms.info:
            raise _missing(name, f"atoms.info['{key}']", atoms.info)
        return Quantity(_floats(name, atoms.info[key]))
    if name in PER_SYSTEM:
        keys, default, unit = PER_SYSTEM[name]
        value = next((atoms.info[k] for k in keys if k in atoms.info), default)
        return Quantity(_floats(name, value), unit)
    raise _missing(name, "a quantity per system that ASE has", PER_SYSTEM)


def _floats(name: str, value: Any) -> np.ndarray:
    try:
        if np.iscomplexobj(value):
            raise TypeError("complex numbers")
        return np.ascontiguousarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise MissingInputError(
            f"input '{name}'",
            expected="numbers",
            got=repr(value)[:80],
            fix="store numbers under this name",
        ) from error


def _missing(name: str, what: str, there: Iterable[str]) -> MissingInputError:
    return MissingInputError(
        f"input '{name}'",
        expected=f"{what}, since the model requests it",
        got=f"only {', '.join(sorted(there)) or 'nothing'}",
        fix="add it to the atoms before asking for results",
    )
