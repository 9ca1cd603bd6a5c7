"""Several systems in one evaluation of the model: once, or step after step."""

from alchemi_bridge.batch.cells import Cells
from alchemi_bridge.batch.geometry import BatchGeometry
from alchemi_bridge.batch.naming import of_system
from alchemi_bridge.batch.structures import (
    ModelRunner,
    Structure,
    StructureResult,
    evaluate_structures,
    prepare,
)
from alchemi_bridge.batch.systems import Systems

__all__ = [
    "BatchGeometry",
    "Cells",
    "ModelRunner",
    "Structure",
    "StructureResult",
    "Systems",
    "evaluate_structures",
    "of_system",
    "prepare",
]
