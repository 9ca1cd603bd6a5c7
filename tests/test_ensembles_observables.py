"""Observables of trajectories, against brute force, closed forms and ASE's analysis."""

from __future__ import annotations

import itertools

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.geometry.rdf import get_rdf

from alchemi_bridge.ensembles.observables import (
    Density,
    PotentialEnergy,
    RadialDistribution,
    Volume,
)
from alchemi_bridge.ensembles.trajectory import Origin, Trajectory
from alchemi_bridge.errors import ConfigurationError, InputError


def trajectory(frames: list[ase.Atoms]) -> Trajectory:
    n_frames = len(frames)
    return Trajectory(
        numbers=frames[0].numbers,
        masses=frames[0].get_masses(),
        pbc=frames[0].pbc,
        positions=np.array([a.positions for a in frames]),
        cells=np.array([a.cell.array for a in frames]),
        energies=np.arange(n_frames) - 2.0,
        temperatures=np.full(n_frames, 80.0),
        times=np.arange(n_frames),
        origin=np.zeros(n_frames),
        origins=(Origin("a", "ase", "a.pt", "0" * 64),),
    )


def shaken(atoms: ase.Atoms, n_frames: int = 3) -> list[ase.Atoms]:
    """Irregular frames with different cells, and atoms far outside."""
    frames = []
    for seed in range(n_frames):
        frame = atoms.copy()
        random = np.random.default_rng(seed)
        frame.set_cell(frame.cell.array @ (np.eye(3) + random.normal(0, 0.05, (3, 3))), True)
        frame.rattle(0.2, seed=seed)
        frame.positions += random.integers(-2, 3, (len(frame), 3)) @ frame.cell.array
        frames.append(frame)
    return frames


