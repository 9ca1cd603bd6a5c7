"""What the tests of cluster pair lists have in common: lists that GROMACS built, and a pruning."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import brute_force
import numpy as np
import pytest
import torch
from kernel_parts import needs_compiler

from alchemi_bridge.bench import cluster_lists
from alchemi_bridge.cell import Cell
from alchemi_bridge.pairs import Candidates
from alchemi_bridge.pairs.clusters import ClusterPairs, decode_clusters

#: Lists of GROMACS 2026, built on a host in the layout of its CUDA kernels (GMX_EMULATE_GPU=1).
#: Lengths in nm, coordinates in float32.
FOLDER = Path(__file__).resolve().parent / "golden" / "nbnxm"

WORDS = ("sci", "cj", "imask", "excl_ind", "excl", "atom_index")

CPU = torch.device("cpu")

WAYS = [pytest.param("native", marks=needs_compiler), "torch"]


@dataclass(frozen=True, eq=False)
class Golden:
    """A list from a file."""

    arrays: dict[str, np.ndarray]

    @property
    def box(self) -> np.ndarray:
        """(3, 3) rows in nm."""
        return self.arrays["box"].astype(np.float64)

    @property
    def rlist(self) -> float:
        """Outer radius in nm."""
        return float(self.arrays["rlist"][0])

    @property
    def n_atoms(self) -> int:
        return int(self.arrays["atom_index"].max()) + 1

    @property
    def positions(self) -> np.ndarray:
        """(n_atoms, 3) float64, in the order of the atoms."""
        index = self.arrays["atom_index"]
        found = np.full((self.n_atoms, 3), np.nan)
        found[index[index >= 0]] = self.arrays["x"][index >= 0]
        return found

    @property
    def locality(self) -> str:
        return "non-local" if self.arrays["locality"][0] else "local"

    def pairs(self, reach: float, device: str = "cpu", **changes: Any) -> ClusterPairs:
        """The list up to a radius, on a device; changes replace arrays or set attributes."""
        arrays = {name: self.arrays[name] for name in (*WORDS, "x")}
        options = {"rlist": self.rlist, "locality": self.locality, **arrays, **changes}
        return ClusterPairs(reach=reach, **on_device(options, device))

    def decoded(self, reach: float, device: str = "cpu", **changes: Any) -> Candidates:
        return decode_clusters(
            self.pairs(reach, device, **changes),
            n_atoms=self.n_atoms,
            device=where(device),
            reach=reach,
            cell=Cell.of(self.box),
        )


def where(device: str) -> torch.device:
    """With the index that tensors there have."""
    return torch.zeros(0, device=device).device


def on_device(options: dict[str, Any], device: str) -> dict[str, Any]:
    """Arrays as tensors there; on the host as they are, unsigned words and all."""
    if device == "cpu":
        return options
    return {
        name: torch.from_numpy(value.view(np.int32) if value.dtype == np.uint32 else value).to(
            device
        )
        if isinstance(value, np.ndarray)
        else value
        for name, value in options.items()
    }


def golden(name: str) -> Golden:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return Golden(dict(file))


@cache
def expected(name: str) -> brute_force.PairSet:
    """All pairs of a single-rank file within its radius, by brute force."""
    file = golden(name)
    return brute_force.find(file.positions, file.box, (True, True, True), file.rlist)


def pruned(file: Golden, radius: float) -> np.ndarray:
    """Masks after the engine's pruning kernel, for each half by itself.

    A bit stays if any i atom of its cluster is closer than the radius to any j atom of its half.
    """
    masks, x = file.arrays["imask"].copy(), file.arrays["x"].astype(np.float64).reshape(-1, 8, 3)
    for super_cluster, shift, begin, end in file.arrays["sci"]:
        vector = np.array([shift % 5 - 2, shift % 15 // 5 - 1, shift // 15 - 1]) @ file.box
        for group in range(begin, end):
            for half in range(2):
                for bit in range(32):
                    if not masks[group, half] >> np.uint32(bit) & np.uint32(1):
                        continue
                    i = x[8 * super_cluster + bit % 8] + vector
                    j = x[file.arrays["cj"][group, bit // 8], 4 * half : 4 * half + 4]
                    if ((i[:, None] - j[None]) ** 2).sum(axis=2).min() >= radius**2:
                        masks[group, half] &= ~np.uint32(1 << bit)
    return masks


def decoded(found: cluster_lists.ClusterList, device: str = "cpu", **options: Any) -> Candidates:
    pairs = found.pairs(**options)
    names = ("sci", "cj", "imask", "excl_ind", "excl", "atom_index", "x")
    arrays = on_device({name: getattr(pairs, name) for name in names}, device)
    options = {k: v for k, v in vars(pairs).items() if k not in names}
    return decode_clusters(
        ClusterPairs(**arrays, **options),
        n_atoms=len(found.positions),
        device=where(device),
        reach=pairs.reach,
        cell=Cell.of(found.box),
    )


def require_same(found: Candidates, wanted: set[brute_force.Key]) -> None:
    """The same pairs: none missing, none too many, none twice."""
    samples = found.samples.cpu().numpy()
    got = brute_force.keys(samples)  # raises if one is there twice
    assert not wanted - got
    assert not got - wanted
    assert len(found) == len(wanted)


def require_equal(a: Candidates, b: Candidates) -> None:
    """The same bits."""
    assert a.n_atoms == b.n_atoms
    assert a.reach == b.reach
    for name in ("starts", "second", "code", "reverse", "table"):
        first, second = getattr(a, name), getattr(b, name)
        assert first.dtype == second.dtype == torch.int32
        assert torch.equal(first.cpu(), second.cpu()), name


def in_one_frame(samples: np.ndarray, rank: Golden, reference: Golden) -> list[brute_force.Key]:
    """(n_pairs, 5) pairs of a rank with the atoms and shifts of the undivided system."""
    fractional = (rank.positions[:, None] - reference.positions[None]) @ np.linalg.inv(
        reference.box
    )
    images = np.rint(fractional)
    atom = np.abs(fractional - images).sum(axis=2).argmin(axis=1)
    assert len(set(atom)) == len(atom)
    image = images[np.arange(len(atom)), atom].astype(int)
    i, j, shift = samples[:, 0], samples[:, 1], samples[:, 2:]
    there = np.column_stack([atom[i], atom[j], shift + image[j] - image[i]])
    return [tuple(row) for row in there.tolist()]
