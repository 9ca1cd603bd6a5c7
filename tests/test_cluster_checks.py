"""Cluster pair lists that can not be: typed errors before anything is launched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from cluster_parts import WAYS, Golden, golden, where
from kernel_parts import DEVICES, needs_compiler
from pairs_parts import refused

from alchemi_bridge.bench import cluster_lists
from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import (
    BridgeError,
    BufferAccessError,
    CellError,
    ConfigurationError,
    DeviceMismatchError,
    DtypeError,
    NonFiniteError,
    PairListError,
    ShapeError,
)
from alchemi_bridge.native import launcher_for, using
from alchemi_bridge.pairs import cluster_checks, cluster_rows, rows
from alchemi_bridge.pairs.clusters import ClusterPairs, decode_clusters

NAME = "argon216"

Changes = dict[str, Any]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(request.param):
        yield request.param


@pytest.fixture
def nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any kernel that follows the indices of a list, compiled or not, fails the test."""

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("decoded before the checks")

    for name in ("keep", "count_kept", "fill_kept"):
        monkeypatch.setattr(cluster_rows, name, forbidden)


def changed(name: str, place: Any, value: Any) -> Callable[[Golden], Changes]:
    """One array with some elements set to a value."""

    def change(file: Golden) -> Changes:
        array = file.arrays[name].copy()
        array[place] = value
        return {name: array}

    return change


def cut(name: str, n: int) -> Callable[[Golden], Changes]:
    """One array without its last rows."""
    return lambda file: {name: file.arrays[name][:-n]}


def cut_groups(file: Golden) -> Changes:
    return {name: file.arrays[name][:-1] for name in ("cj", "imask", "excl_ind")}


def cut_slots(file: Golden) -> Changes:
    """Half of all slots: whole super-clusters are not there."""
    return {name: file.arrays[name][:128] for name in ("atom_index", "x")}


def part_of_a_super_cluster(file: Golden) -> Changes:
    """Slots that end within the last super-cluster."""
    return {name: file.arrays[name][:-8] for name in ("atom_index", "x")}


def more_slots(file: Golden, number: int) -> Changes:
    """Fillers at the end, or slots cut off: not whole clusters."""
    index, x = file.arrays["atom_index"], file.arrays["x"]
    if number < 0:
        return {"atom_index": index[:number], "x": x[:number]}
    fillers = np.full(number, -1, dtype=index.dtype)
    return {
        "atom_index": np.append(index, fillers),
        "x": np.vstack([x, np.full((number, x.shape[1]), -1e6, dtype=x.dtype)]),
    }


def no_slots(file: Golden) -> Changes:
    return {name: file.arrays[name][:0] for name in ("atom_index", "x")}


def one_group_too_many(file: Golden) -> Changes:
    """The entry with the last groups claims one more."""
    sci = file.arrays["sci"].copy()
    sci[sci[:, 3].argmax(), 3] += 1
    return {"sci": sci}


def unclaimed_last_bit(file: Golden) -> Changes:
    """A group without an entry, with only the highest bit in its masks: the sign of an int32."""
    changes = {
        name: np.concatenate([file.arrays[name], np.zeros_like(file.arrays[name][:1])])
        for name in ("cj", "imask", "excl_ind")
    }
    changes["imask"][-1, 1] = 1 << 31
    return changes


def overlapping(file: Golden) -> Changes:
    sci = file.arrays["sci"].copy()
    sci[3, 2] -= 1
    return {"sci": sci}


def twice(file: Golden) -> Changes:
    return {"sci": np.concatenate([file.arrays["sci"], file.arrays["sci"][:1]])}


def two_slots(file: Golden) -> Changes:
    index = file.arrays["atom_index"].copy()
    a, b = np.flatnonzero(index >= 0)[:2]
    index[a] = index[b]
    return {"atom_index": index}


def in_a_filler(atom: int) -> Callable[[Golden], Changes]:
    """An atom, or what is none, in a slot that has none."""

    def change(file: Golden) -> Changes:
        index = file.arrays["atom_index"].copy()
        index[np.flatnonzero(index < 0)[2]] = atom
        return {"atom_index": index}

    return change


def lost_atom(file: Golden) -> Changes:
    index = file.arrays["atom_index"].copy()
    index[np.flatnonzero(index >= 0)[5]] = -1
    return {"atom_index": index}