def brute_force(
    atoms: ase.Atoms, edges: np.ndarray, one: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """All atoms with all images, one after the other."""
    cell = atoms.cell.array
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    wrapped = atoms.get_positions(wrap=True)
    reach = [range(-n, n + 1) for n in np.ceil(edges[-1] / heights).astype(int) + 1]
    found = []
    for shift in itertools.product(*reach):
        for i in np.flatnonzero(one):
            for j in np.flatnonzero(other):
                if i != j or any(shift):
                    found.append(np.linalg.norm(wrapped[j] - wrapped[i] + shift @ cell))
    counts, _ = np.histogram(found, edges)
    shells = 4.0 * np.pi * (edges[1:] ** 3 - edges[:-1] ** 3) / 3.0
    return counts / (one.sum() * other.sum() / atoms.get_volume() * shells)


@pytest.mark.parametrize("r_max", [3.0, 9.0], ids=["small", "larger than the cell"])
@pytest.mark.parametrize("pair", [None, ("Na", "Cl"), ("Cl", 17)], ids=str)
def test_radial_distribution(r_max: float, pair: tuple | None) -> None:
    frames = shaken(bulk("NaCl", "rocksalt", a=5.6, cubic=True))
    frames[0].numbers[0] = 11
    rdf = RadialDistribution(r_max, 23, pair)
    found = rdf(trajectory(frames))
    assert found.shape == (3, 23)
    numbers = frames[0].numbers
    everything = np.ones(len(numbers), dtype=bool)
    kinds = {"Na": 11, "Cl": 17, 17: 17}
    one, other = (everything if pair is None else numbers == kinds[k] for k in pair or (0, 1))
    for row, atoms in zip(found, frames, strict=True):
        np.testing.assert_allclose(row, brute_force(atoms, rdf.edges, one, other), rtol=1e-12)
    assert (rdf.r > rdf.edges[:-1]).all()
    assert (rdf.r < rdf.edges[1:]).all()


def test_radial_distribution_of_a_crystal() -> None:
    """12 neighbours at a/sqrt(2), 6 at a, also in the primitive cell of one atom."""
    for atoms in (bulk("Ar", "fcc", a=5.35), bulk("Ar", "fcc", a=5.35, cubic=True) * 2):
        rdf = RadialDistribution(6.0, 60)
        [g] = rdf(trajectory([atoms]))
        shells = 4.0 * np.pi * np.diff(rdf.edges**3) / 3.0
        counts = g * shells * len(atoms) / atoms.get_volume()
        expected = np.zeros(60)
        expected[37], expected[53] = 12.0, 6.0  # 3.78 and 5.35 Å
        np.testing.assert_allclose(counts, expected, atol=1e-9)


def test_radial_distribution_of_an_ideal_gas() -> None:
    """One, but for the N - 1 others that an atom sees within half the cell."""
    n_atoms, n_frames, side = 60, 200, 10.0
    random = np.random.default_rng(5)
    frames = [
        ase.Atoms(f"Ar{n_atoms}", random.uniform(0, side, (n_atoms, 3)), cell=[side] * 3, pbc=True)
        for _ in range(n_frames)
    ]
    rdf = RadialDistribution(side / 2, 5)
    mean = rdf(trajectory(frames)).mean(axis=0)
    pairs = mean * n_frames * n_atoms**2 / side**3 * 4.0 * np.pi * np.diff(rdf.edges**3) / 6.0
    np.testing.assert_allclose(mean, (n_atoms - 1) / n_atoms, atol=4.5 / np.sqrt(pairs.min()))


def test_radial_distribution_as_ase_has_it() -> None:
    atoms = shaken(bulk("Ar", "fcc", a=5.3, cubic=True) * 3, 1)[0]
    rdf = RadialDistribution(7.0, 50)
    [found] = rdf(trajectory([atoms]))
    expected, _ = get_rdf(atoms, 7.0, 50)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_density_of_argon() -> None:
    """4 atoms of 39.948 g/mol in a cube of 5.3108 Å: 1.7714 g/cm^3 (solid argon at 4 K: 1.77).

    ASE's atomic mass unit is older than the present definition of the mole, by 2e-8.
    """
    atoms = bulk("Ar", "fcc", a=5.3108, cubic=True)
    larger = atoms.copy()
    larger.set_cell(atoms.cell.array * 2.0, scale_atoms=True)
    made = trajectory([atoms, larger])
    expected = 4 * 39.948 / 6.02214076e23 / (5.3108e-8) ** 3
    np.testing.assert_allclose(Density()(made), [expected, expected / 8.0], rtol=1e-7)
    assert expected == pytest.approx(1.77, abs=0.005)
    np.testing.assert_allclose(Volume()(made), [5.3108**3, 8.0 * 5.3108**3], rtol=1e-12)


def test_energies() -> None:
    made = trajectory(shaken(bulk("Ar", "fcc", a=5.3, cubic=True)))
    np.testing.assert_array_equal(PotentialEnergy()(made), made.energies)
    np.testing.assert_allclose(PotentialEnergy(per_atom=True)(made), made.energies / 4)
    assert (PotentialEnergy().unit, PotentialEnergy(True).unit) == ("eV", "eV/atom")


def test_what_can_not_be_observed() -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    made = trajectory([atoms])
    with pytest.raises(InputError, match="atoms of Na"):
        RadialDistribution(5.0, pair=("Ar", "Na"))(made)
    with pytest.raises(ConfigurationError, match="'Xx'"):
        RadialDistribution(5.0, pair=("Ar", "Xx"))
    for pair in (("Ar",), "Ar", ("Ar", "Ar", "Ar")):
        with pytest.raises(ConfigurationError, match="two chemical symbols"):
            RadialDistribution(5.0, pair=pair)
    with pytest.raises(ConfigurationError, match="whole number"):
        RadialDistribution(7.0, 80.5)
    for r_max, bins in ((0.0, 10), (-1.0, 10), (float("nan"), 10), (5.0, 0), (5.0, True)):
        with pytest.raises(ConfigurationError, match="radial distribution"):
            RadialDistribution(r_max, bins)
    atoms.pbc = (True, True, False)
    made = trajectory([atoms])
    for observable in (RadialDistribution(5.0), Density(), Volume()):
        with pytest.raises(InputError, match="periodic in three"):
            observable(made)
