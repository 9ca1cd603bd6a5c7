"""Golden pair lists: every way in ends at the same neighbours, up to the blocks in the model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import ase.neighborlist
import brute_force
import echo
import make_golden
import metatomic.torch
import numpy as np
import pytest
import torch
from metatensor.torch import TensorBlock
from metatomic.torch import NeighborListOptions, System

from alchemi_bridge.cell import Cell
from alchemi_bridge.geometry import Geometry
from alchemi_bridge.neighbors import neighbor_block
from alchemi_bridge.pairs import Pairs, Search, decode, find_pairs

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))

#: Rounding of ``x_j - x_i + S @ cell`` in float64, relative to the largest number that enters:
#: five operations of 1.1e-16 each, and as many in the expected value.
VECTOR_TOLERANCE = 1e-14

#: Relative rounding of a float32 coordinate difference: 2^-24 per coordinate and operation.
FLOAT32_TOLERANCE = 1e-6

#: How far handed lists and searches reach beyond the cutoff.
SKIN = 0.8


@dataclass(frozen=True)
class Golden:
    """One of the files."""

    positions: np.ndarray
    cell: Cell
    cutoff: float
    full_list: bool
    samples: np.ndarray
    vectors: np.ndarray

    @property
    def request(self) -> tuple[float, bool, bool]:
        """What the model asks for."""
        return self.cutoff, self.full_list, True

    @property
    def scale(self) -> float:
        """Largest number that enters a pair vector."""
        images = np.abs(self.samples[:, 2:] @ self.cell.vectors)
        return max(1.0, float(np.abs(self.positions).max()), float(images.max(initial=0.0)))

    def all_pairs(self, cutoff: float) -> brute_force.PairSet:
        """Both directions, up to another cutoff."""
        return brute_force.find(self.positions, self.cell.vectors, self.cell.pbc, cutoff)

    def expected(self) -> set[brute_force.Key]:
        """The pairs as a set; for a half list one that ignores the direction."""
        as_set = brute_force.keys if self.full_list else brute_force.one_direction
        return as_set(self.samples)


def load(name: str) -> Golden:
    data = json.loads((FOLDER / f"{name}.json").read_text())
    system, expected = data["system"], data["expected-neighbors"]
    return Golden(
        positions=np.array(system["positions"], dtype=np.float64).reshape(-1, 3),
        cell=Cell.of(system["cell"], system["pbc"]),
        cutoff=data["options"]["cutoff"],
        full_list=data["options"]["full_list"],
        samples=np.array(expected["samples"], dtype=np.int64).reshape(-1, 5),
        vectors=np.array(expected["distances"], dtype=np.float64).reshape(-1, 3),
    )


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


@pytest.fixture(params=[name for name in NAMES if not name.startswith("empty")])
def with_atoms(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


def ways_in(golden: Golden) -> dict[str, Pairs]:
    """Everything that an engine could hand over for this system."""
    exact, wide = golden.all_pairs(golden.cutoff), golden.all_pairs(golden.cutoff + SKIN)
    return {
        "search": Search(0.0),
        "search with a skin": Search(SKIN),
        "full": echo.full_pairs(exact, golden.cutoff),
        "full with a skin": echo.full_pairs(wide, golden.cutoff + SKIN),
        "half": echo.half_pairs(exact, golden.cutoff),
        "half with a skin": echo.half_pairs(wide, golden.cutoff + SKIN),
    }


WAYS = ["search", "search with a skin", "full", "full with a skin", "half", "half with a skin"]


def require_equal(golden: Golden, samples: np.ndarray, vectors: np.ndarray) -> None:
    """The pairs are the expected ones, each once, with the expected vectors."""
    as_set = brute_force.keys if golden.full_list else brute_force.one_direction
    assert as_set(samples) == golden.expected()
    known = dict(zip(map(tuple, golden.samples.tolist()), golden.vectors, strict=True))
    for key, vector in zip(map(tuple, samples.tolist()), vectors, strict=True):
        expected = known[key] if key in known else -known[brute_force.backward(key)]
        np.testing.assert_allclose(vector, expected, rtol=0, atol=VECTOR_TOLERANCE * golden.scale)


def require_metadata(block: TensorBlock, dtype: torch.dtype) -> None:
    """What metatomic asks of a neighbour list."""
    assert block.samples.names == [
        "first_atom",
        "second_atom",
        "cell_shift_a",
        "cell_shift_b",
        "cell_shift_c",
    ]
    assert block.samples.values.dtype == torch.int32
    (component,) = block.components
    assert component.names == ["xyz"]
    assert component.values.tolist() == [[0], [1], [2]]
    assert component.values.dtype == torch.int32
    assert block.properties.names == ["distance"]
    assert block.properties.values.tolist() == [[0]]
    assert block.values.shape == (len(block.samples), 3, 1)
    assert block.values.dtype == dtype


# --- the files themselves -------------------------------------------------------------------------


def test_files_are_those_of_the_oracle() -> None:
    cases = {case.name: case for case in make_golden.cases()}
    assert sorted(cases) == NAMES
    for name, case in cases.items():
        fresh, golden = make_golden.document(case), load(name)
        assert fresh["expected-neighbors"]["samples"] == golden.samples.tolist(), name
        np.testing.assert_allclose(
            np.array(fresh["expected-neighbors"]["distances"]).reshape(-1, 3),
            golden.vectors,
            rtol=0,
            atol=1e-13,
        )


def test_oracle_counts_the_shells_of_fcc() -> None:
    # 12 neighbours at a/sqrt(2), 6 at a, 24 at a sqrt(3/2)
    distances = np.sort(np.round(load("fcc-full").all_pairs(4.5).distances / 3.6, 9))
    values, counts = np.unique(distances, return_counts=True)
    np.testing.assert_allclose(values, np.sqrt([0.5, 1.0, 1.5]), atol=1e-9)
    assert counts.tolist() == [12, 6, 24]


def test_oracle_agrees_with_ase(with_atoms: Golden) -> None:
    first, second, shifts = ase.neighborlist.primitive_neighbor_list(
        "ijS",
        with_atoms.cell.pbc,
        with_atoms.cell.completed,
        with_atoms.positions,
        with_atoms.cutoff,
    )
    theirs = brute_force.keys(np.column_stack([first, second, shifts]))
    ours = with_atoms.all_pairs(with_atoms.cutoff).keys()
    assert theirs == ours
    assert with_atoms.expected() <= ours


def test_oracle_refuses_repeated_pairs() -> None:
    with pytest.raises(ValueError, match="more than once"):
        brute_force.keys(np.array([[0, 1, 0, 0, 0]] * 2))
    with pytest.raises(ValueError, match="both directions"):
        brute_force.one_direction(np.array([[0, 1, 0, 0, 1], [1, 0, 0, 0, -1]]))


def test_the_kinds_of_systems_are_all_there() -> None:
    systems = [load(name) for name in NAMES]
    assert any(np.linalg.det(s.cell.vectors) < 0 for s in systems)
    assert any(np.isfinite(s.cell.heights).all() and min(s.cell.heights) < 2 for s in systems)
    assert {sum(s.cell.pbc) for s in systems} == {0, 1, 2, 3}
    assert {s.full_list for s in systems} == {True, False}
    assert any(
        len(s.positions) and np.abs(s.positions @ s.cell.inverse).max() > 20 for s in systems
    )
    assert any(len(s.positions) == 0 for s in systems)


# --- every way in ---------------------------------------------------------------------------------


def test_candidates_of_the_search(golden: Golden) -> None:
    found = find_pairs(torch.from_numpy(golden.positions), golden.cell, golden.cutoff)
    assert brute_force.keys(found.samples.numpy()) == golden.all_pairs(golden.cutoff).keys()
    if not golden.full_list:
        half = found.samples[found.canonical]
        assert brute_force.one_direction(half.numpy()) == golden.expected()


@pytest.mark.parametrize("kind", [echo.full_pairs, echo.half_pairs])
def test_candidates_of_a_list(golden: Golden, kind: object) -> None:
    pairs = kind(golden.all_pairs(golden.cutoff), golden.cutoff)
    found = decode(
        pairs,
        n_atoms=len(golden.positions),
        device=torch.device("cpu"),
        reach=golden.cutoff,
        cell=golden.cell,
    )
    assert brute_force.keys(found.samples.numpy()) == golden.all_pairs(golden.cutoff).keys()
    assert found.reach == golden.cutoff


@pytest.mark.parametrize("way", WAYS)
def test_blocks_of_a_step(golden: Golden, way: str) -> None:
    """Also without atoms, where a provider does not ask the model."""
    loaded = echo.loaded(golden.request)
    geometry = Geometry(loaded, n_atoms=len(golden.positions), subset=None, length=1.0)
    geometry.set_pairs(ways_in(golden)[way], golden.cell)
    (pairs,) = geometry.step(torch.from_numpy(golden.positions), None).pairs
    block = neighbor_block(pairs.samples, pairs.vectors.unsqueeze(-1))
    require_metadata(block, torch.float64)
    require_equal(golden, echo.samples_of(block), block.values.squeeze(-1).numpy())
    _require_accepted_by_metatomic(golden, block)


def _require_accepted_by_metatomic(golden: Golden, block: TensorBlock) -> None:
    n_atoms = len(golden.positions)
    system = System(
        types=torch.full((n_atoms,), 18, dtype=torch.int32),
        positions=torch.from_numpy(golden.positions).requires_grad_(True),
        cell=torch.from_numpy(golden.cell.vectors.copy()).requires_grad_(True),
        pbc=torch.tensor(golden.cell.pbc),
    )
    # its own check: vectors against positions, shifts and cell, pair by pair
    metatomic.torch.register_autograd_neighbors(system, block, check_consistency=True)
    options = NeighborListOptions(golden.cutoff, golden.full_list, True)
    system.add_neighbor_list(options, block)
    assert len(system.get_neighbor_list(options).samples) == len(golden.samples)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_model_receives(with_atoms: Golden, way: str) -> None:
    (block,) = echo.received(
        echo.loaded(with_atoms.request),
        with_atoms.positions,
        ways_in(with_atoms)[way],
        with_atoms.cell,
    )
    require_metadata(block, torch.float64)
    require_equal(with_atoms, echo.samples_of(block), block.values.squeeze(-1).numpy())


def test_what_a_model_from_a_file_receives(tmp_path: Path) -> None:
    golden = load("slanted-half")
    path = tmp_path / "echo.pt"
    echo.make((golden.request,)).save(str(path))
    for pairs in ways_in(golden).values():
        (block,) = echo.received(path, golden.positions, pairs, golden.cell)
        require_metadata(block, torch.float64)
        require_equal(golden, echo.samples_of(block), block.values.squeeze(-1).numpy())


@pytest.mark.parametrize("way", WAYS)
def test_subset(with_atoms: Golden, way: str) -> None:
    """Some of the atoms, in another order: the pairs among them, renumbered."""
    n_atoms = len(with_atoms.positions)
    subset = np.random.default_rng(n_atoms).permutation(n_atoms)[: max(1, n_atoms - 1)]
    (block,) = echo.received(
        echo.loaded(with_atoms.request),
        with_atoms.positions,
        ways_in(with_atoms)[way],
        with_atoms.cell,
        subset=subset,
    )
    inside = np.isin(with_atoms.samples[:, :2], subset).all(axis=1)
    place = np.full(n_atoms, -1)
    place[subset] = np.arange(len(subset))
    samples = with_atoms.samples[inside].copy()
    samples[:, :2] = place[samples[:, :2]]
    part = Golden(
        with_atoms.positions[subset],
        with_atoms.cell,
        with_atoms.cutoff,
        with_atoms.full_list,
        samples,
        with_atoms.vectors[inside],
    )
    require_equal(part, echo.samples_of(block), block.values.squeeze(-1).numpy())


@pytest.mark.parametrize("way", ["search with a skin", "full", "half with a skin"])
@pytest.mark.parametrize("engine_dtype", [np.float32, np.float64])
def test_float32_model(with_atoms: Golden, way: str, engine_dtype: type) -> None:
    """No pair of the golden lists is near enough to the cutoff for float32 to tell otherwise."""
    positions = with_atoms.positions.astype(engine_dtype)
    (block,) = echo.received(
        echo.loaded(with_atoms.request, dtype="float32"),
        positions,
        ways_in(with_atoms)[way],
        with_atoms.cell,
        # metatomic compares with vectors that it makes from float32 positions itself
        check_consistency=with_atoms.scale < 50.0,
    )
    require_metadata(block, torch.float32)
    as_set = brute_force.keys if with_atoms.full_list else brute_force.one_direction
    samples = echo.samples_of(block)
    assert as_set(samples) == with_atoms.expected()
    expected = (
        positions[samples[:, 1]].astype(np.float64)
        - positions[samples[:, 0]]
        + samples[:, 2:] @ with_atoms.cell.vectors
    )
    # a float64 engine keeps its digits: only the difference is rounded
    scale = with_atoms.scale if engine_dtype is np.float32 else 1.0
    np.testing.assert_allclose(
        block.values.squeeze(-1).numpy(), expected, rtol=0, atol=FLOAT32_TOLERANCE * scale
    )


def test_another_length_unit(with_atoms: Golden) -> None:
    """An engine in angstrom, a model in nanometres."""
    cutoff, full_list, strict = with_atoms.request
    loaded = echo.loaded((cutoff / 10.0, full_list, strict), length_unit="nm")
    for pairs in ways_in(with_atoms).values():
        (block,) = echo.received(loaded, with_atoms.positions, pairs, with_atoms.cell)
        vectors = 10.0 * block.values.squeeze(-1).numpy()
        require_equal(with_atoms, echo.samples_of(block), vectors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_a_model_on_a_gpu_receives(with_atoms: Golden, way: str, dtype: str) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    pairs = ways_in(with_atoms)[way]
    if not isinstance(pairs, Search):
        pairs = type(pairs)(
            torch.from_numpy(pairs.first).to(device),
            torch.from_numpy(pairs.second).to(device),
            torch.from_numpy(pairs.shifts).to(device),
            pairs.reach,
        )
    (block,) = echo.received(
        echo.loaded(with_atoms.request, dtype=dtype, device="cuda"),
        torch.from_numpy(with_atoms.positions).to(device),
        pairs,
        with_atoms.cell,
        check_consistency=False,
    )
    assert block.values.device == device
    require_metadata(block, getattr(torch, dtype))
    as_set = brute_force.keys if with_atoms.full_list else brute_force.one_direction
    assert as_set(echo.samples_of(block)) == with_atoms.expected()
    if dtype == "float64":
        vectors = block.values.squeeze(-1).cpu().numpy()
        require_equal(with_atoms, echo.samples_of(block), vectors)
