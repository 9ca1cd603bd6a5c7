"""DeePMD's systems: what is read, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import training_parts
from ase import Atoms
from ase.calculators.emt import EMT
from scipy.spatial.transform import Rotation

from alchemi_bridge.errors import InputError, NonFiniteError
from alchemi_bridge.training import find_systems, read_system
from alchemi_bridge.training.preparation import new_model, resolve
from alchemi_bridge.training.rmse import predict
from alchemi_bridge.training.systems import names_of_types

TYPES = ("Cu", "Au")
#: EMT is computed again from what was read: rounding only.
ROUNDING = 1e-10


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return training_parts.write_data(tmp_path / "data")


def test_systems_are_found_and_read(data: Path) -> None:
    folders = find_systems(data)
    assert [folder.name for folder in folders] == ["alloy", "copper"]
    alloy, copper = (read_system(folder, TYPES) for folder in folders)
    # type_map.raw of the alloy begins with Au
    assert alloy.types.tolist() == [0, 1, 0, 1]
    assert copper.types.tolist() == [0] * 8
    assert (alloy.n_frames, copper.n_frames) == (7, 5)


def test_numbers_mean_what_the_potential_said(data: Path) -> None:
    """Energies, forces and the sign of the virial, against EMT for the structures read."""
    system = read_system(data / "alloy", TYPES)
    assert system.cells is not None
    assert system.virials is not None
    for frame in range(system.n_frames):
        symbols = [TYPES[t] for t in system.types]
        atoms = Atoms(symbols, system.coordinates[frame], cell=system.cells[frame], pbc=True)
        atoms.calc = EMT()
        assert system.energies[frame] == pytest.approx(atoms.get_potential_energy(), abs=ROUNDING)
        np.testing.assert_allclose(system.forces[frame], atoms.get_forces(), atol=ROUNDING)
        strain_derivative = atoms.get_volume() * atoms.get_stress(voigt=False)
        np.testing.assert_allclose(system.virials[frame], strain_derivative, atol=ROUNDING)


def test_energies_may_be_a_column_or_not(data: Path) -> None:
    path = data / "copper" / "set.000" / "energy.npy"
    column = read_system(data / "copper", TYPES)
    assert np.load(path).shape == (5, 1)
    np.save(path, np.load(path)[:, 0])
    np.testing.assert_array_equal(read_system(data / "copper", TYPES).energies, column.energies)


def test_rotated_cells_give_the_same_energies_and_rotated_forces(data: Path) -> None:
    """box.npy holds three rows of a matrix, not lengths of a box along the axes."""
    system = read_system(data / "alloy", TYPES)
    assert system.cells is not None
    rotation = Rotation.random(random_state=np.random.default_rng(3)).as_matrix()
    arrays = {
        "coord": system.coordinates @ rotation,
        "box": system.cells @ rotation,
        "force": system.forces @ rotation,
    }
    for name, array in arrays.items():
        np.save(data / "alloy" / "set.000" / f"{name}.npy", array.reshape(system.n_frames, -1))
    turned = read_system(data / "alloy", TYPES)
    section = training_parts.INPUT["model"]
    model = new_model(resolve(section, [system]), [system], seed=1)
    cutoff = section["descriptor"]["rcut"]
    plain, other = (predict(model, one, cutoff) for one in (system, turned))
    np.testing.assert_allclose(other.energies, plain.energies, atol=ROUNDING)
    np.testing.assert_allclose(other.forces, plain.forces @ rotation, atol=ROUNDING)


def test_only_types_that_are_used_must_be_in_the_model(data: Path) -> None:
    (data / "copper" / "type_map.raw").write_text("Ag\nCu\nPt\n")
    (data / "copper" / "type.raw").write_text("1 " * 8)
    assert read_system(data / "copper", TYPES).types.tolist() == [0] * 8
    assert names_of_types(data / "copper") == {"Cu"}
    (data / "copper" / "type_map.raw").unlink()
    with pytest.raises(InputError, match=r"type_map\.raw.*a name for each type"):
        names_of_types(data / "copper")


@pytest.mark.parametrize("name", ["fparam", "aparam", "real_atom_types", "spin"])
def test_what_labels_may_depend_on_besides_is_refused_by_name(data: Path, name: str) -> None:
    np.save(data / "copper" / "set.000" / f"{name}.npy", np.zeros((5, 8)))
    with pytest.raises(InputError, match="from positions, types and cell alone") as caught:
        read_system(data / "copper", TYPES)
    assert f"{name}.npy" in caught.value.what


def test_several_sets_and_open_boundaries(data: Path) -> None:
    one = data / "copper"
    (one / "set.001").mkdir()
    for path in (one / "set.000").glob("*.npy"):
        np.save(one / "set.001" / path.name, np.load(path)[:2])
    assert read_system(one, TYPES).n_frames == 7
    (one / "nopbc").touch()
    for path in one.glob("set.*/box.npy"):
        path.unlink()
    system = read_system(one, TYPES)
    assert system.cells is None
    # there is no strain without a cell
    assert system.virials is None


def _spoil(folder: Path, what: str) -> None:
    path = folder / "set.000"
    if what == "missing":
        (path / "force.npy").unlink()
    elif what == "ragged":
        rows = np.empty(5, dtype=object)
        rows[:] = [np.zeros(24)] * 4 + [np.zeros(21)]
        np.save(path / "force.npy", rows, allow_pickle=True)
    elif what == "other atoms":
        np.save(path / "coord.npy", np.zeros((5, 21)))
    elif what == "fewer frames":
        np.save(path / "energy.npy", np.zeros(4))
    elif what == "text":
        (path / "box.npy").write_text("1 2 3")
    elif what == "nan":
        energies = np.load(path / "energy.npy")
        energies[3] = np.nan
        np.save(path / "energy.npy", energies)
    elif what == "type map":
        (folder / "type_map.raw").write_text("Ag")
    elif what == "no name":
        (folder / "type.raw").write_text("0 0 0 0 0 0 0 1")
    elif what == "no types":
        (folder / "type.raw").write_text("Cu " * 8)
    elif what == "no set":
        path.rename(folder / "other")
    elif what == "virial in one set":
        (folder / "set.001").mkdir()
        for one in path.glob("*.npy"):
            if one.name != "virial.npy":
                np.save(folder / "set.001" / one.name, np.load(one))
    elif what == "flat":
        np.save(path / "box.npy", np.zeros((5, 9)))


@pytest.mark.parametrize(
    ("what", "file", "expected"),
    [
        ("missing", "force.npy", "a file"),
        ("ragged", "force.npy", "a row for each frame"),
        ("other atoms", "coord.npy", "(5, 24) for 8 atoms"),
        ("fewer frames", "energy.npy", "(5, 1)"),
        ("text", "box.npy", "an array of numbers"),
        ("type map", "type_map.raw", "types of model.type_map (Cu, Au)"),
        ("no name", "type_map.raw", "a name for each of the 2 types"),
        ("no types", "type.raw", "an integer from 0 for each atom"),
        ("no set", "copper", "folders set.*"),
        ("virial in one set", "set.001", "virial.npy in every set"),
        ("flat", "copper", "cells with a volume"),
    ],
)
def test_bad_systems_name_file_and_expectation(
    data: Path, what: str, file: str, expected: str
) -> None:
    _spoil(data / "copper", what)
    with pytest.raises(InputError) as caught:
        read_system(data / "copper", TYPES)
    assert file in caught.value.what
    assert expected in caught.value.expected


def test_nan_names_file_and_frame(data: Path) -> None:
    _spoil(data / "copper", "nan")
    with pytest.raises(NonFiniteError, match=r"energy\.npy.* in frame 3"):
        read_system(data / "copper", TYPES)


def test_a_folder_without_systems(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no type\.raw"):
        find_systems(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_systems(tmp_path / "none")
