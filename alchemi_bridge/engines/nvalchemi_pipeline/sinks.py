"""Where the last stage leaves its results, and whether they stay there as they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from alchemi_bridge.engines.nvalchemi_pipeline.portion import (
    Kind,
    Portion,
    as_bytes,
    describe,
    difference,
    join,
)
from alchemi_bridge.engines.nvalchemi_version import require_tested
from alchemi_bridge.errors import ConfigurationError, InputError

require_tested()

# isort: split
from nvalchemi.data import Batch  # noqa: E402  (only versions that were tested)
from nvalchemi.data.datapipes.backends.zarr import AtomicDataZarrReader  # noqa: E402
from nvalchemi.dynamics.sinks import DataSink, GPUBuffer, HostMemory, ZarrData  # noqa: E402


class ExactMemory(DataSink):
    """Keeps systems in the memory of the host, every field bit for bit.

    nvalchemi's ``HostMemory`` converts floating-point fields to the dtype of the positions.

    Parameters
    ----------
    capacity
        Number of systems that it holds at most.
    """

    def __init__(self, capacity: int = 1_000_000) -> None:
        self._capacity = capacity
        self._kept: list[Portion] = []

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        """Keep copies of the systems of a batch, or of those where ``mask`` is true.

        Raises
        ------
        ConfigurationError
            If there is no room for all of them; none is kept then.
        """
        portion = Portion.of(batch)
        chosen = range(len(portion))
        systems = [k for k in chosen if mask is None or bool(mask[k])]
        if len(self) + len(systems) > self._capacity:
            raise ConfigurationError(
                "ExactMemory",
                expected=f"room for {len(systems)} more systems",
                got=f"{len(self)} of {self._capacity} in use",
                fix="raise its capacity",
            )
        if systems:
            self._kept.append(portion.select(systems).to(torch.device("cpu")))

    def read(self) -> Batch:
        """All systems, in the order in which they came.

        Raises
        ------
        ConfigurationError
            If there are none, or they have different fields (see :meth:`batches`).
        """
        batches = self.batches()
        if len(batches) != 1:
            raise ConfigurationError(
                "ExactMemory",
                expected="systems with the same fields",
                got="none" if not batches else f"{len(batches)} kinds of systems",
                fix="run the pipeline first" if not batches else "use batches()",
            )
        return batches[0]

    def batches(self) -> list[Batch]:
        """The same as several batches, a new one wherever fields change."""
        runs: list[list[Portion]] = []
        for portion in self._kept:
            if runs and runs[-1][0].kinds == portion.kinds:
                runs[-1].append(portion)
            else:
                runs.append([portion])
        return [join(run).batch() for run in runs]

    def zero(self) -> None:
        """Forget all."""
        self._kept.clear()

    def __len__(self) -> int:
        return sum(len(portion) for portion in self._kept)

    @property
    def capacity(self) -> int:
        """Number of systems that it holds at most."""
        return self._capacity


def read_zarr(store: Any) -> Batch:
    """All systems of a store that a ``ZarrData`` wrote, with all their fields.

    ``ZarrData.read`` leaves out the fields that nvalchemi has no name for, which are in the store.

    Parameters
    ----------
    store
        Path or other store that the ``ZarrData`` was made with.
    """
    with AtomicDataZarrReader(store) as reader:
        systems = [reader[k][0] for k in range(len(reader))]
        return Batch.from_raw_dicts(systems, field_levels=reader.field_levels)


def problem_of(sinks: Sequence[DataSink]) -> str | None:
    """Why sinks can not be used, if so."""
    if any(isinstance(sink, GPUBuffer) for sink in sinks):
        return (
            "a GPUBuffer, which keeps float32 fields only (use HostMemory, ZarrData, or "
            "alchemi_bridge.engines.nvalchemi_pipeline.ExactMemory)"
        )
    return None


class Drain:
    """Writes results into sinks, the first that has room first; never reads them.

    Parameters
    ----------
    sinks
        By priority.
    """

    def __init__(self, sinks: Sequence[DataSink]) -> None:
        self.sinks = sinks
        self._kinds: dict[int, dict[str, Kind]] = {}

    def write(self, portion: Portion, numbers: Sequence[int]) -> list[str]:
        """Write systems; returns the name of the sink of each.

        Raises
        ------
        InputError
            If a sink would change a field.
        ConfigurationError
            If all sinks are full.
        """
        written: list[str] = []
        for k, sink in enumerate(self.sinks):
            n = min(len(portion) - len(written), sink.capacity - len(sink))
            if n <= 0:
                continue
            chosen = portion.select(range(len(written), len(written) + n))
            self._require_exact(sink, chosen, numbers[len(written)])
            sink.write(chosen.batch())
            written += [f"sink {k} ({type(sink).__name__})"] * n
        if len(written) < len(portion):
            lost = ", ".join(map(str, numbers[len(written) :]))
            raise ConfigurationError(
                "sinks of the last stage",
                expected=f"room for systems {lost}",
                got="all full, " + ", ".join(f"{len(s)} of {s.capacity}" for s in self.sinks),
                fix="raise their capacity, or add a sink",
            )
        return written

    def _require_exact(self, sink: DataSink, portion: Portion, number: int) -> None:
        """Try it out on one system; later ones must be of the same kind, as all share a store."""
        if not isinstance(sink, (HostMemory, ZarrData)):
            return
        known = self._kinds.get(id(sink))
        found = changed(type(sink), portion.select([0])) if known is None else None
        if known is not None:
            found = difference(portion.kinds, known)
        if found is not None:
            name, was, became = found
            raise InputError(
                f"field '{name}' of system {number}",
                expected=f"a field that {type(sink).__name__} keeps as it is",
                got=f"{was}, which becomes {became}",
                fix="use ExactMemory of alchemi_bridge.engines.nvalchemi_pipeline, or give all "
                "floating-point fields the dtype of the positions",
            )
        self._kinds[id(sink)] = portion.kinds


def changed(kind: type[HostMemory] | type[ZarrData], one: Portion) -> tuple[str, str, str] | None:
    """Which field of a system does not come out of a sink as it went in.

    Parameters
    ----------
    kind
        Of the sink.
    one
        A system, which is written twice, as later ones take another way.

    Returns
    -------
    tuple or None
        Name of the field, what it was, and what it became.
    """
    store: dict[str, Any] = {}
    sink = ZarrData(store, 2) if issubclass(kind, ZarrData) else HostMemory(2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of conversions, which are found below
            sink.write(one.batch())
            sink.write(one.batch())
            read = read_zarr(store) if issubclass(kind, ZarrData) else sink.read()
            found = Portion.of(read)
    except Exception as error:  # whatever the sink, zarr or pydantic raise
        return "(all)", "fields that it can write", f"{type(error).__name__}: {error}"
    twice = join([one, one]).to(torch.device("cpu"))
    kinds = {name: found.kinds[name] for name in found.kinds if name in twice.kinds}
    differs = difference(twice.kinds, kinds)
    if differs is not None:
        return differs
    for name, (level, *_) in twice.kinds.items():
        if not torch.equal(
            as_bytes(twice.fields[level][name]), as_bytes(found.fields[level][name])
        ):
            return name, describe(twice.kinds[name]), "other values"
    return None
