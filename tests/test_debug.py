"""Debug mode: the switch, the checksum of coordinates, and the guard that finds a race."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from kernel_parts import DEVICES, LAYOUTS

from alchemi_bridge.device import debug_enabled
from alchemi_bridge.errors import ConfigurationError, ProtocolError
from alchemi_bridge.native import using
from alchemi_bridge.neighbors.checksum import CHUNK, CoordinateGuard, checksum

DTYPES = [torch.float32, torch.float64]

Layout = Callable[[torch.Tensor], torch.Tensor]


def coordinates(n_atoms: int, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    values = np.random.default_rng(5).normal(scale=20.0, size=(n_atoms, 3))
    return torch.as_tensor(values, dtype=dtype, device=device)


def by_definition(positions: torch.Tensor) -> int:
    """The same sum in Python's integers."""
    bits = "<u4" if positions.dtype == torch.float32 else "<u8"
    words = positions.contiguous().cpu().numpy().reshape(-1).view(bits).tolist()
    top, total = (1 << 64) - 1, 0
    for place, word in enumerate(words, start=1):
        z = (word + place * 0x9E3779B97F4A7C15) & top
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & top
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & top
        total += z ^ (z >> 31)
    return total & top


def unsigned(number: torch.Tensor) -> int:
    return int(number) & ((1 << 64) - 1)


def test_reference_of_the_reference() -> None:
    """First numbers of SplitMix64 from seed 0, as its author's code prints them."""
    zeros = torch.zeros((1, 3), dtype=torch.float64)
    first = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    assert by_definition(zeros) == sum(first) & ((1 << 64) - 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", ["native", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_atoms", [0, 1, CHUNK, CHUNK + 1, 1000])
def test_same_number_everywhere(
    device: str, way: str, dtype: torch.dtype, layout: Layout, n_atoms: int
) -> None:
    positions = coordinates(n_atoms, dtype, device)
    with using(way):
        assert unsigned(checksum(layout(positions))) == by_definition(positions)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", ["native", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_subset(device: str, way: str, dtype: torch.dtype) -> None:
    positions = LAYOUTS[1](coordinates(50, dtype, device))
    subset = torch.randperm(50, generator=torch.Generator().manual_seed(1))[:31].to(device)
    with using(way):
        found = unsigned(checksum(positions, subset))
        assert found == by_definition(positions[subset])
        others = torch.ones(50, dtype=torch.bool, device=device)
        others[subset] = False
        positions[others] = 7.0
        assert unsigned(checksum(positions, subset)) == found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", ["native", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_notices_every_change(device: str, way: str, dtype: torch.dtype) -> None:
    positions = coordinates(40, dtype, device)
    with using(way):
        before = unsigned(checksum(positions))
        seen = {before}
        for k in range(positions.numel()):
            other = positions.clone()
            element = other.reshape(-1)[k : k + 1]
            element.copy_(torch.nextafter(element, element + 1))  # by one bit
            seen.add(unsigned(checksum(other)))
        swapped = positions.clone()
        swapped[[3, 4]] = positions[[4, 3]]
        seen.add(unsigned(checksum(swapped)))
        seen.add(unsigned(checksum(positions[:, [1, 0, 2]])))
        seen.add(unsigned(checksum(positions[:-1])))
        broken = positions.clone()
        broken[0, 0] = torch.nan
        seen.add(unsigned(checksum(broken)))
    assert len(seen) == positions.numel() + 5


def test_sign_of_zero_counts() -> None:
    zeros = torch.zeros((2, 3), dtype=torch.float64)
    assert unsigned(checksum(zeros)) != unsigned(checksum(-zeros))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_guard(device: str, dtype: torch.dtype) -> None:
    positions = coordinates(30, dtype, device)
    with CoordinateGuard(positions):
        positions.sum()
    with pytest.raises(ProtocolError, match="changed while they were read") as caught:  # noqa: SIM117
        with CoordinateGuard(positions, name="halo positions"):
            positions[29, 2] += 1e-3
    assert caught.value.what == "halo positions"
    assert "Step.ready" in caught.value.fix
    subset = torch.arange(10, device=device)
    with CoordinateGuard(positions, subset):
        positions[29, 2] += 1e-3  # nobody reads it


def test_guard_leaves_errors_alone() -> None:
    positions = coordinates(3, torch.float64)
    with pytest.raises(IndexError), CoordinateGuard(positions):
        positions.add_(1.0)[3]


@pytest.mark.parametrize(
    ("value", "wanted"), [(None, False), ("", False), ("0", False), ("1", True), (" 1 ", True)]
)
def test_switch(monkeypatch: pytest.MonkeyPatch, value: str | None, wanted: bool) -> None:
    if value is None:
        monkeypatch.delenv("ALCHEMI_BRIDGE_DEBUG", raising=False)
    else:
        monkeypatch.setenv("ALCHEMI_BRIDGE_DEBUG", value)
    assert debug_enabled() is wanted


def test_unknown_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMI_BRIDGE_DEBUG", "yes")
    with pytest.raises(ConfigurationError, match="0 or 1"):
        debug_enabled()