def not_finite(value: float) -> Callable[[Golden], Changes]:
    def change(file: Golden) -> Changes:
        x = file.arrays["x"].copy()
        x[np.flatnonzero(file.arrays["atom_index"] >= 0)[7], 1] = value
        return {"x": x}

    return change


def wrong_in_used_place(value: int) -> Callable[[Golden], Changes]:
    """A j cluster out of range that only the second half's mask names."""

    def change(file: Golden) -> Changes:
        cj, masks = file.arrays["cj"].copy(), file.arrays["imask"].copy()
        masks[4, 0] &= ~np.uint32(0xFF)
        masks[4, 1] |= np.uint32(0x10)
        cj[4, 0] = value
        return {"cj": cj, "imask": masks}

    return change


LISTS: dict[str, tuple[type[BridgeError], Callable[[Golden], Changes]]] = {
    "super-cluster too large": (PairListError, changed("sci", (2, 0), 4)),
    "super-cluster negative": (PairListError, changed("sci", (2, 0), -1)),
    "super-cluster that overflows": (PairListError, changed("sci", (2, 0), 2**26)),
    "shift too large": (PairListError, changed("sci", (5, 1), 45)),
    "shift negative": (PairListError, changed("sci", (5, 1), -1)),
    "forward shift in a local list": (PairListError, changed("sci", (5, 1), 23)),
    "begin negative": (PairListError, changed("sci", (0, 2), -1)),
    "end too large": (PairListError, one_group_too_many),
    "end far too large": (PairListError, changed("sci", (-1, 3), 2**31 - 1)),
    "end before begin": (PairListError, changed("sci", (-1, 3), 1)),
    "overlapping entries": (PairListError, overlapping),
    "entry listed twice": (PairListError, twice),
    "entries cut short": (PairListError, cut("sci", 1)),
    "groups cut short": (PairListError, cut_groups),
    "slots cut short": (PairListError, cut_slots),
    "slots end within a super-cluster": (PairListError, part_of_a_super_cluster),
    "no slots": (PairListError, no_slots),
    "one slot too many": (PairListError, lambda f: more_slots(f, 1)),
    "one slot too few": (PairListError, lambda f: more_slots(f, -1)),
    "j cluster too large": (PairListError, wrong_in_used_place(32)),
    "j cluster that overflows": (PairListError, wrong_in_used_place(2**28)),
    "j cluster negative": (PairListError, wrong_in_used_place(-1)),
    "exclusion too large": (PairListError, changed("excl_ind", (3, 1), 15)),
    "exclusion negative": (PairListError, changed("excl_ind", (3, 1), -1)),
    "exclusions cut short": (PairListError, cut("excl", 1)),
    "no exclusions": (PairListError, cut("excl", 15)),
    "atom too large": (PairListError, changed("atom_index", 9, 216)),
    "atom below -1": (PairListError, changed("atom_index", 9, -2)),
    "atom in two slots": (PairListError, two_slots),
    "atom in a second slot": (PairListError, in_a_filler(7)),
    "filler that is no filler": (PairListError, in_a_filler(-2)),
    "no filler but too large": (PairListError, in_a_filler(216)),
    "group that nobody claims": (PairListError, unclaimed_last_bit),
    "atom without a slot": (PairListError, lost_atom),
    "NaN": (NonFiniteError, not_finite(np.nan)),
    "infinite": (NonFiniteError, not_finite(-np.inf)),
}

