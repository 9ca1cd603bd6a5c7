"""The provider for programs in which every rank has all atoms, as ASE's scripts under mpiexec."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alchemi_bridge.atoms import PreparedAtoms
from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import Atoms, ForceBuffers, Quantity, Step
from alchemi_bridge.device import Event
from alchemi_bridge.domain.abort import vital, waiting
from alchemi_bridge.domain.decomposition import decompose, wrap
from alchemi_bridge.domain.evaluator import HomeAtoms, HomeStep
from alchemi_bridge.domain.fingerprint import of_tensor, of_values
from alchemi_bridge.domain.provider import DomainForceProvider
from alchemi_bridge.model import Evaluation
from alchemi_bridge.provider import own_autograd_mode, wanted_of
from alchemi_bridge.stages import stage


@dataclass(frozen=True, eq=False)
class _Division:
    """Which of the atoms are whose.

    Attributes
    ----------
    atoms
        All of them.
    home, rows
        Those of this rank, and their rows among all.
    counts
        (n_ranks,) how many each rank has.
    order
        (n_atoms,) int64 row among all of each atom, rank after rank.
    """

    atoms: PreparedAtoms
    home: HomeAtoms
    rows: torch.Tensor
    counts: np.ndarray
    order: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Given:
    """What a step hands over, for all atoms."""

    source: torch.Tensor
    cell: Cell
    inputs: dict[str, Quantity]


class ReplicatedForceProvider(DomainForceProvider):
    """As :class:`DomainForceProvider`, but every rank hands over all atoms and gets all results.

    At every pair search the atoms are divided into domains anew, with equal numbers of atoms. In a
    step each rank evaluates its domain, and all results go to all ranks: this is what programs need
    that know nothing of ranks, and its price. Positions, cell, types, selections and inputs must be
    the same on all ranks, bit by bit, which is checked in every step.
    """

    _division: _Division | None = None
    _constant = 0

    def set_atoms(self, atoms: Atoms) -> None:
        """Take all atoms, the same on all ranks."""
        super().set_atoms(atoms)
        prepared = self._prepared
        assert prepared is not None
        selected = None if prepared.selected is None else prepared.selected.values
        self._constant = of_values(
            of_tensor(prepared.types), of_tensor(prepared.subset), of_tensor(selected)
        )

    @own_autograd_mode
    def compute(self, step: Step, out: ForceBuffers) -> Event:
        """Evaluate one step and add the results to the buffers; nothing if it fails."""
        self._results = None
        views: dict[str, torch.Tensor] = {}
        given: list[_Given] = []

        def prepare() -> HomeStep:
            found, source, cell = self._checked(step, out)
            views.update(found)
            assert self._prepared is not None
            given.append(_Given(source, cell, self._inputs(step, self._prepared)))
            if self._division is None or self._division.atoms is not self._prepared:
                self._division = self._divided(given[0])
            return self._mine(given[0], self._division)

        def regroup() -> HomeStep:
            self._division = self._divided(given[0])
            return self._mine(given[0], self._division)

        def fingerprint() -> int:
            inputs = sorted(given[0].inputs.items())
            return of_values(
                of_tensor(given[0].source),
                self._constant,
                [(name, q.unit, of_tensor(q.values)) for name, q in inputs],
            )

        found, _ = self._evaluator.evaluate(
            prepare, wanted_of(step), regroup=regroup, fingerprint=fingerprint
        )
        assert self._division is not None
        with vital(self.comm):
            whole = self._gathered(found, self._division)
        assert self._prepared is not None
        self._warn(whole, self._prepared.subset)
        check = self._delivery.add(whole, views, self._prepared.subset, self._together)
        self._results = whole
        return Event.record(self.loaded.device, check=check)

    @property
    def _speaks(self) -> bool:
        return self.rank == 0

    def _mine(self, given: _Given, division: _Division) -> HomeStep:
        """The step of this rank's atoms."""
        rows, subset = division.rows, division.atoms.subset
        inputs = {
            name: Quantity(quantity.values[rows], quantity.unit)
            if self.loaded.requested_inputs[name].sample_kind == "atom"
            else quantity
            for name, quantity in given.inputs.items()
        }
        engine = rows if subset is None else subset[rows]
        return HomeStep(division.home, given.source, engine, given.cell, inputs)

    def _divided(self, given: _Given) -> _Division:
        """Domains with equal numbers of atoms for these positions, the same on all ranks."""
        prepared, device = self._prepared, self.loaded.device
        assert prepared is not None
        source = given.source if prepared.subset is None else given.source[prepared.subset]
        positions = source.detach().cpu().numpy().astype(np.float64) * self._length
        owners = self._owners(positions, given.cell)
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=self.n_ranks)
        begin = int(counts[: self.rank].sum())
        rows = torch.from_numpy(order[begin : begin + int(counts[self.rank])]).to(device)
        counting = torch.zeros(len(prepared.types), dtype=torch.bool, device=device)
        counting[self._counting(prepared)] = True
        home = HomeAtoms(
            types=prepared.types[rows],
            counting=torch.nonzero(counting[rows]).squeeze(1),
            names=rows if prepared.subset is None else prepared.subset[rows],
        )
        return _Division(prepared, home, rows, counts, torch.from_numpy(order).to(device))

    def _owners(self, positions: np.ndarray, cell: Cell) -> np.ndarray:
        """(n_atoms,) rank of each atom."""
        if self.n_ranks == 1 or not np.isfinite(positions).all():
            return np.zeros(len(positions), dtype=np.int64)  # the check of coordinates comes later
        fractional, _ = wrap(positions, cell)
        domains = decompose(
            fractional, self.n_ranks, cell.pbc, heights=cell.heights, halo=self._evaluator.range
        )
        return domains.owner(fractional)

    def _gathered(self, found: Evaluation, division: _Division) -> Evaluation:
        """Results of all atoms, on every rank."""
        rows = [found.forces, found.energies, found.uncertainty]
        forces, energies, uncertainty = (
            None if values is None else self._all(values, division) for values in rows
        )
        return Evaluation(
            energy=found.energy,
            forces=forces,
            virial=found.virial,
            energies=energies,
            uncertainty=uncertainty,
            extra={},
        )

    def _all(self, values: torch.Tensor, division: _Division) -> torch.Tensor:
        from mpi4py import MPI

        with stage("exchange"):
            mine = values.contiguous().cpu()
            width = int(np.prod(mine.shape[1:], dtype=np.int64)) * mine.element_size()
            sizes = division.counts * width
            total = torch.empty((int(division.counts.sum()), *mine.shape[1:]), dtype=mine.dtype)
            places = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            with waiting(self.comm):
                self.comm.Allgatherv(
                    [mine.reshape(-1).view(torch.uint8).numpy(), MPI.BYTE],
                    [total.reshape(-1).view(torch.uint8).numpy(), (sizes, places), MPI.BYTE],
                )
            whole = torch.empty_like(total, device=self.loaded.device)
            whole[division.order] = total.to(self.loaded.device)
            return whole
