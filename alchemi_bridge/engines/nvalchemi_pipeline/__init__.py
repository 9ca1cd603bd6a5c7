"""nvalchemi's pipelines of dynamics on several ranks, without loss.

Needs the extra ``nvalchemi``. See :class:`DistributedPipeline`.
"""

from alchemi_bridge.engines.nvalchemi_pipeline.journal import Visit, table
from alchemi_bridge.engines.nvalchemi_pipeline.pipeline import BufferConfig, DistributedPipeline
from alchemi_bridge.engines.nvalchemi_pipeline.sinks import ExactMemory, read_zarr

__all__ = ["BufferConfig", "DistributedPipeline", "ExactMemory", "Visit", "read_zarr", "table"]