SHAPES: dict[str, tuple[type[BridgeError], Callable[[Golden], Changes]]] = {
    "sci of another width": (ShapeError, lambda f: {"sci": f.arrays["sci"][:, :3]}),
    "sci flat": (ShapeError, lambda f: {"sci": f.arrays["sci"].reshape(-1)}),
    "masks of fewer groups": (ShapeError, cut("imask", 1)),
    "one mask": (ShapeError, lambda f: {"imask": f.arrays["imask"][:, :1]}),
    "outer masks of fewer groups": (
        ShapeError,
        lambda f: {"imask_outer": f.arrays["imask"][:-1], "fresh": False},
    ),
    "exclusion indices of fewer groups": (ShapeError, cut("excl_ind", 2)),
    "short exclusion entries": (ShapeError, lambda f: {"excl": f.arrays["excl"][:, :31]}),
    "coordinates cut short": (ShapeError, cut("x", 8)),
    "slots without coordinates": (ShapeError, lambda f: {"x": f.arrays["x"][:, :2]}),
    "no array of coordinates": (ShapeError, lambda f: {"x": f.arrays["x"][:, 0]}),
    "layout of another engine": (ShapeError, lambda f: {"clusters_per_super": 4}),
    "without a split": (ShapeError, lambda f: {"split": 1}),
    "long indices": (DtypeError, lambda f: {"sci": f.arrays["sci"].astype(np.int64)}),
    "floats as words": (DtypeError, lambda f: {"imask": f.arrays["imask"].astype(np.float32)}),
    "long words": (DtypeError, lambda f: {"imask": f.arrays["imask"].astype(np.uint64)}),
    "integer coordinates": (DtypeError, lambda f: {"x": f.arrays["x"].astype(np.int32)}),
    "half precision": (DtypeError, lambda f: {"x": np.zeros_like(f.arrays["x"], np.float16)}),
    "a list": (DtypeError, lambda f: {"cj": f.arrays["cj"].tolist()}),
    "nothing": (DtypeError, lambda f: {"cj": None}),
    "backwards": (BufferAccessError, lambda f: {"cj": f.arrays["cj"][:, ::-1]}),
    "misaligned": (
        BufferAccessError,
        lambda f: {
            "x": np.frombuffer(b"\0" + f.arrays["x"].tobytes(), np.uint8)[1:]
            .view(np.float32)
            .reshape(-1, 3)
        },
    ),
}

OPTIONS: dict[str, tuple[type[BridgeError], Changes]] = {
    "reach beyond the radius": (PairListError, {"reach": 1.0501}),
    "reach not finite": (ConfigurationError, {"reach": float("nan")}),
    "reach negative": (ConfigurationError, {"reach": -0.5}),
    "radius not finite": (ConfigurationError, {"rlist": float("inf")}),
    "another locality": (ConfigurationError, {"locality": "nonlocal"}),
    "clusters of 16": (ConfigurationError, {"cluster_size": 16}),
    "no clusters": (ConfigurationError, {"cluster_size": 0}),
    "two clusters": (ConfigurationError, {"clusters_per_super": 2}),
    "four parts": (ConfigurationError, {"split": 4}),
    "a flag as a number": (ConfigurationError, {"split": True}),
    "a word as a number": (ConfigurationError, {"cluster_size": "8"}),
    "no exclusions": (ConfigurationError, {"excl": None, "honour_exclusions": True}),
    "no exclusion indices": (ConfigurationError, {"excl_ind": None, "honour_exclusions": True}),
}


@pytest.mark.parametrize("case", LISTS)
@pytest.mark.usefixtures("nothing_is_decoded", "way")
def test_inconsistent_lists(device: str, case: str) -> None:
    kind, change = LISTS[case]
    file = golden(NAME)
    refused(kind, lambda: file.decoded(0.9, device, **{"honour_exclusions": True, **change(file)}))


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.usefixtures("nothing_is_decoded")
def test_wrong_arrays(case: str) -> None:
    kind, change = SHAPES[case]
    file = golden(NAME)
    refused(kind, lambda: file.decoded(0.9, **{"honour_exclusions": True, **change(file)}))


@pytest.mark.parametrize("case", OPTIONS)
def test_wrong_options(case: str) -> None:
    kind, change = OPTIONS[case]
    options = {"reach": 0.9, **change}
    refused(kind, lambda: golden(NAME).pairs(**options))


def test_radius_in_float32() -> None:
    """1.05 nm is a little less in the engine's memory."""
    file = golden(NAME)
    assert file.rlist < 1.05
    assert len(file.decoded(1.05)) == 17280


@pytest.mark.usefixtures("nothing_is_decoded")
def test_exclusions_are_not_read_unless_honoured() -> None:
    file = golden(NAME)
    pairs = file.pairs(0.9, excl=None, excl_ind=np.zeros(3))
    with pytest.raises(AssertionError, match="decoded"):
        decode(pairs)


def decode(pairs: Any, **options: Any) -> Any:
    file = golden(NAME)
    given = {"n_atoms": 216, "device": torch.device("cpu"), "reach": 0.9, "cell": Cell.of(file.box)}
    return decode_clusters(pairs, **{**given, **options})


@pytest.mark.usefixtures("nothing_is_decoded")
def test_another_device() -> None:
    pairs = golden(NAME).pairs(0.9)
    refused(DeviceMismatchError, lambda: decode(pairs, device=torch.device("cuda", 0)))
    elsewhere = golden(NAME).pairs(0.9, cj=torch.empty((81, 4), dtype=torch.int32, device="meta"))
    refused(DeviceMismatchError, lambda: decode(elsewhere))


