"""Whether MPI takes the memory of a GPU as it is, or values have to go through the host."""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alchemi_bridge.domain.abort import waiting
from alchemi_bridge.errors import ConfigurationError

LOGGER = logging.getLogger(__name__)

#: ``auto`` (ask the MPI), ``1`` (it does), ``0`` (it does not).
VARIABLE = "ALCHEMI_BRIDGE_MPI_CUDA"

#: As in mpi.h of MPICH: what MPIX_GPU_query_support is asked about.
_MPIX_GPU_SUPPORT_CUDA = 0

#: Numbers in the message that is compared.
_CHECKED = 1000


@dataclass(frozen=True)
class Awareness:
    """What is known.

    Attributes
    ----------
    supported
        Whether all ranks may hand device memory to MPI.
    reason
        Who says so.
    """

    supported: bool
    reason: str


def cuda_aware(comm: Any) -> Awareness:
    """Whether the MPI of all ranks takes device memory; collective.

    Raises
    ------
    ConfigurationError
        If the environment variable is none of its values.
    """
    choice = os.environ.get(VARIABLE, "auto").strip() or "auto"
    if choice not in ("auto", "0", "1"):
        raise ConfigurationError(
            VARIABLE, expected="auto, 0 or 1", got=repr(choice), fix="unset it"
        )
    mine = _asked() if choice == "auto" else Awareness(choice == "1", f"{VARIABLE}={choice}")
    with waiting(comm):
        every = comm.allgather(mine)
    return next((one for one in every if not one.supported), mine)


def _asked() -> Awareness:
    from mpi4py import MPI

    name = MPI.Get_library_version().split("\n")[0].strip("\x00 ")
    try:
        library = ctypes.CDLL(MPI.__file__)  # brings its MPI along
    except OSError as error:
        return Awareness(False, f"{name} can not be asked ({error})")
    if hasattr(library, "MPIX_Query_cuda_support"):
        found = bool(library.MPIX_Query_cuda_support())
        return Awareness(found, f"{name}, MPIX_Query_cuda_support")
    if hasattr(library, "MPIX_GPU_query_support"):
        flag = ctypes.c_int(0)
        library.MPIX_GPU_query_support(_MPIX_GPU_SUPPORT_CUDA, ctypes.byref(flag))
        return Awareness(bool(flag.value), f"{name}, MPIX_GPU_query_support")
    return Awareness(False, f"{name} does not say")


def check_against_host(comm: Any, device: torch.device) -> bool:
    """Send numbers around a ring from device memory, and the same through the host; collective.

    Returns
    -------
    bool
        Whether they arrived the same on all ranks. Logged by the first.
    """
    from mpi4py import MPI

    rank, size = comm.Get_rank(), comm.Get_size()
    to, of = (rank + 1) % size, (rank - 1) % size
    sent = torch.arange(_CHECKED, dtype=torch.float64, device=device) * (rank + 1)
    direct = torch.zeros_like(sent)
    through = np.zeros(_CHECKED)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    with waiting(comm):
        comm.Sendrecv(sent, to, recvbuf=direct, source=of)
        comm.Sendrecv(sent.cpu().numpy(), to, recvbuf=through, source=of)
        same = np.array([int(np.array_equal(direct.cpu().numpy(), through))])
        comm.Allreduce(MPI.IN_PLACE, same, op=MPI.MIN)
    if rank == 0:
        word = "equals" if same[0] else "DIFFERS FROM"
        LOGGER.info(
            "what MPI takes from %s memory %s what goes through the host", device.type, word
        )
    return bool(same[0])
