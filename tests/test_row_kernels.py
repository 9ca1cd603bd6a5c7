"""The compiled kernels that make pair rows, against their torch references."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from kernel_parts import CASES, DEVICES, SYSTEMS, System, both_ways, same_bits, threads

from alchemi_bridge.native import using
from alchemi_bridge.pairs import Candidates, FullPairs, HalfPairs, decode
from alchemi_bridge.pairs.rows import (
    candidates_from_pairs,
    count_pairs,
    fill_pairs,
    numbered,
    reverse_rows,
    sort_rows,
)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=CASES, ids=str)
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    name, number = request.param
    with threads(number):
        yield SYSTEMS[name]()


def shuffled(candidates: Candidates, both: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(n, 2) atoms and (n,) shift codes in random order, each pair once if ``both`` (directions
    are to be made of it)."""
    rng = np.random.default_rng(len(candidates))
    chosen = torch.arange(len(candidates))
    if both:
        one = torch.nonzero(candidates.canonical.cpu()).squeeze(1)
        turned = torch.from_numpy(rng.random(len(one)) < 0.5)
        chosen = torch.where(turned, candidates.reverse.cpu().long()[one], one)
    chosen = chosen[torch.from_numpy(rng.permutation(len(chosen)))].to(candidates.code.device)
    atoms = candidates.samples[chosen, :2]
    return atoms, candidates.code[chosen], len(candidates.table)


