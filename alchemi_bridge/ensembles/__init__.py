"""Many simulations and objectives at once, in this process or on Ray."""

from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.work import Objective, Outcome, Parameters, Simulator

__all__ = ["Objective", "Outcome", "Parameters", "SchedulerHints", "Simulator"]
