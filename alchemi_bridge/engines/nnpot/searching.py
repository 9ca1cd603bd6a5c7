# ruff: noqa: UP006, UP035, UP045  (TorchScript reads typing's classes)
"""The module that searches pairs by itself, for GROMACS 2025 and later."""

from typing import Optional, Tuple

import torch
from metatomic.torch import AtomisticModel

from alchemi_bridge.engines.nnpot.evaluation import Evaluation, Facts, Pairs
from alchemi_bridge.engines.nnpot.search import complete_cell, find_pairs


class Searching(Evaluation):
    """Keeps a list as long as it holds."""

    kept_first: torch.Tensor
    kept_second: torch.Tensor
    kept_shifts: torch.Tensor
    kept_positions: torch.Tensor
    kept_cell: torch.Tensor
    kept_pbc: torch.Tensor

    def __init__(self, model: AtomisticModel, facts: Facts) -> None:
        super().__init__(model, facts)
        self.skin = facts.skin
        #: Searches since the file was loaded whose pairs were taken.
        self.searches = 0
        self.keeps = False
        # the list, and what it was searched for
        none = torch.zeros(0, dtype=torch.int64)
        self.register_buffer("kept_first", none)
        self.register_buffer("kept_second", none)
        self.register_buffer("kept_shifts", none.reshape(0, 3))
        self.register_buffer("kept_positions", torch.zeros(0, 3, dtype=torch.float64))
        self.register_buffer("kept_cell", torch.zeros(3, 3, dtype=torch.float64))
        self.register_buffer("kept_pbc", torch.zeros(3, dtype=torch.bool))

    def search(
        self, x: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor
    ) -> Tuple[torch.Tensor, Pairs]:
        """Pairs for these positions (N, 3), from the kept list or from a new one.

        A new one is made when an atom may have used up half of the skin, or when the cell is
        another one. An atom that was put back into the box has not moved.

        Returns
        -------
        positions
            (N, 3), without hops into the box and out of it since the list was made.
        pairs
            As :meth:`Evaluation.evaluate` takes them.
        """
        same = self.kept_positions.shape == x.shape and torch.equal(self.kept_cell, cell)
        if self.keeps and same and torch.equal(self.kept_pbc, pbc):
            moved = x - self.kept_positions
            hops = torch.round(moved @ torch.linalg.inv(complete_cell(cell, pbc))) @ cell
            moved = moved - hops
            if 4.0 * float((moved * moved).sum(dim=1).max()) < self.skin * self.skin:
                return x - hops, (self.kept_first, self.kept_second, self.kept_shifts)
        pairs = self.find(x, cell, pbc)
        self.searches += 1
        self.keep(x, cell, pbc, pairs)
        return x, pairs

    def find(self, x: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor) -> Pairs:
        """Pairs within cutoff and skin."""
        if self.cutoff > 0.0:
            return find_pairs(x, cell, pbc, self.cutoff + self.skin)
        return self.no_pairs(x)

    def keep(self, x: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor, pairs: Pairs) -> None:
        """Take these for all pairs within cutoff and skin."""
        self.kept_first, self.kept_second, self.kept_shifts = pairs
        self.kept_positions = x
        self.kept_cell = cell
        self.kept_pbc = pbc.clone()
        self.keeps = True


class SearchingModule(Searching):
    """Module for the inputs that 2025 and later have."""

    def forward(
        self,
        positions: torch.Tensor,
        numbers: torch.Tensor,
        box: Optional[torch.Tensor] = None,
        pbc: Optional[torch.Tensor] = None,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Energy and forces of the atoms of ``nnpot-input-group``.

        Parameters
        ----------
        positions
            ``atom-positions``, (N, 3) float32, nm, of the group alone; whole molecules or wrapped
            atoms. The gradient that GROMACS allows for is not needed.
        numbers
            ``atom-numbers``, (N,) int32.
        box, pbc
            ``box``, (3, 3) float32, nm, rows are the vectors, and ``pbc``, (3,) bool: all
            directions, or x and y (``pbc = xy``). GROMACS does not hand over ``pbc`` in a run
            without periodicity: then leave both out of the mdp file.

        Returns
        -------
        energy
            () float64, kJ/mol.
        forces
            (N, 3) float64, kJ/mol/nm.
        """
        trial, x, kinds, cell, periodic = self.prepared(positions, numbers, box, pbc)
        if trial >= 0:
            return self.evaluate_trial(trial, x, kinds, cell, periodic)
        x, pairs = self.search(x, cell, periodic)
        return self.finite(self.evaluate(x, kinds, cell, periodic, pairs))
