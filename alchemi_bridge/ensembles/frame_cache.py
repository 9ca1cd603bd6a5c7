"""Prepared frames that a worker keeps, so that a step of a fit searches no pairs of old frames."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from alchemi_bridge.ensembles.energies import Frames
from alchemi_bridge.ensembles.models import WorkerModel, when_dropped
from alchemi_bridge.ensembles.trajectory import Trajectory
from alchemi_bridge.model import LoadedModel

#: Sets of frames that a worker keeps, and memory for all of them, bytes.
MAX_SETS = 32
MAX_BYTES = 512 * 2**20


class FrameCache:
    """Prepared frames, and numbers that follow from frames alone; the oldest make room.

    Parameters
    ----------
    max_sets, max_bytes
        What may be kept.
    """

    def __init__(self, max_sets: int = MAX_SETS, max_bytes: int = MAX_BYTES) -> None:
        self.max_sets, self.max_bytes = max_sets, max_bytes
        self._frames: OrderedDict[tuple, Frames] = OrderedDict()
        self._values: OrderedDict[tuple, np.ndarray] = OrderedDict()

    def frames(
        self, loaded: LoadedModel, digest: str, options: tuple, make: Callable[[], Frames]
    ) -> Frames:
        """Those of a model and a digest of their content, made if they are not there."""
        key = (id(loaded), digest, *options)
        found = self._frames.pop(key, None)
        # another model may have the same address once one is gone
        if found is None or found.loaded is not loaded:
            found = make()
        self._frames[key] = found
        while len(self._frames) > 1 and (
            len(self._frames) > self.max_sets
            or sum(one.n_bytes for one in self._frames.values()) > self.max_bytes
        ):
            self._frames.popitem(last=False)
        return found

    def values(self, digest: str, what: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Numbers ``what`` of frames with this digest."""
        key = (digest, what)
        found = self._values.pop(key, None)
        if found is None:
            found = make()
        self._values[key] = found
        while len(self._values) > 1 and (
            len(self._values) > 8 * self.max_sets
            or sum(one.nbytes for one in self._values.values()) > self.max_bytes // 4
        ):
            self._values.popitem(last=False)
        return found

    def drop(self, loaded: LoadedModel) -> None:
        """Forget the frames of a model, which they would keep in memory."""
        for key in [k for k, frames in self._frames.items() if frames.loaded is loaded]:
            del self._frames[key]

    def clear(self) -> None:
        """Forget everything."""
        self._frames.clear()
        self._values.clear()


#: Of this process.
CACHE = FrameCache()
when_dropped(CACHE.drop)


def digest_of(*arrays: Any) -> str:
    """A digest of arrays, their shapes and types included."""
    total = hashlib.blake2b(digest_size=16)
    for one in arrays:
        array = np.ascontiguousarray(one)
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def digest_of_trajectory(trajectory: Trajectory) -> str:
    """A digest of the frames of a trajectory: atoms, masses, places and cells."""
    return digest_of(
        trajectory.numbers,
        trajectory.masses,
        trajectory.positions,
        trajectory.cells,
        trajectory.pbc,
    )


def frames_of(model: WorkerModel, trajectory: Trajectory, chunk: int | None) -> Frames:
    """The frames of a trajectory, from the cache of this process."""
    return CACHE.frames(
        model.loaded,
        digest_of_trajectory(trajectory),
        (chunk,),
        lambda: Frames.of_trajectory(model.loaded, trajectory, chunk=chunk),
    )
