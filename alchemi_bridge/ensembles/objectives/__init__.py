"""Objectives: averages of reweighted trajectories, energies and forces against references."""

from alchemi_bridge.ensembles.objectives.averages import (
    DensityObjective,
    MeanEnergyObjective,
    RdfObjective,
)
from alchemi_bridge.ensembles.objectives.matching import EnergyForceObjective
from alchemi_bridge.ensembles.objectives.reweighted import ReweightedObjective
from alchemi_bridge.ensembles.objectives.targets import OfEnergies, Target

__all__ = [
    "DensityObjective",
    "EnergyForceObjective",
    "MeanEnergyObjective",
    "OfEnergies",
    "RdfObjective",
    "ReweightedObjective",
    "Target",
]