@pytest.mark.usefixtures("nothing_is_decoded", "way")
@pytest.mark.parametrize("n_atoms", [0, 215, 217])
def test_another_number_of_atoms(n_atoms: int) -> None:
    refused(PairListError, lambda: decode(golden(NAME).pairs(0.9), n_atoms=n_atoms))


@pytest.mark.usefixtures("nothing_is_decoded", "way")
def test_shift_along_an_open_direction() -> None:
    cell = Cell.of(golden(NAME).box, (True, True, False))
    refused(PairListError, lambda: decode(golden(NAME).pairs(0.9), cell=cell))


@needs_compiler
def test_arrays_that_change_while_they_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the kernels have seen is an error, too."""
    file = golden(NAME)
    reference = cluster_checks._check_torch

    def mended(lists: Any, *rest: Any) -> Any:
        lists[0].sci[0, 0] = 0
        return reference(lists, *rest)

    monkeypatch.setattr(cluster_checks, "_check_torch", mended)
    sci = file.arrays["sci"].copy()
    sci[0, 0] = 99
    with using("native"):
        refused(PairListError, lambda: file.decoded(0.9, sci=sci))


def test_ranges_are_not_followed_beyond_the_end(device: str) -> None:
    """The kernel looks at a range before it writes to the groups in it."""

    def words(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    with using("native"):
        run = launcher_for(where(device))
        assert run is not None
        for begin, end in ((0, 4), (-1, 2), (2, 1), (2**31 - 1, -(2**31))):
            claims, owner, flags = words(0, 0, 0, 0), words(-1, -1, -1, -1), words(0)
            sci = words(0, 22, begin, end)
            run.launch("check_entries", 1, sci, 1, 23, 0, 3, claims, owner, flags, serial=True)
            assert flags.tolist() == [8]
            assert claims.tolist() == [0] * 4
            assert owner.tolist() == [-1] * 4


@pytest.mark.usefixtures("nothing_is_decoded")
@pytest.mark.parametrize("lists", [[], [None], ["sci"], [0.9, 0.6]], ids=str)
def test_wrong_sequences(lists: list) -> None:
    pairs = [golden(NAME).pairs(p) if isinstance(p, float) else p for p in lists]
    refused(ConfigurationError, lambda: decode(pairs))


@pytest.mark.usefixtures("way")
def test_one_list_twice() -> None:
    pairs = golden(NAME).pairs(0.9)
    error = refused(PairListError, lambda: decode([pairs, pairs]))
    assert "more than once" in error.got


@pytest.mark.usefixtures("way")
def test_local_list_as_non_local() -> None:
    """Without the rule for the central shift, pairs within a cluster come in both directions."""
    pairs = golden(NAME).pairs(0.9, locality="non-local")
    refused(PairListError, lambda: decode(pairs))


@pytest.mark.usefixtures("way")
def test_too_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROWS", 10301)
    refused(PairListError, lambda: decode(golden(NAME).pairs(0.9)))
    monkeypatch.setattr(rows, "MAX_ROWS", 10302)
    assert len(decode(golden(NAME).pairs(0.9))) == 10302


def test_packed_groups_of_another_width() -> None:
    a = golden(NAME).arrays
    refused(
        ShapeError,
        lambda: ClusterPairs.packed(
            a["sci"], a["cj"], a["excl"], a["atom_index"], a["x"], 0.9, rlist=1.05
        ),
    )


@pytest.mark.parametrize(
    ("box", "rlist"),
    [
        ([[3.0, 0, 0], [0, 3, 0], [0, 0, 3]], 3.1),
        ([[9.0, 0, 0], [5, 9, 0], [0, 0, 9]], 2.0),
        ([[9.0, 1, 0], [0, 9, 0], [0, 0, 9]], 2.0),
        ([[9.0, 0, 0], [0, -9, 0], [0, 0, 9]], 2.0),
        ([[9.0, 0, 0], [0, 9, 0], [0, 4.5, 9]], 8.0),
    ],
)
def test_boxes_that_have_no_cluster_list(box: list, rlist: float) -> None:
    refused(CellError, lambda: cluster_lists.build(np.zeros((1, 3)), np.array(box), rlist))
