"""How long a step takes: the bridge, its peers, and the model alone, in turns."""

from alchemi_bridge.bench.conversion import ConversionRow, measure_conversion
from alchemi_bridge.bench.peers import Peers
from alchemi_bridge.bench.run import BenchRow, Options, measure
from alchemi_bridge.bench.workloads import WORKLOADS, Workload

__all__ = [
    "WORKLOADS",
    "BenchRow",
    "ConversionRow",
    "Options",
    "Peers",
    "Workload",
    "measure",
    "measure_conversion",
]
