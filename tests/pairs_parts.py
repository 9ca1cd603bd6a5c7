"""What the tests of pair lists have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import brute_force
import numpy as np
import pytest
import torch

from alchemi_bridge.errors import (
    BridgeError,
)
from alchemi_bridge.pairs import Candidates, FullPairs, HalfPairs, decode

CPU = torch.device("cpu")

#: Two searches may disagree on pairs that are this close to the reach (rounding, relative to
#: coordinates of some ten length units).
MARGIN = 1e-9


def refused(kind: type[BridgeError], call: Callable[[], object]) -> BridgeError:
    """The error that ``call`` raises, after a check that it says all that it should."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    for part in (caught.value.what, caught.value.expected, caught.value.got, caught.value.fix):
        assert part
        assert part in str(caught.value)
    return caught.value


def rows(candidates: Candidates) -> np.ndarray:
    """(2 n_pairs, 5) indices and shifts of every pair in both directions."""
    return torch.cat([candidates.samples, candidates.reversed_samples]).cpu().numpy()


def require_invariants(found: Candidates) -> None:
    """What every :class:`Candidates` promises."""
    n_pairs = len(found)
    for tensor in (found.first, found.second):
        assert tensor.shape == (n_pairs,)
        assert tensor.dtype == torch.int64
    assert found.shifts.shape == (n_pairs, 3)
    assert found.shifts.dtype == torch.int32
    for table in (found.samples, found.reversed_samples):
        assert table.shape == (n_pairs, 5)
        assert table.dtype == torch.int32
    forward, back = found.samples.cpu().numpy(), found.reversed_samples.cpu().numpy()
    np.testing.assert_array_equal(forward[:, :2], back[:, 1::-1])
    np.testing.assert_array_equal(forward[:, 2:], -back[:, 2:])
    brute_force.keys(np.concatenate([forward, back]))  # each row once
    # sorted, one direction of each pair
    assert (forward[:, 0] <= forward[:, 1]).all()
    assert forward.tolist() == sorted(forward.tolist())


def numpy_pairs(kind: type, samples: object, reach: float = 3.0) -> HalfPairs | FullPairs:
    table = np.array(samples, dtype=np.int64).reshape(-1, 5)
    return kind(table[:, 0].copy(), table[:, 1].copy(), table[:, 2:].copy(), reach)


def decoded(pairs: HalfPairs | FullPairs, n_atoms: int, **options: Any) -> Candidates:
    return decode(pairs, n_atoms=n_atoms, device=CPU, reach=pairs.reach, **options)


# --- random systems -------------------------------------------------------------------------------
