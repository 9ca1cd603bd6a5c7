"""Which ranks work together: those that a launcher started, unless a script says otherwise."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alchemi_bridge.errors import ConfigurationError

LOGGER = logging.getLogger(__name__)

#: Variables with the number of ranks, by who sets them. A batch system's own count of tasks is not
#: among them: it is set for a script that runs once, too.
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "PALS_NRANKS",
         "SLURM_STEP_NUM_TASKS", "FLUX_JOB_SIZE")  # fmt: skip

#: How names begin of variables by which a process knows that it is one of several ranks.
LAUNCHERS = ("PMI_", "PMIX_", "OMPI_", "MPI_LOCAL", "MV2_COMM_", "HYDI_", "HYDRA_", "PALS_")

#: Keys of what communicators remember: their duplicate, and that they are one.
_keys: list[int] = []


def launched_ranks(environ: Mapping[str, str] | None = None) -> int:
    """How many ranks a launcher started together with this process, as far as it tells; else 1.

    MPI is not touched.
    """
    environ = os.environ if environ is None else environ
    for name in SIZES:
        text = environ.get(name, "").strip()
        if text.isdecimal():
            return max(int(text), 1)
    return 1


def environment_of_one() -> dict[str, str]:
    """The environment for a process that is none of the ranks with which this one was started."""
    return {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}


def mpiexec() -> str | None:
    """The launcher beside this Python, else the first on the path; ``None`` if there is none."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def mpi() -> Any:
    """mpi4py's module, or :class:`ConfigurationError` if it is not installed."""
    try:
        from mpi4py import MPI
    except ImportError as error:  # or no MPI library for it
        raise ConfigurationError(
            "MPI",
            expected="mpi4py with an MPI library",
            got=str(error),
            fix='install it: pip install "alchemi-bridge[mpi]"',
        ) from error
    return MPI


def world(comm: Any = "auto") -> Any | None:
    """The communicator to work in, or ``None`` for a serial run.

    Parameters
    ----------
    comm
        A communicator; ``None`` or ``False`` for a serial run; ``"auto"`` for all ranks that a
        launcher started, if these are several.

    Returns
    -------
    mpi4py.MPI.Comm or None
        A duplicate, so that nobody else's messages come in between; the same one every time. The
        first call with a communicator is collective.

    Raises
    ------
    ConfigurationError
        If several ranks were started but mpi4py is not there, or for anything else.
    """
    if comm is None or comm is False:
        return None
    # here, since NumPy takes a while: the command line asks for the number of ranks first
    from alchemi_bridge.domain.abort import install

    if isinstance(comm, str) and comm == "auto":
        if launched_ranks() < 2:
            return None
        comm = mpi().COMM_WORLD
        install()
        return _duplicate(comm) if comm.Get_size() > 1 else None
    if not hasattr(comm, "Create_dist_graph_adjacent"):
        raise ConfigurationError(
            "comm",
            expected="an mpi4py communicator, 'auto', or None",
            got=repr(comm),
            fix="pass mpi4py.MPI.COMM_WORLD, for example",
        )
    install()
    return _duplicate(comm)


def single() -> Any:
    """A communicator of this process alone."""
    return _duplicate(mpi().COMM_SELF)


def share_cores(comm: Any) -> None:
    """Let torch use a rank's share of the node's cores, unless the user said how many threads.

    Otherwise every rank would start a thread on every core, and all would wait for each other.
    """
    import torch

    from alchemi_bridge.domain.abort import waiting

    with waiting(comm):
        local = comm.Split_type(mpi().COMM_TYPE_SHARED)
        ranks = local.Get_size()
        local.Free()
    share = max(1, len(os.sched_getaffinity(0)) // ranks)
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > share:
        LOGGER.info("%d ranks on this node: %d torch threads each", ranks, share)
        torch.set_num_threads(share)


def _duplicate(comm: Any) -> Any:
    """The duplicate that a communicator remembers; it is freed with it."""
    from alchemi_bridge.domain.abort import waiting

    MPI = mpi()
    if not _keys:
        _keys.append(MPI.Comm.Create_keyval(delete_fn=_free))
        _keys.append(MPI.Comm.Create_keyval())
    remembered, is_one = _keys
    if comm.Get_attr(is_one):
        return comm
    found = comm.Get_attr(remembered)
    if found is None:
        with waiting(comm):
            found = comm.Dup()
        found.Set_attr(is_one, True)
        comm.Set_attr(remembered, found)
    return found


def _free(comm: Any, key: int, duplicate: Any) -> None:
    if comm not in (mpi().COMM_WORLD, mpi().COMM_SELF):  # these end with the process
        duplicate.Free()
