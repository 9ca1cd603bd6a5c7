"""Training of DeePMD models, on one rank or on those that torchrun started.

:func:`read_input` reads DeePMD's input file, :class:`Training` runs it, :func:`freeze` makes a
metatomic model of a checkpoint.
"""

from alchemi_bridge.training.freeze import freeze
from alchemi_bridge.training.input import TrainingInput, read_input
from alchemi_bridge.training.loop import Start, Training
from alchemi_bridge.training.ranks import Ranks, joined
from alchemi_bridge.training.systems import TrainingSystem, find_systems, read_system

__all__ = [
    "Ranks",
    "Start",
    "Training",
    "TrainingInput",
    "TrainingSystem",
    "find_systems",
    "freeze",
    "joined",
    "read_input",
    "read_system",
]
