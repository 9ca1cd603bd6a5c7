"""Settings of a simulator that can never work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alchemi_bridge.ensembles.kinds import is_whole
from alchemi_bridge.errors import ConfigurationError

if TYPE_CHECKING:
    from alchemi_bridge.ensembles.simulators.dynamics import DynamicsSimulator


def check_repetition(simulator: DynamicsSimulator, what: str) -> None:
    """Raise :class:`ConfigurationError` if a setting beside the plan is not of its kind."""
    for name, value, least in (
        ("replicas", simulator.replicas, 1),
        ("again", 0 if simulator.again is None else simulator.again, 0),
        ("seed", simulator.seed, None),
    ):
        if not is_whole(value) or (least is not None and value < least):
            raise ConfigurationError(
                f"{name} of {what}",
                expected="a whole number" if least is None else f"at least {least}, whole",
                got=repr(value),
                fix="correct it",
            )
    if not isinstance(simulator.continue_from_last, bool):
        raise ConfigurationError(
            f"continue_from_last of {what}",
            expected="true or false",
            got=repr(simulator.continue_from_last),
            fix="choose one of the two",
        )


def check_structure(simulator: DynamicsSimulator, what: str) -> None:
    """Raise :class:`ConfigurationError` if the ensemble is none of such a structure."""
    atoms, where = simulator.atoms, f"structure of {what}"
    constant_pressure = simulator.ensemble == "npt"
    if constant_pressure and not all(atoms.pbc):
        raise ConfigurationError(
            where,
            expected="a cell that is periodic in three directions, since its pressure is kept",
            got=f"pbc {tuple(bool(p) for p in atoms.pbc)}",
            fix="make it periodic, or choose another ensemble",
        )
    if constant_pressure and len(atoms) < 2:
        raise ConfigurationError(
            where,
            expected="at least two atoms at constant pressure",
            got=f"{len(atoms)}",
            fix="repeat the cell, or choose another ensemble",
        )
    if atoms.constraints and (simulator.engine != "ase" or constant_pressure):
        raise ConfigurationError(
            where,
            expected="no constraints, of which only the engine 'ase' knows, and not at "
            "constant pressure",
            got=", ".join(type(c).__name__ for c in atoms.constraints),
            fix="remove them, or choose 'ase' and constant volume",
        )
