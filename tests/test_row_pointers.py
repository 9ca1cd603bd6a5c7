"""Ghost lists whose rows are told by address, as LAMMPS tells them, and margins of atoms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ghost_lists import (
    CPU,
    GRIDS,
    SYSTEMS,
    Ghosted,
    csr,
    decoded,
    one_of_several,
    ranks,
    require_equal,
    system_of,
)
from kernel_parts import KERNEL_WAYS
from pairs_parts import refused

from alchemi_bridge import Cell, MetatomicForceProvider, Units
from alchemi_bridge.contract import Atoms, ForceBuffers, Step
from alchemi_bridge.errors import (
    BufferAccessError,
    DtypeError,
    NonFiniteError,
    PairListError,
    ShapeError,
)
from alchemi_bridge.native import using
from alchemi_bridge.pairs.ghosts import LAMMPS_NEIGHMASK, GhostPairs
from alchemi_bridge.pairs.row_pointers import RowPointers, copied_to

#: An address that nobody may read.
NOWHERE = 8


class Pages:
    """Rows in allocations of their own, made in random order, with an entry more that is rubbish.

    ``table`` is LAMMPS' ``firstneigh``, ``numbers`` its ``numneigh``; places of atoms without a row
    hold what must not be read.
    """

    def __init__(
        self, listed: dict[int, np.ndarray], n_all: int, seed: int = 0, flags: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        self.table = np.full(max(n_all, 1), NOWHERE, dtype=np.int64)
        self.numbers = np.zeros(n_all, dtype=np.int32)
        self.kept = []
        for atom in rng.permutation(sorted(listed)).tolist():
            page = np.full(len(listed[atom]) + 1 + rng.integers(50), -(2**31), dtype=np.int32)
            page[: len(listed[atom])] = listed[atom]
            if flags:
                page[: len(listed[atom])] |= rng.integers(0, 4, len(listed[atom])) << 29
            self.kept.append(page)
            self.numbers[atom] = len(listed[atom])
            self.table[atom] = page.ctypes.data if len(listed[atom]) else NOWHERE

    @property
    def pointers(self) -> RowPointers:
        return RowPointers(self.table.ctypes.data)


def by_address(pairs: GhostPairs, n_all: int, **options: Any) -> tuple[GhostPairs, Pages]:
    """The same list with rows by address."""
    n_rows = len(pairs.starts) - 1
    rows = range(n_rows) if pairs.rows is None else pairs.rows.tolist()
    entries = np.split(pairs.neighbors, pairs.starts[1:-1]) if n_rows else []
    pages = Pages(dict(zip(rows, entries, strict=True)), n_all, **options)
    counts = pages.numbers[:n_rows] if pairs.rows is None else pages.numbers
    return replace(pairs, starts=None, neighbors=pages.pointers, counts=counts), pages


@pytest.mark.parametrize("kind", ["full", "newton_off", "newton_on"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_same_candidates(name: str, kind: str) -> None:
    """Compiled and not, of every shape of cell."""
    system = system_of(name, seed=3)
    pairs = csr(system, SYSTEMS[name][3], kind)
    other, pages = by_address(pairs, system.n_all)
    require_equal(decoded(other, system), decoded(pairs, system))
    assert len(pages.kept) == system.n_local


def test_rows_in_any_order_and_with_flags() -> None:
    """LAMMPS' ``ilist``, and special bonds in the highest bits."""
    system = system_of("triclinic", seed=1)
    rows = np.random.default_rng(8).permutation(system.n_local)
    pairs = csr(system, 3.3, rows=rows)
    other, pages = by_address(pairs, system.n_all, seed=4, flags=1)
    masked = replace(other, index_mask=LAMMPS_NEIGHMASK)
    require_equal(decoded(masked, system), decoded(pairs, system))
    assert any((page < 0).any() for page in pages.kept)
    for dtype in (np.int64, np.int32):
        counted = replace(masked, counts=pages.numbers.astype(dtype), rows=rows.astype(dtype))
        require_equal(decoded(counted, system), decoded(pairs, system))


@pytest.mark.parametrize("grid", GRIDS)
def test_rows_of_some_ghosts(grid: str) -> None:
    """One rank of several; others have no row, and nothing at their address."""
    reach, rng = SYSTEMS["cubic"][3], np.random.default_rng(2)
    for rank in ranks("cubic", GRIDS[grid], 2.0 * reach, seed=2)[:2]:
        some = rng.random(rank.n_all) < 0.5
        some[: rank.n_local] = True
        rows = rng.permutation(np.flatnonzero(some))
        pairs = csr(rank, reach, rows=rows)
        other, pages = by_address(pairs, rank.n_all)
        options = {"n_atoms": rank.n_all, "subset": torch.from_numpy(rank.atoms)}
        require_equal(decoded(other, rank, **options), decoded(pairs, rank, **options))
        # counts up to the last atom with a row are enough
        short = replace(other, counts=pages.numbers[: rows.max() + 1])
        require_equal(decoded(short, rank, **options), decoded(pairs, rank, **options))


