"""Stages, systems and fields for the tests of the pipeline."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import ase
import numpy as np
import nvalchemi_parts
import torch
from ase.build import bulk

nv = nvalchemi_parts.engine()

from nvalchemi.data import AtomicData, Batch  # noqa: E402
from nvalchemi.dynamics import SizeAwareSampler  # noqa: E402
from nvalchemi.dynamics.base import BaseDynamics  # noqa: E402
from nvalchemi.models.base import BaseModelMixin, ModelConfig  # noqa: E402

#: Every dtype that nvalchemi's batches hold, and NaN with a payload, which copies keep.
DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.complex64,
    torch.complex128,
)


class Silent(torch.nn.Module, BaseModelMixin):
    """A model that computes nothing, so that a stage changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.model_config = ModelConfig(outputs=frozenset({"energy"}), active_outputs=set())
        self.seen: list[int] = []

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def compute_embeddings(self, data: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def forward(self, data: Any, **kwargs: Any) -> OrderedDict:
        self.seen.append(data.num_graphs)
        return OrderedDict()


class Keeper(BaseDynamics):
    """Does nothing for ``n_steps`` steps."""

    def __init__(self, n_steps: int | None = 1, model: Any = None, **options: Any) -> None:
        options = {"device_type": "cpu", **options}
        super().__init__(model or Silent(), n_steps=n_steps, **options)


class Structures:
    """nvalchemi's interface to a data set."""

    def __init__(self, data: list[AtomicData]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, k: int) -> tuple[AtomicData, dict]:
        return self.data[k], {}

    def get_metadata(self, k: int) -> tuple[int, int]:
        n_atoms = len(self.data[k].positions)
        return n_atoms, 2 * n_atoms


def sampler(atoms: list[ase.Atoms], max_batch_size: int = 4, **options: Any) -> SizeAwareSampler:
    data = [nv.atomic_data(each) for each in atoms]
    return SizeAwareSampler(Structures(data), max_batch_size=max_batch_size, **options)


def crystals(n: int, seed: int = 0) -> list[ase.Atoms]:
    """Argon-like crystals of 1 to 8 atoms, of two kinds, with velocities, all different."""
    random = np.random.default_rng(seed)
    made = []
    for k in range(n):
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * ((1, 1, 1), (2, 1, 1), (1, 1, 2))[k % 3]
        if k % 4 == 3:
            atoms = bulk("Ar", "fcc", a=5.3)
        atoms.numbers[::2] = 18 + 18 * (k % 2)
        atoms.rattle(0.05, rng=random)
        atoms.set_velocities(0.003 * random.normal(size=(len(atoms), 3)))
        made.append(atoms)
    return made


def rich_batch(atoms: list[ase.Atoms], seed: int = 0) -> Batch:
    """A batch with fields of all dtypes at the levels of atoms and systems, and random bits."""
    batch = nv.make_batch(atoms)
    random = np.random.default_rng(seed)
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        of_atoms = [bits(random, (n, 3), dtype) for n in batch.num_nodes_list]
        of_systems = [bits(random, (1, 2, 2), dtype) for _ in batch.num_nodes_list]
        batch.add_key(f"atom_{name}", of_atoms, level="node")
        batch.add_key(f"system_{name}", of_systems, level="system")
    return batch


def bits(random: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Random bits, so that every NaN occurs."""
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    raw = random.integers(0, 2 if dtype == torch.bool else 256, n_bytes).astype(np.uint8)
    if n_bytes == 0:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw.tobytes()), dtype=dtype).reshape(shape)


def raw(values: torch.Tensor) -> bytes:
    """The memory of a tensor."""
    flat = values.detach().cpu().contiguous()
    if flat.is_complex():
        flat = torch.view_as_real(flat)
    return bytes(flat.reshape(-1).view(torch.uint8).tolist())


def contents(batch: Batch, skip: tuple[str, ...] = ()) -> list[dict[str, tuple]]:
    """Of each system ``{field: (dtype, shape, memory)}``, by nvalchemi's own groups."""
    ends = np.cumsum([0, *batch.num_nodes_list])
    found: list[dict[str, tuple]] = [{} for _ in batch.num_nodes_list]
    for level, group in batch._storage.groups.items():
        for name, values in group.items():
            if name in skip or level == "edges":
                continue
            for k, own in enumerate(found):
                rows = values[ends[k] : ends[k + 1]] if level == "atoms" else values[k : k + 1]
                own[name] = (str(values.dtype), tuple(rows.shape), raw(rows))
    return found


def digest(content: dict[str, tuple]) -> str:
    """Of all fields of a system."""
    return hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()
