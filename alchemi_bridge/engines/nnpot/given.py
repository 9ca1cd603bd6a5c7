# ruff: noqa: UP006, UP035, UP045  (TorchScript reads typing's classes)
"""The module that takes GROMACS' pairs, for 2026 and later."""

from typing import Optional, Tuple

import torch
from metatomic.torch import AtomisticModel

from alchemi_bridge.engines.nnpot.evaluation import Facts, Pairs
from alchemi_bridge.engines.nnpot.search import find_pairs
from alchemi_bridge.engines.nnpot.searching import Searching
from alchemi_bridge.engines.nnpot.shifts import whole_shifts
from alchemi_bridge.engines.nnpot.trial import trial_atoms


class PairsModule(Searching):
    """Module for the inputs of 2026, with the pair list among them.

    The list holds the pairs of the group that were closer than ``nnpot-pair-cutoff`` at GROMACS'
    last search; vectors are made and cut anew in every call. ``nnpot-pair-cutoff`` can not exceed
    ``rlist``, and ``grompp`` refuses an ``rlist`` of half of the box or more, so that the list has
    at most one image of a pair. For a cutoff above that there is
    :class:`~alchemi_bridge.engines.nnpot.searching.SearchingModule`, which has no such limit.

    The first list is compared with an own search, so that a list that is too short is an error. A
    list whose shifts can not be understood (:mod:`alchemi_bridge.engines.nnpot.shifts`) is not
    used: the pairs are searched.
    """

    pairs_of_list: torch.Tensor
    shifts_of_list: torch.Tensor
    numbers_of_list: torch.Tensor

    def __init__(self, model: AtomisticModel, facts: Facts) -> None:
        super().__init__(model, facts)
        #: Lists that came since the file was loaded, and those of them that could not be used.
        self.lists = 0
        self.refused = 0
        # the list that came last, and the whole numbers behind its shifts
        self.register_buffer("pairs_of_list", torch.zeros(0, 2, dtype=torch.int32))
        self.register_buffer("shifts_of_list", torch.zeros(0, 3))
        self.register_buffer("numbers_of_list", torch.zeros(0, 3, dtype=torch.int64))
        self.usable = False

    def forward(
        self,
        positions: torch.Tensor,
        numbers: torch.Tensor,
        atom_pairs: torch.Tensor,
        pair_shifts: torch.Tensor,
        box: Optional[torch.Tensor] = None,
        pbc: Optional[torch.Tensor] = None,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Energy and forces of the atoms of ``nnpot-input-group``.

        Parameters
        ----------
        positions, numbers, box, pbc
            As in :meth:`~alchemi_bridge.engines.nnpot.searching.SearchingModule.forward`.
        atom_pairs
            ``atom-pairs``, (M, 2) int32, rows of ``positions``, each pair in one direction.
        pair_shifts
            ``pair-shifts``, (M, 3), nm, float32, or float64 from GROMACS in double precision, meant
            so that ``positions[first] - positions[second] + shift`` is the vector between them.

        Returns
        -------
        energy, forces
            () and (N, 3) float64, kJ/mol and kJ/mol/nm.
        """
        self.check_inputs(positions, numbers, box, pbc)
        self.check_pairs(atom_pairs, pair_shifts)
        trial = trial_atoms(positions, box)
        kinds = self.known_types(numbers, trial)
        x = positions.detach().to(torch.float64) * self.length_factor
        cell, periodic = self.cell_of(x, box, pbc)
        if trial >= 0:
            return self.evaluate_trial(trial, x, kinds, cell, periodic)
        if not self.is_last_list(atom_pairs, pair_shifts):
            self.take_list(x, cell, periodic, atom_pairs, pair_shifts)
        if self.usable:
            pairs = self.given_pairs()
        else:
            x, pairs = self.search(x, cell, periodic)
        return self.finite(self.evaluate(x, kinds, cell, periodic, pairs))

    def check_pairs(self, pairs: torch.Tensor, shifts: torch.Tensor) -> None:
        """Raise ValueError where the inputs are no pair list."""
        good = len(pairs.shape) == 2 and pairs.shape[-1] == 2 and not pairs.is_floating_point()
        good = good and shifts.is_floating_point()
        if not (good and list(shifts.shape) == [pairs.shape[0], 3]):
            raise ValueError(
                "alchemi-bridge: nnpot-model-input3 and 4: expected atom-pairs (M, 2) and "
                + f"pair-shifts (M, 3), got {list(pairs.shape)} and {list(shifts.shape)}; name the "
                + "inputs as alchemi-bridge export printed them"
            )

    def is_last_list(self, pairs: torch.Tensor, shifts: torch.Tensor) -> bool:
        """Whether this list came in the last call, too."""
        same = self.lists > 0 and self.shifts_of_list.dtype == shifts.dtype
        same = same and torch.equal(self.pairs_of_list, pairs)
        return same and torch.equal(self.shifts_of_list, shifts)

    def take_list(
        self,
        x: torch.Tensor,
        cell: torch.Tensor,
        pbc: torch.Tensor,
        pairs: torch.Tensor,
        shifts: torch.Tensor,
    ) -> None:
        """Solve for the whole numbers of a new list, and compare the first one with a search."""
        if len(pairs) > 0 and (int(pairs.min()) < 0 or int(pairs.max()) >= len(x)):
            raise ValueError(
                f"alchemi-bridge: atom-pairs: expected rows of {len(x)} atoms, got "
                + f"{int(pairs.min())} to {int(pairs.max())}; this is an error of GROMACS"
            )
        numbers, self.usable = whole_shifts(shifts.to(x.dtype) * self.length_factor, cell, pbc)
        self.numbers_of_list = numbers
        # copies: the memory is GROMACS', and it writes its next list there
        self.pairs_of_list = pairs.clone()
        self.shifts_of_list = shifts.clone()
        self.lists += 1
        self.refused += 0 if self.usable else 1
        if self.lists == 1 and self.usable and self.cutoff > 0.0:
            there = self.count_within(x, cell, self.given_pairs())
            expected = self.count_within(x, cell, find_pairs(x, cell, pbc, self.cutoff))
            if there != expected:
                raise ValueError(
                    f"alchemi-bridge: atom-pairs: expected the {expected} pairs of the group "
                    + f"within {self.cutoff_text}, got {there}; set nnpot-pair-cutoff above that, "
                    + "with a buffer for the way of the atoms between two pair searches and for "
                    + "link atoms, or export for the contract of 2025"
                )

    def given_pairs(self) -> Pairs:
        """GROMACS' pairs as :meth:`Evaluation.evaluate` takes them."""
        pairs = self.pairs_of_list.to(torch.int64)
        # x[first] - x[second] + n @ box is minus the vector from first to second
        return pairs[:, 0], pairs[:, 1], -self.numbers_of_list

    def count_within(self, x: torch.Tensor, cell: torch.Tensor, pairs: Pairs) -> int:
        """Number of pairs within the cutoff."""
        first, second, shifts = pairs
        vectors = x[second] - x[first] + shifts.to(x.dtype) @ cell
        squares = (vectors * vectors).sum(dim=1)
        return int(((squares < self.cutoff * self.cutoff) & (squares > 0.0)).sum())