def test_nothing_to_read() -> None:
    """No atoms, no rows, and rows without entries: addresses are not looked at."""
    system = system_of("molecule")
    nothing = {atom: np.zeros(0, dtype=np.int32) for atom in range(system.n_local)}
    pages = Pages(nothing, system.n_all)
    empty = replace(csr(system, 3.0), starts=None, neighbors=pages.pointers, counts=pages.numbers)
    assert len(decoded(empty, system)) == 0
    assert len(decoded(replace(empty, neighbors=RowPointers(pages.table.ctypes.data)), system)) == 0
    for rows in (None, np.zeros(0, dtype=np.int32)):
        none = replace(empty, counts=np.zeros(0, dtype=np.int32), rows=rows, n_local=0)
        nobody = replace(none, owners=np.zeros(0, dtype=np.int32), positions=np.zeros((0, 3)))
        gone = Ghosted(
            system.tags[:0], system.images[:0], system.owners[:0], system.positions[:0], 0,
            system.cell, system.pbc,
        )  # fmt: skip
        for address in (0, NOWHERE):
            found = decoded(replace(nobody, neighbors=RowPointers(address)), gone)
            assert len(found) == 0


@pytest.mark.parametrize("way", KERNEL_WAYS)
def test_what_can_be_seen_to_be_wrong(way: str) -> None:
    system = system_of("cubic")
    pairs, pages = by_address(csr(system, 3.1), system.n_all)

    def error(kind: type, **changes: Any) -> str:
        with using(way):
            return str(refused(kind, lambda: decoded(replace(pairs, **changes), system)))

    for address in (0, 6, -8):
        table = pages.table.copy()
        table[7] = address
        said = error(BufferAccessError, neighbors=RowPointers(table.ctypes.data))
        assert "row pointer of atom 7" in said
        assert f"{address:#x}" in said
    assert "null pointer" in error(BufferAccessError, neighbors=RowPointers(0))
    assert "row pointers" in error(BufferAccessError, neighbors=RowPointers(12))
    for count in (-1, 2**31, -(2**40), 2**32 + 3):
        counts = pages.numbers[: system.n_local].astype(np.int64)
        counts[5] = count
        assert f"got {count}" in error(PairListError, counts=counts)
    rows = np.arange(system.n_local)
    few = pages.numbers[: system.n_local - 2]
    assert "row of atom" in error(PairListError, rows=rows, counts=few)
    for atom in (-1, system.n_all):
        wrong = rows.copy()
        wrong[3] = atom
        error(PairListError, rows=wrong)
    error(PairListError, rows=np.zeros_like(rows))
    error(DtypeError, counts=pages.numbers.astype(np.float64))
    error(ShapeError, counts=pages.numbers[:, None])
    page = pages.kept[0]
    atom = int(np.flatnonzero(pages.table == page.ctypes.data)[0])
    page[0] = system.n_all
    assert f"{system.n_all}" in error(PairListError)
    page[0] = atom
    error(PairListError)
    refused(PairListError, lambda: replace(pairs, counts=None))


def test_copies_for_another_device() -> None:
    """No kernel of a GPU follows addresses of the host; so does the way without a compiler."""
    system = system_of("slab")
    pairs, pages = by_address(csr(system, 3.0), system.n_all)
    atoms, counts = torch.arange(system.n_local), torch.from_numpy(pages.numbers)
    there = pages.pointers.rows(atoms, counts[: system.n_local], -1)
    copies = copied_to(there, CPU)
    assert len(copies.entries) == int(pages.numbers.sum())
    assert type(copies) is not type(there)
    for found, wanted in zip(copies.expanded(), there.expanded(), strict=True):
        assert torch.equal(found, wanted)
    moved = copied_to(there, torch.device("meta"))
    for name in ("atoms", "begin", "counts", "entries"):
        assert getattr(moved, name).device.type == "meta"
    assert copied_to(copies, CPU).entries.data_ptr() == copies.entries.data_ptr()
    assert pairs.counts is not None


