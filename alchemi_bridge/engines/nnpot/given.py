# ruff: noqa: UP006, UP035, UP045  (TorchScript reads typing's classes)
"""The module that takes GROMACS' pairs, for 2026 and later."""

import warnings
from typing import Optional, Tuple

import torch
from metatomic.torch import AtomisticModel

from alchemi_bridge.engines.nnpot.comparing import pair_numbers
from alchemi_bridge.engines.nnpot.evaluation import Facts, Pairs
from alchemi_bridge.engines.nnpot.searching import Searching
from alchemi_bridge.engines.nnpot.shifts import whole_shifts


class PairsModule(Searching):
    """Module for the inputs of 2026, with the pair list among them.

    The list holds the pairs of the group that were closer than ``nnpot-pair-cutoff`` at GROMACS'
    last search; vectors are made and cut anew in every call. ``nnpot-pair-cutoff`` can not exceed
    ``rlist``, and ``grompp`` refuses an ``rlist`` of half of the box or more, so that the list has
    at most one image of a pair. For a cutoff above that there is
    :class:`~alchemi_bridge.engines.nnpot.searching.SearchingModule`, which has no such limit.

    Nothing in the inputs tells how far a list reaches, and it can lack pairs: with a
    ``nnpot-pair-cutoff`` that is too short, and with link atoms at any. It may also be right in one
    list and wrong in the next. So every new list is compared with an own search. If they differ, or
    if the shifts can not be understood (:mod:`alchemi_bridge.engines.nnpot.shifts`), the own pairs
    are used, and a warning says so once: the search is done by then, its pairs are right, and a run
    need not end for it. Between two lists of GROMACS the pairs hold as those of an own search do,
    until an atom may have used up half of the skin, or the box is another one; then they are
    searched. So this module is not faster than the other one.
    """

    pairs_of_list: torch.Tensor
    shifts_of_list: torch.Tensor

    def __init__(self, model: AtomisticModel, facts: Facts) -> None:
        super().__init__(model, facts)
        #: Lists that came since the file was loaded, and those of them that were not used.
        self.lists = 0
        self.refused = 0
        self.reach = facts.cutoff + facts.skin if facts.cutoff > 0.0 else 0.0
        self.reach_text = f"{self.reach / facts.length_factor:g} nm"
        # the list that came last
        self.register_buffer("pairs_of_list", torch.zeros(0, 2, dtype=torch.int32))
        self.register_buffer("shifts_of_list", torch.zeros(0, 3))

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
        trial, x, kinds, cell, periodic = self.prepared(positions, numbers, box, pbc)
        self.check_pairs(atom_pairs, pair_shifts)
        if trial >= 0:
            return self.evaluate_trial(trial, x, kinds, cell, periodic)
        if not self.is_last_list(atom_pairs, pair_shifts):
            self.take_list(x, cell, periodic, atom_pairs, pair_shifts)
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
        """Keep a new list, or the pairs of an own search where it is another one."""
        if len(pairs) > 0 and (int(pairs.min()) < 0 or int(pairs.max()) >= len(x)):
            raise ValueError(
                f"alchemi-bridge: atom-pairs: expected rows of {len(x)} atoms, got "
                + f"{int(pairs.min())} to {int(pairs.max())}; this is an error of GROMACS"
            )
        # copies: the memory is GROMACS', and it writes its next list there
        self.pairs_of_list = pairs.clone()
        self.shifts_of_list = shifts.clone()
        self.lists += 1
        numbers, known = whole_shifts(shifts.to(x.dtype) * self.length_factor, cell, pbc)
        rows = pairs.to(torch.int64)
        # x[first] - x[second] + n @ box is minus the vector from first to second
        given = self.within_reach(x, cell, (rows[:, 0], rows[:, 1], -numbers))
        own = self.find(x, cell, pbc)
        expected, there = pair_numbers(own, given)
        if known and torch.equal(expected, there):
            self.keep(x, cell, pbc, given)
            return
        self.keep(x, cell, pbc, own)
        self.searches += 1
        self.refused += 1
        if self.refused == 1:
            missing = int((~torch.isin(expected, there)).sum())
            got = f"a list without {missing} of them" if missing > 0 else "some of them twice"
            advice = "set nnpot-pair-cutoff as alchemi-bridge export printed it, or, as link atoms "
            advice += "need it, export with --contract 2025"
            if not known:
                got = "shifts that are no whole box vectors"
                advice = "export with --contract 2025"
            warnings.warn(
                f"alchemi-bridge: atom-pairs: expected the {len(expected)} pairs of the group "
                + f"within {self.reach_text}, got {got}; energy and forces are right, since such "
                + f"lists are replaced by an own search; {advice}",
                stacklevel=2,
            )

    def within_reach(self, x: torch.Tensor, cell: torch.Tensor, pairs: Pairs) -> Pairs:
        """Those closer than cutoff and skin, without what GROMACS fills its lists up with."""
        first, second, shifts = pairs
        vectors = x[second] - x[first] + shifts.to(x.dtype) @ cell
        near = (vectors * vectors).sum(dim=1) < self.reach * self.reach
        filler = (first == second) & (shifts == 0).all(dim=1)
        kept = torch.nonzero(near & ~filler).flatten()
        return first[kept], second[kept], shifts[kept]
