"""Many simulations and objectives at once, in this process or on Ray."""

from alchemi_bridge.ensembles.executors.base import Executor
from alchemi_bridge.ensembles.executors.in_process import InProcessExecutor
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.loop import LoopResult, ReactiveLoop
from alchemi_bridge.ensembles.optimizer import Optimizer, StepOutput
from alchemi_bridge.ensembles.work import Objective, Outcome, Parameters, Simulator

__all__ = [
    "Executor",
    "InProcessExecutor",
    "LoopResult",
    "Objective",
    "Optimizer",
    "Outcome",
    "Parameters",
    "ReactiveLoop",
    "SchedulerHints",
    "Simulator",
    "StepOutput",
]
