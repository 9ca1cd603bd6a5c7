"""Files for nnpot and the lists that they are given: too short, too old, in the same memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import ase
import nnpot_parts as parts
import numpy as np
import pytest
import torch

from alchemi_bridge.engines.nnpot.comparing import pair_numbers
from alchemi_bridge.engines.nnpot.reach import ROUNDING, SKIN, pair_cutoff


@pytest.fixture(scope="module")
def argon(model_file: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return parts.argon_files(model_file, tmp_path_factory.mktemp("nnpot"))


@pytest.fixture
def given(argon: dict[str, Path]) -> torch.jit.ScriptModule:
    """The file that takes GROMACS' pairs."""
    return torch.jit.load(str(argon["2026"]))


def expect(module: torch.jit.ScriptModule, atoms: ase.Atoms, pairs: dict[str, np.ndarray]) -> None:
    """The right energy and forces of these atoms with this list, which may be of other ones."""
    arrays = {**parts.atom_inputs(atoms), **pairs}
    energy, forces = module(*parts.tensors(arrays, "2026"))
    parts.expect_argon(energy.item(), forces.numpy(), atoms)


def moved(far: float) -> ase.Atoms:
    """The atoms in the slanted box, each ``far`` (nm) from its place in any direction."""
    atoms = parts.argon_tilted()
    ways = np.random.default_rng(1).normal(size=atoms.positions.shape)
    atoms.positions += 10.0 * far * ways / np.linalg.norm(ways, axis=1)[:, None]
    return parts.rounded(atoms)


# --- lists that are too old ----------------------------------------------------------------------


def test_a_list_that_is_too_old_is_not_used(given: torch.jit.ScriptModule) -> None:
    pairs = parts.pair_inputs(parts.argon_tilted(), parts.CUTOFF + parts.BUFFER)
    expect(given, parts.argon_tilted(), pairs)
    expect(given, moved(0.49 * SKIN), pairs)
    assert (given.lists, given.refused, given.searches) == (1, 0, 0)
    for n, far in enumerate((0.8 * SKIN, 1.0 * SKIN), start=1):
        expect(given, moved(far), pairs)
        assert (given.lists, given.refused) == (1, 0)
        assert given.searches <= n
    assert given.searches > 0


def test_a_list_does_not_outlive_its_box(given: torch.jit.ScriptModule) -> None:
    atoms = parts.argon_tilted()
    pairs = parts.pair_inputs(atoms, parts.CUTOFF + parts.BUFFER)
    expect(given, atoms, pairs)
    atoms.set_cell(atoms.cell.array * 0.8)  # the atoms are where they were, images are not
    atoms = parts.rounded(atoms)
    arrays = {**parts.atom_inputs(atoms), **pairs}
    energy, _ = given(*parts.tensors(arrays, "2026"))
    assert given.searches == 1
    own = parts.oracles.build("lennard-jones", **parts.OPTIONS).evaluate(atoms)
    assert energy.item() == pytest.approx(own.energy * parts.ENERGY, rel=parts.RTOL)


@pytest.mark.parametrize("part", [0.55, 0.62, 0.9])
@pytest.mark.parametrize("contract", ["2025", "2026"])
def test_two_atoms_that_come_from_beyond_the_list(
    argon: dict[str, Path], contract: str, part: float
) -> None:
    """Each goes less than the skin, both together go more."""
    module = torch.jit.load(str(argon[contract]))
    apart = 10.0 * (parts.CUTOFF + 1.05 * SKIN)
    atoms = ase.Atoms("Ar2", [[10.0, 10.0, 10.0], [10.0 + apart, 10.0, 10.0]], cell=[40.0] * 3)
    atoms.pbc = True
    first = parts.rounded(atoms)
    pairs = parts.pair_inputs(first, parts.CUTOFF + parts.BUFFER) if contract == "2026" else {}
    energy, _ = module(*parts.tensors({**parts.atom_inputs(first), **pairs}, contract))
    assert energy.item() == 0.0
    atoms.positions[:, 0] += 10.0 * part * SKIN * np.array([1.0, -1.0])
    near = parts.rounded(atoms)
    energy, forces = module(*parts.tensors({**parts.atom_inputs(near), **pairs}, contract))
    assert energy.item() != 0.0
    parts.expect_argon(energy.item(), forces.numpy(), near)


# --- lists that lack pairs -----------------------------------------------------------------------


def without_an_atom(pairs: dict[str, np.ndarray], atom: int) -> dict[str, np.ndarray]:
    """A list without most pairs of one atom, as GROMACS' are for a link atom."""
    there = (pairs["atom-pairs"] == atom).any(axis=1)
    there[np.flatnonzero(there)[:2]] = False  # within nrexcl bonds
    return {name: array[~there] for name, array in pairs.items()}


@pytest.mark.parametrize("nth", [0, 1])
@pytest.mark.parametrize("what", ["shorter than the cutoff", "no buffer", "link atom", "twice"])
def test_a_list_that_is_not_all_is_replaced(
    given: torch.jit.ScriptModule, what: str, nth: int
) -> None:
    """Be it the first or a later one; with one warning."""
    atoms = moved(0.01)
    reach = {"shorter than the cutoff": 0.5, "no buffer": parts.CUTOFF + 0.01}
    pairs = parts.pair_inputs(atoms, reach.get(what, parts.CUTOFF + parts.BUFFER))
    words = "a list without [1-9][0-9]* of them"
    if what == "link atom":
        pairs = without_an_atom(pairs, 11)
    elif what == "twice":
        pairs = {name: np.concatenate([array, array[:1]]) for name, array in pairs.items()}
        words = "some of them twice"
    if nth == 1:
        start = parts.argon_tilted()
        expect(given, start, parts.pair_inputs(start, parts.CUTOFF + parts.BUFFER))
        assert given.refused == 0
    with pytest.warns(UserWarning, match=f"within 0.7 nm, got {words}.*--contract 2025"):
        expect(given, atoms, pairs)
    assert (given.lists, given.refused, given.searches) == (nth + 1, 1, 1)
    expect(given, moved(0.02), pairs)
    # said once (warnings are errors here); two pairs less lack one of those that came twice
    expect(given, atoms, {name: array[1:-1] for name, array in pairs.items()})
    assert given.refused == 2


