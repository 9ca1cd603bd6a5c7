"""``plugins/gromacs`` with lists that GROMACS built: which pairs the model gets, and its results.

Compiled against stand-ins for GROMACS' types, with host memory for a device; on a machine with a
GPU the same lists lie in its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ase
import brute_force
import echo
import numpy as np
import pytest
import zoo
from cluster_parts import FOLDER, Golden, expected, golden, in_one_frame, pruned
from gromacs_engine import (
    ENERGY,
    EV,
    FULL,
    NM,
    RANKS,
    SINGLE,
    SINGLE_PRECISION,
    Gromacs,
    close,
    home_atoms,
)
from kernel_parts import DEVICES, needs_compiler

from alchemi_bridge import MetatomicForceProvider
from alchemi_bridge.engines.interface import options
from alchemi_bridge.parity import oracles

pytestmark = needs_compiler


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[MetatomicForceProvider]:
    """Providers that are opened meanwhile, with the pairs of :mod:`echo` among their results."""
    found: list[MetatomicForceProvider] = []

    def make(*arguments: object, **settings: object) -> MetatomicForceProvider:
        found.append(MetatomicForceProvider(*arguments, **settings, extra_outputs=[echo.PAIRS]))
        return found[-1]

    monkeypatch.setattr(options, "MetatomicForceProvider", make)
    return found


def received(made: list[MetatomicForceProvider], request: int = 0) -> np.ndarray:
    """(n_pairs, 5) pairs that the model of the last provider got in the last step."""
    return echo.samples_of(list(made[-1].results.extra[echo.PAIRS].blocks())[request])


def echo_file(folder: Path, cutoff: float) -> Path:
    """A full and a half list, cutoff in nm."""
    requests = ((NM * cutoff, True, True), (NM * cutoff, False, True))
    return zoo.save(echo.make(requests), folder, "echo")


def codes(samples: np.ndarray) -> np.ndarray:
    """(n_pairs,) one number for each row: rows are many, and sets of tuples slow."""
    i, j, *shift = np.asarray(samples, dtype=np.int64).T
    found = i * 2**20 + j
    for component in shift:
        found = 16 * found + component + 8
    return found


def once(samples: np.ndarray) -> np.ndarray:
    """(n_pairs,) the same, whichever direction a pair is listed in."""
    turned = np.column_stack([samples[:, 1], samples[:, 0], -samples[:, 2:]])
    return np.minimum(codes(samples), codes(turned))


def same(found: np.ndarray, wanted: np.ndarray, state: str = "") -> None:
    """None missing, none too many, none twice."""
    found, wanted = np.sort(found), np.sort(wanted)  # sets of so many numbers are slow
    assert (found[1:] != found[:-1]).all(), f"{state}: pairs that are listed twice"
    if np.array_equal(found, wanted):
        return
    assert len(np.setdiff1d(wanted, found)) == 0, f"{state}: pairs that are missing"
    assert len(np.setdiff1d(found, wanted)) == 0, f"{state}: pairs that should not be there"
    raise AssertionError(f"{state}: pairs that are wanted twice")


def within(name: str, positions: np.ndarray, box: np.ndarray, cutoff: float) -> brute_force.PairSet:
    """Pairs closer than the cutoff, for atoms that are near their places in a single-rank file.

    They are among those within its radius there, which are known by brute force.
    """
    near = expected(name).samples
    exact, cell = positions.astype(np.float32).astype(float), box.astype(np.float32).astype(float)
    vectors = exact[near[:, 1]] - exact[near[:, 0]] + near[:, 2:] @ cell
    return brute_force.PairSet(near, vectors).within(cutoff)


def test_all_files_are_here() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.npz")) == sorted([*SINGLE, *RANKS])


STATES = ["fresh", "pruned", "pruned dynamically", "fresh, to be pruned dynamically"]


def masks_of(file: Golden, state: str) -> dict[str, Any]:
    """What kernels have made of the masks by the time that the list is handed over."""
    found: dict[str, Any] = {"fresh": "fresh" in state, "pruning": "dynamically" in state}
    if state == "pruned":
        found["masks"] = [pruned(file, file.rlist)]
    elif state == "pruned dynamically":
        found |= {"masks": [pruned(file, 0.6 * file.rlist)], "outer": [pruned(file, file.rlist)]}
        assert (found["masks"][0] != found["outer"][0]).any()
        assert (found["masks"][0][:, 0] != found["masks"][0][:, 1]).any()
    return found


@pytest.mark.parametrize("name", SINGLE)
def test_pairs(name: str, device: str, tmp_path: Path, made: list[MetatomicForceProvider]) -> None:
    """In the step of the search and after it, whatever kernels have done to the masks by then."""
    file, n = golden(name), golden(name).n_atoms
    buffer = 0.15
    cutoff = file.rlist - buffer
    rng = np.random.default_rng(3)
    way = rng.uniform(-1.0, 1.0, (n, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    # each atom by less than half of the buffer, and a barostat
    moved = [(0.3, 1.0), (0.45, 1.0), (0.2, 1.002)]
    steps = [(file.positions, file.box)]
    steps += [
        (scale * (file.positions + far * buffer * way), scale * file.box) for far, scale in moved
    ]
    wanted = [within(name, *step, cutoff).samples for step in steps]
    full = [codes(samples) for samples in wanted]
    half = [both[both == once(samples)] for both, samples in zip(full, wanted, strict=True)]
    assert all(len(np.setxor1d(a, b, assume_unique=True)) > 10 for a, b in pairwise(full))
    with Gromacs(echo_file(tmp_path, cutoff), n, buffer=buffer, device=device) as run:
        assert run.needs()[0] == pytest.approx(file.rlist, rel=SINGLE_PRECISION)
        run.atoms(n)
        for state in STATES:
            run.search(file, **masks_of(file, state))
            for step, both, one in zip(steps, full, half, strict=True):
                run.step(*step, np.zeros((n, 3), np.float32))
                same(codes(received(made, 0)), both, state)
                same(once(received(made, 1)), one, state)


def test_masks_of_the_inner_radius_would_not_do(
    tmp_path: Path, made: list[MetatomicForceProvider]
) -> None:
    """The rule about dynamic pruning decides: with the other masks pairs are missing."""
    file, cutoff = golden("argon216"), 0.9
    masks = [pruned(file, 0.6)]
    with Gromacs(echo_file(tmp_path, cutoff), 216) as run:
        run.atoms(216)
        run.search(file, masks=masks, outer=[pruned(file, file.rlist)], fresh=False, pruning=False)
        run.step(file.positions, file.box)
    wanted = within("argon216", file.positions, file.box, cutoff).samples
    assert len(np.setdiff1d(codes(wanted), codes(received(made)))) > 1000


def test_two_ranks(device: str, tmp_path: Path, made: list[MetatomicForceProvider]) -> None:
    """Local and non-local lists of both ranks together are all pairs, each once.

    The files are of an eighth shell, with which no energy can be right: that it were a full shell
    is said for the sake of this test only.
    """
    reference, cutoff = golden("argon216"), 0.9
    model, found, homes = echo_file(tmp_path, cutoff), [], []
    for rank in range(2):
        local, non_local = (golden(name) for name in RANKS[2 * rank : 2 * rank + 2])
        homes.append(home_atoms(local))
        with Gromacs(model, 216, buffer=0.15, device=device) as run:
            names = np.random.default_rng(rank).permutation(216)
            run.atoms(local.n_atoms, homes[-1], names)
            run.search(local, non_local, halo=(FULL, 2.0, True))
            run.step(local.positions, local.box, np.zeros((local.n_atoms, 3), np.float32))
        found += in_one_frame(received(made), local, reference)
    assert sum(homes) == 216
    assert len(found) == len(set(found)) == 10302
    assert set(found) == expected("argon216").within(cutoff).keys()


def test_model_sees_its_atoms_only(tmp_path: Path, made: list[MetatomicForceProvider]) -> None:
    """ML/MM: the others are neither in its pairs nor pushed."""
    file, cutoff = golden("argon216"), 0.9
    chosen = np.random.default_rng(5).permutation(216)[:90]
    with Gromacs(echo_file(tmp_path, cutoff), 216, model_atoms=chosen) as run:
        run.atoms(216)
        run.search(file)
        forces = np.full((216, 3), 0.5, np.float32)
        run.step(file.positions, file.box, forces)
    chosen.sort()
    wanted = brute_force.find(file.positions[chosen], file.box, (True,) * 3, cutoff)
    same(codes(received(made)), codes(wanted.samples))
    others = np.setdiff1d(np.arange(216), chosen)
    assert (forces[others] == 0.5).all()
    assert np.abs(forces[chosen] - 0.5).max() > 0.1


def argon(positions: np.ndarray, box: np.ndarray) -> ase.Atoms:
    """As GROMACS keeps them, in Å."""
    exact, cell = positions.astype(np.float32).astype(float), box.astype(np.float32).astype(float)
    return ase.Atoms(np.full(len(exact), 18), NM * exact, cell=NM * cell, pbc=True)


#: Cutoffs, Å; in the small box atoms see their own images.
CUTOFFS = {"argon216": 8.5, "argon216-triclinic": 8.5, "argon27-small-box": 5.0}


@pytest.mark.parametrize("name", CUTOFFS)
def test_results_against_the_oracle(
    name: str, device: str, model_file: Callable[..., Path]
) -> None:
    """Energy, forces added to what is there, and GROMACS' virial: half of dE/d(strain)."""
    file, n = golden(name), golden(name).n_atoms
    oracle = oracles.build("lennard-jones", cutoff=CUTOFFS[name])
    model = model_file("lennard-jones", cutoff=CUTOFFS[name])
    way = np.random.default_rng(6).uniform(-0.01, 0.01, (n, 3))
    with Gromacs(model, n, buffer=0.08, device=device) as run:
        run.atoms(n)
        run.search(file)
        for before, positions, box in (
            (0.0, file.positions, file.box),
            (8.0, file.positions + way, file.box),
            (0.5, 1.003 * file.positions, 1.003 * file.box),
        ):
            wanted = oracle.evaluate(argon(positions, box))
            forces = np.full((n, 3), before, np.float32)
            run.step(positions, box, forces)
            energy, virial = run.collect()
            assert energy == pytest.approx(wanted.energy * EV, rel=ENERGY)
            close(forces - before, wanted.forces * EV * NM, SINGLE_PRECISION)
            close(virial, 0.5 * wanted.virial * EV, SINGLE_PRECISION)
            np.testing.assert_array_equal(virial, virial.T)


