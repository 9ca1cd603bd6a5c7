"""A model of nvalchemi in threads, under torch's modes, copied and pickled."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from nvalchemi_parts import crystal, engine

from alchemi_bridge.errors import ConfigurationError

nv = engine()

from nvalchemi.neighbors import compute_neighbors  # noqa: E402  (only where it is installed)

ModelFile = Callable[..., Path]

#: The same pairs and numbers; sums may be taken in another order.
SAME = 1e-12

WAYS = pytest.mark.parametrize("neighbors", ["own", "batch"])


def ready(model: Any, *repeats: int) -> Any:
    """A batch with a list, if the model wants one."""
    batch = nv.make_batch([crystal("lennard-jones", (n, 1, 1), n) for n in repeats])
    if model.model_config.neighbor_config is not None:
        compute_neighbors(batch, config=model.model_config.neighbor_config)
    return batch


@WAYS
def test_threads_take_turns(neighbors: str, model_file: ModelFile) -> None:
    """Two batches, of other sizes in other orders, by one model at once."""
    path = model_file("lennard-jones")
    model = nv.MetatomicModel(path, neighbors=neighbors)
    batches = [ready(model, 1, 2), ready(model, 2, 1, 1)]
    expected = [nv.MetatomicModel(path, neighbors=neighbors)(batch)["forces"] for batch in batches]

    def worst(k: int) -> float:
        return max(
            float((model(batches[k])["forces"] - expected[k]).abs().max()) for _ in range(40)
        )

    with ThreadPoolExecutor(2) as pool:
        assert max(pool.map(worst, range(2))) < SAME


@WAYS
@pytest.mark.parametrize("made_inside", [False, True])
@pytest.mark.parametrize("used_inside", [False, True])
def test_inference_mode(
    neighbors: str, made_inside: bool, used_inside: bool, model_file: ModelFile
) -> None:
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors=neighbors)
    expected = model(ready(model, 1, 2))["forces"]
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors=neighbors)
    with torch.inference_mode(made_inside):
        batch = ready(model, 1, 2)
    for _ in range(3):
        with torch.inference_mode(used_inside):
            found = model(batch)["forces"]
        torch.testing.assert_close(found, expected, rtol=0, atol=SAME)


@WAYS
def test_batch_is_not_changed(neighbors: str, model_file: ModelFile) -> None:
    """What the model is given is not the batch's memory, nor is a leaf made of that."""
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors=neighbors)
    batch = ready(model, 1, 2)
    before = {name: getattr(batch, name).clone() for name in ("positions", "cell", "pbc")}
    inputs = model.adapt_input(batch)
    joined = model._geometry.step(inputs["systems"], inputs["pairs"])
    assert joined.positions.untyped_storage().data_ptr() != (
        batch.positions.untyped_storage().data_ptr()
    )
    model(batch)
    for name, values in before.items():
        assert torch.equal(getattr(batch, name), values), name
    assert not batch.positions.requires_grad


@WAYS
def test_copies(neighbors: str, model_file: ModelFile) -> None:
    """A copy, of a model that was used, keeps its own lists; a pickle says what to do."""
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors=neighbors)
    batch = ready(model, 1, 2)
    expected = model(batch)["forces"]
    other = copy.deepcopy(model)
    model(ready(model, 3))
    torch.testing.assert_close(other(batch)["forces"], expected, rtol=0, atol=SAME)
    with pytest.raises(ConfigurationError, match="make it anew from its file"):
        pickle.dumps(model)
