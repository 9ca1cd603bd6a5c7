"""Which GPU a rank of a parallel run uses: that of its number among the ranks of the same node.

The number comes from the launcher's environment, so that nothing has to be exchanged, and a device
is chosen before MPI, CUDA or torch make one theirs.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from alchemi_bridge.device.select import cuda_devices
from alchemi_bridge.errors import ConfigurationError, DeviceMismatchError

LOGGER = logging.getLogger(__name__)

#: Launchers: variables with the number of a rank on its node, and with how many ranks it has there.
#: The one that started this very process comes first: a batch system's own variables are those of
#: its first task, and all ranks of an mpirun inside inherit them.
LAUNCHERS: tuple[tuple[str, str, str | None], ...] = (
    ("torchrun", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("Open MPI", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPICH or Intel MPI", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("MVAPICH", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PALS", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
    ("PMI", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
    ("Flux", "FLUX_TASK_LOCAL_ID", None),
    ("Slurm", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)

#: What to do when ranks share a GPU.
SHARING = ("warn", "error", "allow")


@dataclass(frozen=True)
class Placement:
    """The choice for one rank.

    Attributes
    ----------
    device
        With its index among the devices that this process sees.
    local_rank
        Number of the rank on its node.
    local_size
        How many ranks the node has; ``None`` if the launcher does not say.
    source
        Where the numbers come from.
    n_devices
        How many devices there were to choose from.
    shared
        Whether another rank of the node is known to use the same device.
    """

    device: torch.device
    local_rank: int
    local_size: int | None
    source: str
    n_devices: int
    shared: bool


def local_rank(environ: Mapping[str, str] | None = None) -> tuple[int, int | None, str]:
    """Number of this rank on its node, how many there are (``None`` if unknown), and who says so.

    Without a launcher: rank 0 of 1.

    Raises
    ------
    ConfigurationError
        If a launcher's variable holds no number, or one that is out of range.
    """
    environ = os.environ if environ is None else environ
    for launcher, rank_name, size_name in LAUNCHERS:
        if rank_name not in environ:
            continue
        rank = _number(rank_name, environ[rank_name])
        size = None
        if size_name is not None and size_name in environ:
            size = _size(size_name, environ[size_name])
        _require_rank(rank, size, f"{rank_name} of {launcher}")
        return rank, size, f"{rank_name} of {launcher}"
    return 0, 1, "no launcher"


def place(
    n_devices: int | None = None,
    *,
    rank: int | None = None,
    size: int | None = None,
    sharing: str = "warn",
    environ: Mapping[str, str] | None = None,
) -> Placement:
    """Choose the GPU of this rank: its number on the node, counted modulo the GPUs.

    The choice is logged. It makes no device current and initialises none.

    Parameters
    ----------
    n_devices
        How many CUDA devices this process sees; asked from torch if not given.
    rank, size
        Number of this rank on its node, and how many there are; from the launcher's environment if
        ``rank`` is not given.
    sharing
        If there are more ranks than GPUs: ``"warn"`` (in the log), ``"error"`` or ``"allow"``.
    environ
        Environment variables; the process's own if not given.

    Raises
    ------
    DeviceMismatchError
        If there is no CUDA device.
    ConfigurationError
        If ranks would share a device and that is an error, or if a number makes no sense.
    """
    environ = os.environ if environ is None else environ
    if sharing not in SHARING:
        raise ConfigurationError(
            "sharing",
            expected=" or ".join(repr(choice) for choice in SHARING),
            got=repr(sharing),
            fix="choose one of them",
        )
    if rank is None:
        rank, known, source = local_rank(environ)
        size = known if size is None else size
    else:
        source = "the caller"
    _require_rank(rank, size, f"rank from {source}")
    count = cuda_devices() if n_devices is None else n_devices
    if count < 1:
        raise DeviceMismatchError(
            f"GPU of rank {rank} of this node",
            expected="at least one CUDA device",
            got="none that this process sees",
            fix="check with 'alchemi-bridge doctor', or run on device='cpu'",
        )
    shared = max(rank + 1, size or 0) > count and not _bound(count, environ)
    placement = Placement(torch.device("cuda", rank % count), rank, size, source, count, shared)
    if shared:
        _share(placement, sharing)
    LOGGER.info(
        "rank %d of this node (from %s) uses %s of %d visible CUDA devices",
        rank, source, placement.device, count,
    )  # fmt: skip
    return placement


def _share(placement: Placement, sharing: str) -> None:
    """More ranks than GPUs: an error, a warning, or as it should be."""
    ranks = max(placement.local_rank + 1, placement.local_size or 0)
    if sharing == "error":
        raise ConfigurationError(
            "ranks of this node",
            expected=f"at most one for each of {placement.n_devices} CUDA devices",
            got=f"{ranks} (from {placement.source})",
            fix="start fewer ranks for each node, or let them share with sharing='warn'",
        )
    if sharing == "warn":
        LOGGER.warning(
            "%d ranks of this node share %d CUDA devices: %s is not alone on %s",
            ranks, placement.n_devices, f"rank {placement.local_rank}", placement.device,
        )  # fmt: skip


def _bound(n_devices: int, environ: Mapping[str, str]) -> bool:
    """Whether the launcher gave this rank a GPU of its own, and hid the others.

    ``CUDA_VISIBLE_DEVICES`` with one device can mean that, or that all ranks got the same one: the
    benefit of the doubt.
    """
    visible = [name for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return n_devices == 1 and len(visible) == 1


def _number(name: str, text: str) -> int:
    if text.strip().isdecimal():
        return int(text)
    raise ConfigurationError(
        name,
        expected="a number, as the launcher sets it",
        got=repr(text),
        fix="unset the variable, or name the rank explicitly",
    )


def _size(name: str, text: str) -> int | None:
    """Ranks of each node; Slurm may name several numbers, and then this node's is not known."""
    if re.fullmatch(r"\d+(\(x\d+\))?(,\d+(\(x\d+\))?)+", text.strip()):
        return None
    return _number(name, re.sub(r"\(x\d+\)$", "", text.strip()))


def _require_rank(rank: int, size: int | None, what: str) -> None:
    if rank < 0 or (size is not None and not rank < size):
        raise ConfigurationError(
            what,
            expected="0 or more" if size is None else f"0 to {size - 1}, for {size} ranks",
            got=str(rank),
            fix="count the ranks of one node from 0",
        )
