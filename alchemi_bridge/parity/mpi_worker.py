"""``mpiexec -n N python -m alchemi_bridge.parity.mpi_worker``: serves one parity run."""

from __future__ import annotations

import torch

from alchemi_bridge.domain import dismiss, follow, lead
from alchemi_bridge.domain.ranks import mpi, world
from alchemi_bridge.parity.mpi_path import calculator
from alchemi_bridge.parity.remote import serve


def main() -> None:
    """The first rank answers; the others follow it."""
    torch.set_num_threads(1)
    comm = world(mpi().COMM_WORLD)
    assert comm is not None
    if comm.Get_rank() > 0:
        follow(comm)
        return
    lead(comm)
    serve(calculator)
    dismiss()


if __name__ == "__main__":
    main()
