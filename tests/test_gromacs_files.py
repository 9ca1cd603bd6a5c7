"""Files of GROMACS: written here and read by GROMACS, and the other way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gromacs_runs import needs_gromacs

from alchemi_bridge.engines import gromacs
from alchemi_bridge.engines.gromacs_files import TrajectoryFrame, read_trr, write_gro, write_trr
from alchemi_bridge.errors import InputError, ShapeError

RNG = np.random.default_rng(0)
BOX = np.array([[2.0, 0.0, 0.0], [0.3, 2.1, 0.0], [-0.2, 0.4, 2.2]])
POSITIONS = RNG.uniform(0.0, 2.0, (5, 3))
VELOCITIES = RNG.normal(0.0, 0.5, (5, 3))
FORCES = RNG.normal(0.0, 500.0, (5, 3))

MDP = "nsteps = 0\nverlet-buffer-tolerance = -1\nrlist = 0.5\nrvdw = 0.4\nrcoulomb = 0.4\n"
TOP = """[ defaults ]
1 2 no 1.0 1.0
[ atomtypes ]
Ar 18 39.948 0.0 A 0.1 0.5
[ moleculetype ]
Ar 1
[ atoms ]
1 Ar 1 Ar Ar 1 0.0 39.948
[ system ]
five
[ molecules ]
Ar 5
"""


def test_a_trajectory_comes_back_bit_by_bit(tmp_path: Path) -> None:
    frames = [
        TrajectoryFrame(0, 0.0, BOX, POSITIONS, VELOCITIES, FORCES),
        TrajectoryFrame(5, 0.01, BOX, POSITIONS + 1.0),
        TrajectoryFrame(10, 0.02, forces=FORCES),
    ]
    path = tmp_path / "some.trr"
    write_trr(path, frames)
    found = read_trr(path)
    assert len(found) == 3
    for left, right in zip(found, frames, strict=True):
        assert (left.step, left.time) == (right.step, right.time)
        for name in ("box", "positions", "velocities", "forces"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_trajectories_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "some.trr"
    write_trr(path, [TrajectoryFrame(0, 0.0, BOX, POSITIONS)])
    whole = path.read_bytes()
    for data in (whole[:-8], whole + whole[:40], b"no trajectory at all" * 10):
        path.write_bytes(data)
        with pytest.raises(InputError, match="whole frames"):
            read_trr(path)
    path.write_bytes(b"")
    assert read_trr(path) == []


def test_arrays_of_the_wrong_shape(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"\(5, 3\)"):
        write_trr(tmp_path / "x.trr", [TrajectoryFrame(0, 0.0, BOX, POSITIONS, VELOCITIES[:4])])
    with pytest.raises(ShapeError, match=r"\(3, 3\)"):
        write_trr(tmp_path / "x.trr", [TrajectoryFrame(0, 0.0, BOX[:2], POSITIONS)])
    with pytest.raises(ShapeError, match="positions"):
        write_gro(tmp_path / "x.gro", ["Ar"] * 4, POSITIONS, BOX)


@needs_gromacs
@pytest.mark.parametrize("double", [False, True], ids=["mixed", "double"])
def test_gromacs_reads_and_writes_the_same(tmp_path: Path, double: bool) -> None:
    """A structure goes in as text and comes out of the first step of a run."""
    program = gromacs.find(double=double)
    assert program.double is double
    write_gro(tmp_path / "in.gro", ["Ar"] * 5, POSITIONS, BOX, velocities=VELOCITIES)
    output = "nstxout = 1\nnstvout = 1\nnstfout = 1\nnstenergy = 1\ncomm-mode = none\n"
    (tmp_path / "in.mdp").write_text(MDP + output)
    (tmp_path / "in.top").write_text(TOP)
    names = {"parameters": "in.mdp", "structure": "in.gro", "topology": "in.top"}
    program.grompp(tmp_path, **names, name="run", extra=["-maxwarn", 1])
    run = program.mdrun(tmp_path, "run")
    (frame,) = run.frames()
    digits = 1e-15 if double else 1.2e-7
    np.testing.assert_allclose(frame.box, BOX, rtol=0.0, atol=2.2 * digits)
    np.testing.assert_allclose(frame.positions, POSITIONS, rtol=0.0, atol=2.0 * digits)
    np.testing.assert_allclose(frame.velocities, VELOCITIES, rtol=0.0, atol=2.0 * digits)
    # its own text output has six digits
    (tmp_path / "frames.txt").write_text(program.call("dump", "-f", "run.trr", folder=tmp_path))
    lines = [
        line.split("=", 1)[1].strip(" {}").split(",")
        for line in (tmp_path / "frames.txt").read_text().splitlines()
        if line.strip().startswith("f[")
    ]
    np.testing.assert_allclose(frame.forces, np.array(lines, dtype=float), rtol=2e-5)


@needs_gromacs
def test_gromacs_reads_our_trajectories(tmp_path: Path) -> None:
    frames = [TrajectoryFrame(k, 0.5 * k, BOX, POSITIONS + 0.001 * k) for k in range(3)]
    write_trr(tmp_path / "ours.trr", frames)
    said = gromacs.find().call("check", "-f", "ours.trr", folder=tmp_path)
    coordinates = next(line for line in said.splitlines() if line.startswith("Coords"))
    assert coordinates.split()[1:] == ["3", "0.5"]


@needs_gromacs
def test_terms_of_the_energy_file(tmp_path: Path) -> None:
    """In any order; one that does not exist is named."""
    write_gro(tmp_path / "in.gro", ["Ar"] * 5, POSITIONS, BOX, velocities=VELOCITIES)
    (tmp_path / "in.mdp").write_text(MDP.replace("nsteps = 0", "nsteps = 4\nnstenergy = 2"))
    (tmp_path / "in.top").write_text(TOP)
    program = gromacs.find(double=True)
    names = {"parameters": "in.mdp", "structure": "in.gro", "topology": "in.top"}
    program.grompp(tmp_path, **names, name="run", extra=["-maxwarn", 1])
    run = program.mdrun(tmp_path, "run")
    one = run.energies("Kinetic-En.", "Potential")
    np.testing.assert_allclose(one["Time"], [0.0, 0.002, 0.004])
    other = run.energies("Potential", "Vir-XX", "Total-Energy")
    np.testing.assert_array_equal(one["Potential"], other["Potential"])
    np.testing.assert_allclose(
        other["Total-Energy"], one["Potential"] + one["Kinetic-En."], rtol=1e-10
    )
    assert set(other) == {"Time", "Potential", "Vir-XX", "Total-Energy"}
    with pytest.raises(InputError, match="Nonsense"):
        run.energies("Potential", "Nonsense")
