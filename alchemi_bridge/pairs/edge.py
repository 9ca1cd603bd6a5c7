"""Pairs at the very edge of a list, which an engine may have listed from one side only.

In a crystal whole shells of neighbours can be as far away as the list reaches. An engine that
rounds the distance to an image differently from its two ends (ghost minus atom, on either side)
then has such a pair in one row only. A list that is complete up to its reach owes nobody pairs at
the reach, so they are left out; a pair that is missing anywhere else remains an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import PairListError
from alchemi_bridge.pairs.engine_rows import (
    EngineRows,
    Rule,
    Seen,
    candidates_from_rows,
    listed_candidates,
)
from alchemi_bridge.pairs.rows import Candidates, candidates_from_pairs

#: The reach itself may have been rounded to float32 on its way here.
REACH_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Edge:
    """What tells whether a pair is at the edge, in the engine's length unit.

    Attributes
    ----------
    positions
        (n, 3) float64 at the search, of all atoms that candidates may refer to.
    cell, reach
        Of the search.
    rounding
        Relative to the largest coordinate, how much distances may be off.
    """

    positions: torch.Tensor
    cell: Cell
    reach: float
    rounding: float

    def beyond(
        self, first: torch.Tensor, second: torch.Tensor, shifts: torch.Tensor
    ) -> torch.Tensor:
        """Which pairs are as long as the reach, up to rounding, or longer."""
        x = self.positions
        offsets = shifts.to(x.dtype) @ self.cell.tensor(x.dtype, x.device)
        lengths = torch.linalg.vector_norm(x[second] - x[first] + offsets, dim=1)
        slack = max(REACH_ROUNDING * self.reach, self.rounding * float(x.abs().max()))
        return lengths >= self.reach - slack


def candidates_up_to_edge(
    rows: EngineRows,
    rule: Rule,
    seen: Seen,
    table: torch.Tensor,
    edge: Edge,
    *,
    reach: float,
    name: str,
) -> Candidates:
    """:func:`candidates_from_rows`, less the pairs at the edge that are listed from one side.

    Nothing is computed unless a pair lacks its reverse.
    """
    try:
        return candidates_from_rows(rows, rule, seen, table, reach=reach, name=name)
    except PairListError:
        first, second, code = (t.long() for t in listed_candidates(rows.narrowed(), rule, seen))
        n_codes = len(table)
        pair = (first * seen.n_atoms + second) * n_codes + code
        reverse = (second * seen.n_atoms + first) * n_codes + (n_codes - 1 - code)
        lonely = ~torch.isin(reverse, pair)
        shifts = table[code]
        ends = first, second
        if seen.subset is not None:
            ends = seen.subset[first], seen.subset[second]
        if not lonely.any() or not edge.beyond(*ends, shifts)[lonely].all():
            raise
    both = ~lonely
    return candidates_from_pairs(
        first[both], second[both], shifts[both], n_atoms=seen.n_atoms, reach=reach, both=False,
        name=name,
    )  # fmt: skip