def test_a_compact_molecule_that_stretches(given: torch.jit.ScriptModule) -> None:
    """The short list is right by chance at first, and lacks pairs later."""
    place = np.array([[0.0, 0, 0], [3.8, 0, 0], [0, 3.8, 0], [0, 0, 3.8]])
    atoms = parts.rounded(ase.Atoms("Ar4", place + 10.0, cell=[40.0] * 3, pbc=True))
    expect(given, atoms, parts.pair_inputs(atoms, 0.54))
    assert given.refused == 0
    atoms.positions[1, 0] += 0.3
    atoms = parts.rounded(atoms)
    with pytest.warns(UserWarning, match="a list without 2 of them"):
        expect(given, atoms, parts.pair_inputs(atoms, 0.54))


# --- lists in the memory of the last one ---------------------------------------------------------


def test_a_new_list_in_the_same_memory_is_seen(given: torch.jit.ScriptModule) -> None:
    atoms = parts.argon_tilted()
    arrays = {**parts.atom_inputs(atoms), **parts.pair_inputs(atoms, parts.CUTOFF + parts.BUFFER)}
    tensors = dict(zip(parts.INPUTS["2026"], parts.tensors(arrays, "2026"), strict=True))
    given(*tensors.values())
    # pairs alone are others: those without a shift the other way round
    inside = (tensors["pair-shifts"] == 0).all(dim=1)
    tensors["atom-pairs"][inside] = tensors["atom-pairs"][inside].flip(1)
    energy, forces = given(*tensors.values())
    parts.expect_argon(energy.item(), forces.numpy(), atoms)
    assert (given.lists, given.refused) == (2, 0)


def test_new_shifts_in_the_same_memory_are_seen(given: torch.jit.ScriptModule) -> None:
    """Atoms are put back into the box at a pair search; the pairs are the same."""
    atoms = parts.argon_tilted()
    arrays = {**parts.atom_inputs(atoms), **parts.pair_inputs(atoms, parts.CUTOFF + parts.BUFFER)}
    tensors = dict(zip(parts.INPUTS["2026"], parts.tensors(arrays, "2026"), strict=True))
    given(*tensors.values())
    atoms.positions += np.random.default_rng(2).integers(0, 2, (len(atoms), 3)) @ atoms.cell.array
    atoms = parts.rounded(atoms)
    later = {**parts.atom_inputs(atoms), **parts.pair_inputs(atoms, parts.CUTOFF + parts.BUFFER)}
    # in the order of the first list, each pair in its direction there
    order = {tuple(sorted(pair)): k for k, pair in enumerate(later["atom-pairs"].tolist())}
    assert len(order) == len(later["atom-pairs"])  # no pair twice, by way of two images
    rows = [order[tuple(sorted(pair))] for pair in arrays["atom-pairs"].tolist()]
    same = later["atom-pairs"][rows][:, 0] == arrays["atom-pairs"][:, 0]
    signs = np.where(same, 1.0, -1.0).astype(np.float32)
    with torch.no_grad():
        tensors["pair-shifts"].copy_(torch.from_numpy(signs[:, None] * later["pair-shifts"][rows]))
        tensors["atom-positions"].copy_(torch.from_numpy(later["atom-positions"]))
    energy, forces = given(*tensors.values())
    parts.expect_argon(energy.item(), forces.numpy(), atoms)
    assert (given.lists, given.refused) == (2, 0)


# --- the comparison ------------------------------------------------------------------------------


def test_numbers_of_pairs_are_those_of_sets() -> None:
    """Against Python's sets, with images of an atom among the pairs."""
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 4, (60, 2))
    shifts = rng.integers(-2, 3, (60, 3))

    def name(row: np.ndarray, shift: np.ndarray) -> frozenset:
        forth = (*row.tolist(), *shift.tolist())
        return frozenset([forth, (*row[::-1].tolist(), *(-shift).tolist())])

    def columns(take: slice, sign: int) -> tuple[torch.Tensor, ...]:
        first, second = (rows[take, ::sign]).T.copy()
        return tuple(map(torch.tensor, (first, second, sign * shifts[take])))

    one, other = pair_numbers(columns(slice(0, 40), 1), columns(slice(20, 60), -1))
    names = [name(row, shift) for row, shift in zip(rows, shifts, strict=True)]
    assert len(one) == len(other) == 40
    assert len(set(one.tolist())) == len(set(names[:40]))
    common = len(set(names[:40]) & set(names[20:]))
    assert len(set(one.tolist()) & set(other.tolist())) == common


@pytest.mark.parametrize(
    ("cutoff", "skin"), list(itertools.product((0.0, 0.377118, 0.6, 1.2345), (0.0, 0.1, 1.0)))
)
def test_the_pair_cutoff_that_is_printed(cutoff: float, skin: float) -> None:
    """Far enough, and not farther than three digits can say."""
    assert cutoff + skin + ROUNDING <= pair_cutoff(cutoff, skin) < cutoff + skin + 0.0012
