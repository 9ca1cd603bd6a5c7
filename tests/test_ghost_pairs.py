"""Lists over local and ghost atoms against brute force, and against each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ase
import ase.build
import brute_force
import ghost_lists
import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list
from ghost_lists import (
    CPU,
    KINDS,
    SYSTEMS,
    Ghosted,
    csr,
    decoded,
    one_rank,
    require_equal,
    system_of,
)
from pairs_parts import refused

from alchemi_bridge import Cell
from alchemi_bridge.errors import (
    BridgeError,
    BufferAccessError,
    ConfigurationError,
    DeviceMismatchError,
    DtypeError,
    PairListError,
    ShapeError,
)
from alchemi_bridge.native import using
from alchemi_bridge.pairs.ghosts import LAMMPS_NEIGHMASK, GhostPairs, decode_ghosts

#: Farther from the reach than this no engine's rounding goes.
EDGE = 1e-9


def expected(system: Ghosted, reach: float) -> np.ndarray:
    n = system.n_local
    return brute_force.find(system.positions[:n], system.cell, system.pbc, reach).samples


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_one_rank(name: str, kind: str) -> None:
    reach = SYSTEMS[name][3]
    system = system_of(name)
    found = decoded(csr(system, reach, kind), system)
    np.testing.assert_array_equal(found.samples.numpy(), expected(system, reach))
    assert found.reach == reach
    assert len(found) > 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_all_kinds_end_in_the_same(name: str) -> None:
    system, reach = system_of(name, seed=3), SYSTEMS[name][3]
    full, *half = (decoded(csr(system, reach, kind), system) for kind in KINDS)
    for other in half:
        require_equal(full, other)


@pytest.mark.parametrize("kind", KINDS)
def test_atoms_outside_the_cell(kind: str) -> None:
    reach = SYSTEMS["triclinic"][3]
    system = system_of("triclinic", seed=5, spread=2.6)
    found = decoded(csr(system, reach, kind), system)
    np.testing.assert_array_equal(found.samples.numpy(), expected(system, reach))


@pytest.mark.parametrize("seed", range(12))
def test_random_systems(seed: int) -> None:
    rng = np.random.default_rng([17, seed])
    n = int(rng.integers(1, 40))
    cell = np.diag(rng.uniform(2.5, 9.0, 3)) + np.tril(rng.uniform(-1.5, 1.5, (3, 3)), -1)
    cell *= rng.choice([1.0, -1.0])  # left-handed cells are fine
    pbc = tuple(bool(p) for p in rng.integers(0, 2, 3))
    full = np.where(np.array(pbc)[:, None], cell, np.eye(3) * 6.0)
    positions = rng.uniform(-0.3, 1.3, (n, 3)) @ full + rng.uniform(-5.0, 5.0, 3)
    reach = float(rng.uniform(1.5, 4.5))
    system = one_rank(positions, cell, pbc, reach, rng)  # type: ignore[arg-type]
    wanted = expected(system, reach)
    for kind in KINDS:
        found = decoded(csr(system, reach, kind), system)
        np.testing.assert_array_equal(found.samples.numpy(), wanted, err_msg=f"{kind}, {seed}")


CRYSTALS = {"fcc": 5.26, "sc": 4.05, "diamond": 5.43}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crystal", CRYSTALS)
def test_shells_at_the_very_reach(crystal: str, kind: str) -> None:
    """Rounding lists some pairs from one side only: these are left out, and no others."""
    a = CRYSTALS[crystal]
    atoms = ase.build.bulk("Si", crystal, a=a, cubic=True) * (3, 3, 3)
    atoms.positions += [0.1, 0.23, 0.37]
    reach, rng = 2.0 * a, np.random.default_rng(0)
    system = one_rank(atoms.positions, atoms.cell.array, (True, True, True), reach, rng)
    pairs = csr(system, reach, kind)
    found = brute_force.keys(decoded(pairs, system).samples.numpy())
    inside = brute_force.keys(expected(system, reach - EDGE))
    assert inside <= found <= brute_force.keys(expected(system, reach + EDGE))
    if kind == "full":
        listed = set()
        for i in range(system.n_local):
            for j in pairs.neighbors[pairs.starts[i] : pairs.starts[i + 1]]:
                listed.add((i, int(system.owners[j]), *system.images[j].tolist()))
        one_sided = {key for key in listed if brute_force.backward(key) not in listed}
        assert found == listed - one_sided
        assert one_sided
    # of the same list, but said to reach farther, pairs are missing
    if kind != "newton_on":
        error = refused(PairListError, lambda: decoded(replace(pairs, reach=reach + 0.1), system))
        assert "without their reverse" in str(error)


def test_against_ase() -> None:
    reach, system = 3.3, system_of("triclinic", seed=8)
    atoms = ase.Atoms(
        f"H{system.n_local}", system.positions[: system.n_local], cell=system.cell, pbc=True
    )
    first, second, shifts = neighbor_list("ijS", atoms, reach)
    theirs = brute_force.keys(np.column_stack([first, second, shifts]))
    assert brute_force.keys(decoded(csr(system, reach), system).samples.numpy()) == theirs


# --- how arrays may look -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("kind", KINDS)
def test_special_bonds(kind: str, dtype: type) -> None:
    system, reach = system_of("cubic"), 3.1
    plain = csr(system, reach, kind, dtype=dtype)
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 8, len(plain.neighbors)).astype(np.int64) << 29
    flagged = (plain.neighbors.astype(np.int64) | bits).astype(np.uint32)
    marked = flagged.view(np.int32) if dtype == np.int32 else flagged.astype(np.int64)
    assert (marked != plain.neighbors).any()
    found = decoded(replace(plain, neighbors=marked, index_mask=LAMMPS_NEIGHMASK), system)
    require_equal(found, decoded(plain, system))
    refused(PairListError, lambda: decoded(replace(plain, neighbors=marked), system))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [3, 4])
def test_positions_of_any_layout(dtype: type, width: int) -> None:
    system, reach = system_of("triclinic"), SYSTEMS["triclinic"][3]
    pairs = csr(system, reach)
    memory = np.full((system.n_all, width), np.nan, dtype=dtype)
    memory[:, :3] = system.positions
    for view in (memory[:, :3], np.asfortranarray(memory[:, :3])):
        require_equal(decoded(replace(pairs, positions=view), system), decoded(pairs, system))


@pytest.mark.parametrize("seed", range(6))
def test_single_precision_far_from_the_origin(seed: int) -> None:
    """Ghosts that an engine made in float32 are images, however the cell is skewed."""
    rng = np.random.default_rng([5, seed])
    cell = np.diag(rng.uniform(20.0, 200.0, 3)) + np.tril(rng.uniform(-90.0, 90.0, (3, 3)), -1)
    positions = (rng.uniform(-1.0, 2.0, (50, 3)) @ cell).astype(np.float32)
    images = rng.integers(-2, 3, (50, 3))
    images[(images == 0).all(axis=1)] = 1
    ghosts = positions + (images.astype(np.float32) @ cell.astype(np.float32))
    assert ghosts.dtype == np.float32
    n = len(positions)
    everything = np.concatenate([positions, ghosts])
    owners = np.tile(np.arange(n), 2)
    neighbors = np.arange(n, 2 * n)  # every atom has its own image
    pairs = GhostPairs(
        np.arange(n + 1), neighbors, owners, everything, n, full=False, reach=1.0, newton=True
    )
    with using("native"):
        found = decode_ghosts(pairs, n_atoms=n, device=CPU, reach=1.0, cell=Cell.of(cell))
    wanted = {(i, i, *s) for i, s in enumerate(images.tolist())}
    wanted |= {brute_force.backward(key) for key in wanted}
    assert brute_force.keys(found.samples.numpy()) == wanted


def test_rows_in_any_order_and_with_gaps() -> None:
    system, reach = system_of("cubic"), 3.1
    rng = np.random.default_rng(4)
    order = rng.permutation(system.n_local)
    listed = ghost_lists.neighbors_of(system, reach, kind="newton_off", rows=order)
    memory, starts = [], []
    for row in listed:
        memory += [-7] * int(rng.integers(0, 4))
        starts.append(len(memory))
        memory += row.tolist()
    pairs = replace(
        csr(system, reach, "newton_off"),
        starts=np.array(starts),
        counts=np.array([len(row) for row in listed], dtype=np.int32),
        rows=order,
        neighbors=np.array(memory, dtype=np.int32),
    )
    require_equal(decoded(pairs, system), decoded(csr(system, reach), system))
    # the same memory, every second word
    doubled = np.zeros((len(memory), 2), dtype=np.int32)
    doubled[:, 0] = memory
    pairs = replace(pairs, neighbors=doubled[:, 0])
    require_equal(decoded(pairs, system), decoded(csr(system, reach), system))


def test_arrays_stay_as_they_are() -> None:
    system = system_of("small")
    pairs = csr(system, SYSTEMS["small"][3], "newton_off")
    names = ("starts", "neighbors", "owners", "positions")
    before = [getattr(pairs, name).copy() for name in names]
    for name in names:
        getattr(pairs, name).flags.writeable = False
    decoded(pairs, system)
    for name, array in zip(names, before, strict=True):
        np.testing.assert_array_equal(getattr(pairs, name), array)


@pytest.mark.parametrize("kind", KINDS)
def test_no_atoms_and_no_pairs(kind: str) -> None:
    cell = np.eye(3) * 5.0
    for n in (0, 3):
        positions = np.arange(3.0 * n).reshape(n, 3)
        images = np.zeros((n, 3), dtype=int)
        system = Ghosted(np.arange(n), images, np.arange(n), positions, n, cell, (True, True, True))
        found = decoded(csr(system, 0.1, kind), system)
        assert len(found) == 0
        assert found.starts.tolist() == [0] * (n + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_subset(kind: str) -> None:
    system, reach = system_of("small", seed=2), SYSTEMS["small"][3]
    subset = np.array([4, 0, 3])
    found = decoded(csr(system, reach, kind), system, subset=torch.from_numpy(subset))
    wanted = brute_force.find(system.positions[subset], system.cell, system.pbc, reach).samples
    np.testing.assert_array_equal(found.samples.numpy(), wanted)
    # atoms that the model does not see need no row
    if kind == "full":
        found = decoded(
            csr(system, reach, kind, rows=subset), system, subset=torch.from_numpy(subset)
        )
        np.testing.assert_array_equal(found.samples.numpy(), wanted)


# --- bad input -----------------------------------------------------------------------------------


def good(**changes: Any) -> tuple[GhostPairs, Ghosted]:
    system = system_of("cubic")
    kind = changes.pop("kind", "full")
    return replace(csr(system, 3.1, kind), **changes), system


def changed(name: str, place: Any, value: float) -> Any:
    pairs, _ = good()
    array = getattr(pairs, name).copy()
    array[place] = value
    return {name: array}


def swapped_owners() -> dict[str, Any]:
    pairs, system = good()
    owners = pairs.owners.copy()
    owners[system.n_local] = (owners[system.n_local] + 1) % system.n_local
    return {"owners": owners}


PAIRS, SYSTEM = good()
N, ALL, LENGTH = SYSTEM.n_local, SYSTEM.n_all, len(PAIRS.neighbors)
OVER = PAIRS.neighbors.copy()
OVER[5] = 2**29 + OVER[5]

BAD: dict[str, tuple[type[BridgeError], dict[str, Any], str]] = {
    "index too large": (PairListError, changed("neighbors", 7, ALL), f"from 0 to {ALL - 1}"),
    "index negative": (PairListError, changed("neighbors", 7, -1), "indices from -1"),
    "index of 64 bits": (
        PairListError,
        {"neighbors": PAIRS.neighbors.astype(np.int64) + 2**32},
        f"indices from 0 to {ALL - 1}",
    ),
    "flags in the index": (PairListError, {"neighbors": OVER}, "index_mask"),
    "own atom": (PairListError, {"neighbors": np.zeros_like(PAIRS.neighbors)}, "itself"),
    "twice": (
        PairListError,
        {"neighbors": np.full_like(PAIRS.neighbors, ALL - 1)},
        "more than once",
    ),
    "truncated entries": (PairListError, {"neighbors": PAIRS.neighbors[:-3]}, "entries from"),
    "truncated rows": (PairListError, {"starts": PAIRS.starts[:-4]}, "no row among"),
    "no starts": (ShapeError, {"starts": PAIRS.starts[:0]}, "empty array"),
    "starts decrease": (PairListError, changed("starts", 6, 0), "never decrease"),
    "starts negative": (PairListError, changed("starts", 0, -4), "from -4 on"),
    "starts overflow": (
        PairListError,
        {"starts": PAIRS.starts.astype(np.int64) + 2**62},
        "entries from",
    ),
    "negative counts": (
        PairListError,
        {"starts": PAIRS.starts[:-1], "counts": -np.diff(PAIRS.starts)},
        "entries from",
    ),
    "counts too long": (
        PairListError,
        {"starts": PAIRS.starts[:-1], "counts": np.diff(PAIRS.starts) + LENGTH},
        "entries from",
    ),
    "counts of another length": (
        ShapeError,
        {"counts": np.diff(PAIRS.starts)},
        "counts of the pair list",
    ),
    "row of no atom": (PairListError, {"rows": np.arange(N) - 1}, "got -1"),
    "row beyond": (PairListError, {"rows": np.arange(N) + ALL}, f"got {ALL}"),
    "rows repeated": (PairListError, {"rows": np.arange(N) // 2}, "a second row of atom"),
    "rows too short": (ShapeError, {"rows": np.arange(N - 1)}, "rows of the pair list"),
    "owner negative": (PairListError, changed("owners", ALL - 1, -1), f"owner of atom {ALL - 1}"),
    "owner is no atom": (PairListError, changed("owners", ALL - 1, N), f"from 0 to {N - 1}"),
    "owner of a local atom": (PairListError, changed("owners", 3, 4), "since it is local"),
    "wrong owner": (PairListError, swapped_owners(), f"ghost atom {N}"),
    "owners truncated": (ShapeError, {"owners": PAIRS.owners[: N - 1]}, "owners of all local"),
    "positions truncated": (ShapeError, {"positions": SYSTEM.positions[:-1]}, "positions"),
    "positions of integers": (DtypeError, {"positions": PAIRS.positions.astype(int)}, "float"),
    "positions not finite": (PairListError, changed("positions", ALL - 1, np.nan), "nan"),
    "positions far away": (PairListError, changed("positions", ALL - 1, 1e30), "1e+30"),
    "positions of another step": (
        PairListError,
        changed("positions", slice(0, N), 1.0),
        "same pair search",
    ),
    "ghost on its owner": (
        PairListError,
        changed("positions", ALL - 1, SYSTEM.positions[PAIRS.owners[ALL - 1]]),
        "whole cell vectors",
    ),
    "neighbors of floats": (DtypeError, {"neighbors": PAIRS.neighbors * 1.0}, "int32 or int64"),
    "owners of bools": (DtypeError, {"owners": PAIRS.owners > 0}, "int32 or int64"),
    "neighbors of two axes": (ShapeError, {"neighbors": PAIRS.neighbors[:, None]}, "shape"),
    "another device": (
        DeviceMismatchError,
        {"neighbors": torch.empty(LENGTH, dtype=torch.int32, device="meta")},
        "meta",
    ),
    "not an array": (DtypeError, {"owners": [0, 1]}, "list"),
    "misaligned": (
        BufferAccessError,
        {"neighbors": np.zeros(4 * LENGTH + 1, dtype=np.uint8)[1:].view(np.int32)},
        "aligned",
    ),
    "half list as full": (
        PairListError,
        {"kind": "newton_off", "full": True, "newton": None},
        "without their reverse",
    ),
    "full list as newton on": (PairListError, {"full": False, "newton": True}, "more than once"),
    "full list as newton off": (PairListError, {"full": False, "newton": False}, "more than once"),
    "newton off as on": (
        PairListError,
        {"kind": "newton_off", "newton": True},
        "more than once",
    ),
    "newton on as off": (PairListError, {"kind": "newton_on", "newton": False}, "reverse"),
}  # fmt: skip


@pytest.mark.parametrize("way", ["native", "torch"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, way: str) -> None:
    kind, changes, words = BAD[case]
    pairs, system = good(**changes)
    with using(way):
        error = refused(
            kind,
            lambda: decode_ghosts(pairs, n_atoms=N, device=CPU, reach=3.1, cell=system.box()),
        )
    assert words in str(error)


@pytest.mark.parametrize(
    ("n_atoms", "kind", "words"),
    [(N - 1, ShapeError, "owners of all"), (ALL + 1, ShapeError, "owners of all"),
     (N + 1, PairListError, "one of the atoms that the model sees")],
)  # fmt: skip
def test_number_of_atoms(n_atoms: int, kind: type[BridgeError], words: str) -> None:
    call = {"device": CPU, "reach": 3.1, "cell": SYSTEM.box()}
    error = refused(kind, lambda: decode_ghosts(PAIRS, n_atoms=n_atoms, **call))
    assert words in str(error)


def test_another_cell() -> None:
    for cell in (SYSTEM.cell * 1.000001, SYSTEM.cell / 1.5, SYSTEM.cell * 2.0, SYSTEM.cell * 10.0):
        call = {"n_atoms": N, "device": CPU, "reach": 3.1, "cell": Cell.of(cell)}
        refused(PairListError, lambda call=call: decode_ghosts(PAIRS, **call))
    call = {"n_atoms": N, "device": CPU, "reach": 3.1, "cell": Cell.open()}
    refused(PairListError, lambda: decode_ghosts(PAIRS, **call))


@pytest.mark.parametrize(
    "options",
    [
        {"reach": -1.0},
        {"reach": float("nan")},
        {"n_local": -1},
        {"n_local": 2.0},
        {"n_local": True},
        {"full": False},
        {"full": 1},
        {"newton": "off"},
        {"index_mask": 0},
        {"index_mask": -1},
        {"index_mask": 2**33},
        {"index_mask": "NEIGHMASK"},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    refused(ConfigurationError, lambda: replace(PAIRS, **options))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(kind: str) -> None:
    """The same candidates as on the CPU, from arrays that stay on the GPU."""
    device = torch.device("cuda", torch.cuda.current_device())
    system, reach = system_of("triclinic"), SYSTEMS["triclinic"][3]
    pairs = csr(system, reach, kind)
    names = ("starts", "neighbors", "owners", "positions")
    moved = {name: torch.from_numpy(getattr(pairs, name)).to(device) for name in names}
    call = {"n_atoms": system.n_local, "reach": reach, "cell": system.box()}
    found = decode_ghosts(replace(pairs, **moved), device=device, **call)
    here = decode_ghosts(pairs, device=CPU, **call)
    for name in ("starts", "second", "code", "reverse", "table"):
        assert torch.equal(getattr(found, name).cpu(), getattr(here, name)), name
