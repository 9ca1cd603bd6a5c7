"""The torch potentials against their NumPy oracles and against known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from known_potentials import IN_SINGLE, SHAPES, evaluate, structure

from alchemi_bridge import potentials
from alchemi_bridge.parity import oracles

# both sides are float64 and sum in different orders: some 1e3 roundings of 2e-16
ENERGY_TOLERANCE = 1e-12  # relative
FORCE_TOLERANCE = 1e-10  # eV/Å
VIRIAL_TOLERANCE = 1e-10  # eV
# float32 rounds positions of 10 Å to 5e-7 Å and sums to 1e-7; stiff pairs carry 10 eV/Å^2
SINGLE_ENERGY_TOLERANCE = 2e-5  # eV per atom
SINGLE_FORCE_TOLERANCE = 2e-5  # relative to the largest force

OPTIONS = [
    ("lennard-jones", {}),
    ("lennard-jones", {"full_list": True, "truncation": "energy-shift"}),
    ("lennard-jones", {"strict": False, "truncation": "none", "cutoff": 5.0}),
    ("lennard-jones", {"full_list": True, "strict": False, "pairs": {(18, 36): (0.02, 3.1)}}),
    ("lennard-jones", {"types": [36, 14, 18], "epsilon": [1, 2, 3], "sigma": [2, 1.5, 2.5]}),
    ("stillinger-weber", {}),
    ("stillinger-weber", {"strict": False}),
    ("stillinger-weber", {"gamma": 0.9, "costheta0": 0.1, "q": 1.0, "p": 5.0, "a": 1.95}),
    ("message-passing", {}),
    ("message-passing", {"strict": False, "n_layers": 1, "n_features": 7, "n_basis": 3}),
    ("message-passing", {"n_layers": 4, "seed": 0, "cutoff": 3.1, "energy_scale": 2.5}),
    ("copper", {}),
]
NAMED = [f"{name} {' '.join(options)}" for name, options in OPTIONS]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=NAMED)
def test_equal_to_the_oracle(name: str, options: dict, shape: str) -> None:
    atoms = structure(shape, name)
    found = evaluate(potentials.build(name, **options), atoms)
    known = oracles.build(name, **options).evaluate(atoms)
    scale = np.abs(known.energies).sum()
    assert found.energy == pytest.approx(known.energy, abs=ENERGY_TOLERANCE * scale)
    np.testing.assert_allclose(found.energies, known.energies, atol=ENERGY_TOLERANCE * scale)
    force_scale = max(1.0, np.abs(known.forces).max())
    np.testing.assert_allclose(found.forces, known.forces, atol=FORCE_TOLERANCE * force_scale)
    virial_scale = max(1.0, np.abs(known.virial).max())
    np.testing.assert_allclose(found.virial, known.virial, atol=VIRIAL_TOLERANCE * virial_scale)
    assert np.abs(known.forces).max() > 1e-4, "a structure without forces tests little"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", IN_SINGLE)
def test_single_precision_is_close(name: str, shape: str) -> None:
    atoms = structure(shape, name)
    atoms.positions = atoms.positions.astype(np.float32)
    atoms.set_cell(atoms.cell.array.astype(np.float32))
    found = evaluate(potentials.build(name, dtype="float32"), atoms, torch.float32)
    known = oracles.build(name).evaluate(atoms)
    np.testing.assert_allclose(found.energies, known.energies, atol=SINGLE_ENERGY_TOLERANCE)
    largest = np.abs(known.forces).max()
    np.testing.assert_allclose(found.forces, known.forces, atol=SINGLE_FORCE_TOLERANCE * largest)


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_the_oracle_in_random_cells(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * 3.0 + np.diag([6.0, 7.0, 8.0]) * rng.choice([-1, 1])
    pbc = rng.random(3) < 0.7
    atoms = Atoms("Si10", scaled_positions=rng.random((10, 3)) * 2, cell=cell, pbc=pbc)
    # silent overlaps would only test large numbers
    atoms.positions *= 1.3
    found = evaluate(potentials.build("message-passing"), atoms)
    known = oracles.build("message-passing").evaluate(atoms)
    largest = max(1.0, np.abs(known.forces).max())
    assert found.energy == pytest.approx(known.energy, rel=1e-11)
    np.testing.assert_allclose(found.forces, known.forces, atol=FORCE_TOLERANCE * largest)


def dimer(numbers: tuple[int, int], r: float) -> Atoms:
    return Atoms(numbers, positions=[[0.0, 0.0, 0.0], [0.0, r, 0.0]])


@pytest.mark.parametrize("full_list", [False, True])
def test_lennard_jones_pair_in_closed_form(full_list: bool) -> None:
    model = potentials.build("lennard-jones", truncation="none", full_list=full_list)
    for numbers, epsilon, sigma in (
        ((18, 18), 0.01042332, 3.40),
        ((36, 36), 0.01404340, 3.65),
        ((36, 18), (0.01042332 * 0.01404340) ** 0.5, 3.525),
    ):
        minimum = evaluate(model, dimer(numbers, 2 ** (1 / 6) * sigma))
        assert minimum.energy == pytest.approx(-epsilon, rel=1e-12)
        np.testing.assert_allclose(minimum.energies, -epsilon / 2, rtol=1e-12)
        np.testing.assert_allclose(minimum.forces, 0.0, atol=1e-12)
        zero = evaluate(model, dimer(numbers, sigma))
        assert zero.energy == pytest.approx(0.0, abs=1e-14)
        # u'(sigma) = -24 epsilon / sigma
        force = 24 * epsilon / sigma
        np.testing.assert_allclose(zero.forces, [[0, -force, 0], [0, force, 0]], atol=1e-12)
        np.testing.assert_allclose(zero.virial, np.diag([0, -force * sigma, 0]), atol=1e-12)


@pytest.mark.parametrize(
    ("truncation", "energy_jumps", "force_jumps"),
    [("none", True, True), ("energy-shift", False, True), ("force-shift", False, False)],
)
def test_lennard_jones_at_the_cutoff(
    truncation: str, energy_jumps: bool, force_jumps: bool
) -> None:
    cutoff, gap = 7.0, 1e-7
    options = {"cutoff": cutoff, "types": [18], "epsilon": [0.0104], "sigma": [3.4]}
    # strict=False: the list also holds the pair beyond the cutoff
    model = potentials.build("lennard-jones", truncation=truncation, strict=False, **options)
    inside = evaluate(model, dimer((18, 18), cutoff - gap))
    beyond = evaluate(model, dimer((18, 18), cutoff + gap))
    assert beyond.energy == 0.0
    assert np.abs(beyond.forces).max() == 0.0
    s6 = (3.4 / cutoff) ** 6
    plain_energy = 4 * 0.0104 * (s6**2 - s6)
    plain_force = 24 * 0.0104 * (2 * s6**2 - s6) / cutoff
    expected = plain_energy if energy_jumps else 0.0
    assert inside.energy == pytest.approx(expected, abs=1e-8)
    assert inside.forces[1, 1] == pytest.approx(plain_force if force_jumps else 0.0, abs=1e-8)


@pytest.mark.parametrize("gap", [-1e-3, 0.0, 1e-16, 1e-14, 1e-9, 1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stillinger_weber_is_finite_at_the_cutoff(gap: float, dtype: str) -> None:
    model = potentials.build("stillinger-weber", strict=False, dtype=dtype)
    r = 1.8 * 2.0951 - gap
    atoms = Atoms("Si3", positions=[[0, 0, 0], [r, 0, 0], [0, r, 0]])
    found = evaluate(model, atoms, getattr(torch, dtype))
    assert abs(found.energy) < 1e-12
    assert np.isfinite(found.forces).all()
    assert np.abs(found.forces).max() < 1e-12


def test_silicon_crystal_has_the_published_energy() -> None:
    # two bonds of -epsilon per atom, Phys. Rev. B 31, 5262 (1985)
    crystal = bulk("Si", "diamond", a=5.431)
    found = evaluate(potentials.build("stillinger-weber"), crystal)
    assert found.energy / 2 == pytest.approx(-4.3366, abs=1e-4)
    np.testing.assert_allclose(found.forces, 0.0, atol=1e-12)


def test_silicon_crystal_has_the_published_elastic_constants() -> None:
    # C11 = 151.4 GPa and C12 = 76.4 GPa: E. R. Cowley, Phys. Rev. Lett. 60, 2379 (1988),
    # doi:10.1103/PhysRevLett.60.2379. A stretch along a cube axis moves no atom within the cell.
    model = potentials.build("stillinger-weber")
    stresses = []
    for stretch in (1e-4, -1e-4):
        crystal = bulk("Si", "diamond", a=5.4310, cubic=True)
        crystal.set_cell(np.diag([1 + stretch, 1.0, 1.0]) * 5.4310, scale_atoms=True)
        stresses.append(evaluate(model, crystal).virial / crystal.get_volume())
    in_gpa = (stresses[0] - stresses[1]) / 2e-4 * 160.21766
    assert in_gpa[0, 0] == pytest.approx(151.4, abs=0.05)
    assert in_gpa[1, 1] == pytest.approx(76.4, abs=0.05)


def test_message_passing_reaches_over_its_layers() -> None:
    cutoff = 4.0
    chain = Atoms("Si8", positions=[[2.6 * i, 0.2 * (i % 2), 0.0] for i in range(8)])
    distances = chain.get_distances(0, range(8))
    for layers in (1, 2, 3):
        model = potentials.build("message-passing", n_layers=layers, cutoff=cutoff)
        assert model.capabilities().interaction_range == layers * cutoff
        before = evaluate(model, chain).energies[0]
        for far in range(1, 8):
            moved = chain.copy()
            moved.positions[far, 1] += 0.3
            change = abs(evaluate(model, moved).energies[0] - before)
            within = min(distances[far], moved.get_distance(0, far)) < layers * cutoff
            reachable = far <= layers  # hops along the chain, whose next-nearest are out of range
            if reachable:
                assert within
                assert change > 1e-9
            if not within:
                assert change == 0.0
    assert 2 * cutoff - 0.3 < distances[3] < 3 * cutoff


def test_message_passing_moves_atoms_by_ordinary_forces() -> None:
    forces = evaluate(potentials.build("message-passing"), structure("bulk", "message-passing"))
    assert 0.05 < np.sqrt((forces.forces**2).mean()) < 5.0


def test_message_passing_weights_are_the_same_everywhere() -> None:
    # PCG64's raw stream is fixed by NumPy's compatibility policy (NEP 19); these are its values
    model = potentials.build("message-passing")
    embedding = model.module.embedding
    raw = np.random.PCG64(2024).random_raw(2)
    assert raw.tolist() == [12466887728733407976, 3953565242300289241]
    expected = [int(number) // 2**11 / 2**52 - 1.0 for number in raw]
    assert embedding[0, :2].tolist() == expected
    chain = Atoms("SiOSi", positions=[[0, 0, 0], [1.5, 0.5, 0], [3.0, 0, 0.2]])
    assert evaluate(model, chain).energy == pytest.approx(0.9055846211816159, rel=1e-12)
