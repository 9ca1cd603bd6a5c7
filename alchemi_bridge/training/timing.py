"""How long ranks talk to each other in a step."""

from __future__ import annotations

import torch
from torch.nn.parallel import DistributedDataParallel

#: What is reported, in ms, by the names of torch's own statistics, in ns.
_TIMES = {
    "forward": "avg_forward_compute_time",
    "backward": "avg_backward_compute_time",
    "communication": "avg_backward_comm_time",
    "overlap": "avg_backward_compute_comm_overlap_time",
}


def rank_times(module: torch.nn.Module) -> dict[str, float]:
    """Average times of a rank, in ms, as DistributedDataParallel keeps them.

    It measures the first ten evaluations and then every hundredth: forward and backward
    computation, communication from the first sum of gradients that begins to the last that ends
    (the wait for slower ranks is in it), and how much of that goes on beside the computation.

    Parameters
    ----------
    module
        What is trained; nothing is reported of a module that is not distributed.
    """
    if not isinstance(module, DistributedDataParallel):
        return {}
    found = module._get_ddp_logging_data()
    return {name: 1e-6 * found[key] for name, key in _TIMES.items() if key in found}
