"""``plugins/gromacs`` on several ranks: what a halo must hold for energies that are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import c_callers as c
import numpy as np
import pytest
import zoo
from cluster_parts import golden
from gromacs_engine import (
    EIGHTH,
    ENERGY,
    EV,
    FULL,
    NM,
    NONE,
    RANKS,
    SINGLE_PRECISION,
    Gromacs,
    close,
    home_atoms,
)
from gromacs_ranks import GRID, Rank, divide
from kernel_parts import DEVICES, needs_compiler

from alchemi_bridge.parity import oracles

pytestmark = needs_compiler

#: Potentials: options, how many cutoffs their range is.
POTENTIALS: dict[str, tuple[dict[str, Any], int]] = {
    "lennard-jones": ({"cutoff": 7.0}, 1),
    "stillinger-weber": ({}, 1),
    "message-passing": ({"cutoff": 6.0, "n_layers": 2}, 2),
}

BUFFER = 0.1


def on_grid(values: np.ndarray) -> np.ndarray:
    return np.rint(values / GRID) * GRID


def system() -> tuple[np.ndarray, np.ndarray]:
    """216 atoms, and their box: a skewed one."""
    file = golden("argon216-triclinic")
    return on_grid(file.positions), on_grid(file.box)


def two_ranks(reach: float, rlist: float) -> list[Rank]:
    positions, box = system()
    left = positions[:, 0] < 0.45 * box[0, 0]
    return [divide(positions, box, home, reach, rlist) for home in (left, ~left)]


def numbers_of(name: str) -> int:
    return 14 if name == "stillinger-weber" else 18


def evaluated(
    run: Gromacs, rank: Rank, positions: np.ndarray, box: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces of the whole system after the halo exchange, and virial."""
    forces = np.zeros((len(rank.owners), 3), np.float32)
    run.step(rank.positions(positions, box), box, forces)
    total = np.zeros((len(positions), 3))
    np.add.at(total, rank.owners, forces.astype(float))
    return *run.collect(), total


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", POTENTIALS)
def test_full_shell(name: str, device: str, model_file: Callable[..., Path]) -> None:
    """Sums over the ranks are those of the undivided system, many-body and messages too."""
    options, n_cutoffs = POTENTIALS[name]
    positions, box = system()
    number = numbers_of(name)
    scale = 0.7 if number == 14 else 1.0  # atoms of silicon see each other at shorter distances
    positions, box = on_grid(scale * positions), on_grid(scale * box)
    moved = on_grid(positions + np.random.default_rng(2).uniform(-0.02, 0.02, positions.shape))
    model = model_file(name, **options)
    sums: list[Any] = [0.0, 0.0]
    for side in (False, True):
        with Gromacs(model, 216, numbers=np.full(216, number), buffer=BUFFER, device=device) as run:
            reach, around, shell, halo_pairs = run.needs()
            assert shell == FULL
            assert halo_pairs == (n_cutoffs > 1)
            assert around == pytest.approx(n_cutoffs * (reach - BUFFER) + BUFFER, rel=1e-6)
            home = (positions[:, 0] < 0.45 * box[0, 0]) ^ side
            rank = divide(positions, box, home, around, reach)
            lists = rank.lists if halo_pairs else rank.lists[:2]
            run.atoms(len(rank.owners), rank.n_home, rank.owners)
            run.search(*lists, halo=(FULL, around, halo_pairs))
            for k, places in enumerate((positions, moved)):
                found = evaluated(run, rank, places, box)
                sums[k] = [s + f for s, f in zip(sums[k] or (0.0, 0.0, 0.0), found, strict=True)]
    for places, (energy, virial, forces) in zip((positions, moved), sums, strict=True):
        atoms = ase.Atoms(np.full(216, number), NM * places, cell=NM * box, pbc=True)
        wanted = oracles.build(name, **options).evaluate(atoms)
        assert np.abs(wanted.forces).max() > 1e-3
        assert energy == pytest.approx(wanted.energy * EV, rel=ENERGY)
        close(forces, wanted.forces * EV * NM, 2.0 * SINGLE_PRECISION)
        close(virial, 0.5 * wanted.virial * EV, 2.0 * SINGLE_PRECISION)


