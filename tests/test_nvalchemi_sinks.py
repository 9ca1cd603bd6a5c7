"""What nvalchemi's sinks give back of a batch: bit by bit what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nvalchemi_parts import QUIET, engine, hot

nv = engine()

from nvalchemi.dynamics.sinks import HostMemory, ZarrData  # noqa: E402

pytestmark = QUIET


def batch_of(dtype: torch.dtype) -> Any:
    """Numbers that no other format holds, and fields of ours besides those of nvalchemi."""
    structures = [hot((k, 1, 1), 30.0, seed=k) for k in (1, 2, 3)]
    batch = nv.make_batch(structures, dtype=dtype, stress=True)
    torch.manual_seed(0)
    for name in ("forces", "velocities", "energy", "stress"):
        batch[name].copy_(torch.randn(batch[name].shape, dtype=torch.float64) / 3.0)
    return batch


def sink_of(kind: str, folder: Path) -> Any:
    return HostMemory(capacity=10) if kind == "memory" else ZarrData(folder / "store", capacity=10)


def require_equal(found: Any, expected: Any, more: set[str]) -> None:
    names = set().union(*(group.keys() for group in expected._storage.groups.values()))
    assert {"positions", "cell", "pbc", "stress"} | more <= names
    assert found.num_nodes_list == expected.num_nodes_list
    for name in sorted(names):
        assert found[name].dtype == expected[name].dtype, name
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["memory", "zarr"])
def test_sinks_give_back_what_was_written(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """In one piece, and picked from a batch that goes on changing."""
    batch, sink = batch_of(dtype), sink_of(kind, tmp_path)
    more = set()
    if kind == "memory":  # the other one drops what is no field of AtomicData
        batch["status"] = torch.tensor([[0], [1], [2**40 + 1]])
        batch["system_id"] = torch.tensor([[7], [8], [9]])
        more = {"status", "system_id"}
    sink.write(batch)
    require_equal(sink.read(), batch, more)
    sink.zero()
    assert len(sink) == 0
    expected = batch.index_select([2, 0])
    sink.write(batch, mask=torch.tensor([False, False, True]))
    sink.write(batch, mask=torch.tensor([True, False, False]))
    batch.positions += 1.0
    require_equal(sink.read(), expected, more)
    assert sink.read().num_nodes_list == [12, 4]
