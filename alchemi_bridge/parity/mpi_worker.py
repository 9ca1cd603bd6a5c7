"""``mpiexec -n N python -m alchemi_bridge.parity.mpi_worker``: serves one parity run."""

from __future__ import annotations

import itertools
import os
from multiprocessing.connection import Client
from typing import Any

import torch

from alchemi_bridge.domain import dismiss, follow, lead
from alchemi_bridge.domain.ranks import mpi, world
from alchemi_bridge.parity.mpi_path import ADDRESS, KEY, calculator
from alchemi_bridge.parity.paths import Evaluator


def main() -> None:
    """The first rank answers; the others follow it."""
    torch.set_num_threads(1)
    comm = world(mpi().COMM_WORLD)
    assert comm is not None
    if comm.Get_rank() > 0:
        follow(comm)
        return
    lead(comm)
    evaluators: dict[int, Evaluator] = {}
    numbers = itertools.count()
    with Client(os.environ[ADDRESS], "AF_UNIX", authkey=bytes.fromhex(os.environ[KEY])) as pipe:
        while True:
            try:
                what, *arguments = pipe.recv()
            except EOFError:
                break
            try:
                answer: Any
                if what == "prepare":
                    answer = next(numbers)
                    evaluators[answer] = calculator(*arguments)
                else:
                    number, argument = arguments
                    answer = getattr(evaluators[number], what)(argument)
            except Exception as error:
                answer = error
            pipe.send(answer)
    dismiss()


if __name__ == "__main__":
    main()
