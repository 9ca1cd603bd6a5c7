"""One rank leads, the others follow: for programs that one rank alone should run.

The leader runs a program that knows nothing of ranks, reads, writes and decides; the other ranks
wait for what its force providers ask of them. So nothing is written twice, random numbers need not
agree, and no decision has to be shared. The command line works this way.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import Atoms, ForceBuffers, Quantity, Step, require_kind
from alchemi_bridge.device import DeviceBuffer, Event
from alchemi_bridge.domain.abort import agreed, waiting
from alchemi_bridge.domain.evaluator import DomainEvaluator
from alchemi_bridge.domain.ranks import world
from alchemi_bridge.domain.replicated import ReplicatedForceProvider
from alchemi_bridge.errors import BridgeError, ConfigurationError
from alchemi_bridge.model import LoadedModel
from alchemi_bridge.pairs import Pairs, Search
from alchemi_bridge.provider import MetatomicForceProvider

LOGGER = logging.getLogger(__name__)

#: A rank that waits for its leader looks without pause for so long (seconds): the next step of a
#: simulation comes within it. Then it sleeps between looks, and leaves the core to others.
AWAKE = 2e-3
LONGEST_NAP = 5e-3

_lead: Lead | None = None

#: What :func:`provider_for` makes.
AnyProvider = MetatomicForceProvider | ReplicatedForceProvider


class Lead:
    """The leader's side: tells the other ranks what to do.

    Parameters
    ----------
    comm
        Communicator of all ranks, this one is the first.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self._numbers = itertools.count()
        #: Providers that nobody has any more, until the others know it, too: Python may notice in
        #: the middle of a call.
        self.dropped: list[tuple[int, DomainEvaluator]] = []

    def tell(self, what: str, *arguments: Any) -> None:
        """The next thing that all ranks do."""
        while self.dropped:
            number, evaluator = self.dropped.pop()
            _broadcast(self.comm, ("drop", (number,)))
            evaluator.close()
        _broadcast(self.comm, (what, arguments))

    def new_number(self) -> int:
        """Number of a provider."""
        return next(self._numbers)


def leader() -> Lead | None:
    """How this process leads others; ``None`` if it does not."""
    return _lead


def lead(comm: Any) -> Lead:
    """Lead the other ranks of a communicator from now on; they call :func:`follow`.

    Raises
    ------
    ConfigurationError
        If this is not its first rank.
    """
    global _lead
    if comm.Get_rank() != 0:
        raise ConfigurationError(
            "leader",
            expected="rank 0",
            got=f"rank {comm.Get_rank()}",
            fix="call lead on rank 0, and follow on the others",
        )
    _lead = Lead(comm)
    return _lead


def dismiss(status: int = 0) -> None:
    """Let the others go, with this exit status."""
    global _lead
    if _lead is not None:
        _lead.tell("go", status)
        _lead = None


def follow(comm: Any) -> int:
    """Do what the leader says until it lets this rank go; the exit status that it gave."""
    providers: dict[int, ReplicatedForceProvider] = {}
    while True:
        what, arguments = _broadcast(comm, None)
        if what == "go":
            return int(arguments[0])
        try:
            _do(comm, providers, what, *arguments)
        except BaseException as error:
            if not (isinstance(error, BridgeError) or agreed(error)):
                raise
            # all ranks have it; what comes of it is the leader's to say
            LOGGER.debug("rank %d: %r", comm.Get_rank(), error)


def _do(
    comm: Any, providers: dict[int, ReplicatedForceProvider], what: str, number: int, *rest: Any
) -> None:
    if what == "make":
        model, options = rest
        providers[number] = ReplicatedForceProvider(model, comm, **options)
    elif what == "drop":
        if number in providers:  # not if it could not be made
            providers.pop(number).close()
    elif what == "close":
        providers[number].close()
    elif what == "atoms":
        providers[number].set_atoms(rest[0])
    elif what == "pairs":
        providers[number].set_pairs(*rest)
    elif what == "compute":
        provider, (step,) = providers[number], rest
        n_atoms = len(step.positions)
        device, wide = provider.loaded.device, torch.float64
        buffers = ForceBuffers(
            forces=torch.zeros((n_atoms, 3), dtype=wide, device=device),
            energy=torch.zeros(1, dtype=wide, device=device),
            virial=torch.zeros((3, 3), dtype=wide, device=device),
            energies=torch.zeros(n_atoms, dtype=wide, device=device),
        )
        provider.compute(_step_on(step, device), buffers).synchronize()


