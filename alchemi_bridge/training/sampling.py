"""Which frames a rank sees in which step: every frame once and only once in an epoch.

All ranks know the whole plan, which follows from seed and epoch alone. A batch is drawn for all
ranks together, ``batch size`` times ``ranks`` frames of one system, and each takes every n-th of
them. Where frames do not divide, some ranks get fewer; one that gets none has a frame of weight
zero, so that it takes part in the sums over the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler

# what a sequence of random numbers is for, so that two purposes never share one
_FRAMES, _TABLE = 0, 1


@dataclass(frozen=True)
class Share:
    """What a rank has of a batch.

    Attributes
    ----------
    frames
        Numbers of frames of the system.
    counts
        Whether they count; False for one that is there so that the batch is not empty.
    n_batch
        Frames in the whole batch, over all ranks.
    """

    frames: tuple[int, ...]
    counts: bool
    n_batch: int


class ShareSampler(Sampler[Share]):
    """The shares of one rank in the batches of one system.

    Parameters
    ----------
    n_frames
        Of the system.
    batch_size
        Frames of one rank in a batch.
    rank, n_ranks
        Which rank, of how many.
    seed, system
        The order of frames depends on these and the epoch.
    """

    def __init__(
        self, n_frames: int, batch_size: int, rank: int, n_ranks: int, seed: int, system: int
    ) -> None:
        self.n_frames, self.batch_size = n_frames, batch_size
        self.rank, self.n_ranks = rank, n_ranks
        self.seed, self.system = seed, system
        self.epoch, self.first = 0, 0

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Choose the order of the frames, and the batch to begin with."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        """Batches in an epoch; the same on all ranks."""
        return -(-self.n_frames // (self.batch_size * self.n_ranks))

    def __iter__(self) -> Iterator[Share]:
        order = _random(self.seed, _FRAMES, self.epoch, self.system).permutation(self.n_frames)
        size = self.batch_size * self.n_ranks
        for start in range(self.first * size, self.n_frames, size):
            batch = order[start : start + size]
            mine = batch[self.rank :: self.n_ranks]
            frames = tuple(int(frame) for frame in (mine if len(mine) else batch[:1]))
            yield Share(frames, len(mine) > 0, len(batch))


def index_table(n_batches: Sequence[int]) -> np.ndarray:
    """(B,) the number of each system, as often as it has batches."""
    return np.repeat(np.arange(len(n_batches)), n_batches)


def draw(n_batches: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """(B,) systems of the steps of an epoch, drawn from the index table without putting back."""
    return _random(seed, _TABLE, epoch, 0).permutation(index_table(n_batches))


def _random(seed: int, purpose: int, epoch: int, system: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, epoch, system])


def weights(share: Share) -> torch.Tensor:
    """(F,) float64, 1 for frames that count and 0 for others."""
    return torch.full((len(share.frames),), 1.0 if share.counts else 0.0, dtype=torch.float64)
