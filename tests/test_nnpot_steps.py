"""Files for nnpot from step to step: kept lists, atoms that hop, lists that come and go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase
import nnpot_parts as parts
import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def argon(model_file: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return parts.argon_files(model_file, tmp_path_factory.mktemp("nnpot"))


def drift(n_steps: int, step: float = 0.02) -> list[ase.Atoms]:
    """Atoms on straight ways (Å in a step); those that left the box come back at every sixth."""
    atoms = parts.argon_tilted()
    ways = np.random.default_rng(7).normal(0.0, step, atoms.positions.shape)
    frames = []
    for n in range(n_steps):
        if n % 6 == 0:
            atoms.wrap()
        frames.append(parts.rounded(atoms))
        atoms.positions += ways
    return frames


def test_a_run(argon: dict[str, Path], tmp_path: Path) -> None:
    """18 steps in a slanted box, GROMACS searching at every sixth, in a process of their own."""
    frames = drift(18)
    own = parts.Request(argon["2025"], "2025", [parts.atom_inputs(atoms) for atoms in frames])
    given = parts.Request(argon["2026"], "2026")
    for n, atoms in enumerate(frames):
        if n % 6 == 0:  # the buffer has room for the ways of six steps
            pairs = parts.pair_inputs(atoms, parts.CUTOFF + 0.15, fault=n != 6)
        given.calls.append({**parts.atom_inputs(atoms), **pairs})
    found = parts.run([own, given], tmp_path / "loader")
    for answer in found:
        assert answer.errors == []
        for n, atoms in enumerate(frames):
            parts.expect_argon(answer.energies[n], answer.forces[n], atoms)
    # one for the start, then when half of 0.1 nm is used up; not whenever atoms are put back
    assert 2 <= found[0].searches <= 9
    assert (found[1].searches, found[1].lists, found[1].refused) == (0, 3, 0)


def test_atoms_put_back_have_not_moved(argon: dict[str, Path]) -> None:
    module = torch.jit.load(str(argon["2025"]))
    atoms = parts.argon_tilted()
    energy, forces = module(*parts.tensors(parts.atom_inputs(atoms), "2025"))
    hops = np.random.default_rng(8).integers(-2, 3, (len(atoms), 3))
    atoms.positions += hops @ atoms.cell.array
    again = module(*parts.tensors(parts.atom_inputs(parts.rounded(atoms)), "2025"))
    assert module.searches == 1
    # single precision of coordinates that are a few boxes away
    assert again[0].item() == pytest.approx(energy.item(), rel=1e-5)
    assert torch.allclose(again[1], forces, rtol=0.0, atol=1e-4 * float(forces.abs().max()))


@pytest.mark.parametrize("what", ["box", "periodicity", "number"])
def test_another_system_is_searched_anew(argon: dict[str, Path], what: str) -> None:
    module = torch.jit.load(str(argon["2025"]))
    atoms = parts.argon_tilted()
    module(*parts.tensors(parts.atom_inputs(atoms), "2025"))
    if what == "box":
        atoms.cell[0, 0] *= 1.01
    elif what == "periodicity":
        atoms.pbc = (True, True, False)
    else:
        atoms = atoms[:-1]
    atoms = parts.rounded(atoms)
    energy, forces = module(*parts.tensors(parts.atom_inputs(atoms), "2025"))
    assert module.searches == 2
    parts.expect_argon(energy.item(), forces.numpy(), atoms)


@pytest.mark.parametrize("third", [(0.0, 0.0, 0.0), (0.0, 0.0, 40.0), (3.0, 4.0, 40.0)])
@pytest.mark.parametrize("contract", ["2025", "2026"])
def test_two_dimensions(
    argon: dict[str, Path], contract: str, third: tuple[float, float, float]
) -> None:
    """What the third vector is does not matter."""
    atoms = parts.argon_tilted()
    atoms.pbc = (True, True, False)
    atoms.cell[2] = 0.0
    arrays = parts.argon_inputs(parts.rounded(atoms), contract)
    arrays["box"][2] = np.array(third) / 10.0
    energy, forces = torch.jit.load(str(argon[contract]))(*parts.tensors(arrays, contract))
    parts.expect_argon(energy.item(), forces.numpy(), parts.rounded(atoms))


def test_shifts_that_nobody_understands(argon: dict[str, Path]) -> None:
    """Then the pairs are searched."""
    module = torch.jit.load(str(argon["2026"]))
    atoms = parts.argon_tilted()
    arrays = parts.argon_inputs(atoms, "2026")
    arrays["pair-shifts"] *= 0.7
    with pytest.warns(UserWarning, match=r"no whole box vectors.*; export with --contract 2025"):
        energy, forces = module(*parts.tensors(arrays, "2026"))
    parts.expect_argon(energy.item(), forces.numpy(), atoms)
    assert (module.refused, module.searches) == (1, 1)


def test_pairs_of_atoms_in_one_place_count_nothing(argon: dict[str, Path]) -> None:
    module = torch.jit.load(str(argon["2026"]))
    atoms = parts.argon_tilted()
    arrays = parts.argon_inputs(atoms, "2026")
    extra = np.arange(5, dtype=np.int32)
    arrays["atom-pairs"] = np.concatenate([arrays["atom-pairs"], np.column_stack([extra, extra])])
    arrays["pair-shifts"] = np.concatenate(
        [arrays["pair-shifts"], np.zeros((5, 3), dtype=np.float32)]
    )
    energy, forces = module(*parts.tensors(arrays, "2026"))
    parts.expect_argon(energy.item(), forces.numpy(), atoms)


def test_double_precision_builds(argon: dict[str, Path]) -> None:
    """There ``pair-shifts`` alone are in double precision."""
    module = torch.jit.load(str(argon["2026"]))
    atoms = parts.argon_tilted()
    arrays = parts.argon_inputs(atoms, "2026")
    arrays["pair-shifts"] = arrays["pair-shifts"].astype(np.float64)
    energy, forces = module(*parts.tensors(arrays, "2026"))
    parts.expect_argon(energy.item(), forces.numpy(), atoms)


@pytest.mark.parametrize("contract", ["2025", "2026"])
def test_forces_are_differences_of_energies(argon: dict[str, Path], contract: str) -> None:
    module = torch.jit.load(str(argon[contract]))
    atoms = parts.argon_tilted()
    arrays = parts.argon_inputs(atoms, contract)
    forces = module(*parts.tensors(arrays, contract))[1].numpy()
    scale = np.abs(forces).max()
    for atom, axis in ((0, 0), (17, 1), (63, 2)):
        energies, places = [], []
        for h in (-2e-4, 2e-4):
            moved = {**arrays, "atom-positions": arrays["atom-positions"].copy()}
            moved["atom-positions"][atom, axis] += h
            energies.append(module(*parts.tensors(moved, contract))[0].item())
            places.append(float(moved["atom-positions"][atom, axis]))
        slope = (energies[1] - energies[0]) / (places[1] - places[0])
        # curvature over h: (2e-4 nm / 0.34 nm)^2 times some ten
        assert -slope == pytest.approx(forces[atom, axis], abs=2e-5 * scale)
