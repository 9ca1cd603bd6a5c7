"""Results that the host looks at later: whose error it is, and who gets it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_parts import KERNEL_WAYS

from alchemi_bridge import (
    Atoms,
    Cell,
    ForceBuffers,
    HalfPairs,
    MetatomicForceProvider,
    Search,
    Step,
)
from alchemi_bridge.delivery import OpenResults
from alchemi_bridge.errors import NonFiniteResultError
from alchemi_bridge.model.tuning import Mode
from alchemi_bridge.native import using

LATTICE = np.stack(np.meshgrid(*[np.arange(3) * 3.8] * 3), axis=-1).reshape(-1, 3)
CELL = Cell.of([11.4, 11.4, 11.4])


class Late(OpenResults):
    """Those of a GPU, which arrive without one."""

    def __init__(self, value: float) -> None:
        self._names, self._host = ["forces"], torch.tensor([value], dtype=torch.float64)
        self._arrived = self

    def synchronize(self) -> None:
        """They are there."""


def provider_with(model_file, mode: Mode) -> MetatomicForceProvider:
    made = MetatomicForceProvider(
        model_file("lennard-jones", full_list=True, strict=False, cutoff=5.0), tuning=False
    )
    made._tuner.mode = mode
    made.set_atoms(Atoms(np.full(len(LATTICE), 18)))
    made.set_pairs(Search(1.0), CELL)
    return made


def forces(provider: MetatomicForceProvider, positions: np.ndarray) -> np.ndarray:
    found = np.zeros((len(positions), 3))
    provider.compute(Step(positions, energy=False), ForceBuffers(found)).synchronize()
    return found


@pytest.mark.parametrize("uncut", [False, True])
def test_the_next_step_raises(model_file, uncut: bool) -> None:
    """It is no failure of the model with whole lists."""
    provider = provider_with(model_file, Mode(optimize=False, uncut=uncut))
    forces(provider, LATTICE)
    provider._delivery._open = Late(float("nan"))
    with pytest.raises(NonFiniteResultError, match="forces of the model"):
        forces(provider, LATTICE)
    assert provider.mode == Mode(optimize=False, uncut=uncut)
    assert np.isfinite(forces(provider, LATTICE)).all()


def test_every_step_has_a_check_of_its_own() -> None:
    good, bad = Late(1.0), Late(float("inf"))
    good.settle()
    for _ in range(2):
        with pytest.raises(NonFiniteResultError):
            bad.settle()
    good.settle()


@pytest.mark.parametrize("first", ["event", "finish", "next step"])
def test_who_asks_first_is_told(model_file, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody else: the step after it has no part in it."""
    provider = provider_with(model_file, Mode(optimize=False, uncut=False))
    right, delivery = forces(provider, LATTICE), provider._delivery
    provider.finish()

    def as_on_a_gpu(sums: object, values: dict[str, torch.Tensor], views: object) -> object:
        delivery._open = Late(float("nan"))
        return {name: torch.zeros_like(value) for name, value in values.items()}

    with monkeypatch.context() as patch:
        patch.setattr(delivery, "_checked", as_on_a_gpu)
        found = np.zeros_like(LATTICE)
        event = provider.compute(Step(LATTICE, energy=False), ForceBuffers(found))
    assert not found.any()
    ask = {
        "event": event.synchronize,
        "finish": provider.finish,
        "next step": lambda: forces(provider, LATTICE),
    }[first]
    with pytest.raises(NonFiniteResultError, match="forces of the model"):
        ask()
    provider.finish()
    np.testing.assert_array_equal(forces(provider, LATTICE), right)


def test_another_default_device(model_file) -> None:
    """What a user's script sets as torch's default is not what the provider computes on."""
    provider = provider_with(model_file, Mode(optimize=False, uncut=False))
    right = forces(provider, LATTICE)
    torch.set_default_device("meta")
    try:
        again = provider_with(model_file, Mode(optimize=False, uncut=False))
        found = forces(again, LATTICE)
    finally:
        torch.set_default_device(None)
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("way", KERNEL_WAYS)
@pytest.mark.parametrize("away", [1500 * 11.4, 1e9])
def test_an_atom_that_is_lost_for_a_step(model_file, away, way) -> None:
    """That step is refused, and later ones are as if it had not been."""
    with using(way):
        refuse_one_step(model_file, away)


def refuse_one_step(model_file, away: float) -> None:
    provider = provider_with(model_file, Mode(optimize=False, uncut=False))
    i, j = np.triu_indices(len(LATTICE), 1)
    between = LATTICE[j] - LATTICE[i]
    shifts = -np.round(between / 11.4).astype(np.int32)
    near = np.linalg.norm(between + shifts * 11.4, axis=1) < 5.6
    provider.set_pairs(HalfPairs(i[near], j[near], shifts[near], 5.6), CELL)
    positions = LATTICE.astype(np.float32)
    right = forces(provider, positions)
    lost = positions.copy()
    lost[3, 0] += away
    with pytest.raises(Exception, match="pair list"):
        forces(provider, lost)
    np.testing.assert_array_equal(forces(provider, positions), right)
