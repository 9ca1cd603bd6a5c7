"""Cluster pair lists against brute force, ASE and each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ase
import brute_force
import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list
from cluster_parts import (
    CPU,
    WAYS,
    Golden,
    expected,
    golden,
    in_one_frame,
    on_device,
    pruned,
    require_equal,
    require_same,
    where,
)
from kernel_parts import DEVICES, LAYOUTS, both_ways, same_bits, threads

from alchemi_bridge.cell import Cell
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.native import using
from alchemi_bridge.pairs import cluster_arrays, cluster_checks, cluster_rows
from alchemi_bridge.pairs.clusters import ClusterPairs, decode_clusters

#: Number of entries in both directions, where it is known from an independent converter.
COUNTS = {
    ("argon216", 0.6): 3870,
    ("argon216", 0.9): 10302,
    ("argon216", 1.05): 17280,
    ("argon216-triclinic", 0.6): 2740,
    ("argon216-triclinic", 0.9): 10238,
    ("argon216-triclinic", 1.05): 17168,
    ("argon27-small-box", 0.58): 388,
}
CUTOFFS = [
    *COUNTS,
    ("argon27-small-box", 0.3),
    *((name, r) for name in ("water648", "water648-all-excluded") for r in (0.2, 0.6, 0.9)),
]

#: Entries that are lost where the mask of the first half is read for all eight j atoms, after
#: pruning at a radius.
LOST_WITH_ONE_HALF = {(0.6, 0.6): 376, (0.6, 0.8): 270, (0.6, 1.0): 120, (1.05, 1.05): 1220}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[1, 2])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    with threads(request.param):
        yield


def up_to(file: Golden, cutoff: float) -> float:
    """The radius of a file is 1.05 in float32."""
    return min(cutoff, file.rlist)


# --- lists of GROMACS ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cutoff"), CUTOFFS)
def test_golden_lists(device: str, name: str, cutoff: float) -> None:
    file = golden(name)
    reach = up_to(file, cutoff)
    native, reference = both_ways(lambda: file.decoded(reach, device))
    wanted = expected(name).within(reach).keys()
    require_same(native, wanted)
    require_equal(native, reference)
    assert len(native) == COUNTS.get((name, cutoff), len(wanted))
    assert native.reach == reach


@pytest.mark.parametrize("name", ["argon216", "argon216-triclinic", "argon27-small-box"])
def test_golden_lists_against_ase(name: str) -> None:
    file = golden(name)
    atoms = ase.Atoms(
        numbers=np.ones(file.n_atoms), positions=file.positions, cell=file.box, pbc=True
    )
    i, j, shifts = neighbor_list("ijS", atoms, 0.55)
    require_same(file.decoded(0.55), brute_force.keys(np.column_stack([i, j, shifts])))


@pytest.mark.parametrize(("cutoff", "radius"), LOST_WITH_ONE_HALF)
@pytest.mark.parametrize("way", WAYS)
def test_pruned_masks(way: str, cutoff: float, radius: float) -> None:
    """Each half has its own mask; the control reads that of the first half for both."""
    file = golden("argon216")
    reach, masks = up_to(file, cutoff), pruned(file, up_to(file, radius))
    with using(way):
        require_same(file.decoded(reach, imask=masks), expected("argon216").within(reach).keys())
        control = file.decoded(reach, imask=masks[:, [0, 0]])
    assert COUNTS["argon216", cutoff] - len(control) == LOST_WITH_ONE_HALF[cutoff, radius]


@pytest.mark.parametrize("way", WAYS)
def test_outer_masks(way: str) -> None:
    """Once a list is pruned dynamically, the plain masks end at the inner radius."""
    file = golden("argon216")
    inner, outer = pruned(file, 0.6), pruned(file, file.rlist)
    wanted = expected("argon216").keys()
    with using(way):
        require_same(file.decoded(file.rlist, imask=inner, imask_outer=outer, fresh=False), wanted)
        # before the first kernel of a search the outer masks are those of the search before
        fresh = file.decoded(file.rlist, imask_outer=np.zeros_like(outer), fresh=True)
        require_same(fresh, wanted)
        without = file.decoded(file.rlist, imask=outer, fresh=False)
        require_same(without, wanted)
        assert len(file.decoded(file.rlist, imask=inner)) < len(wanted)


@pytest.mark.parametrize("way", WAYS)
def test_exclusions(way: str) -> None:
    water, argon = golden("water648"), golden("argon216")
    with using(way):
        assert len(golden("water648-all-excluded").decoded(0.9, honour_exclusions=True)) == 0
        # without topology, exclusion words only say what the list rule says
        require_same(
            argon.decoded(0.9, honour_exclusions=True), expected("argon216").within(0.9).keys()
        )
        found = water.decoded(0.89, honour_exclusions=True)
    # three atoms make a molecule; all pairs within one are excluded, whatever image they are
    samples = expected("water648").within(0.89).samples
    between = samples[:, 0] // 3 != samples[:, 1] // 3
    assert not between.all()
    require_same(found, brute_force.keys(samples[between]))


@pytest.mark.parametrize("way", WAYS)
def test_subset(way: str) -> None:
    file, subset = golden("argon216"), torch.tensor([200, 3, 17, 100, 4, 5, 6, 7, 150])
    with using(way):
        found = decode_clusters(
            file.pairs(0.9),
            n_atoms=file.n_atoms,
            device=CPU,
            reach=9.0,
            cell=Cell.of(file.box),
            subset=subset,
        )
    place = {int(atom): k for k, atom in enumerate(subset)}
    require_same(
        found,
        {
            (place[i], place[j], *shift)
            for i, j, *shift in expected("argon216").within(0.9).samples.tolist()
            if i in place and j in place
        },
    )
    assert found.n_atoms == len(subset)
    assert found.reach == 9.0


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks(way: str) -> None:
    """Local and non-local lists of both ranks together are all pairs, each once."""
    reference, cutoff = golden("argon216"), 0.9
    found, sizes = [], []
    with using(way):
        for rank in range(2):
            files = [golden(f"argon216-dd2-rank{rank}-{kind}") for kind in ("local", "nonlocal")]
            assert [file.locality for file in files] == ["local", "non-local"]
            options = {
                "n_atoms": files[0].n_atoms,
                "device": CPU,
                "reach": cutoff,
                "cell": Cell.of(files[0].box),
            }
            parts = [file.pairs(cutoff) for file in files]
            both = decode_clusters(parts, **options)
            one_by_one = [decode_clusters(part, **options) for part in parts]
            together = [row for part in one_by_one for row in part.samples.tolist()]
            require_same(both, brute_force.keys(np.array(together)))
            sizes += [len(part) for part in one_by_one]
            found += in_one_frame(both.samples.numpy(), files[0], reference)
    assert sizes == [3806, 1358, 3768, 1370]
    assert len(found) == len(set(found)) == 10302
    assert set(found) == expected("argon216").within(cutoff).keys()


# --- what a list may look like -------------------------------------------------------------------


def test_order_of_entries_does_not_matter(device: str) -> None:
    """The engine keeps a second copy of the entries, sorted by length."""
    file = golden("water648")
    order = np.random.default_rng(3).permutation(len(file.arrays["sci"]))
    require_equal(
        file.decoded(0.9, device), file.decoded(0.9, device, sci=file.arrays["sci"][order])
    )


def test_split_entries(device: str) -> None:
    file = golden("water648")
    pieces = [
        [s, t, group, group + 1]
        for s, t, begin, end in file.arrays["sci"].tolist()
        for group in range(begin, end)
    ]
    require_equal(
        file.decoded(0.9, device),
        file.decoded(0.9, device, sci=np.array(pieces, dtype=np.int32)),
    )


def test_undefined_j_clusters(device: str) -> None:
    file = golden("argon216")
    masks, cj = file.arrays["imask"], file.arrays["cj"].copy()
    used = (masks.max(axis=1)[:, None] >> np.arange(0, 32, 8, dtype=np.uint32)) & 255
    assert (used == 0).any()
    for garbage in (2**31 - 1, -(2**31)):
        cj[used == 0] = garbage
        native, reference = both_ways(lambda: file.decoded(0.9, device, cj=cj))
        require_equal(native, file.decoded(0.9, device))
        require_equal(native, reference)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_coordinates(device: str, dtype: type, layout: Any) -> None:
    file = golden("argon216-triclinic")
    x = layout(torch.from_numpy(file.arrays["x"].astype(dtype)).to(device))
    for found in both_ways(lambda: file.decoded(0.9, device, x=x)):
        require_same(found, expected("argon216-triclinic").within(0.9).keys())


def test_float4() -> None:
    file = golden("argon216")
    xq = np.column_stack([file.arrays["x"], np.full(256, 3e8, dtype=np.float32)])
    require_equal(file.decoded(0.9, x=xq), file.decoded(0.9))


def test_packed_groups_are_viewed(device: str) -> None:
    file = golden("water648")
    a = file.arrays
    halves = np.stack([a["imask"].view(np.int32), a["excl_ind"]], axis=2).reshape(-1, 4)
    packed = np.ascontiguousarray(np.concatenate([a["cj"], halves], axis=1)).view(np.uint32)
    source = on_device({"packed": packed}, device)["packed"]
    rest = on_device({name: a[name] for name in ("sci", "excl", "atom_index", "x")}, device)
    pairs = ClusterPairs.packed(
        cj_packed=source, reach=0.85, rlist=0.9, honour_exclusions=True, **rest
    )
    address = source.ctypes.data if device == "cpu" else source.data_ptr()
    assert DeviceBuffer.of(pairs.cj).tensor.data_ptr() == address
    found = decode_clusters(
        pairs, n_atoms=648, device=where(device), reach=0.85, cell=Cell.of(file.box)
    )
    require_equal(found, file.decoded(0.85, device, honour_exclusions=True))


def test_words_may_be_signed_or_not() -> None:
    file = golden("water648")
    plain = file.decoded(0.9, honour_exclusions=True)
    for kind in (np.int32, np.uint32):
        words = {k: file.arrays[k].view(kind) for k in ("imask", "excl")}
        assert words["imask"].dtype == kind
        require_equal(file.decoded(0.9, honour_exclusions=True, **words), plain)
        tensors = {k: torch.from_numpy(v) for k, v in words.items()}
        require_equal(file.decoded(0.9, honour_exclusions=True, **tensors), plain)


@pytest.mark.parametrize("kind", ["local", "non-local"])
@pytest.mark.parametrize("way", WAYS)
def test_no_entries(way: str, kind: str) -> None:
    """A rank without pairs, and one without atoms."""
    words = {"sci": (0, 4), "cj": (0, 4), "imask": (0, 2), "excl_ind": (0, 2), "excl": (1, 32)}
    empty = {name: np.zeros(shape, dtype=np.int32) for name, shape in words.items()}
    for n_atoms in (0, 1):
        slots = np.array([0] * n_atoms + [-1] * (64 * n_atoms - n_atoms), dtype=np.int32)
        pairs = ClusterPairs(
            **empty,
            atom_index=slots,
            x=np.zeros((64 * n_atoms, 3), dtype=np.float32),
            reach=1.0,
            locality=kind,
        )
        with using(way):
            found = decode_clusters(
                pairs, n_atoms=n_atoms, device=CPU, reach=1.0, cell=Cell.of([9.0, 9.0, 9.0])
            )
        assert len(found) == 0
        assert found.n_atoms == n_atoms


@pytest.mark.usefixtures("_threads")
def test_kept_words_are_the_same_bits(device: str) -> None:
    file = golden("water648")
    pairs = file.pairs(0.7, device, honour_exclusions=True)
    read = cluster_arrays.read(pairs, pairs.layout, where(device))
    cell = Cell.of(file.box)
    (owner,) = cluster_checks.check([read], file.n_atoms, None, cell)
    vectors = cluster_rows.shift_vectors(cell).to(device)
    native, reference = both_ways(
        lambda: cluster_rows.keep(read, owner, read.atom_index, vectors, 0.49).words
    )
    same_bits(native, reference)
    assert (native < 0).any()  # the highest bit, too


def test_repeats_are_the_same_bits(device: str) -> None:
    file = golden("water648")
    first = file.decoded(0.9, device)
    for _ in range(20):
        require_equal(file.decoded(0.9, device), first)
