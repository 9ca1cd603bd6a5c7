"""The same step gives the same bits: again, in a new provider, with any history of searches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import ase.build
import brute_force
import echo
import numpy as np
import pytest
import torch
from kernel_parts import needs_compiler, threads

from alchemi_bridge import Atoms, Cell, ForceBuffers, MetatomicForceProvider, Search, Step
from alchemi_bridge.geometry import Geometry
from alchemi_bridge.model import LoadedModel, load_model
from alchemi_bridge.native import using
from alchemi_bridge.neighbors import gather_forces

REPEATS = 20

#: TorchScript profiles and compiles in its first calls, and the direct way to the model is checked
#: in the second: from then on nothing changes any more.
WARM_UP = 4

#: Cells along each edge: enough for two threads of the kernels in the first, of torch in all.
EDGES = {"lennard-jones": 6, "stillinger-weber": 5, "message-passing": 3}

POTENTIALS: dict[str, dict[str, Any]] = {
    "lennard-jones": {"cutoff": 5.0},
    "stillinger-weber": {},
    "message-passing": {"n_layers": 2},
}

Bits = tuple[bytes, bytes, bytes]


def crystal(name: str, edge: int | None = None) -> ase.Atoms:
    """Atoms that the potential knows, away from their sites."""
    edge = edge or EDGES[name]
    if name == "stillinger-weber":
        atoms = ase.build.bulk("Si", "diamond", a=5.43, cubic=True).repeat(max(edge * 2 // 3, 2))
    else:
        atoms = ase.build.bulk("Ar", "fcc", a=5.3, cubic=True).repeat(edge)
    if name == "message-passing":
        atoms.numbers[:] = 14
    atoms.rattle(0.08, seed=5)
    return atoms


class Run:
    """A provider for some atoms; every step starts from empty buffers."""

    def __init__(self, model: LoadedModel | Path, atoms: ase.Atoms, **options: Any) -> None:
        self.provider = MetatomicForceProvider(model, **options)
        self.positions, self.cell = atoms.positions.copy(), Cell.of(atoms.cell.array, atoms.pbc)
        self.provider.set_atoms(Atoms(types=np.asarray(atoms.numbers)))
        self.provider.set_pairs(Search(0.8), self.cell)

    def step(self, positions: np.ndarray | None = None, cell: Cell | None = None) -> Bits:
        """Energy, forces and virial, to the bit."""
        positions = self.positions if positions is None else positions
        out = np.zeros(1), np.zeros_like(self.positions), np.zeros((3, 3))
        buffers = ForceBuffers(energy=out[0], forces=out[1], virial=out[2])
        self.provider.compute(Step(positions, cell=cell, virial=True), buffers)
        assert np.abs(out[1]).max() > 0.0
        return out[0].tobytes(), out[1].tobytes(), out[2].tobytes()

    def warm(self) -> Run:
        """Past the steps that may still differ."""
        while not self.provider.tuned:
            self.step()
        for _ in range(WARM_UP):
            self.step()
        return self


@pytest.fixture
def potential(model_file: Callable[..., Path]) -> Callable[..., Path]:
    return lambda name, **options: model_file(name, **POTENTIALS[name], **options)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", POTENTIALS)
def test_twenty_steps(potential: Callable[..., Path], name: str, n_threads: int) -> None:
    """Of one provider, once it has found out how to run the model."""
    with threads(n_threads):
        run = Run(potential(name), crystal(name)).warm()
        assert len({run.step() for _ in range(REPEATS)}) == 1
    assert run.provider.searches == 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_twenty_providers(potential: Callable[..., Path], dtype: str) -> None:
    """Each loads the model, searches, and decides nothing by a clock."""
    path, atoms = potential("lennard-jones", dtype=dtype), crystal("lennard-jones", 3)
    runs = [Run(path, atoms, tuning=False).warm() for _ in range(REPEATS)]
    assert len({run.step() for run in runs}) == 1


@pytest.mark.parametrize(
    ("name", "edge", "n_threads"),
    [*((name, 3, 1) for name in POTENTIALS), ("lennard-jones", 6, 2)],
)
def test_twenty_providers_share_a_model(
    potential: Callable[..., Path], name: str, edge: int, n_threads: int
) -> None:
    loaded, atoms = load_model(potential(name)), crystal(name, edge)
    with threads(n_threads):
        Run(loaded, atoms, tuning=False).warm()
        assert len({Run(loaded, atoms, tuning=False).step() for _ in range(REPEATS)}) == 1


@needs_compiler
@pytest.mark.parametrize("strict", [True, False])
def test_threads_make_no_difference_to_the_bridge(strict: bool) -> None:
    """What the model is given, and the forces that are summed from its gradients."""
    atoms = crystal("lennard-jones")
    cell, given, summed = Cell.of(atoms.cell.array), set(), set()
    for way, n_threads in [("native", 1), ("native", 2), ("torch", 1), ("torch", 2)] * 3:
        with using(way), threads(n_threads):
            geometry = Geometry(
                echo.loaded((5.0, True, strict)), n_atoms=len(atoms), subset=None, length=1.0
            )
            geometry.uncut = not strict
            geometry.set_pairs(Search(0.8), cell)
            (pairs,) = geometry.step(torch.from_numpy(atoms.positions), None).pairs
            forces = torch.zeros((len(atoms), 3), dtype=torch.float64)
            gather_forces(pairs, pairs.vectors * pairs.vectors.abs(), forces)
        given.add((pairs.samples.numpy().tobytes(), pairs.vectors.numpy().tobytes()))
        summed.add((way, forces.numpy().tobytes()))
    assert len(given) == 1
    assert len(summed) == 2  # plain torch adds in another order, always the same


# --- history --------------------------------------------------------------------------------------


def wandered(run: Run, seed: int, skin: float, far: float) -> int:
    """Search anew with this skin and move away in random steps, some of which search again."""
    rng, before = np.random.default_rng(seed), run.provider.searches
    run.provider.set_pairs(Search(skin), run.cell)
    for _ in range(4):
        run.step(run.positions + rng.uniform(-far, far, run.positions.shape))
    return run.provider.searches - before


@pytest.mark.parametrize("name", POTENTIALS)
def test_history_makes_no_difference(potential: Callable[..., Path], name: str) -> None:
    """Lists from elsewhere, with other skins, used for the first or the fifth time."""
    run = Run(potential(name), crystal(name, 3), tuning=False).warm()
    expected, searches = run.step(), []
    for seed in range(REPEATS):
        searches.append(wandered(run, seed, skin=0.4 + 0.1 * (seed % 5), far=0.02 + 0.01 * seed))
        before = run.provider.searches
        assert run.step() == expected
        searches.append(run.provider.searches - before)
    # the list of the last step came from other positions as a rule, but not always
    assert searches[1::2].count(0) >= REPEATS // 2
    assert max(searches[::2]) > 1


def test_other_boxes_before_make_no_difference(potential: Callable[..., Path]) -> None:
    atoms = crystal("lennard-jones", 3)
    run = Run(potential("lennard-jones"), atoms, tuning=False).warm()
    expected, reused = run.step(), 0
    for k in range(REPEATS):
        strain = np.eye(3) + np.random.default_rng(k).uniform(-0.02, 0.02, (3, 3))
        run.step(run.positions @ strain, Cell.of(run.cell.vectors @ strain))
        before = run.provider.searches
        assert run.step() == expected
        reused += run.provider.searches == before
    assert reused >= REPEATS // 2


@pytest.mark.parametrize("kind", [echo.full_pairs, echo.half_pairs])
def test_order_of_a_list_makes_no_difference(
    potential: Callable[..., Path], kind: Callable
) -> None:
    """Lists of an engine, shuffled and turned around, with more or less of a skin."""
    atoms = crystal("lennard-jones", 2)
    run = Run(potential("lennard-jones"), atoms, tuning=False).warm()
    expected = run.step()
    known = brute_force.find(run.positions, run.cell.vectors, run.cell.pbc, 6.0)
    for seed in range(REPEATS):
        reach = 5.0 + 0.05 * seed
        within = known.within(reach)
        order = np.random.default_rng(seed).permutation(len(within.samples))
        mixed = brute_force.PairSet(within.samples[order], within.vectors[order])
        pairs = kind(mixed, reach)
        turn = np.random.default_rng(seed + 1).permutation(len(pairs.first))
        shuffled = type(pairs)(pairs.first[turn], pairs.second[turn], pairs.shifts[turn], reach)
        run.provider.set_pairs(shuffled, run.cell)
        assert run.step() == expected