def _step_on(step: Step, device: torch.device) -> Step:
    if device.type == "cpu":
        return step
    positions = torch.from_numpy(step.positions).to(device)
    return replace(step, positions=positions)


def _broadcast(comm: Any, message: Any) -> Any:
    """From the leader to all, waiting for it without wearing out a core."""
    import pickle

    leading = comm.Get_rank() == 0
    data = np.frombuffer(pickle.dumps(message), dtype=np.uint8) if leading else None
    size = np.array([0 if data is None else len(data)], dtype=np.int64)
    request = comm.Ibcast(size, root=0)
    begin, nap = time.perf_counter(), 1e-5
    while not request.Test():
        if time.perf_counter() - begin > AWAKE:
            time.sleep(nap)
            nap = min(2.0 * nap, LONGEST_NAP)
    if data is None:
        data = np.empty(int(size[0]), dtype=np.uint8)
    with waiting(comm):
        comm.Bcast(np.array(data) if leading else data, root=0)
    return message if leading else pickle.loads(data.tobytes())


class LedForceProvider(ReplicatedForceProvider):
    """The leader's provider: takes the other ranks along in every call.

    Parameters
    ----------
    model
        Path of a model file that all ranks can read.
    group
        From :func:`lead`.
    options
        As for :class:`ReplicatedForceProvider`.
    """

    def __init__(self, model: Any, group: Lead, **options: Any) -> None:
        if isinstance(model, LoadedModel) and model.path is not None:
            model = model.path
        if not isinstance(model, str | os.PathLike):
            raise ConfigurationError(
                "model",
                expected="the path of a file, which the other ranks read, too",
                got=type(model).__name__,
                fix="save the model and pass its path",
            )
        self._group, self._number = group, group.new_number()
        group.tell("make", self._number, os.path.abspath(model), options)
        super().__init__(os.path.abspath(model), group.comm, **options)
        gone = weakref.finalize(self, group.dropped.append, (self._number, self._evaluator))
        gone.atexit = False

    def set_atoms(self, atoms: Atoms) -> None:
        """As for every provider."""
        require_kind("atoms", atoms, Atoms, "pass Atoms(types)")
        self._group.tell("atoms", self._number, _portable_atoms(atoms))
        super().set_atoms(atoms)

    def set_pairs(self, pairs: Pairs, cell: Cell, ready: Event | None = None) -> None:
        """As for every provider."""
        search = pairs if isinstance(pairs, Search) else type(pairs).__name__
        self._group.tell("pairs", self._number, search, cell)
        super().set_pairs(pairs, cell, ready)

    def close(self) -> None:
        """As for every provider."""
        self._group.tell("close", self._number)
        super().close()

    def compute(self, step: Step, out: ForceBuffers) -> Event:
        """As for every provider."""
        require_kind("step", step, Step, "pass Step(positions)")
        require_kind("out", out, ForceBuffers, "pass ForceBuffers(forces, energy)")
        self._group.tell("compute", self._number, _portable_step(step))
        return super().compute(step, out)


def _host(values: Any) -> Any:
    return None if values is None else np.ascontiguousarray(
        DeviceBuffer.of(values, "array").tensor.detach().cpu().numpy()
    )  # fmt: skip


def _portable_inputs(inputs: Mapping[str, Quantity]) -> dict[str, Quantity]:
    return {
        name: Quantity(q.values if isinstance(q.values, (int, float)) else _host(q.values), q.unit)
        for name, q in inputs.items()
    }


def _portable_atoms(atoms: Atoms) -> Atoms:
    return Atoms(
        _host(atoms.types), _host(atoms.subset), _host(atoms.selected),
        _portable_inputs(atoms.inputs),
    )  # fmt: skip


def _portable_step(step: Step) -> Step:
    inputs = _portable_inputs(step.inputs)
    return replace(step, positions=_host(step.positions), inputs=inputs, ready=None)


def provider_for(model: Any, comm: Any = "auto", **options: Any) -> AnyProvider:
    """The provider for a program that has all atoms: of one rank, of many, or of a leader.

    Parameters
    ----------
    model
        As for :class:`~alchemi_bridge.provider.MetatomicForceProvider`.
    comm
        See :func:`~alchemi_bridge.domain.world`.
    options
        As for the serial provider.
    """
    group = leader()
    if group is not None and isinstance(comm, str) and comm == "auto":
        return LedForceProvider(model, group, **options)
    ranks = world(comm)
    if ranks is None or ranks.Get_size() == 1:
        return MetatomicForceProvider(model, **options)
    return ReplicatedForceProvider(model, ranks, **options)