def test_virial_is_half_of_the_derivative(model_file: Callable[..., Path]) -> None:
    """Positive under tension, by differences of energies, with nothing that knows of virials."""
    file, h = golden("argon216"), 1e-3
    with Gromacs(model_file("lennard-jones", cutoff=8.5), 216) as run:
        run.atoms(216)
        run.search(file)
        run.step(file.positions, file.box)
        _, virial = run.collect()
        for axis in range(3):
            energies = []
            for sign in (-1.0, 1.0):
                stretch = np.ones(3)
                stretch[axis] += sign * h
                run.step(file.positions * stretch, file.box * stretch, virial=False)
                energies.append(run.collect()[0])
            slope = (energies[1] - energies[0]) / (2.0 * h)
            # second differences, and coordinates that are rounded to float32
            assert virial[axis, axis] == pytest.approx(0.5 * slope, rel=1e-3)
    assert virial[0, 0] > 100.0  # the box is too large for its atoms


def test_scalars_are_copied_only_if_asked(model_file: Callable[..., Path]) -> None:
    file = golden("argon216")
    with Gromacs(model_file("lennard-jones", cutoff=8.5), 216) as run:
        run.atoms(216)
        run.search(file)
        forces = np.zeros((216, 3), np.float32)
        for energy, virial in ((False, False), (True, False), (False, True), (True, True)):
            run.trace()
            run.step(file.positions, file.box, forces, energy=energy, virial=virial)
            assert not any("copy" in line or "synchronize" in line for line in run.trace())
            found = run.collect()
            assert [line for line in run.trace() if "copy" in line] == (
                ["copy 10 to the host"] if energy or virial else []
            )
            assert (found[0] != 0.0) == energy
            assert found[1].any() == virial


