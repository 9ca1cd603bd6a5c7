"""The arrays of a cluster pair list as tensors of the right shape, and what their layout means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.errors import ConfigurationError, PairListError

if TYPE_CHECKING:
    from alchemi_bridge.pairs.clusters import ClusterPairs

#: (45, 3) cell shift of the i side for each shift number.
SHIFTS = [(x, y, z) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-2, -1, 0, 1, 2)]
CENTRAL_SHIFT = 22

#: Slots are numbered in int32.
MAX_SLOTS = 2**31 - 1


@dataclass(frozen=True)
class ClusterLayout:
    """Sizes that the engine was built with, all powers of two.

    Attributes
    ----------
    cluster_bits, super_bits
        Binary logarithms of the slots in a cluster and of the clusters in a super-cluster.
    half_bits
        That of the j slots with a mask of their own.
    """

    cluster_bits: int
    super_bits: int
    half_bits: int

    @classmethod
    def of(cls, cluster_size: int, clusters_per_super: int, split: int) -> ClusterLayout:
        """The layout, or :class:`ConfigurationError` for one that is not supported."""
        for name, value, known in (
            ("cluster_size", cluster_size, (4, 8)),
            ("clusters_per_super", clusters_per_super, (4, 8)),
            ("split", split, (1, 2)),
        ):
            if isinstance(value, bool) or value not in known:
                raise ConfigurationError(
                    f"{name} of a cluster pair list",
                    expected=" or ".join(map(str, known)),
                    got=repr(value),
                    fix="take the values from the engine's config.h; lists of other layouts can "
                    "not be read",
                )
        cluster_bits = int(cluster_size).bit_length() - 1
        super_bits = int(clusters_per_super).bit_length() - 1
        return cls(cluster_bits, super_bits, cluster_bits - (int(split).bit_length() - 1))

    @property
    def cluster_size(self) -> int:
        """Slots in a cluster."""
        return 1 << self.cluster_bits

    @property
    def n_clusters(self) -> int:
        """Clusters in a super-cluster."""
        return 1 << self.super_bits

    @property
    def group_size(self) -> int:
        """J clusters in a group."""
        return 32 >> self.super_bits

    @property
    def split(self) -> int:
        """Masks of a group."""
        return 1 << (self.cluster_bits - self.half_bits)

    @property
    def lanes(self) -> int:
        """Places (jj, ii) within a pair of clusters."""
        return self.cluster_size**2

    @property
    def exclusion_words(self) -> int:
        """Words of an exclusion entry."""
        return self.lanes // self.split


@dataclass(frozen=True, eq=False)
class ClusterArrays:
    """The arrays of :class:`~alchemi_bridge.pairs.clusters.ClusterPairs` on the device.

    All contiguous, words in int32, but ``x``, (n_slots, 3), which has the strides of the engine.
    ``imask`` are the masks to read. ``excl`` and ``excl_ind`` are ``None`` where exclusions are not
    honoured.
    """

    layout: ClusterLayout
    sci: torch.Tensor
    cj: torch.Tensor
    imask: torch.Tensor
    excl_ind: torch.Tensor | None
    excl: torch.Tensor | None
    atom_index: torch.Tensor
    x: torch.Tensor
    intra_grid: bool


def read(pairs: ClusterPairs, layout: ClusterLayout, device: torch.device) -> ClusterArrays:
    """View the arrays, after a check of shapes, types and device.

    Raises
    ------
    ShapeError, DtypeError, DeviceMismatchError, BufferAccessError
        If an array does not fit.
    PairListError
        If there are more slots than int32 can number.
    """

    def words(source: Any, name: str, *shape: int | None) -> torch.Tensor:
        buffer = DeviceBuffer.of(as_words(source), f"{name} of the cluster pair list")
        view = buffer.require(
            f"{name} of the cluster pair list", shape=shape, dtypes=(torch.int32,), device=device
        )
        return view.contiguous()

    sci = words(pairs.sci, "sci", None, 4)
    cj = words(pairs.cj, "cj", None, layout.group_size)
    masks = (len(cj), layout.split)
    imask = words(pairs.imask, "imask", *masks)
    if not pairs.fresh and pairs.imask_outer is not None:
        imask = words(pairs.imask_outer, "imask_outer", *masks)
    excl = excl_ind = None
    if pairs.honour_exclusions:
        excl_ind = words(pairs.excl_ind, "excl_ind", *masks)
        excl = words(pairs.excl, "excl", None, layout.exclusion_words)
    atom_index = words(pairs.atom_index, "atom_index", None)
    x = _coordinates(pairs.x, len(atom_index), device)
    if len(atom_index) % layout.cluster_size:
        raise PairListError(
            "cluster pair list",
            expected=f"slots of whole clusters of {layout.cluster_size}",
            got=f"{len(atom_index)} slots",
            fix="hand over atom_index and x as long as the grid, fillers included",
        )
    if len(atom_index) > MAX_SLOTS:
        raise PairListError(
            "cluster pair list",
            expected=f"at most {MAX_SLOTS} slots",
            got=f"{len(atom_index)}",
            fix="spread the atoms over more ranks",
        )
    intra_grid = pairs.locality == "local"
    return ClusterArrays(layout, sci, cj, imask, excl_ind, excl, atom_index, x, intra_grid)


def _coordinates(source: Any, n_slots: int, device: torch.device) -> torch.Tensor:
    name = "x of the cluster pair list"
    buffer = DeviceBuffer.of(source, name)
    width = 4 if buffer.shape[1:] == (4,) else 3  # the fourth is the charge
    view = buffer.require(
        name, shape=(n_slots, width), dtypes=(torch.float32, torch.float64), device=device
    )
    return view[:, :3]


def as_words(source: Any) -> Any:
    """The same array, with unsigned words as int32, which is what torch can calculate with."""
    if isinstance(source, torch.Tensor):
        return source.view(torch.int32) if source.dtype == torch.uint32 else source
    if isinstance(source, np.ndarray):
        return source.view(np.int32) if source.dtype == np.uint32 else source
    if isinstance(source, DeviceBuffer):
        return source
    interface = getattr(source, "__cuda_array_interface__", None)
    if isinstance(interface, dict):
        return _SignedWords(interface, source) if interface.get("typestr") == "<u4" else source
    if str(getattr(source, "dtype", "")) == "uint32" and hasattr(source, "view"):
        return source.view("int32")
    return source


class _SignedWords:
    """CUDA memory with unsigned words, shown as int32."""

    def __init__(self, interface: dict[str, Any], owner: Any) -> None:
        self.__cuda_array_interface__ = {**interface, "typestr": "<i4"}
        self.owner = owner


def numbering(
    subset: torch.Tensor | None, n_atoms: int, device: torch.device
) -> tuple[torch.Tensor | None, int]:
    """Number of each atom among those that the model sees (-1 if it does not), and their count.

    The tensor is (n_atoms,) int32, or ``None`` where all are seen.
    """
    if subset is None:
        return None, n_atoms
    place = torch.full((n_atoms,), -1, dtype=torch.int32, device=device)
    place[subset] = torch.arange(len(subset), dtype=torch.int32, device=device)
    return place, len(subset)


def places(arrays: ClusterArrays, place: torch.Tensor | None) -> torch.Tensor:
    """(n_slots,) int32 number of the atom in each slot, -1 for none that the model sees."""
    if place is None or len(place) == 0:
        return arrays.atom_index
    index = arrays.atom_index
    return torch.where(index >= 0, place[index.clamp(min=0).long()], -1).to(torch.int32)
