"""What the tests of pair lists have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import brute_force
import numpy as np
import pytest
import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import BridgeError
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
    return candidates.samples.cpu().numpy()


def require_invariants(found: Candidates) -> None:
    """What every :class:`Candidates` promises."""
    n_rows, device = len(found), found.starts.device
    assert n_rows == 2 * found.n_pairs
    for tensor in (found.first, found.second, found.code, found.reverse):
        assert tensor.shape == (n_rows,)
        assert tensor.dtype == torch.int32
        assert tensor.device == device
    assert found.shifts.shape == (n_rows, 3)
    assert found.samples.shape == (n_rows, 5)
    for table in (found.shifts, found.samples, found.table, found.starts):
        assert table.dtype == torch.int32
        assert table.device == device
    _require_rows(found)
    _require_table(found)
    listed = rows(found)
    brute_force.keys(listed)  # each row once
    assert listed.tolist() == sorted(listed.tolist())
    reverse = found.reverse.cpu().numpy()
    np.testing.assert_array_equal(listed[reverse, :2], listed[:, 1::-1])
    np.testing.assert_array_equal(listed[reverse, 2:], -listed[:, 2:])
    np.testing.assert_array_equal(reverse[reverse], np.arange(n_rows))
    # one of both directions of every pair
    canonical = found.canonical.cpu().numpy()
    assert (canonical ^ canonical[reverse]).all()
    assert (listed[canonical, 0] <= listed[canonical, 1]).all()


def _require_rows(found: Candidates) -> None:
    starts = found.starts.tolist()
    assert len(starts) == found.n_atoms + 1
    assert (starts[0], starts[-1]) == (0, len(found))
    assert starts == sorted(starts)
    first = np.repeat(np.arange(found.n_atoms), np.diff(starts))
    np.testing.assert_array_equal(found.first.cpu().numpy(), first)


def _require_table(found: Candidates) -> None:
    table = found.table.cpu().numpy()
    np.testing.assert_array_equal(table[::-1], -table)
    assert table.tolist() == sorted(table.tolist())
    assert len({tuple(shift) for shift in table.tolist()}) == len(table)
    np.testing.assert_array_equal(found.shifts.cpu().numpy(), table[found.code.cpu().numpy()])


def numpy_pairs(kind: type, samples: object, reach: float = 3.0) -> HalfPairs | FullPairs:
    table = np.array(samples, dtype=np.int64).reshape(-1, 5)
    return kind(table[:, 0].copy(), table[:, 1].copy(), table[:, 2:].copy(), reach)


def decoded(pairs: HalfPairs | FullPairs, n_atoms: int, **options: Any) -> Candidates:
    """Lists with shifts do not depend on the cell."""
    options = {"device": CPU, "reach": pairs.reach, "cell": Cell.open(), **options}
    return decode(pairs, n_atoms=n_atoms, **options)
