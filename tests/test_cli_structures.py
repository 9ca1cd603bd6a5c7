"""Reading structure files: every way to fail is a StructureFileError; and exact extended XYZ."""

from __future__ import annotations

import pickle
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from cli_runs import save, silicon, with_nan

from alchemi_bridge.cli.extxyz import count_frames, frame_ranges, write_frame
from alchemi_bridge.engines.structure_files import read_structure, read_structures
from alchemi_bridge.errors import ConfigurationError, StructureFileError

FRAME = "1\n\nSi 0.0 0.0 0.0\n"


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return save(tmp_path / "three.xyz", *(silicon(seed=seed) for seed in range(3)))


@pytest.mark.parametrize(
    ("index", "count"), [(":", 3), ("0", 1), ("-1", 1), ("1:", 2), ("::2", 2), (1, 1), ("-2:", 2)]
)
def test_index(three: Path, index: str | int, count: int) -> None:
    assert len(list(read_structures(three, index))) == count
    assert count_frames(three, index) == count


def test_frames_come_one_by_one(three: Path) -> None:
    with three.open("a") as file:
        file.write("2\n\nSi 0 0 0\nSi what is this\n")
    frames = read_structures(three)
    assert [len(next(frames)) for _ in range(3)] == [8, 8, 8]
    with pytest.raises(StructureFileError, match="frame 3: expected"):
        next(frames)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "unknown format"),
        (b"3\nfoo\nSi 0 0 0\nSi a b c\n", "could not convert"),
        (b"0\n\n", "at least one atom"),
        (b"1\n\nQq 0 0 0\n", "Qq"),
        (b"5\n\nSi 0 0 0\n", "frame 0"),
        (b"\x00\x01\x02" * 100, "frame 0"),
        ("1\n\nSi 0 0 0 \u00e5\n".encode("latin-1"), "frame 0|expected"),
    ],
)
def test_bad_content(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.xyz"
    path.write_bytes(content)
    with pytest.raises(StructureFileError, match=message):
        list(read_structures(path))


@pytest.mark.parametrize("name", ["missing.xyz", "bad\0name.xyz", "x" * 5000, "three.xyz@0"])
def test_no_file(three: Path, name: str) -> None:
    with pytest.raises(StructureFileError, match="expected"):
        read_structures(f"{three.parent}/{name}")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(StructureFileError, match="a directory"):
        read_structures(tmp_path)


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    """ASE's oldest trajectory format is a pickle."""

    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "old.trj"
    path.write_bytes(b"PickleTrajectory" + pickle.dumps(Bomb()))
    with pytest.raises(StructureFileError):
        list(read_structures(path))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("index", ["foo", "::0", "1:2:3:4", "", "id=3"])
def test_bad_index(three: Path, index: str) -> None:
    with pytest.raises((ConfigurationError, StructureFileError), match="expected"):
        list(read_structures(three, index))


def test_empty_selection(three: Path) -> None:
    with pytest.raises(StructureFileError, match="at index '7'"):
        list(read_structures(three, "7"))


def test_single_structure(three: Path) -> None:
    assert np.array_equal(read_structure(three).positions, silicon(seed=2).positions)
    with pytest.raises(StructureFileError, match="picks several"):
        read_structure(three, ":")


def _assert_equal(read: Atoms, atoms: Atoms) -> None:
    assert np.array_equal(read.positions, atoms.positions)
    assert np.array_equal(read.cell.array, atoms.cell.array)
    assert np.array_equal(read.pbc, atoms.pbc)
    assert np.array_equal(read.get_momenta(), atoms.get_momenta())
    assert np.array_equal(read.get_masses(), atoms.get_masses())


def test_every_digit_survives(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    atoms = silicon()
    atoms.set_cell(atoms.cell.array + rng.normal(size=(3, 3)) / 7)
    atoms.pbc = (True, False, True)
    atoms.set_momenta(rng.normal(size=(8, 3)) * 10.0 ** rng.integers(-12, 12, (8, 3)))
    atoms.set_masses(rng.uniform(1, 100, 8))
    atoms.info["charge"] = 1 / 3
    forces, energies = rng.normal(size=(8, 3)), rng.normal(size=8)
    stress = rng.normal(size=(3, 3))
    stress = stress + stress.T
    path = tmp_path / "a.extxyz"
    with path.open("w") as file:
        write_frame(
            file,
            atoms,
            arrays={"forces": forces, "energies": energies, "zoo_x": forces},
            info={"energy": -1 / 3, "stress": stress},
        )
    read = ase.io.read(path)
    _assert_equal(read, atoms)
    assert read.info["charge"] == 1 / 3
    assert np.array_equal(read.get_forces(), forces)
    assert np.array_equal(read.get_potential_energies(), energies)
    assert np.array_equal(read.arrays["zoo_x"], forces)
    assert read.get_potential_energy() == -1 / 3
    assert np.array_equal(read.get_stress(voigt=False), stress)


@pytest.mark.parametrize("constraint", [FixAtoms([1, 3]), FixCartesian([2], mask=(1, 0, 0))])
def test_fixed_atoms_survive(tmp_path: Path, constraint: object) -> None:
    atoms = silicon()
    atoms.set_constraint(constraint)
    atoms.set_momenta(np.ones((8, 3)))
    read = ase.io.read(save(tmp_path / "a.extxyz", atoms))
    _assert_equal(read, atoms)
    read.set_momenta(np.full((8, 3), 2.0))
    atoms.set_momenta(np.full((8, 3), 2.0))
    assert np.array_equal(read.get_momenta(), atoms.get_momenta())


def test_nan_is_written_and_read(tmp_path: Path) -> None:
    read = read_structure(save(tmp_path / "a.extxyz", with_nan(silicon())))
    assert np.isnan(read.positions[0, 0])


def test_frame_ranges_stop_at_a_torn_frame(three: Path) -> None:
    text = three.read_bytes()
    ends = [end for _, end in frame_ranges(three)]
    assert ends[-1] == len(text)
    for cut in (1, 20, ends[2] - ends[1] - 1):
        three.write_bytes(text[: len(text) - cut])
        assert [end for _, end in frame_ranges(three)] == ends[:2]
    for tail in (b"-1\n\n", b"99999999999999\nx\n", b"garbage", b"\n\n"):
        three.write_bytes(text + tail)
        assert [end for _, end in frame_ranges(three)] == ends


def test_plain_xyz_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "plain.xyz"
    path.write_text(FRAME * 4)
    assert count_frames(path) == 4
    assert count_frames(tmp_path / "other.cif") is None
