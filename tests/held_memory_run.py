"""What this process takes of memory before and after it holds three tensors; a program.

Prints one line of JSON: the bytes held, and the states of the memory. In a process of its own: what
tests before have freed is not all handed back to the system, and would be used again.
"""

from __future__ import annotations

import json

import torch

from alchemi_bridge.verify.footprint import memory_state, resident_bytes

CPU = torch.device("cpu")

before = memory_state(CPU)
held = [torch.ones(5_000_000, dtype=torch.float64) for _ in range(3)]
after = memory_state(CPU)
print(
    json.dumps(
        {
            "number": len(held),
            "bytes": sum(one.nbytes for one in held),
            "before": before,
            "after": after,
            "resident": resident_bytes(),
        }
    )
)
