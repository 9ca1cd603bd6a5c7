"""``ALCHEMI_BRIDGE_DEBUG=1``: what nobody can see from outside is checked in every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.build
import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list

from alchemi_bridge import (
    Atoms,
    Cell,
    ForceBuffers,
    FullPairs,
    HalfPairs,
    MetatomicForceProvider,
    Search,
    Step,
)
from alchemi_bridge import errors as e
from alchemi_bridge.native import using


@pytest.fixture
def atoms() -> ase.Atoms:
    atoms = ase.build.bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=3)
    return atoms


def provider_of(
    atoms: ase.Atoms, model: Path, pairs: object, **options: object
) -> MetatomicForceProvider:
    provider = MetatomicForceProvider(model, **options)
    provider.set_atoms(Atoms(types=np.asarray(atoms.numbers)))
    provider.set_pairs(pairs, Cell.of(atoms.cell.array))
    return provider


def forces_of(provider: MetatomicForceProvider, atoms: ase.Atoms) -> np.ndarray:
    forces = np.zeros((len(atoms), 3))
    provider.compute(Step(atoms.positions, energy=False), ForceBuffers(forces=forces)).synchronize()
    return forces


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_right_lists_pass(
    atoms: ase.Atoms,
    model_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    strict: bool,
    full: bool,
    kernels: str,
) -> None:
    """Also while the provider tries its ways of running the model."""
    model = model_file("lennard-jones", full_list=full, strict=strict, cutoff=6.0)
    with using(kernels):
        plain = forces_of(provider_of(atoms, model, Search(0.5), tuning=False), atoms)
        monkeypatch.setenv("ALCHEMI_BRIDGE_DEBUG", "1")
        provider = provider_of(atoms, model, Search(0.5))
        for _ in range(40):
            found = forces_of(provider, atoms)
            np.testing.assert_allclose(found, plain, atol=1e-12)
        assert provider.tuned


def test_a_list_shorter_than_it_says(
    atoms: ase.Atoms, model_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_file("lennard-jones", cutoff=6.0)
    i, j, shift = neighbor_list("ijS", atoms, 5.0)
    short = FullPairs(i, j, shift, reach=6.5)
    forces_of(provider_of(atoms, model, short), atoms)  # nobody notices
    monkeypatch.setenv("ALCHEMI_BRIDGE_DEBUG", "1")
    with pytest.raises(e.PairListError, match=r"debug mode.*missing"):
        forces_of(provider_of(atoms, model, short), atoms)
    right = HalfPairs(*_half(atoms, 6.5), reach=6.5)
    forces_of(provider_of(atoms, model, right), atoms)


def _half(atoms: ase.Atoms, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    i, j, shift = neighbor_list("ijS", atoms, reach)
    once = (i < j) | ((i == j) & (shift @ [10000, 100, 1] > 0))
    return i[once], j[once], shift[once]


def test_coordinates_that_change_while_they_are_read(
    atoms: ase.Atoms, model_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a halo exchange does that does not wait for the provider."""
    provider_module = __import__("alchemi_bridge.provider", fromlist=["evaluate"])
    run = provider_module.evaluate

    def evaluate_while_somebody_writes(*args: object, **options: object) -> object:
        atoms.positions[5] += 0.25
        return run(*args, **options)

    model = model_file("lennard-jones", cutoff=6.0)
    monkeypatch.setattr(provider_module, "evaluate", evaluate_while_somebody_writes)
    forces_of(provider_of(atoms, model, Search(0.5)), atoms)  # nobody notices
    monkeypatch.setenv("ALCHEMI_BRIDGE_DEBUG", "1")
    provider, forces = provider_of(atoms, model, Search(0.5)), np.zeros((len(atoms), 3))
    with pytest.raises(e.ProtocolError, match="changed while they were read"):
        provider.compute(Step(atoms.positions, energy=False), ForceBuffers(forces=forces))
    assert not forces.any(), "nothing is added by a step that failed"


def test_the_variable_is_read_when_a_provider_is_made(
    model_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMI_BRIDGE_DEBUG", "perhaps")
    with pytest.raises(e.ConfigurationError, match="ALCHEMI_BRIDGE_DEBUG"):
        MetatomicForceProvider(model_file("lennard-jones"))
    assert torch.get_num_threads() == 1
