"""Frames that mean nothing are named when they are read; links and shapes of arrays."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import training_parts

from alchemi_bridge.errors import InputError, OverlapError
from alchemi_bridge.training import find_systems, read_system
from alchemi_bridge.training.overlap import LEAST_DISTANCE, least_height, overlapping

TYPES = ("Cu", "Au")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return training_parts.write_data(tmp_path / "data")


def shortest(x: np.ndarray, cell: np.ndarray) -> float:
    """Over all pairs and the nearest 27 images: enough for the cells that are drawn here."""
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ cell
    i, j = np.triu_indices(len(x), 1)
    vectors = x[j][:, None] - x[i][:, None] + shifts
    return float(np.linalg.norm(vectors, axis=2).min())


def test_overlaps_are_those_of_all_pairs_and_images() -> None:
    random = np.random.default_rng(0)
    seen = []
    for _ in range(300):
        cell = np.diag(random.uniform(2.0, 4.0, 3)) + random.uniform(-0.5, 0.5, (3, 3))
        places = random.uniform(size=(4, 3))
        # an atom near an image of another one
        near = random.normal(scale=0.06, size=3) + random.integers(-1, 2, 3) @ cell
        places[3] = places[0] + near @ np.linalg.inv(cell)
        x = (places - np.floor(places)) @ cell
        # outside of the cell, too
        found = overlapping((x + random.integers(-3, 4, (4, 3)) @ cell)[None], cell[None])
        expected = shortest(x, cell)
        assert (found is not None) == (expected < LEAST_DISTANCE)
        if found is not None:
            assert found[2] == pytest.approx(expected, abs=1e-12)
        seen.append(found is not None)
    assert 50 < sum(seen) < 250


def test_open_boundaries_and_heights() -> None:
    x = np.array([[[0.0, 0, 0], [5, 0, 0]], [[0.0, 0, 0], [0.05, 0, 0]]])
    assert overlapping(x, None) == (1, (0, 1), pytest.approx(0.05))
    assert overlapping(x[:1], None) is None
    cell = np.array([[[2.0, 0, 0], [1.9, 0.5, 0], [0, 0, 3]]])
    # the volume is 3, the largest face, of a and c, 6
    assert least_height(cell)[0] == pytest.approx(0.5)


def test_overlaps_and_tiny_cells_name_file_and_frame(data: Path) -> None:
    path = data / "copper" / "set.000" / "coord.npy"
    x = np.load(path)
    x[2, 3:6] = x[2, 18:21] + 0.02
    np.save(path, x)
    with pytest.raises(OverlapError, match=r"coord\.npy.*atoms 1 and 6 in frame 2"):
        read_system(data / "copper", TYPES)
    path = data / "alloy" / "set.000" / "box.npy"
    np.save(path, np.load(path) * 0.05)
    with pytest.raises(InputError, match=r"box\.npy.*in frame 0"):
        read_system(data / "alloy", TYPES)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("coord", (5, 8, 3)), ("box", (5, 3, 3)), ("force", (24, 5)), ("energy", (1, 5))],
)
def test_other_shapes_are_refused(data: Path, name: str, shape: tuple[int, ...]) -> None:
    path = data / "copper" / "set.000" / f"{name}.npy"
    np.save(path, np.load(path).reshape(shape))
    with pytest.raises(InputError, match=rf"{name}\.npy.*expected the shape \(5, "):
        read_system(data / "copper", TYPES)


def test_energies_may_be_a_plain_row(data: Path) -> None:
    path = data / "copper" / "set.000" / "energy.npy"
    expected = np.load(path)[:, 0]
    np.save(path, expected)
    assert read_system(data / "copper", TYPES).energies.tolist() == expected.tolist()


def test_arrays_and_types_that_are_too_large(data: Path) -> None:
    path = data / "copper" / "set.000" / "energy.npy"
    path.write_bytes(path.read_bytes().replace(b"(5, 1), }        ", b"(99999999999,1),}"))
    with pytest.raises(InputError, match=r"energy\.npy"):
        read_system(data / "copper", TYPES)
    (data / "alloy" / "type.raw").write_text("99999999999999999999 0 0 0")
    with pytest.raises(InputError, match=r"type\.raw"):
        read_system(data / "alloy", TYPES)


def test_links_to_systems_are_followed_once(data: Path) -> None:
    away = data.parent / "away"
    (data / "copper").rename(away)
    (data / "copper").symlink_to(away)
    # a link that leads back
    (data / "loop").symlink_to(data)
    assert find_systems(data) == [data / "alloy", data / "copper"]
    assert read_system(data / "copper", TYPES).n_frames == 5
    other = data.parent / "other"
    other.mkdir()
    (other / "link").symlink_to(data)
    assert [p.name for p in find_systems(other)] == ["alloy", "copper"]
