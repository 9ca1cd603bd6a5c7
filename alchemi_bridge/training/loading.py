"""Batches in the order of the steps: a dataset and a loader for each system, a buffered queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from alchemi_bridge.potentials.deepmd import FramePairs, concatenate, pairs_of_frames
from alchemi_bridge.training.loss import Targets
from alchemi_bridge.training.sampling import Share, ShareSampler, draw, weights
from alchemi_bridge.training.systems import TrainingSystem

#: Pairs of frames are kept up to this size in each process, of training and validation data each.
CACHE_BYTES = 1 << 30
#: Batches that are made before they are asked for.
QUEUE_LENGTH = 8


@dataclass(frozen=True, eq=False)
class Batch:
    """Frames of one system.

    Attributes
    ----------
    coordinates, cells, types, pairs
        Arguments of :func:`alchemi_bridge.potentials.deepmd.evaluate`.
    targets
        What the model should say.
    n_batch
        Frames in the whole batch, over all ranks.
    """

    coordinates: torch.Tensor
    cells: torch.Tensor | None
    types: torch.Tensor
    pairs: FramePairs
    targets: Targets
    n_batch: int

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        if device.type == "cpu":
            return self
        targets = self.targets
        return replace(
            self,
            coordinates=self.coordinates.to(device),
            cells=None if self.cells is None else self.cells.to(device),
            types=self.types.to(device),
            pairs=self.pairs.to(device),
            targets=Targets(
                targets.energies.to(device),
                targets.forces.to(device),
                None if targets.virials is None else targets.virials.to(device),
                targets.weights.to(device),
            ),
        )


class PairCache:
    """Pairs of frames that were found already, as long as there is room.

    Parameters
    ----------
    size
        Bytes.
    """

    def __init__(self, size: int = CACHE_BYTES) -> None:
        self._room = size
        self._kept: dict[tuple[int, int], FramePairs] = {}

    def find(
        self, key: tuple[int, int], x: torch.Tensor, cell: torch.Tensor | None, cutoff: float
    ) -> FramePairs:
        """Pairs of the frame that ``key`` stands for."""
        pairs = self._kept.get(key)
        if pairs is None:
            pairs = pairs_of_frames(x[None], None if cell is None else cell[None], cutoff)
            size = sum(t.nbytes for t in (pairs.first, pairs.second, pairs.shifts))
            if size <= self._room:
                self._room -= size
                self._kept[key] = pairs
        return pairs


class ShareDataset(Dataset[Batch]):
    """The frames of one system, a share of a batch at a time.

    Parameters
    ----------
    system, number
        The system, and its place among all of them.
    cutoff
        Of the model, Å.
    cache
        Shared by the datasets of a process.
    """

    def __init__(
        self, system: TrainingSystem, number: int, cutoff: float, cache: PairCache
    ) -> None:
        self._number, self._cutoff, self._cache = number, cutoff, cache
        self._types = torch.from_numpy(system.types)
        self._coordinates = torch.from_numpy(system.coordinates)
        self._cells = None if system.cells is None else torch.from_numpy(system.cells)
        self._energies = torch.from_numpy(system.energies)
        self._forces = torch.from_numpy(system.forces)
        self._virials = None if system.virials is None else torch.from_numpy(system.virials)

    def __len__(self) -> int:
        return len(self._energies)

    def __getitem__(self, share: Share) -> Batch:
        chosen = torch.tensor(share.frames)
        x = self._coordinates[chosen]
        cells = None if self._cells is None else self._cells[chosen]
        pairs = [
            self._cache.find((self._number, n), x[k], None if cells is None else cells[k],
                             self._cutoff)
            for k, n in enumerate(share.frames)
        ]  # fmt: skip
        virials = None if self._virials is None else self._virials[chosen]
        targets = Targets(self._energies[chosen], self._forces[chosen], virials, weights(share))
        return Batch(x, cells, self._types, concatenate(pairs), targets, share.n_batch)


class Batches:
    """The batches of a rank, epoch after epoch.

    Parameters
    ----------
    systems, batch_sizes
        Data, and frames of one rank in a batch of each system.
    cutoff
        Of the model, Å.
    seed
        Of the order.
    rank, n_ranks
        Which rank, of how many.
    """

    def __init__(
        self,
        systems: Sequence[TrainingSystem],
        batch_sizes: Sequence[int],
        cutoff: float,
        *,
        seed: int = 0,
        rank: int = 0,
        n_ranks: int = 1,
    ) -> None:
        self._seed = seed
        cache = PairCache()
        self._samplers = [
            ShareSampler(system.n_frames, size, rank, n_ranks, seed, number)
            for number, (system, size) in enumerate(zip(systems, batch_sizes, strict=True))
        ]
        # the sampler names whole shares, so that the loader does not batch them again
        self._loaders = [
            DataLoader(
                ShareDataset(system, number, cutoff, cache), sampler=sampler, batch_size=None
            )
            for number, (system, sampler) in enumerate(zip(systems, self._samplers, strict=True))
        ]

    def __len__(self) -> int:
        """Batches in an epoch; the same on all ranks."""
        return sum(len(sampler) for sampler in self._samplers)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, in its order.

        Parameters
        ----------
        epoch
            From zero.
        first
            How many batches are left out at the beginning, after a restart.
        """
        order = draw([len(sampler) for sampler in self._samplers], self._seed, epoch)
        for number, sampler in enumerate(self._samplers):
            sampler.set_epoch(epoch, int((order[:first] == number).sum()))
        sources = [iter(loader) for loader in self._loaders]
        for number in order[first:]:
            yield next(sources[number])

    def steps(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of the steps from ``first`` to before ``last``, counted over all epochs."""
        step = first
        while step < last:
            for batch in self.epoch(*divmod(step, len(self))):
                if step == last:
                    return
                yield batch
                step += 1


class Buffered:
    """Makes batches in a thread, some ahead of who takes them; to be closed (``with``).

    Parameters
    ----------
    batches
        Where they come from.
    length
        How many are made ahead.
    """

    def __init__(self, batches: Iterator[Batch], length: int = QUEUE_LENGTH) -> None:
        self._batches = batches
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(length)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="batches", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        last: BaseException | None = None
        try:
            for batch in self._batches:
                if not self._put(batch):
                    return
        except BaseException as error:  # raised again where batches are taken
            last = error
        self._put(last)

    def _put(self, item: Batch | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Batch]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> Buffered:
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()
