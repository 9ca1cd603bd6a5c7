"""Lists of several systems in common arrays, against those of each system by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from known_potentials import structure

from alchemi_bridge import potentials
from alchemi_bridge.batch import BatchGeometry, Cells, Systems
from alchemi_bridge.geometry import Geometry
from alchemi_bridge.model import load_model
from alchemi_bridge.neighbors import cut
from alchemi_bridge.neighbors import reframe as reframing
from alchemi_bridge.pairs import FullPairs, Search
from alchemi_bridge.pairs import rows as row_kernels

SHAPES = ("bulk", "small", "triclinic", "left-handed", "slab", "wire", "molecule", "outside")


def systems_of(structures: list[Any]) -> Systems:
    return Systems(
        types=torch.tensor(np.concatenate([a.numbers for a in structures])),
        positions=torch.tensor(np.concatenate([a.positions for a in structures])),
        cells=Cells(
            np.stack([a.cell.array for a in structures]), np.stack([a.pbc for a in structures])
        ),
        sizes=[len(a) for a in structures],
    )


@pytest.fixture(params=["native", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compiled kernels, or their references."""
    if request.param == "torch":
        for module in (cut, reframing, row_kernels):
            monkeypatch.setattr(module, "launcher_for", lambda device: None)
    return request.param


@pytest.mark.parametrize("potential", ["lennard-jones", "stillinger-weber"])
@pytest.mark.parametrize("skin", [0.0, 1.0])
def test_same_lists_as_one_by_one(kernels: str, potential: str, skin: float) -> None:
    """Half and full lists: the same samples in the same order, the same vectors bit by bit."""
    loaded = load_model(potentials.build(potential))
    structures = [structure(shape, potential) for shape in SHAPES]
    found = BatchGeometry(loaded, length=1.0, skin=skin).step(systems_of(structures))
    samples = found.pairs[0].pairs.samples.split(found.pairs[0].counts)
    vectors = found.pairs[0].pairs.vectors.split(found.pairs[0].counts)
    first = 0
    for k, atoms in enumerate(structures):
        alone = Geometry(loaded, n_atoms=len(atoms), subset=None, length=1.0)
        cell = Cells(atoms.cell.array[None], atoms.pbc[None])[0]
        alone.set_pairs(Search(skin), cell)
        expected = alone.step(torch.tensor(atoms.positions), None).pairs[0]
        torch.testing.assert_close(samples[k], expected.samples, rtol=0, atol=0)
        torch.testing.assert_close(vectors[k], expected.vectors, rtol=0, atol=0)
        rows = slice(sum(found.pairs[0].counts[:k]), sum(found.pairs[0].counts[: k + 1]))
        assert torch.equal(found.pairs[0].pairs.first[rows], expected.first + first)
        assert torch.equal(found.pairs[0].pairs.second[rows], expected.second + first)
        first += len(atoms)


def test_an_atom_far_away_costs_its_own_system(kernels: str) -> None:
    """Shifts of one system are not numbered for all the others; its pairs are those from nearby."""
    loaded = load_model(potentials.build("lennard-jones"))
    structures = [structure("small", "lennard-jones") for _ in range(12)]
    near = BatchGeometry(loaded, length=1.0, skin=0.5)
    expected = near.step(systems_of(structures)).pairs[0]
    structures[3].positions[0] += [300, -200, 100] @ structures[3].cell.array
    far = BatchGeometry(loaded, length=1.0, skin=0.5)
    found = far.step(systems_of(structures)).pairs[0]
    assert near._candidates is not None
    assert far._candidates is not None
    # of an atom far away and others that are not: shifts there, back, and between the others
    assert len(far._candidates.table) <= len(near._candidates.table) * (1.0 + 2.0 / 12)
    assert found.counts == expected.counts
    lengths = [torch.linalg.vector_norm(p.pairs.vectors, dim=1) for p in (found, expected)]
    for k, (one, other) in enumerate(zip(*(v.split(found.counts) for v in lengths), strict=True)):
        # 300 cells of some Å: coordinates are rounded to 2e-13 Å
        atol = 1e-12 if k == 3 else 0.0
        torch.testing.assert_close(one.sort().values, other.sort().values, rtol=0, atol=atol)


def test_handed_list_with_own_images(kernels: str) -> None:
    """A list of cells below the cutoff, in which atoms are their own neighbours."""
    loaded = load_model(potentials.build("lennard-jones"))
    structures = [structure(shape, "lennard-jones") for shape in ("small", "bulk", "small")]
    systems = systems_of(structures)
    geometry = BatchGeometry(loaded, length=1.0, skin=0.0)
    searched = geometry.step(systems)
    candidates = geometry._candidates
    assert candidates is not None
    pairs = FullPairs(candidates.first, candidates.second, candidates.shifts, loaded.cutoff)
    handed = geometry.step(systems, pairs)
    assert torch.equal(handed.pairs[0].pairs.samples, searched.pairs[0].pairs.samples)
    assert torch.equal(handed.pairs[0].pairs.vectors, searched.pairs[0].pairs.vectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("deformed", [False, True])
def test_reframe_kernel_and_reference(dtype: torch.dtype, deformed: bool) -> None:
    """The same bits, for atoms that were wrapped, are lost, or are nowhere."""
    random = np.random.default_rng(3)
    n_systems, n_atoms = 3, 40
    cells = np.diag([5.0, 6.0, 7.0]) + random.normal(0.0, 0.3, (n_systems, 3, 3))
    deformations = np.eye(3) + random.normal(0.0, 0.02, (n_systems, 3, 3))
    inverse = np.linalg.inv(cells)
    inverse[1, :, 2] = 0.0  # open along c
    frames = torch.tensor(np.stack([deformations, inverse, cells], axis=1).reshape(-1, 27))
    system = torch.arange(n_systems).repeat_interleave(n_atoms)
    start = random.uniform(-9.0, 9.0, (n_systems * n_atoms, 3))
    wraps = random.integers(-2, 3, start.shape)
    moved = start + random.normal(0.0, 0.2, start.shape)
    moved += np.einsum("ni,nij->nj", wraps, cells[system.numpy()])
    moved[5] += 2000.0 * cells[0, 0]
    moved[50, 1] = np.nan
    arguments = (torch.tensor(moved, dtype=dtype), torch.tensor(start, dtype=dtype), system, frames)
    framed, squares = reframing.reframe(*arguments, deformed)
    expected, reference = reframing._reframe_torch(*arguments, deformed)
    torch.testing.assert_close(framed, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(squares, reference, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(framed[5], arguments[0][5])
    if not deformed:
        inside = [k for k in range(n_atoms) if k != 5]
        # random steps of 0.2 Å, wherever the atom was wrapped to
        assert float(squares[inside].max()) < (5 * 0.2) ** 2 * 3
