"""Gradients on their way from pair vectors back to atoms and cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import brute_force
import numpy as np
import pytest
import torch
from kernel_parts import KERNEL_WAYS, needs_cuda
from worlds import WORLDS, liquid

from alchemi_bridge.cell import Cell
from alchemi_bridge.native import using
from alchemi_bridge.neighbors import (
    RequestedPairs,
    attached_vectors,
    fill,
    gather_forces,
    mark,
    shift_vectors,
)
from alchemi_bridge.pairs import Candidates
from alchemi_bridge.pairs.rows import candidates_from_pairs

#: Central differences of a smooth function of order 1 with step 1e-5: truncation about 1e-10,
#: rounding 1e-16 / 1e-5.
DIFFERENCE_STEP = 1e-5
DIFFERENCE_TOLERANCE = 1e-8

#: Two ways to the same float64 sum of some hundred terms of order 1.
SUM_TOLERANCE = 1e-12


def pair_energy(vectors: torch.Tensor) -> torch.Tensor:
    """Not only of the length: every direction counts."""
    length = torch.sqrt((vectors**2).sum(dim=1))
    return (torch.exp(-length) * (1.0 + 0.3 * vectors[:, 0] * vectors[:, 2]) / 2.0).sum()


@dataclass(frozen=True, eq=False)
class PairWorld:
    """A system with its pairs, as rows of a full list or a half list."""

    positions: torch.Tensor
    cell: torch.Tensor
    candidates: Candidates
    full_list: bool
    cutoff: float = float("inf")

    def requested(self, positions: torch.Tensor, cell: torch.Tensor) -> RequestedPairs:
        """All of the pairs, as the model gets them."""
        offsets = shift_vectors(self.candidates.table, cell)
        marked = mark(
            self.candidates,
            positions,
            offsets,
            cutoff=self.cutoff,
            full_list=self.full_list,
            dtype=positions.dtype,
        )
        n_rows = int(marked.base[-1])
        return fill(self.candidates, positions, offsets, marked, n_rows, positions.dtype)

    def vectors(self, positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """The same by plain torch operations, with a graph."""
        samples = self.requested(self.positions, self.cell).samples.long()
        images = samples[:, 2:].to(cell.dtype) @ cell
        return positions[samples[:, 1]] - positions[samples[:, 0]] + images

    def by_autograd(self) -> tuple[torch.Tensor, torch.Tensor]:
        """dE/d(position) and dE/d(strain) through positions and cell."""
        leaf = self.positions.clone().requires_grad_(True)
        strain = torch.eye(3, dtype=leaf.dtype, device=leaf.device, requires_grad=True)
        energy = pair_energy(self.vectors(leaf @ strain, self.cell @ strain))
        return torch.autograd.grad(energy, [leaf, strain])

    def by_pairs(self) -> tuple[RequestedPairs, torch.Tensor]:
        """The rows with their vectors, and dE/d(vector)."""
        pairs = self.requested(self.positions, self.cell)
        vectors = pairs.vectors.clone().requires_grad_(True)
        (gradients,) = torch.autograd.grad(pair_energy(vectors), vectors)
        return pairs, gradients

    def attached(self, positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """Vectors that the bridge hangs on positions and cell."""
        return attached_vectors(self.requested(positions.detach(), cell.detach()), positions, cell)

    def on_cuda(self, dtype: torch.dtype) -> PairWorld:
        """The same there."""
        moved = (self.positions.cuda().to(dtype), self.cell.cuda().to(dtype))
        names = ("starts", "second", "code", "reverse", "table")
        arrays = {name: getattr(self.candidates, name).cuda() for name in names}
        candidates = Candidates(self.candidates.n_atoms, reach=self.candidates.reach, **arrays)
        return PairWorld(*moved, candidates, self.full_list)


def made(cell: Cell, full_list: bool, n_atoms: int = 7, reach: float = 4.0) -> PairWorld:
    positions = liquid(31, n_atoms, cell)
    found = brute_force.find(positions, cell.vectors, cell.pbc, reach)
    rows = torch.from_numpy(found.samples)
    candidates = candidates_from_pairs(
        rows[:, 0], rows[:, 1], rows[:, 2:], n_atoms=n_atoms, reach=reach, both=False
    )
    matrix = torch.from_numpy(cell.vectors.copy())
    return PairWorld(torch.from_numpy(positions), matrix, candidates, full_list)


@pytest.fixture(params=[(name, full) for name in WORLDS for full in (True, False)], ids=str)
def world(request: pytest.FixtureRequest) -> PairWorld:
    name, full = request.param
    world = made(WORLDS[name], full)
    n_rows = len(world.requested(world.positions, world.cell).vectors)
    assert n_rows == len(world.candidates) // (1 if full else 2)
    assert len(world.candidates) > 10
    return world


@pytest.fixture(params=KERNEL_WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(request.param):
        yield request.param


def test_pair_vectors(world: PairWorld, way: str) -> None:
    pairs = world.requested(world.positions, world.cell)
    assert pairs.vectors.dtype == torch.float64
    for vector, (first, second, *shift) in zip(pairs.vectors, pairs.samples.tolist(), strict=True):
        expected = world.positions[second] - world.positions[first]
        expected = expected + sum(float(s) * world.cell[a] for a, s in enumerate(shift))
        assert torch.allclose(vector, expected, rtol=0, atol=1e-14)
    if not world.full_list:
        first, second, *shift = pairs.samples.T
        assert bool((first <= second).all())
        images = torch.stack(shift, dim=1)[first == second].tolist()
        assert all(image > [-s for s in image] for image in images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_shortest_pair_of_each_atom(world: PairWorld, way: str, dtype: torch.dtype) -> None:
    """Squared in float64, from the rounded vectors, whatever the cutoff."""
    offsets = shift_vectors(world.candidates.table, world.cell)
    both = PairWorld(world.positions, world.cell, world.candidates, full_list=True)
    for cutoff in (0.0, 2.0, float("inf")):
        marked = mark(
            world.candidates,
            world.positions,
            offsets,
            cutoff=cutoff,
            full_list=world.full_list,
            dtype=dtype,
        )
        vectors = both.vectors(world.positions, world.cell).to(dtype).double()
        squared = (vectors**2).sum(dim=1)
        assert marked.shortest.dtype == torch.float64
        for atom in range(world.candidates.n_atoms):
            mine = squared[world.candidates.first == atom]
            expected = float(mine.min()) if len(mine) else 1e300
            assert -float(marked.shortest[atom]) == pytest.approx(expected, rel=1e-6, abs=0)


def test_forces_and_virial_against_autograd(world: PairWorld, way: str) -> None:
    by_position, by_strain = world.by_autograd()
    pairs, gradients = world.by_pairs()
    before = torch.rand_like(world.positions)
    forces = before.clone()
    virial = torch.zeros((len(forces), 9), dtype=torch.float64)
    assert gather_forces(pairs, gradients, forces, virial) is None
    # added to what was there
    assert torch.allclose(forces - before, -by_position, rtol=0, atol=SUM_TOLERANCE)
    total = virial.sum(dim=0).reshape(3, 3)
    assert torch.allclose(total, by_strain, rtol=0, atol=SUM_TOLERANCE)
    assert float(by_position.abs().max()) > 0.01
    assert float(by_strain.abs().max()) > 0.01


def test_forces_and_virial_against_differences(world: PairWorld, way: str) -> None:
    positions, cell = world.positions, world.cell

    def energy(positions: torch.Tensor, cell: torch.Tensor) -> float:
        return float(pair_energy(world.vectors(positions, cell)))

    pairs, gradients = world.by_pairs()
    forces = torch.zeros_like(positions)
    by_atom = torch.zeros((len(forces), 9), dtype=torch.float64)
    gather_forces(pairs, gradients, forces, by_atom)
    virial = by_atom.sum(dim=0).reshape(3, 3)
    h = DIFFERENCE_STEP
    for i in (0, 4):
        for a in range(3):
            step = torch.zeros_like(positions)
            step[i, a] = h
            slope = (energy(positions + step, cell) - energy(positions - step, cell)) / (2 * h)
            assert -slope == pytest.approx(float(forces[i, a]), abs=DIFFERENCE_TOLERANCE)
    for a in range(3):
        for b in range(3):
            step = torch.zeros((3, 3), dtype=torch.float64)
            step[a, b] = h
            plus, minus = torch.eye(3) + step, torch.eye(3) - step
            slope = (
                energy(positions @ plus, cell @ plus) - energy(positions @ minus, cell @ minus)
            ) / (2 * h)
            assert slope == pytest.approx(float(virial[a, b]), abs=DIFFERENCE_TOLERANCE)


def test_rows_that_are_left_out(world: PairWorld, way: str) -> None:
    """Of several ranks: the model may be given one direction of a pair only, and any of the two."""
    rng, n_atoms = np.random.default_rng(8), len(world.positions)
    margin = torch.from_numpy(rng.choice([0.0, 1e9], n_atoms))
    cut = replace(world, candidates=replace(world.candidates, margin=margin), cutoff=1e6)
    with using(way):
        pairs = cut.requested(world.positions, world.cell)
        assert 0 < len(pairs.samples) < len(world.requested(world.positions, world.cell).samples)
        gradients = torch.from_numpy(rng.normal(size=(len(pairs.samples), 3)))
        forces = torch.zeros_like(world.positions)
        virial = torch.zeros((n_atoms, 9), dtype=torch.float64)
        gather_forces(pairs, gradients, forces, virial)
    samples = pairs.samples.numpy()
    expected = np.zeros((n_atoms, 3))
    np.add.at(expected, samples[:, 0], gradients.numpy())
    np.add.at(expected, samples[:, 1], -gradients.numpy())
    np.testing.assert_allclose(forces.numpy(), expected, rtol=0, atol=SUM_TOLERANCE)
    np.testing.assert_allclose(
        virial.sum(dim=0).reshape(3, 3).numpy(),
        pairs.vectors.numpy().T @ gradients.numpy(),
        rtol=0,
        atol=SUM_TOLERANCE * len(samples),
    )


@pytest.mark.parametrize("full", [True, False])
def test_forces_of_pairs_sum_to_zero(full: bool, way: str) -> None:
    rng = np.random.default_rng(40)
    index = torch.from_numpy(rng.integers(0, 20, (500, 2)))
    shifts = torch.zeros((500, 3), dtype=torch.int64)
    shifts[:, 0] = torch.arange(1, 501)  # so that every pair is another one
    candidates = candidates_from_pairs(
        index[:, 0], index[:, 1], shifts, n_atoms=20, reach=1.0, both=True
    )
    zero = torch.zeros((20, 3), dtype=torch.float64)
    world = PairWorld(zero, torch.zeros((3, 3), dtype=torch.float64), candidates, full)
    pairs = world.requested(world.positions, world.cell)
    assert len(pairs.vectors) == (1000 if full else 500)
    gradients = rng.normal(size=(len(pairs.vectors), 3))
    forces = zero.clone()
    gather_forces(pairs, torch.from_numpy(gradients), forces)
    assert float(forces.sum(dim=0).abs().max()) < SUM_TOLERANCE
    expected = np.zeros((20, 3))
    for (i, j, *_), g in zip(pairs.samples.tolist(), gradients, strict=True):
        expected[i] += g
        expected[j] -= g
    np.testing.assert_allclose(forces.numpy(), expected, rtol=0, atol=SUM_TOLERANCE)


def test_no_pairs(way: str) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    candidates = candidates_from_pairs(
        none, none, torch.zeros((0, 3), dtype=torch.int64), n_atoms=2, reach=1.0, both=False
    )
    zero = torch.zeros((2, 3), dtype=torch.float64)
    world = PairWorld(zero, torch.eye(3, dtype=torch.float64), candidates, full_list=True)
    pairs = world.requested(world.positions, world.cell)
    forces, virial = torch.ones_like(zero), torch.zeros((2, 9), dtype=torch.float64)
    gather_forces(pairs, pairs.vectors, forces, virial)
    assert bool((forces == 1.0).all())
    assert bool((virial == 0.0).all())
    assert world.attached(zero.requires_grad_(True), world.cell).shape == (0, 3)


# --- vectors that hang on positions and cell ------------------------------------------------------


@pytest.fixture(
    params=[(name, full) for name in ("bulk", "slab") for full in (True, False)], ids=str
)
def small(request: pytest.FixtureRequest) -> PairWorld:
    """Few atoms: numerical Jacobians of all vectors, twice."""
    name, full = request.param
    world = made(WORLDS[name], full, n_atoms=3, reach=4.4)
    itself = world.candidates.first == world.candidates.second
    assert bool(itself.any())  # and images of an atom, which push nothing
    assert not bool(itself.all())
    return world


def leaves(world: PairWorld) -> tuple[torch.Tensor, torch.Tensor]:
    return world.positions.clone().requires_grad_(True), world.cell.clone().requires_grad_(True)


def test_attached_vectors_have_the_right_gradients(small: PairWorld, way: str) -> None:
    torch.autograd.gradcheck(small.attached, leaves(small))
    torch.autograd.gradgradcheck(small.attached, leaves(small))


def test_gradients_of_an_energy_of_attached_vectors(small: PairWorld, way: str) -> None:
    """As in a model that returns forces of its own, which enter the energy again."""

    def energy_and_forces(positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        energy = pair_energy(small.attached(positions, cell))
        (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
        return energy + (gradient**2).sum()

    torch.autograd.gradcheck(energy_and_forces, leaves(small))
    torch.autograd.gradgradcheck(energy_and_forces, leaves(small))


def test_attached_vectors_against_plain_torch(world: PairWorld, way: str) -> None:
    """Values, gradients, and gradients of those."""

    def derivatives(vectors_of: object) -> list[torch.Tensor]:
        positions, cell = leaves(world)
        vectors = vectors_of(positions, cell)  # type: ignore[operator]
        energy = pair_energy(vectors)
        first = torch.autograd.grad(energy, [positions, cell], create_graph=True)
        again = sum((g**2).sum() for g in first)
        assert isinstance(again, torch.Tensor)
        second = torch.autograd.grad(again, [positions, cell])
        return [tensor.detach() for tensor in (vectors, *first, *second)]

    found, expected = derivatives(world.attached), derivatives(world.vectors)
    assert float(expected[1].abs().max()) > 0.01
    assert float(expected[3].abs().max()) > 1e-3
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=SUM_TOLERANCE)


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_on_cuda(world: PairWorld, dtype: torch.dtype) -> None:
    world = world.on_cuda(dtype)
    by_position, by_strain = world.by_autograd()
    pairs, gradients = world.by_pairs()
    forces = torch.zeros_like(world.positions)
    virial = torch.zeros((len(forces), 9), dtype=torch.float64, device=forces.device)
    gather_forces(pairs, gradients, forces, virial)
    tolerance = SUM_TOLERANCE if dtype == torch.float64 else 1e-4
    assert torch.allclose(forces, -by_position, rtol=0, atol=tolerance)
    total = virial.sum(dim=0).reshape(3, 3).to(dtype)
    assert torch.allclose(total, by_strain, rtol=0, atol=tolerance)
