"""Every frame once and only once in an epoch, for any number of ranks."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import training_parts

from alchemi_bridge.training import find_systems, read_system
from alchemi_bridge.training.loading import Batch, Batches, Buffered
from alchemi_bridge.training.sampling import ShareSampler, draw

CUTOFF = 3.6


def _shares(n_frames: int, size: int, n_ranks: int, epoch: int = 0) -> list[list]:
    """Shares of every rank."""
    found = []
    for rank in range(n_ranks):
        sampler = ShareSampler(n_frames, size, rank, n_ranks, seed=5, system=1)
        sampler.set_epoch(epoch)
        shares = list(sampler)
        assert len(shares) == len(sampler)
        found.append(shares)
    return found


@pytest.mark.parametrize("n_frames", [1, 2, 5, 7, 12, 31])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 5])
def test_every_frame_counts_once(n_frames: int, size: int, n_ranks: int) -> None:
    shares = _shares(n_frames, size, n_ranks)
    counted = [f for one in shares for s in one if s.counts for f in s.frames]
    assert sorted(counted) == list(range(n_frames))
    for batch in zip(*shares, strict=True):  # all ranks have as many batches
        assert all(1 <= len(share.frames) <= size for share in batch)
        n_batch = sum(len(share.frames) for share in batch if share.counts)
        assert {share.n_batch for share in batch} == {n_batch}


def test_ranks_divide_the_batches_of_one_process() -> None:
    """Two ranks see in a step what one process with the double batch sees."""
    [whole] = _shares(11, 4, 1)
    halves = _shares(11, 2, 2)
    for one, *two in zip(whole, *halves, strict=True):
        parts = [frame for share in two if share.counts for frame in share.frames]
        assert sorted(parts) == sorted(one.frames)


def test_set_epoch_changes_the_order_and_nothing_else_does() -> None:
    orders = [[s.frames for s in _shares(20, 3, 1, epoch)[0]] for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_draw_takes_every_system_as_often_as_it_has_batches() -> None:
    n_batches = [4, 1, 7]
    orders = [draw(n_batches, seed=2, epoch=epoch).tolist() for epoch in range(4)]
    for order in orders:
        assert Counter(order) == {0: 4, 1: 1, 2: 7}
    assert len({tuple(order) for order in orders}) == 4


@pytest.fixture
def systems(tmp_path: Path) -> list:
    data = training_parts.write_data(tmp_path / "data")
    return [read_system(folder, ("Cu", "Au")) for folder in find_systems(data)]


def _energies(batches: list[Batch]) -> list[float]:
    return [float(e) for b in batches for e in b.targets.energies[b.targets.weights > 0]]


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4])
def test_an_epoch_has_every_frame_of_every_system(systems: list, n_ranks: int) -> None:
    found = []
    for rank in range(n_ranks):
        batches = Batches(systems, [2, 1], CUTOFF, seed=1, rank=rank, n_ranks=n_ranks)
        made = list(batches.epoch(0))
        assert len(made) == len(batches)
        found += _energies(made)
    expected = np.concatenate([system.energies for system in systems])
    assert sorted(found) == sorted(expected.tolist())


def test_steps_go_on_where_they_were(systems: list) -> None:
    """After a restart in the middle of an epoch the batches are those that were left."""
    batches = Batches(systems, [2, 2], CUTOFF, seed=1)
    whole = _all_energies(batches, 0)
    for first in (1, 6, 7, 8, 15):
        assert _all_energies(Batches(systems, [2, 2], CUTOFF, seed=1), first) == whole[first:]


def _all_energies(batches: Batches, first: int, last: int = 20) -> list[list[float]]:
    return [batch.targets.energies.tolist() for batch in batches.steps(first, last)]


def test_a_batch_holds_frames_of_one_system(systems: list) -> None:
    for batch in Batches(systems, [3, 3], CUTOFF, seed=1).epoch(0):
        n_frames, n_atoms = batch.coordinates.shape[:2]
        assert batch.types.shape == (n_atoms,)
        assert batch.pairs.n_frames == n_frames
        assert batch.pairs.n_atoms == n_atoms
        distances = batch.pairs.vectors(batch.coordinates, batch.cells).norm(dim=1)
        assert float(distances.max()) < CUTOFF
        assert torch.equal(batch.targets.weights, torch.ones(n_frames, dtype=torch.float64))


def test_the_queue_hands_over_what_was_made_and_what_went_wrong(systems: list) -> None:
    batches = Batches(systems, [2, 2], CUTOFF, seed=1)
    with Buffered(batches.steps(0, 20), length=3) as queued:
        assert [b.targets.energies.tolist() for b in queued] == _all_energies(batches, 0)

    def failing():
        yield from batches.steps(0, 2)
        raise OSError("the disk is gone")

    with Buffered(failing()) as queued, pytest.raises(OSError, match="the disk is gone"):
        list(queued)


def test_the_queue_can_be_left_early(systems: list) -> None:
    batches = Batches(systems, [2, 2], CUTOFF, seed=1)
    with Buffered(batches.steps(0, 10**9), length=2) as queued:
        assert len(list(itertools.islice(iter(queued), 3))) == 3
    assert not queued._thread.is_alive()