def energies(model: Path, ranks: list[Rank], reach: float) -> float:
    """Sum of the ranks, whatever they know."""
    positions, box = system()
    total = 0.0
    for rank in ranks:
        with Gromacs(model, 216, buffer=BUFFER) as run:
            run.atoms(len(rank.owners), rank.n_home, rank.owners)
            run.search(*rank.lists, halo=(FULL, reach, True))
            total += evaluated(run, rank, positions, box)[0]
    return total


def test_messages_need_pairs_of_the_halo(model_file: Callable[..., Path]) -> None:
    """What the refusal below is for: without them the energy is wrong, and nobody would see it."""
    options, _ = POTENTIALS["message-passing"]
    model, reach = model_file("message-passing", **options), 1.2 + BUFFER
    ranks = two_ranks(reach, 0.6 + BUFFER)
    right = energies(model, ranks, reach)
    wrong = energies(model, [rank.without_halo_pairs() for rank in ranks], reach)
    assert abs(right - wrong) > 1e-2 * abs(right)


def test_an_eighth_shell_would_be_wrong(model_file: Callable[..., Path]) -> None:
    """What that refusal is for: GROMACS' lists of today, and a pair potential even."""
    model = model_file("lennard-jones", cutoff=8.5)
    total = 0.0
    for rank in range(2):
        local, non_local = (golden(name) for name in RANKS[2 * rank : 2 * rank + 2])
        with Gromacs(model, 216) as run:
            run.atoms(216, home_atoms(local), np.arange(216))
            run.search(local, non_local, halo=(FULL, 1.0, False))
            run.step(local.positions, local.box)
            total += run.collect()[0]
    file = golden("argon216")
    atoms = ase.Atoms("Ar216", NM * file.positions, cell=NM * file.box, pbc=True)
    wanted = oracles.build("lennard-jones", cutoff=8.5).evaluate(atoms).energy * EV
    assert abs(total - wanted) > 0.05 * abs(wanted)


def offered(model: Path, halo: tuple[int, float, bool], *lists: str, home: int = 100) -> None:
    files = [golden(name) for name in lists or RANKS[:2]]
    with Gromacs(model, 216, numbers=np.full(216, 18), buffer=BUFFER) as run:
        run.atoms(216, home, np.arange(216))
        run.search(*files, halo=halo)


HALOS: dict[str, tuple[tuple[int, float, bool], tuple[str, ...]]] = {
    "eighth shell": ((EIGHTH, 9.0, True), ("expected the full shell", "got the eighth shell")),
    "eighth shell, no halo atoms": ((EIGHTH, 9.0, True), ("expected the full shell",)),
    "halo without a shell": ((NONE, 9.0, True), ("expected the full shell", "without a shell")),
    "too narrow": ((FULL, 1.2, True), ("at least 1.3", "got 1.2")),
    "a little too narrow": ((FULL, 1.2999, True), ("at least 1.3",)),
    "without pairs of the halo": ((FULL, 9.0, False), ("passes messages", "plistWithinHalo")),
    "without a list of these": ((FULL, 9.0, True), ("passes messages", "plistWithinHalo")),
}


@pytest.mark.parametrize("case", HALOS)
def test_halos_that_do_not_do(case: str, model_file: Callable[..., Path]) -> None:
    options, _ = POTENTIALS["message-passing"]
    halo, words = HALOS[case]
    home = 216 if "no halo atoms" in case else 100
    with c.refused(c.PAIRS, *words):
        offered(model_file("message-passing", **options), halo, home=home)


def test_a_halo_needs_a_non_local_list(model_file: Callable[..., Path]) -> None:
    with c.refused(c.PAIRS, "expected a non-local list", "got none"):
        offered(model_file("lennard-jones", cutoff=8.5), (FULL, 9.0, True), "argon216")


def test_a_model_without_range_is_not_divided(tmp_path: Path) -> None:
    model = zoo.save(zoo.infinite_range(), tmp_path, "infinite")
    with Gromacs(model, 216, numbers=np.full(216, 6)) as run:
        assert np.isinf(run.needs()[1])
        run.atoms(216)
        run.search(golden("argon216"))
    with (
        c.refused(c.MODEL, "range of the model is not finite", "one rank"),
        Gromacs(model, 216, numbers=np.full(216, 6)) as run,
    ):
        run.atoms(216, 100)
        run.search(*(golden(name) for name in RANKS[:2]), halo=(FULL, 9.0, True))
