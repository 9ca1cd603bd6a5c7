"""Some systems with all their fields, bit for bit, outside nvalchemi's containers.

nvalchemi's own ways to move systems lose data: ``Batch.put`` copies float32 only, ``Batch.append``
keeps what both batches have and converts to the dtypes of the first, ``to_data_list`` converts
floating-point fields to the dtype of the positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod

import numpy as np
import torch

from alchemi_bridge.engines.nvalchemi_version import require_tested
from alchemi_bridge.errors import ConfigurationError

require_tested()

# isort: split
from nvalchemi.data import Batch  # noqa: E402  (only versions that were tested)
from nvalchemi.data.level_storage import (  # noqa: E402
    LevelSchema,
    MultiLevelStorage,
    SegmentedLevelStorage,
    UniformLevelStorage,
)

#: nvalchemi's levels: rows for each atom, for each pair, and one for each system.
ATOMS, EDGES, SYSTEM = "atoms", "edges", "system"
LEVELS = {ATOMS: "node", EDGES: "edge", SYSTEM: "system"}

#: Fields of a neighbour list. It belongs to the cutoff of one stage's model, and indexes atoms.
PAIR_LISTS = frozenset({"neighbor_list", "neighbor_list_shifts", "shifts"})
ATOM_LISTS = frozenset({"neighbor_matrix", "neighbor_matrix_shifts", "num_neighbors"})

#: nvalchemi's account of where a system is within a stage.
STATUS = "status"
COUNTER = "n_steps_counter_"

#: Of one field: level, dtype, and shape of a row.
Kind = tuple[str, torch.dtype, tuple[int, ...]]


@dataclass(eq=False)
class Portion:
    """Systems of a batch.

    Attributes
    ----------
    counts
        ``{level: rows of each system}``, for atoms and, where there are any, edges.
    fields
        ``{level: {name: (n_rows, ...)}}``.
    device
        Of all fields.
    """

    counts: dict[str, list[int]]
    fields: dict[str, dict[str, torch.Tensor]]
    device: torch.device
    _kinds: dict[str, Kind] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, batch: Batch) -> Portion:
        """The systems of a batch; tensors are shared with it.

        Without neighbour lists, except where edges have fields of their own, and without what
        nvalchemi notes in fields (status and step counters of a ``FusedStage``).

        Raises
        ------
        ConfigurationError
            If the batch has levels or tensors of another kind.
        """
        counts: dict[str, list[int]] = {ATOMS: [int(n) for n in batch.num_nodes_list]}
        fields: dict[str, dict[str, torch.Tensor]] = {level: {} for level in LEVELS}
        for level, group in batch._storage.groups.items():
            names = set(group.keys())
            if level == EDGES and names <= PAIR_LISTS:
                continue
            if level not in LEVELS and names:
                raise ConfigurationError(
                    f"level '{level}' of the batch",
                    expected=f"one of {', '.join(LEVELS)}",
                    got=f"fields {', '.join(sorted(names))}",
                    fix="keep them for atoms, edges or systems",
                )
            if level == EDGES:
                counts[EDGES] = [int(n) for n in batch.num_edges_list]
            n_rows = sum(counts[level]) if level in counts else batch.num_graphs
            for name, values in group.items():
                if name in ATOM_LISTS or name == STATUS or name.startswith(COUNTER):
                    continue
                fields[level][name] = _plain(name, values)[:n_rows]
        return cls(counts, {k: v for k, v in fields.items() if v}, batch.device)

    def __len__(self) -> int:
        return len(self.counts[ATOMS])

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Numbers of atoms and of edges of each system."""
        edges = self.counts.get(EDGES, [0] * len(self))
        return list(zip(self.counts[ATOMS], edges, strict=True))

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each field is; equal for systems that can be in one batch."""
        if self._kinds is None:
            self._kinds = {
                name: (level, values.dtype, tuple(values.shape[1:]))
                for level, named in self.fields.items()
                for name, values in named.items()
            }
        return self._kinds

    def add(self, name: str, values: torch.Tensor) -> None:
        """Set a field of systems, (n_systems, ...); the batch that they are of does not change."""
        self.fields.setdefault(SYSTEM, {})[name] = values
        self._kinds = None

    def select(self, systems: Sequence[int]) -> Portion:
        """Copies of some systems, in the given order."""
        rows = {level: self._rows(level, systems) for level in self.fields}
        fields = {
            level: {name: _take(values, rows[level]) for name, values in named.items()}
            for level, named in self.fields.items()
        }
        counts = {level: [own[k] for k in systems] for level, own in self.counts.items()}
        if EDGES in fields and "neighbor_list" in fields[EDGES]:
            fields[EDGES]["neighbor_list"] = self._renumbered(fields[EDGES], systems, counts)
        return Portion(counts, fields, self.device)

    def _rows(self, level: str, systems: Sequence[int]) -> torch.Tensor:
        if level not in self.counts:
            return torch.tensor(list(systems), dtype=torch.int64, device=self.device)
        own = np.array(self.counts[level], dtype=np.int64)
        chosen = own[np.array(list(systems), dtype=np.int64)]
        before, now = (np.cumsum(counts) - counts for counts in (own, chosen))
        shifts = np.repeat(before[list(systems)] - now, chosen)
        return torch.from_numpy(np.arange(chosen.sum()) + shifts).to(self.device)

    def _renumbered(
        self, edges: dict[str, torch.Tensor], systems: Sequence[int], counts: dict[str, list[int]]
    ) -> torch.Tensor:
        """Atoms of pairs are numbered in the whole batch."""
        before = [0, *accumulate(self.counts[ATOMS])]
        now = [0, *accumulate(counts[ATOMS])]
        moved = torch.tensor([now[k] - before[system] for k, system in enumerate(systems)])
        by_edge = moved.repeat_interleave(torch.tensor(counts[EDGES], dtype=torch.int64))
        values = edges["neighbor_list"]
        return values + by_edge.to(values.device, values.dtype)[:, None]

    def batch(self) -> Batch:
        """The systems as a batch of nvalchemi."""
        schema = LevelSchema()
        groups: dict[str, UniformLevelStorage | SegmentedLevelStorage] = {}
        for level, named in self.fields.items():
            for name in named:
                # nvalchemi takes names that it does not know for fields of systems
                schema.set(name, level)
        for level, named in self.fields.items():
            options = {"data": dict(named), "device": self.device, "attr_map": schema}
            if level == SYSTEM:
                groups[level] = UniformLevelStorage(**options)
            else:
                groups[level] = SegmentedLevelStorage(**options, segment_lengths=self.counts[level])
        storage = MultiLevelStorage(groups=groups, attr_map=schema)
        keys = {key: set(self.fields.get(level, ())) for level, key in LEVELS.items()}
        return Batch(device=self.device, storage=storage, keys=keys)

    def to(self, device: torch.device) -> Portion:
        """On another device; itself if it is there."""
        if device == self.device:
            return self
        fields = {
            level: {name: values.to(device) for name, values in named.items()}
            for level, named in self.fields.items()
        }
        return Portion(self.counts, fields, device)


def join(portions: Sequence[Portion]) -> Portion:
    """All systems of portions with the same fields, one after the other."""
    first = portions[0]
    if len(portions) == 1:
        return first
    counts = {
        level: [n for portion in portions for n in portion.counts[level]] for level in first.counts
    }
    fields: dict[str, dict[str, torch.Tensor]] = {}
    for level, named in first.fields.items():
        fields[level] = {name: _cat([p.fields[level][name] for p in portions]) for name in named}
    if EDGES in fields and "neighbor_list" in fields[EDGES]:
        before = [0, *accumulate(sum(p.counts[ATOMS]) for p in portions)]
        lists = [p.fields[EDGES]["neighbor_list"] for p in portions]
        shifted = [values + n for values, n in zip(lists, before, strict=False)]
        fields[EDGES]["neighbor_list"] = torch.cat(shifted)
    return Portion(counts, fields, first.device)


def difference(kinds: dict[str, Kind], others: dict[str, Kind]) -> tuple[str, str, str] | None:
    """The first field that is not the same: its name, and what it is in each; or ``None``."""
    for name in sorted({*kinds, *others}):
        one, other = kinds.get(name), others.get(name)
        if one != other:
            return name, describe(one), describe(other)
    return None


def describe(kind: Kind | None) -> str:
    """A field in words."""
    if kind is None:
        return "none"
    level, dtype, shape = kind
    rows = {ATOMS: "n_atoms", EDGES: "n_edges", SYSTEM: "n_systems"}[level]
    dimensions = ", ".join(map(str, (rows, *shape)))
    return f"{str(dtype).removeprefix('torch.')} ({dimensions}{'' if shape else ','})"


# --- bytes --------------------------------------------------------------------------------------


def _plain(name: str, values: torch.Tensor) -> torch.Tensor:
    if values.layout is not torch.strided or values.is_quantized:
        raise ConfigurationError(
            f"field '{name}' of the batch",
            expected="a dense tensor",
            got=f"{values.dtype}, {values.layout}",
            fix="keep it outside the batch, or as a dense tensor",
        )
    return values.detach().resolve_conj().resolve_neg()


def as_bytes(values: torch.Tensor) -> torch.Tensor:
    """(n_rows, n_bytes) of a tensor: every dtype can be moved as such, and nothing is rounded."""
    values = values.contiguous()
    width = values.element_size() * prod(values.shape[1:])
    if values.is_complex():
        values = torch.view_as_real(values)
    return values.reshape(-1).view(torch.uint8).reshape(len(values), width)


def from_bytes(rows: torch.Tensor, dtype: torch.dtype, shape: Iterable[int]) -> torch.Tensor:
    """Reverses :func:`as_bytes`; a copy, whose memory is aligned."""
    whole = (len(rows), *shape)
    flat = rows.reshape(-1).clone()
    if dtype.is_complex:
        parts = flat.view(dtype.to_real())
        return torch.view_as_complex(parts.reshape(*whole, 2))
    return flat.view(dtype).reshape(whole)


def _take(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    # not every dtype can be indexed on every device
    return from_bytes(as_bytes(values)[rows], values.dtype, values.shape[1:])


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    return from_bytes(torch.cat([as_bytes(p) for p in parts]), parts[0].dtype, parts[0].shape[1:])
