"""A thousand moves, wraps and changes of the box each way: no pair is missed, none is too many."""

from __future__ import annotations

import dataclasses
from collections import Counter

import brute_force
import echo
import numpy as np
import pytest
from moving import BOXES, EVENTS, Differences, Moving, compare
from worlds import CUTOFF, geometry

from alchemi_bridge.errors import StalePairsError
from alchemi_bridge.geometry import StepGeometry
from alchemi_bridge.neighbors import Reference
from alchemi_bridge.pairs import Search

SKIN = 0.7

#: Moves of each system; there are four.
MOVES = 250

#: Where float64 all the way may differ from brute force: vectors are good to 1e-14.
EXACT = 1e-9

#: Roundings of a float32 coordinate of up to 40 angstrom (2e-6 each): the two atoms as they come
#: are exact; putting them back by whole cells, and their difference, round.
COARSE = 1.2e-5

#: float32 vectors of coordinates that are exact, and the model's own shell below the cutoff.
MODEL_SHELL = 3e-6

#: Brute force looks for pairs this far beyond the cutoff.
WIDEST = 1e-3

#: Share of pairs that may be in the shell: it is some 1e-5 of the sphere.
MOST_IN_SHELL = 1e-4

#: Precision of the engine, of the model, and how far they may be off.
PRECISIONS = {
    "float64": (np.float64, "float64", EXACT),
    "float32 model": (np.float64, "float32", MODEL_SHELL),
    "float32": (np.float32, "float32", COARSE),
    "float32 engine": (np.float32, "float64", EXACT),
}


def seeded(*names: str) -> int:
    return sum(map(ord, "".join(names)))


class Searching:
    """The bridge searches by itself."""

    def __init__(
        self, world: Moving, model_dtype: str, full_list: bool, whole: bool = False
    ) -> None:
        request = (CUTOFF, full_list, not whole)
        self.geometry = geometry(request, n_atoms=len(world.positions), dtype=model_dtype)
        self.geometry.uncut = whole
        self.geometry.set_pairs(Search(SKIN), world.cell)

    def step(self, world: Moving) -> StepGeometry:
        return self.geometry.step(world.tensor(), world.cell)


class Handed(Searching):
    """The engine has a list, and makes another one when it is told that it is stale."""

    def __init__(self, world: Moving, model_dtype: str, full_list: bool) -> None:
        super().__init__(world, model_dtype, full_list)
        self.hand_over(world)

    def hand_over(self, world: Moving) -> None:
        reach = CUTOFF + SKIN
        found = brute_force.find(world.positions, world.cell.vectors, world.cell.pbc, reach)
        kind = echo.half_pairs if len(found.samples) % 4 else echo.full_pairs  # now and then
        self.geometry.set_pairs(kind(found, reach), world.cell)

    def step(self, world: Moving) -> StepGeometry:
        try:
            return super().step(world)
        except StalePairsError:
            self.hand_over(world)
            return super().step(world)


def only_within(step: StepGeometry) -> StepGeometry:
    """Of a list that is handed over whole, what is within the cutoff."""
    pairs = step.pairs[0]
    near = (pairs.vectors.double() ** 2).sum(dim=1) < CUTOFF**2
    chosen = type(pairs)(pairs.samples[near], pairs.vectors[near], pairs.candidates, pairs.place)
    return dataclasses.replace(step, pairs=[chosen])


WAYS = {
    "search": lambda world, dtype: Searching(world, dtype, full_list=True),
    "search, half": lambda world, dtype: Searching(world, dtype, full_list=False),
    "handed": lambda world, dtype: Handed(world, dtype, full_list=True),
    "whole": lambda world, dtype: Searching(world, dtype, full_list=True, whole=True),
}


#: All are run by ``make test-slow``, these by ``make test``, too.
FAST = {
    ("search", "float64"),
    ("handed", "float64"),
    ("whole", "float64"),
    ("search", "float32"),
    ("handed", "float32"),
}

CASES = [
    pytest.param(way, *PRECISIONS[precision], id=f"{way}-{precision}", marks=marks)
    for way in WAYS
    for precision in PRECISIONS
    for marks in [[] if (way, precision) in FAST else [pytest.mark.slow]]
]


def moved(way: str, engine: type, model: str, shell: float) -> tuple[Differences, Counter, int]:
    """Move each of the systems; differences, what happened, and the number of searches."""
    found, happened, searches = Differences(), Counter(), 0
    for name, cell in BOXES.items():
        world = Moving(cell, seeded(way, name, model), engine, CUTOFF + WIDEST)
        source = WAYS[way](world, model)
        for _ in range(MOVES):
            step = source.step(world)
            if way == "whole":
                step = only_within(step)
            full_list = way != "search, half"
            compare(step, world, CUTOFF, shell=shell, full_list=full_list, into=found)
            happened[world.move()] += 1
        searches += source.geometry.searches
    return found, happened, searches


@pytest.mark.parametrize(("way", "engine", "model", "shell"), CASES)
def test_a_thousand_moves(way: str, engine: type, model: str, shell: float) -> None:
    found, happened, searches = moved(way, engine, model, shell)
    assert sum(happened.values()) == 1000
    assert happened.keys() == EVENTS.keys()
    assert found.compared > 10_000
    # where a float64 model sees float64 vectors, not a single pair may differ
    assert found.shell <= (MOST_IN_SHELL * found.compared if shell > EXACT else 0)
    # most steps did not search, and a good number did
    assert 50 < searches < 150


@pytest.mark.parametrize("way", ["search", "handed", "whole"])
def test_a_missed_pair_is_seen(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: lists that are kept for a whole skin instead of half of it miss pairs."""
    allowance = Reference.allowance
    monkeypatch.setattr(Reference, "allowance", lambda *given: 2.0 * allowance(*given))
    with pytest.raises(AssertionError, match=r"\(\d.*\) at \d"):
        moved(way, np.float64, "float64", EXACT)
