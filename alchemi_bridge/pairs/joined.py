"""Candidates of several systems in common arrays, so that each step handles all pairs at once.

Atoms of all systems are numbered through, and a pair never has atoms of two systems. A cell shift
means another vector in each system, so that the numbers of shifts tell the systems apart. Only
those that occur have one: an atom many cells away costs its own system a few, and no other any.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from alchemi_bridge.errors import PairListError
from alchemi_bridge.pairs.rows import Candidates


def join_systems(found: Candidates, system: torch.Tensor, n_systems: int) -> Candidates:
    """The same candidates, with a number for each shift that occurs in each system.

    They are numbered by shift first, then by system. A system that has a shift also has the one
    backwards, so that as many numbers stand for shifts that are lexicographically negative as for
    positive ones: by which half a number is in, the two directions of a pair are still told apart.
    But the reverse of number ``c`` is not ``n_codes - 1 - c`` any more.

    Parameters
    ----------
    found
        Pairs of all atoms, of whichever system.
    system
        (n_atoms,) integers below ``n_systems``, in ascending order: the system of each atom.
    n_systems
        At least one.

    Raises
    ------
    PairListError
        If a pair has atoms of two systems.
    """
    if n_systems == 1:
        return found
    mine = system.index_select(0, found.first)
    apart = mine != system.index_select(0, found.second)
    if len(found) and bool(apart.any()):
        k = int(torch.nonzero(apart)[0])
        i, j = int(found.first[k]), int(found.second[k])
        raise PairListError(
            f"pair list of system {int(mine[k])}",
            expected="pairs of atoms of the same system",
            got=f"atom {i} paired with atom {j} of system {int(system[j])}",
            fix="number the atoms of all systems through, and search each system by itself",
        )
    occurring, code = torch.unique(found.code.long() * n_systems + mine, return_inverse=True)
    return replace(
        found,
        code=code.to(torch.int32),
        table=found.table[occurring // n_systems],
        table_system=occurring % n_systems,
        begin=torch.searchsorted(system, system).to(torch.int32),
    )
