"""Pair lists of a C caller, as the bridge's own classes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface.reading import structure
from alchemi_bridge.engines.interface.views import Views, moved
from alchemi_bridge.errors import PairListError
from alchemi_bridge.pairs import (
    ClusterPairs,
    FullPairs,
    GhostPairs,
    HalfPairs,
    NeighborMatrix,
    Pairs,
    Search,
)
from alchemi_bridge.pairs.row_pointers import RowPointers

#: Views an array of a list by its field's name, on the provider's device; ``None`` if not given.
Find = Callable[[str], Any]

#: Of one rank, through ``next``: engines have a local and a non-local one.
MAX_LISTS = 64


def pairs_of(source: structs.Pairs, device: torch.device) -> Pairs:
    """The list, as views of the caller's arrays.

    Raises
    ------
    PairListError
        For a kind that does not exist.
    BridgeError
        If an array is not what it should be.
    """

    def find(name: str) -> Any:
        # new views each time: lists are other arrays at every search
        return moved(Views().of(getattr(source, name), f"{name} of the pair list"), device)

    make = KINDS.get(source.kind)
    if make is None:
        raise PairListError(
            "kind of pair list",
            expected=f"ab_pairs_kind from 0 to {len(KINDS) - 1}",
            got=str(source.kind),
            fix="correct the kind",
        )
    if not source.next:
        return make(source, find)
    if source.kind != structs.CLUSTERS:
        raise _wrong_next(f"a list of kind {source.kind} with another one")
    found = [_cluster_list(source, find)]
    while source.next:
        if len(found) == MAX_LISTS:
            raise _wrong_next("a list that leads back to itself, or more of them")
        pointer = ctypes.cast(source.next, ctypes.POINTER(structs.Pairs))
        source = structure(pointer, structs.Pairs, "next pair list")
        if source.kind != structs.CLUSTERS:
            raise _wrong_next(f"a list of kind {source.kind} after one of clusters")
        found.append(_cluster_list(source, find))
    return found


def _wrong_next(got: str) -> PairListError:
    return PairListError(
        "next pair list",
        expected=f"NULL, or one of at most {MAX_LISTS} lists of kind AB_PAIRS_CLUSTERS",
        got=got,
        fix="zero the structure before it is filled in",
    )


def _search(source: structs.Pairs, find: Find) -> Pairs:
    del find
    return Search(source.reach)


def _half(source: structs.Pairs, find: Find) -> Pairs:
    return HalfPairs(find("first"), find("second"), find("shifts"), source.reach)


def _full(source: structs.Pairs, find: Find) -> Pairs:
    return FullPairs(find("first"), find("second"), find("shifts"), source.reach)


def _ghosts(source: structs.Pairs, find: Find) -> Pairs:
    pointers = source.row_pointers
    full = bool(source.full)
    return GhostPairs(
        starts=None if pointers else find("starts"),
        neighbors=RowPointers(pointers) if pointers else find("neighbors"),
        owners=find("owners"),
        positions=find("positions"),
        n_local=source.n_local,
        full=full,
        reach=source.reach,
        newton=None if full else bool(source.newton),
        counts=find("counts"),
        rows=find("rows"),
        index_mask=source.index_mask or None,
        margin=find("margin"),
    )


def _matrix(source: structs.Pairs, find: Find) -> Pairs:
    owners = find("owners")
    full, with_owners = bool(source.full), owners is not None
    return NeighborMatrix(
        matrix=find("neighbors"),
        counts=find("counts"),
        full=full,
        reach=source.reach,
        shifts=find("shifts"),
        owners=owners,
        positions=find("positions"),
        n_local=source.n_local if with_owners else None,
        newton=bool(source.newton) if with_owners and not full else None,
        index_mask=source.index_mask or None,
        fill_value=source.fill_value,
    )


def _clusters(source: structs.Pairs, find: Find) -> Pairs:
    return [_cluster_list(source, find)]


def _cluster_list(source: structs.Pairs, find: Find) -> ClusterPairs:
    return ClusterPairs(
        sci=find("sci"),
        cj=find("cj"),
        imask=find("imask"),
        excl_ind=find("excl_ind"),
        excl=find("excl"),
        atom_index=find("atom_index"),
        x=find("positions"),
        reach=source.reach,
        rlist=source.rlist or None,
        imask_outer=find("imask_outer"),
        fresh=bool(source.fresh),
        locality="non-local" if source.non_local else "local",
        honour_exclusions=bool(source.honour_exclusions),
        cluster_size=source.cluster_size or 8,
        clusters_per_super=source.clusters_per_super or 8,
        split=source.split or 2,
    )


KINDS: dict[int, Callable[[structs.Pairs, Find], Pairs]] = {
    structs.SEARCH: _search,
    structs.HALF: _half,
    structs.FULL: _full,
    structs.GHOSTS: _ghosts,
    structs.MATRIX: _matrix,
    structs.CLUSTERS: _clusters,
}