def unsorted_rows(
    candidates: Candidates, both: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Counts, places after the last entry of each row, and rows as they were filled."""
    atoms, code, n_codes = shuffled(candidates, both)
    first, second = atoms[:, 0].contiguous(), atoms[:, 1].contiguous()
    counts = torch.zeros(candidates.n_atoms, dtype=torch.int32, device=code.device)
    count_pairs(first, second, both, counts)
    cursor = candidates.starts[:-1].clone()
    row_second, row_code = torch.empty_like(candidates.second), torch.empty_like(candidates.code)
    fill_pairs(first, second, code, both, n_codes, cursor, row_second, row_code)
    return counts, cursor, row_second, row_code


@pytest.mark.parametrize("both", [False, True])
def test_count_and_fill_rows(system: System, device: str, both: bool) -> None:
    candidates = system.candidates(device)
    native, reference = both_ways(lambda: unsorted_rows(candidates, both))
    for counts, cursor, row_second, row_code in (native, reference):
        assert torch.equal(counts, candidates.starts[1:] - candidates.starts[:-1])
        assert torch.equal(cursor, candidates.starts[1:])
        # within a row the order is open until it is sorted
        rows = torch.stack([candidates.first, row_second, row_code], dim=1).tolist()
        expected = torch.stack([candidates.first, candidates.second, candidates.code], dim=1)
        assert sorted(rows) == expected.tolist()


def test_sort_rows(system: System, device: str) -> None:
    candidates = system.candidates(device)
    with using("torch"):
        *_, row_second, row_code = unsorted_rows(candidates, both=False)

    def sort() -> tuple[torch.Tensor, ...]:
        second, code = row_second.clone(), row_code.clone()
        return second, code, sort_rows(candidates.starts, second, code)

    for second, code, repeated in both_ways(sort):
        same_bits(second, candidates.second)
        same_bits(code, candidates.code)
        assert bool((repeated == -1).all())


def test_repeated_entries_are_found(system: System, device: str) -> None:
    candidates = system.candidates(device)
    again = torch.arange(0, len(candidates), 7, device=device)
    samples = torch.cat([candidates.samples, candidates.samples[again]])
    code = torch.cat([candidates.code, candidates.code[again]])
    order = torch.argsort(samples[:, 0], stable=True)
    counts = torch.bincount(samples[:, 0], minlength=candidates.n_atoms)
    starts = torch.zeros(candidates.n_atoms + 1, dtype=torch.int32, device=device)
    torch.cumsum(counts, 0, out=starts[1:], dtype=torch.int32)

    def sort() -> tuple[torch.Tensor, ...]:
        second, codes = samples[order, 1].contiguous(), code[order].clone()
        return second, codes, sort_rows(starts, second, codes)

    native, reference = both_ways(sort)
    for found, expected in zip(native, reference, strict=True):
        same_bits(found, expected)
    second, codes, repeated = native
    rows = torch.bincount(candidates.first[again], minlength=candidates.n_atoms)
    assert torch.equal(repeated >= 0, rows > 0)
    places = repeated[repeated >= 0].long()
    assert torch.equal(second[places], second[places - 1])
    assert torch.equal(codes[places], codes[places - 1])


def test_reverse_rows(system: System, device: str) -> None:
    """Also where some entries have lost their reverse."""
    candidates = system.candidates(device)
    n_codes = len(candidates.table)

    def reverse() -> torch.Tensor:
        return reverse_rows(candidates.starts, candidates.second, candidates.code, n_codes)

    native, reference = both_ways(reverse)
    same_bits(native, reference)
    places = torch.arange(len(candidates), dtype=torch.int32, device=device)
    assert torch.equal(native[native.long()], places)

    kept = torch.arange(len(candidates), device=device) % 5 != 2
    second, code = candidates.second[kept], candidates.code[kept]
    counts = torch.bincount(candidates.first[kept], minlength=candidates.n_atoms)
    starts = torch.zeros(candidates.n_atoms + 1, dtype=torch.int32, device=device)
    torch.cumsum(counts, 0, out=starts[1:], dtype=torch.int32)
    native, reference = both_ways(lambda: reverse_rows(starts, second, code, n_codes))
    same_bits(native, reference)
    mirrored = kept[candidates.reverse[kept].long()]
    assert torch.equal(native >= 0, mirrored)


@pytest.mark.parametrize("kind", [HalfPairs, FullPairs])
@pytest.mark.parametrize("part", [1.0, 0.6, 0.0])
def test_decoded_lists(system: System, device: str, kind: type, part: float) -> None:
    """All of it, in both ways; of all atoms, of some in random order, and of none."""
    candidates = system.candidates(device)
    atoms, code, _ = shuffled(candidates, both=kind is HalfPairs)
    pairs = kind(atoms[:, 0], atoms[:, 1], candidates.table[code.long()], system.reach)
    n_atoms = candidates.n_atoms
    order = np.random.default_rng(n_atoms).permutation(n_atoms)[: math.ceil(part * n_atoms)]
    subset = None if part == 1.0 else torch.from_numpy(order).to(device)

    def decoded() -> Candidates:
        return decode(
            pairs,
            n_atoms=n_atoms,
            device=atoms.device,
            reach=system.reach,
            cell=system.cell,
            subset=subset,
        )

    native, reference = both_ways(decoded)
    for name in ("starts", "second", "code", "reverse", "table", "samples", "canonical"):
        same_bits(getattr(native, name), getattr(reference, name))
    if subset is None:
        same_bits(native.samples, candidates.samples)
        same_bits(native.reverse, candidates.reverse)


def test_shifts_beyond_the_grid(device: str) -> None:
    """Numbers from a list of shifts, where a grid of all of them would be too large."""
    rng = np.random.default_rng(81)
    shifts = torch.from_numpy(rng.integers(-(2**28), 2**28, (300, 3))).to(device)
    first, second = (torch.from_numpy(rng.integers(0, 20, 300)).to(device) for _ in range(2))
    table, code = numbered(shifts)
    assert torch.equal(table[code.long()].long(), shifts)
    assert torch.equal(table.flip(0), -table)

    def candidates() -> Candidates:
        return candidates_from_pairs(first, second, shifts, n_atoms=20, reach=1.0, both=True)

    native, reference = both_ways(candidates)
    for name in ("starts", "second", "code", "reverse", "table"):
        same_bits(getattr(native, name), getattr(reference, name))
    assert native.n_pairs == 300
