"""Extra outputs of a model as plain tensors, in the order of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from metatensor.torch import TensorMap


def values_of(
    name: str, found: TensorMap, sizes: Sequence[int], dtype: torch.dtype
) -> torch.Tensor | None:
    """Rows of an output by atom or by system.

    Parameters
    ----------
    name
        Of the output.
    found
        What the model returned.
    sizes
        Number of atoms of each system.
    dtype
        Of the result.

    Returns
    -------
    torch.Tensor or None
        (n_atoms, ...) or (n_systems, ...), components and properties as the model has them;
        ``None`` for what has several blocks, or not one row for each atom or system.
    """
    if len(found) != 1:
        return None
    block = found.block()
    names, values = block.samples.names, block.values.to(dtype)
    system = block.samples.column("system").long() if "system" in names else None
    if system is None:
        return None
    if names == ["system"]:
        rows, total = system, len(sizes)
    elif names == ["system", "atom"]:
        starts = torch.tensor(list(accumulate(sizes, initial=0))[:-1], device=system.device)
        rows, total = starts[system] + block.samples.column("atom").long(), sum(sizes)
    else:
        return None
    if len(rows) != total:
        return None
    ordered = torch.empty_like(values)
    ordered[rows] = values
    return ordered
