"""What is wrong with an objective on simulators, before they have run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alchemi_bridge.ensembles.objectives.conditions import Conditions, require_same_atoms
from alchemi_bridge.ensembles.objectives.targets import Target
from alchemi_bridge.ensembles.observables import (
    Density,
    PotentialEnergy,
    RadialDistribution,
    Volume,
)
from alchemi_bridge.ensembles.simulators.dynamics import DynamicsSimulator
from alchemi_bridge.ensembles.trajectory import Origin, Trajectory
from alchemi_bridge.errors import ConfigurationError


def check_with_simulators(
    simulators: Sequence[DynamicsSimulator], targets: Sequence[Target], where: str
) -> None:
    """Whether averages of what these simulators make can be compared with these targets.

    Parameters
    ----------
    simulators
        At least one.
    targets
        Their observables are tried on the structures, if they are the bridge's own.
    where
        How messages call the objective.

    Raises
    ------
    ConfigurationError
        If a simulator has no thermostat, the simulators are of different atoms or conditions, a
        target is of a temperature that nobody simulates, or of a volume that is kept.
    InputError
        If an observable is none of such a structure, or its target has another shape.
    """
    for simulator in simulators:
        if simulator.ensemble == "nve":
            raise ConfigurationError(
                f"simulator '{simulator.name}' of {where}",
                expected="one with a thermostat, without which frames have no weights",
                got="ensemble 'nve'",
                fix="choose nvt-langevin or npt",
            )
    begins = [(simulator.name, _first_frame(simulator)) for simulator in simulators]
    require_same_atoms(begins)
    conditions = Conditions(begins)
    for target in targets:
        called = f"target '{target.name}' of {where}"
        temperature = conditions.temperature(target.temperature, called)
        conditions.require_one(temperature, called)
        mine = [(s, t) for s, (_, t) in zip(simulators, begins, strict=True)
                if s.temperature == temperature]  # fmt: skip
        for simulator, begin in mine:
            _check_target(target, simulator, begin, called)


def _check_target(
    target: Target, simulator: DynamicsSimulator, begin: Trajectory, called: str
) -> None:
    observable = target.observable
    if isinstance(observable, Density | Volume) and simulator.pressure is None:
        raise ConfigurationError(
            called,
            expected="simulations at constant pressure, since nothing else changes a volume",
            got=f"simulator '{simulator.name}' at constant volume",
            fix='choose ensemble = "npt", or another target',
        )
    if isinstance(observable, Density | Volume | RadialDistribution | PotentialEnergy):
        target.require_shape(np.shape(observable(begin))[1:], called)


def _first_frame(simulator: DynamicsSimulator) -> Trajectory:
    """The structure as a trajectory, without an energy."""
    atoms = simulator.atoms
    return Trajectory(
        numbers=atoms.numbers,
        masses=atoms.get_masses(),
        pbc=atoms.pbc,
        positions=atoms.positions[None],
        cells=atoms.cell.array[None],
        energies=np.zeros(1),
        temperatures=np.array([simulator.temperature]),
        times=np.zeros(1),
        origin=np.zeros(1),
        origins=(
            Origin(
                simulator.name, simulator.engine, str(simulator.file.path), "",
                pressure=simulator.pressure,
            ),
        ),
    )  # fmt: skip
