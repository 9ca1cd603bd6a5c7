"""Portions as bytes: a header of fixed size, and a body that is exactly as long as it must be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod

import torch

from alchemi_bridge.engines.nvalchemi_pipeline.portion import LEVELS, Portion, as_bytes, from_bytes
from alchemi_bridge.errors import ConfigurationError

#: The header: a mark, and the bytes of the description and of the fields.
HEADER = 3
MARK = 0x616C62_01


def fitting(sizes: Sequence[tuple[int, int]], limit: tuple[int, int, int]) -> int:
    """How many of the first systems have at most so many systems, atoms and edges together."""
    n_systems, atoms, edges = limit
    for k, (n_atoms, n_edges) in enumerate(sizes[:n_systems]):
        atoms, edges = atoms - n_atoms, edges - n_edges
        if atoms < 0 or edges < 0:
            return k
    return min(len(sizes), n_systems)


def encode(portion: Portion | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Header (3,) int64 and body (n_bytes,) uint8 of a message on ``device``; ``None`` is empty."""
    if portion is None or len(portion) == 0:
        header = torch.tensor([MARK, 0, 0], dtype=torch.int64, device=device)
        return header, torch.empty(0, dtype=torch.uint8, device=device)
    order = [(level, name) for level in LEVELS for name in sorted(portion.fields.get(level, ()))]
    values = [portion.fields[level][name] for level, name in order]
    description = {
        "counts": portion.counts,
        "fields": [
            (level, name, str(v.dtype).removeprefix("torch."), list(v.shape))
            for (level, name), v in zip(order, values, strict=True)
        ],
    }
    text = torch.frombuffer(bytearray(json.dumps(description).encode()), dtype=torch.uint8)
    parts = [as_bytes(v).reshape(-1) for v in values]
    body = torch.cat([text.to(device), *(part.to(device) for part in parts)])
    sizes = [MARK, len(text), len(body) - len(text)]
    return torch.tensor(sizes, dtype=torch.int64, device=device), body


def body_size(header: torch.Tensor) -> int:
    """Bytes of the body that follows a header.

    Raises
    ------
    ConfigurationError
        If it is no header.
    """
    mark, described, held = header.tolist()
    if mark != MARK:
        raise ConfigurationError(
            "message of the rank before",
            expected="systems that are handed over",
            got="something else",
            fix="run the same version of alchemi_bridge on all ranks, and keep other messages "
            "between these ranks for after the run",
        )
    return int(described + held)


def decode(header: torch.Tensor, body: torch.Tensor, device: torch.device) -> Portion | None:
    """The systems of a message, on ``device``; ``None`` for an empty one."""
    described = int(header[1])
    if described == 0:
        return None
    text = json.loads(bytes(body[:described].cpu().tolist()))
    held = body[described:]
    fields: dict[str, dict[str, torch.Tensor]] = {}
    start = 0
    for level, name, dtype_name, shape in text["fields"]:
        dtype: torch.dtype = getattr(torch, dtype_name)
        size = dtype.itemsize * prod(shape)
        rows = held[start : start + size].reshape(shape[0], dtype.itemsize * prod(shape[1:]))
        fields.setdefault(level, {})[name] = from_bytes(rows, dtype, shape[1:]).to(device)
        start += size
    return Portion(text["counts"], fields, device)