def test_order_of_what_is_queued(model_file: Callable[..., Path]) -> None:
    """The provider waits for both lists and for coordinates of both localities; others for it."""
    local, non_local = (golden(name) for name in RANKS[:2])
    with Gromacs(model_file("lennard-jones", cutoff=8.5), 216) as run:
        run.atoms(216, home_atoms(local), np.arange(216))
        assert run.trace() == []
        run.search(local, non_local, halo=(FULL, 1.0, False))
        assert run.trace() == [
            "mark its own in the local stream",
            "wait for its own in the provider's stream",
            "mark its own in the non-local stream",
            "wait for its own in the provider's stream",
            "mark its own in the provider's stream",
            "wait for its own in the local stream",
            "mark its own in the provider's stream",
            "wait for its own in the non-local stream",
        ]
        run.step(local.positions, local.box, np.zeros((216, 3), np.float32))
        assert run.trace()[2:] == [
            "wait for local coordinates in the provider's stream",
            "wait for non-local coordinates in the provider's stream",
            "clear in the provider's stream",
            "mark forces in the provider's stream",
            "wait for forces in the local stream",
            "wait for forces in the non-local stream",
        ]


@pytest.mark.parametrize("pbc", [1, 2])
def test_open_directions(pbc: int, tmp_path: Path, made: list[MetatomicForceProvider]) -> None:
    """``PbcType::No`` and ``PbcType::XY``: a list of the cell itself, and none of its images."""
    file, cutoff = golden("argon216"), 0.9
    sci = file.arrays["sci"]
    kept = (sci[:, 1] // 15 == 1) if pbc == 2 else sci[:, 1] == 22
    groups = np.concatenate([np.arange(a, b) for a, b in sci[kept, 2:]])
    arrays = {name: file.arrays[name][groups] for name in ("cj", "imask", "excl_ind")}
    lengths = sci[kept, 3] - sci[kept, 2]
    ends = np.cumsum(lengths)
    arrays["sci"] = np.column_stack([sci[kept, :2], ends - lengths, ends]).astype(np.int32)
    cut = Golden({**file.arrays, **arrays})
    with Gromacs(echo_file(tmp_path, cutoff), 216) as run:
        run.atoms(216)
        run.search(cut, pbcType=pbc)
        run.step(file.positions, file.box, pbc=pbc)
    periodic = (True, True, False) if pbc == 2 else (False,) * 3
    wanted = brute_force.find(file.positions, file.box, periodic, cutoff)
    same(codes(received(made)), codes(wanted.samples))


def test_rank_without_atoms_of_the_model(model_file: Callable[..., Path]) -> None:
    """It adds nothing, and still takes part in the order of events."""
    local, non_local = (golden(name) for name in RANKS[:2])
    home = home_atoms(local)
    model = model_file("lennard-jones", cutoff=8.5)
    with Gromacs(model, 216, model_atoms=range(home, 216)) as run:
        run.atoms(216, home, np.arange(216))
        run.search(local, non_local, halo=(FULL, 1.0, False))
        forces = np.full((216, 3), 2.0, np.float32)
        run.trace()
        run.step(local.positions, local.box, forces)
        assert (forces == 2.0).all()
        assert len([line for line in run.trace() if line.startswith("wait")]) == 4
        energy, virial = run.collect()
        assert energy == 0.0
        assert not virial.any()


def test_rank_that_loses_its_atoms_of_the_model(model_file: Callable[..., Path]) -> None:
    """And gets some again: with each partitioning it does what there is to do."""
    local, non_local = (golden(name) for name in RANKS[:2])
    home = home_atoms(local)
    with Gromacs(model_file("lennard-jones", cutoff=8.5), 216, model_atoms=range(home, 216)) as run:
        found = []
        # the halo's atoms are those of the model; in between the home atoms have their names
        for names in (np.arange(216), np.roll(np.arange(216), home), np.arange(216)):
            run.atoms(216, home, names)
            run.search(local, non_local, halo=(FULL, 1.0, False))
            forces = np.zeros((216, 3), np.float32)
            run.step(local.positions, local.box, forces)
            found.append((run.collect()[0], np.abs(forces).max()))
    assert found[0] == found[2] == (0.0, 0.0)
    assert found[1][0] != 0.0
    assert found[1][1] > 0.0


#: Where atoms are in the first step after a search, from where they were at the search.
FIRST_STEPS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "one atom a box vector away": lambda x, box: x + np.eye(1, len(x), 5).T * box[0],
    "all atoms box vectors away": lambda x, box: x + box[1] - 2.0 * box[0],
    "within the buffer": lambda x, _: x + 0.03 * np.cos(np.arange(3.0 * len(x))).reshape(-1, 3),
    "all by more than the buffer": lambda x, _: x + np.array([0.3, -0.2, 0.5]),
}