# --- margins -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pointers", [False, True])
def test_margins_of_what_the_model_sees(pointers: bool) -> None:
    """In the model's unit, in the order of the subset, and copied."""
    rank = ranks("cubic", GRIDS["two along x"], 6.2, seed=2)[0]
    margin = np.random.default_rng(1).uniform(-5.0, 5.0, rank.n_all)
    margin[:3] = math.inf, -math.inf, 0.0
    pairs = csr(rank, 3.1, rows=np.arange(rank.n_all), margin=margin)
    if pointers:
        pairs, _pages = by_address(pairs, rank.n_all)
    subset = torch.from_numpy(np.random.default_rng(3).permutation(rank.atoms))
    options = {"n_atoms": rank.n_all, "subset": subset}
    for reach in (3.1, 31.0):  # a model that counts in tenths
        found = decoded(pairs, rank, reach=reach, **options)
        assert found.margin is not None
        wanted = margin[subset.numpy()] * (reach / 3.1)
        np.testing.assert_allclose(found.margin.numpy(), wanted, rtol=1e-15)
        kept = found.margin.clone()
    margin[:] = 0.0
    assert torch.equal(found.margin, kept)
    system = system_of("cubic")
    own = np.arange(float(system.n_all))
    found = decoded(csr(system, 3.1, margin=own), system)
    assert found.margin is not None
    np.testing.assert_array_equal(found.margin.numpy(), own[: system.n_local])


def test_rows_that_are_dropped() -> None:
    """Those below the cutoff and no others; half lists keep pairs with a row of interest."""
    system = system_of("triclinic", seed=5)
    margin = np.random.default_rng(2).uniform(1.0, 5.0, system.n_all)
    margin[4] = 3.0  # exactly the cutoff: kept
    found = decoded(csr(system, 3.3, margin=margin), system)
    rows = margin[: system.n_local] >= 3.0
    assert rows[4]
    first, second = found.first.numpy(), found.second.numpy()
    for full_list, wanted in ((True, rows[first]), (False, rows[first] | rows[second])):
        interest = found.of_interest(3.0, full_list)
        assert interest is not None
        np.testing.assert_array_equal(interest.numpy(), wanted)
        assert 0 < interest.sum() < len(interest)


def third_of_a_bar() -> Ghosted:
    """One rank of three, with halo atoms that are far away from its own."""
    rng, cell = np.random.default_rng(12), np.diag([24.0, 8.0, 8.0])
    return one_of_several(
        rng.random((150, 3)) @ cell, cell, (True, True, True), low=np.zeros(3),
        high=np.array([1 / 3, 1.0, 1.0]), halo=9.0, rng=rng,
    )  # fmt: skip


@pytest.mark.parametrize("pointers", [False, True])
@pytest.mark.parametrize("unit", ["angstrom", "nm"])
def test_margins_through_a_provider(unit: str, pointers: bool, model_file: Any) -> None:
    """Rows that no message comes from are not evaluated, and what is left is the same."""
    length = 0.1 if unit == "nm" else 1.0
    model = model_file("message-passing", cutoff=3.0, types=[18], n_layers=2)
    rank = third_of_a_bar()
    provider = MetatomicForceProvider(model, units=Units(unit, "eV"), device="cpu", tuning=False)
    needs = provider.requirements
    home = rank.positions[: rank.n_local]
    distance = np.linalg.norm(rank.positions[:, None] - home[None], axis=2).min(axis=1)
    # the nearest image counts: an atom's row has the pairs of all of them
    away = np.full(rank.n_all, np.inf)
    np.minimum.at(away, rank.owners, distance)
    cell = Cell.of(rank.cell * length, rank.pbc)
    found, rows = [], []
    for margin in (None, needs.halo_range - away * length, np.full(rank.n_all, -1.0)):
        pairs = csr(rank, 3.0, rows=np.arange(rank.n_all))
        if pointers:
            pairs, _pages = by_address(pairs, rank.n_all)
        pairs = replace(
            pairs, positions=rank.positions * length, reach=needs.pair_range, margin=margin
        )
        types, mine = np.full(rank.n_all, 18), np.arange(rank.n_local)
        provider.set_atoms(Atoms(types, subset=rank.atoms, selected=mine))
        provider.set_pairs(pairs, cell)
        out = {"forces": np.zeros((rank.n_all, 3)), "energy": np.zeros(1)}
        provider.compute(Step(rank.positions * length), ForceBuffers(**out)).synchronize()
        found.append(out)
        rows.append(provider.rows)
    seen = np.isin(np.arange(rank.n_all), rank.atoms)
    listed = np.diff(csr(rank, 3.0, rows=np.arange(rank.n_all)).starts)
    assert rows[1:] == [listed[seen & (away <= 3.0)].sum(), 0]
    assert rows[0] >= listed[seen].sum() > rows[1]  # some pairs at the rim get their way back
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-10, atol=1e-10)
    assert abs(found[2]["energy"][0] - found[0]["energy"][0]) > 1e-6


def test_margins_that_are_none() -> None:
    system = system_of("cubic")
    for margin, kind in (
        (np.ones(system.n_all - 1), ShapeError),
        (np.ones((system.n_all, 1)), ShapeError),
        (np.ones(system.n_all, dtype=np.float32), DtypeError),
        (np.full(system.n_all, np.nan), NonFiniteError),
    ):
        bad = csr(system, 3.1, margin=margin)
        assert "margin" in str(refused(kind, lambda bad=bad: decoded(bad, system)))
