"""Trajectories that know what made them."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from alchemi_bridge.ensembles.trajectory import FRAMES, Origin, Trajectory
from alchemi_bridge.ensembles.trajectory_files import read_trajectory, write_trajectory
from alchemi_bridge.errors import (
    ConfigurationError,
    InputError,
    NonFiniteError,
    ShapeError,
    StructureFileError,
)


def origin(name: str = "a", **options: object) -> Origin:
    given = {"parameters": {"epsilon": np.array([0.1, 0.2])}, **options}
    return Origin(name, "ase", "/models/a.pt", "0" * 64, **given)


def trajectory(n_frames: int = 5, seed: int = 0, **changes: object) -> Trajectory:
    random = np.random.default_rng(seed)
    arrays = {
        "numbers": np.array([18, 36, 18]),
        "masses": np.array([39.9, 83.8, 40.0]),
        "pbc": np.array([True, True, False]),
        "positions": random.normal(size=(n_frames, 3, 3)),
        "cells": random.normal(size=(n_frames, 3, 3)),
        "energies": random.normal(size=n_frames),
        "temperatures": np.full(n_frames, 50.0),
        "times": np.arange(n_frames) * 10.0,
        "origin": np.zeros(n_frames),
        "origins": (origin(),),
    }
    return Trajectory(**{**arrays, **changes})


def require_same(one: Trajectory, other: Trajectory) -> None:
    for f in fields(Trajectory):
        if f.name != "origins":
            found, expected = getattr(one, f.name), getattr(other, f.name)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
    assert len(one.origins) == len(other.origins)
    for a, b in zip(one.origins, other.origins, strict=True):
        assert a.has_parameters(b.tensors())
        assert replace(a, parameters={}).__dict__ == replace(b, parameters={}).__dict__


def test_pickle_is_compact() -> None:
    made = trajectory(200)
    data = pickle.dumps(made, protocol=5)
    require_same(pickle.loads(data), made)
    numbers = sum(getattr(made, f.name).nbytes for f in fields(made) if f.name != "origins")
    assert len(data) < numbers + 3000


def test_concatenation_keeps_what_made_each_frame() -> None:
    hot = trajectory(3, 1, temperatures=np.full(3, 90.0), origins=(origin("b"),))
    other = {"epsilon": np.array([0.1, 0.3])}
    moved = trajectory(2, 2, origins=(origin(parameters=other),))
    one = trajectory(5)
    joined = Trajectory.concatenate([one, hot, moved, one])
    assert len(joined) == 15
    np.testing.assert_array_equal(joined.temperatures, [50] * 5 + [90] * 3 + [50] * 7)
    np.testing.assert_array_equal(joined.origin, [0] * 5 + [1] * 3 + [2] * 2 + [0] * 5)
    assert [o.simulator for o in joined.origins] == ["a", "b", "a"]
    assert joined.origins[2].has_parameters({"epsilon": torch.from_numpy(other["epsilon"])})
    assert not joined.origins[2].has_parameters(one.origins[0].tensors())
    assert not joined.origins[2].has_parameters({})
    part = joined[6:9]
    np.testing.assert_array_equal(part.origin, [0, 0, 1])
    assert part.origins == joined.origins[1:]
    for name in FRAMES[:-1]:
        expected = np.concatenate([getattr(hot, name)[1:], getattr(moved, name)[:1]])
        np.testing.assert_array_equal(getattr(part, name), expected)


def test_slices() -> None:
    made = trajectory(6)
    assert len(made[2]) == 1
    np.testing.assert_array_equal(made[2].energies, made.energies[2:3])
    np.testing.assert_array_equal(made[-1].times, [50.0])
    np.testing.assert_array_equal(made[::2].times, [0.0, 20.0, 40.0])
    np.testing.assert_array_equal(made[[4, 1]].times, [40.0, 10.0])
    np.testing.assert_array_equal(made[made.times > 25.0].times, [30.0, 40.0, 50.0])
    assert len(made[6:]) == 0
    with pytest.raises(IndexError):
        made[6]


def test_equilibration_is_cut_from_each_run() -> None:
    joined = Trajectory.concatenate([trajectory(4), trajectory(8, origins=(origin("b"),))])
    np.testing.assert_array_equal(joined.after(0.25).times, [10, 20, 30, 20, 30, 40, 50, 60, 70])
    np.testing.assert_array_equal(joined.after(3).times, [30, 30, 40, 50, 60, 70])
    np.testing.assert_array_equal(joined.after(6).times, [60, 70])
    assert len(joined.after(0)) == len(joined.after(0.0)) == 12
    for bad in (8, 1.0, -1, -0.1):
        with pytest.raises(InputError, match="equilibration"):
            joined.after(bad)


def test_atoms() -> None:
    made = trajectory()
    for k, atoms in enumerate(made.to_ase()):
        np.testing.assert_array_equal(atoms.positions, made.positions[k])
        np.testing.assert_array_equal(atoms.cell.array, made.cells[k])
        np.testing.assert_array_equal(atoms.get_masses(), made.masses)
        np.testing.assert_array_equal(atoms.pbc, made.pbc)
        assert atoms.get_potential_energy() == made.energies[k]
        assert atoms.info["time_fs"] == made.times[k]


def test_files(tmp_path: Path) -> None:
    nve = origin("b", pressure=0.1, ensemble="npt", run=3, parameters={})
    made = Trajectory.concatenate(
        [trajectory(), trajectory(temperatures=np.full(5, np.nan), origins=(nve,))]
    )
    require_same(read_trajectory(write_trajectory(made, tmp_path / "t.npz")), made)
    frames = ase.io.read(write_trajectory(made, tmp_path / "t.extxyz"), ":")
    assert len(frames) == 10
    np.testing.assert_allclose(frames[3].positions, made.positions[3], atol=1e-7)
    assert frames[3].get_potential_energy() == pytest.approx(made.energies[3], rel=1e-7)
    with pytest.raises(ConfigurationError, match=r"\.pkl"):
        write_trajectory(made, tmp_path / "t.pkl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.extxyz", "t.npz"]


def test_files_of_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", about=np.array([{}], dtype=object), allow_pickle=True)
    whole = write_trajectory(trajectory(), tmp_path / "t.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole[:700])
    (tmp_path / "text.npz").write_text("no zip")
    for name in ("other", "pickle", "torn", "text", "missing"):
        with pytest.raises(StructureFileError, match=f"{name}.npz"):
            read_trajectory(tmp_path / f"{name}.npz")


def test_what_is_no_trajectory() -> None:
    with pytest.raises(ShapeError, match="number of atoms"):
        trajectory(positions=np.zeros((5, 4, 3)))
    with pytest.raises(ShapeError, match="energies"):
        trajectory(energies=np.zeros(4))
    with pytest.raises(InputError, match="origin"):
        trajectory(origin=np.ones(5))
    energies = np.zeros(5)
    energies[3] = np.nan
    with pytest.raises(NonFiniteError, match="energies of a trajectory, frame 3"):
        trajectory(energies=energies)
    with pytest.raises(InputError, match="at least one"):
        Trajectory.concatenate([])
    with pytest.raises(InputError, match=r"trajectory 1.*ArKrAr.*other masses"):
        Trajectory.concatenate([trajectory(), trajectory(masses=np.ones(3))])