@pytest.mark.parametrize("name", ["argon216", "argon216-triclinic"])
@pytest.mark.parametrize("case", FIRST_STEPS)
def test_first_step_is_not_where_the_search_was(
    case: str, name: str, device: str, model_file: Callable[..., Path]
) -> None:
    """Shifts of a list belong to the coordinates in ``xq``, whatever the first ``x`` is."""
    file = golden(name)
    positions = FIRST_STEPS[case](file.positions, file.box)
    wanted = oracles.build("lennard-jones", cutoff=8.5).evaluate(argon(positions, file.box))
    with Gromacs(model_file("lennard-jones", cutoff=8.5), 216, device=device) as run:
        run.atoms(216)
        run.search(file)
        forces = np.zeros((216, 3), np.float32)
        run.step(positions, file.box, forces)
        energy, virial = run.collect()
    assert energy == pytest.approx(wanted.energy * EV, rel=ENERGY)
    close(forces, wanted.forces * EV * NM, SINGLE_PRECISION)
    close(virial, 0.5 * wanted.virial * EV, SINGLE_PRECISION)


def test_warnings_arrive(tmp_path: Path) -> None:
    model, file = zoo.save(zoo.uncertain(), tmp_path, "uncertain"), golden("water648")
    with Gromacs(model, 648, numbers=np.full(648, 6)) as run:
        run.atoms(648)
        run.search(file)
        run.step(file.positions, file.box, np.zeros((648, 3), np.float32))
        assert "uncertain" in run.warnings()
