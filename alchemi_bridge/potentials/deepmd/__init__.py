"""DeePMD models as metatomic models, without DeePMD-kit.

:class:`SeE2A` is the se_e2_a model itself, for training and for export, with weights that are
interchangeable with DeePMD-kit's; :func:`convert` turns a frozen model of DeePMD-kit (se_e2_a,
DPA1, DPA3) into a metatomic model.
"""

from alchemi_bridge.potentials.deepmd.convert import Conversion, convert
from alchemi_bridge.potentials.deepmd.definition import Definition, read_definition
from alchemi_bridge.potentials.deepmd.frames import (
    FramePairs,
    FrameResults,
    concatenate,
    evaluate,
    pairs_of_frames,
    pairs_of_lists,
)
from alchemi_bridge.potentials.deepmd.metatomic_model import to_metatomic
from alchemi_bridge.potentials.deepmd.model import SeE2A
from alchemi_bridge.potentials.deepmd.statistics import EnvironmentStatistics, energy_bias
from alchemi_bridge.potentials.deepmd.weights import from_deepmd, to_deepmd

__all__ = [
    "Conversion",
    "Definition",
    "EnvironmentStatistics",
    "FramePairs",
    "FrameResults",
    "SeE2A",
    "concatenate",
    "convert",
    "energy_bias",
    "evaluate",
    "from_deepmd",
    "pairs_of_frames",
    "pairs_of_lists",
    "read_definition",
    "to_deepmd",
    "to_metatomic",
]
