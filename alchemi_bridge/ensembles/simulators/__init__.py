"""Simulators: molecular dynamics of a structure with a model, in one of three engines."""

from alchemi_bridge.ensembles.simulators.ase_engine import AseSimulator
from alchemi_bridge.ensembles.simulators.dynamics import DynamicsSimulator, multi_temperature
from alchemi_bridge.ensembles.simulators.lammps_engine import LammpsSimulator
from alchemi_bridge.ensembles.simulators.nvalchemi_engine import NvalchemiSimulator

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
