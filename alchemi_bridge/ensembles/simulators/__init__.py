"""Simulators: molecular dynamics of a structure with a model, in one of three engines."""

from alchemi_bridge.ensembles.simulators.ase_engine import AseSimulator
from alchemi_bridge.ensembles.simulators.dynamics import DynamicsSimulator
from alchemi_bridge.ensembles.simulators.lammps_engine import LammpsSimulator
from alchemi_bridge.ensembles.simulators.nvalchemi_engine import NvalchemiSimulator
from alchemi_bridge.ensembles.simulators.temperatures import multi_temperature

#: Simulators by the names of their engines.
ENGINES: dict[str, type[DynamicsSimulator]] = {
    kind.engine: kind for kind in (AseSimulator, LammpsSimulator, NvalchemiSimulator)
}

__all__ = [
    "ENGINES",
    "AseSimulator",
    "DynamicsSimulator",
    "LammpsSimulator",
    "NvalchemiSimulator",
    "multi_temperature",
]
