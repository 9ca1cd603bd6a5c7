"""The virial of each atom: half of what every pair vector gives to either of its atoms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase
import brute_force
import known_potentials
import numpy as np
import pytest
import torch
from feature_parts import cell_of, crystal, pair_list, zoo_file
from kernel_parts import KERNEL_WAYS
from mpi_runs import needs_mpi, run_ranks
from pairs_parts import refused
from test_pair_gradients import made
from worlds import WORLDS

from alchemi_bridge import (
    Atoms,
    ForceBuffers,
    FullPairs,
    HalfPairs,
    MetatomicForceProvider,
    Search,
    Step,
    Units,
)
from alchemi_bridge.batch import Structure, evaluate_structures
from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    NonFiniteResultError,
    ProtocolError,
    ShapeError,
    UnsupportedOutputError,
)
from alchemi_bridge.model import Wanted
from alchemi_bridge.model.tuning import Mode
from alchemi_bridge.native import using
from alchemi_bridge.neighbors import gather_forces, shared_virials

ModelFile = Callable[..., Path]

#: float64, in parts of the largest number that is summed: the order of the sums differs, and with
#: the cell their shares.
ROUNDING = 1e-12

#: The same of a float32 model: its gradients are one and the same for both, and are summed in
#: float64; each share is rounded to float32 once, and so is the total.
SINGLE = 3e-6

#: eV; an analytic pair potential against torch's derivative of it.
ANALYTIC = 1e-12


@pytest.fixture(params=KERNEL_WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(request.param):
        yield request.param


def set_up(
    provider: MetatomicForceProvider, atoms: ase.Atoms, pairs: Any = None, **options: Any
) -> MetatomicForceProvider:
    provider.set_atoms(Atoms(atoms.numbers.astype(np.int64), **options))
    provider.set_pairs(Search(0.5) if pairs is None else pairs, cell_of(atoms))
    return provider


def both(
    provider: MetatomicForceProvider, atoms: ase.Atoms, dtype: type = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) virial, and (n_atoms, 3, 3) those of the atoms."""
    virial, virials = np.zeros((3, 3), dtype), np.zeros((len(atoms), 3, 3), dtype)
    step = Step(atoms.positions, energy=False, forces=False, virial=True, virials=True)
    provider.compute(step, ForceBuffers(virial=virial, virials=virials)).synchronize()
    return virial.astype(np.float64), virials.astype(np.float64)


def virials_of(provider: MetatomicForceProvider, atoms: ase.Atoms) -> np.ndarray:
    """Without anything else."""
    found = np.zeros((len(atoms), 3, 3))
    step = Step(atoms.positions, energy=False, forces=False, virials=True)
    provider.compute(step, ForceBuffers(virials=found)).synchronize()
    return found


def require_sum(virial: np.ndarray, virials: np.ndarray, tolerance: float) -> None:
    """These potentials do not change under rotation, so that the sum is symmetric by itself."""
    assert np.abs(virials).max() > 1e-3
    scale = np.abs(virials).sum()
    np.testing.assert_allclose(virials.sum(axis=0), virial, rtol=0.0, atol=tolerance * scale)


# --- the sum --------------------------------------------------------------------------------------


@pytest.mark.parametrize("potential", known_potentials.POTENTIALS)
@pytest.mark.parametrize("shape", known_potentials.SHAPES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_sum_is_the_virial(
    model_file: ModelFile, potential: str, shape: str, dtype: str
) -> None:
    if dtype == "float32" and potential not in known_potentials.IN_SINGLE:
        with pytest.raises(ConfigurationError, match="dtype"):
            model_file(potential, dtype=dtype)
        return
    atoms = known_potentials.structure(shape, potential)
    provider = MetatomicForceProvider(model_file(potential, dtype=dtype), tuning=False)
    virial, virials = both(set_up(provider, atoms), atoms)
    require_sum(virial, virials, ROUNDING if dtype == "float64" else SINGLE)


@pytest.mark.parametrize("name", ["pair", "half_list", "several_cutoffs", "not_strict"])
def test_every_kind_of_list(name: str, way: str) -> None:
    atoms = crystal(2)
    provider = MetatomicForceProvider(zoo_file(name), tuning=False)
    virial, virials = both(set_up(provider, atoms), atoms)
    require_sum(virial, virials, ROUNDING)
    if name in ("half_list", "not_strict"):  # the same energy
        other = set_up(MetatomicForceProvider(zoo_file("pair"), tuning=False), atoms)
        np.testing.assert_allclose(virials, virials_of(other, atoms), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("full_list", [True, False])
def test_it_is_not_symmetrised(name: str, full_list: bool, way: str) -> None:
    """An energy that does change under rotation: rows belong to the vector, as in the total."""
    world = made(WORLDS[name], full_list)
    pairs, gradients = world.by_pairs()
    n_atoms = len(world.positions)
    rows = torch.zeros((n_atoms, 3, 3), dtype=torch.float64)
    shared_virials(pairs, gradients, rows)
    _, total = world.by_autograd()
    assert (total - total.T).abs().max() > 1e-3
    torch.testing.assert_close(rows.sum(dim=0), total, rtol=0.0, atol=1e-12)
    # and with what gives the total
    summed = torch.zeros((n_atoms, 9), dtype=torch.float64)
    gather_forces(pairs, gradients, torch.zeros_like(world.positions), summed)
    expected = summed.sum(dim=0).reshape(3, 3)
    torch.testing.assert_close(rows.sum(dim=0), expected, rtol=0.0, atol=1e-12)


# --- the shares -----------------------------------------------------------------------------------

EPSILON, SIGMA, LJ_CUTOFF = 0.0104, 3.4, 6.0


def argon(model_file: ModelFile, **options: Any) -> Path:
    return model_file(
        "lennard-jones", types=[18], epsilon=[EPSILON], sigma=[SIGMA], cutoff=LJ_CUTOFF,
        truncation="none", **options,
    )  # fmt: skip


def by_hand(atoms: ase.Atoms, counted: np.ndarray | None = None) -> np.ndarray:
    """(n_atoms, 3, 3): 1/2 u'(r)/r r (x) r of each pair for either atom, over all images.

    ``counted`` are the atoms whose energy is: each has half of a pair's.
    """
    pairs = brute_force.find(atoms.positions, atoms.cell.array, tuple(atoms.pbc), LJ_CUTOFF)
    found = np.zeros((len(atoms), 3, 3))
    weights = np.full(len(atoms), 1.0 if counted is None else 0.0)
    if counted is not None:
        weights[counted] = 1.0
    for (i, j, *_), vector in zip(pairs.samples, pairs.vectors, strict=True):
        squared = vector @ vector
        s6 = (SIGMA**2 / squared) ** 3
        slope = -24.0 * EPSILON * (2.0 * s6**2 - s6) / squared
        weight = (weights[i] + weights[j]) / 2.0
        found[i] += 0.5 * weight * slope * np.outer(vector, vector)
    return found


def argon_atoms(shape: str = "bulk") -> ase.Atoms:
    atoms = known_potentials.structure(shape, "lennard-jones")
    atoms.numbers[:] = 18
    return atoms


@pytest.mark.parametrize("shape", known_potentials.SHAPES)
@pytest.mark.parametrize("full_list", [True, False])
def test_each_atom_by_brute_force(model_file: ModelFile, shape: str, full_list: bool) -> None:
    atoms = argon_atoms(shape)
    provider = MetatomicForceProvider(argon(model_file, full_list=full_list), tuning=False)
    found, expected = virials_of(set_up(provider, atoms), atoms), by_hand(atoms)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=ANALYTIC)


@pytest.mark.parametrize("potential", known_potentials.POTENTIALS)
def test_a_dimer_shares_alike(model_file: ModelFile, potential: str) -> None:
    species, _ = known_potentials.SPECIES[potential]
    atoms = ase.Atoms([species] * 2, [[0.3, -0.2, 0.1], [1.2, 1.1, 1.9]])
    provider = MetatomicForceProvider(model_file(potential), tuning=False)
    virial, virials = both(set_up(provider, atoms), atoms)
    np.testing.assert_allclose(virials[0], virials[1], rtol=1e-12, atol=0.0)
    np.testing.assert_allclose(virials[0], virial / 2.0, rtol=1e-12, atol=1e-14)
    assert np.abs(virial).max() > 1e-3


def test_a_selection_gives_to_its_neighbours_too(model_file: ModelFile) -> None:
    """Halo atoms get their half; selections that are everybody sum to the whole."""
    atoms = argon_atoms()
    provider = MetatomicForceProvider(argon(model_file), tuning=False)
    whole = virials_of(set_up(provider, atoms), atoms)
    home = np.arange(0, len(atoms), 3)
    virial, found = both(set_up(provider, atoms, selected=home), atoms)
    require_sum(virial, found, ROUNDING)
    np.testing.assert_allclose(found, by_hand(atoms, home), rtol=1e-10, atol=ANALYTIC)
    others = np.setdiff1d(np.arange(len(atoms)), home)
    assert np.abs(found[others]).max() > 1e-3
    rest = virials_of(set_up(provider, atoms, selected=others), atoms)
    np.testing.assert_allclose(found + rest, whole, rtol=0.0, atol=ANALYTIC)


def test_a_subset_is_evaluated_alone(model_file: ModelFile) -> None:
    atoms = argon_atoms()
    provider = MetatomicForceProvider(argon(model_file), tuning=False)
    inside = np.array([7, 2, 11, 30, 4, 12, 0])
    virial, found = both(set_up(provider, atoms, subset=inside), atoms)
    require_sum(virial, found, ROUNDING)
    np.testing.assert_allclose(found[inside], by_hand(atoms[inside]), rtol=1e-10, atol=ANALYTIC)
    assert not np.delete(found, inside, axis=0).any()


# --- the engine's memory --------------------------------------------------------------------------


@pytest.mark.parametrize("subset", [False, True])
def test_a_strided_float32_buffer(model_file: ModelFile, subset: bool) -> None:
    """Records of ten numbers, of which nine are the virial by columns; added to what is there."""
    atoms = argon_atoms()
    chosen = np.arange(len(atoms))[::-2].copy() if subset else None
    provider = set_up(MetatomicForceProvider(argon(model_file)), atoms, subset=chosen)
    expected = virials_of(provider, atoms)
    memory = np.full((len(atoms), 10), 3.0, np.float32)
    target = memory[:, 1:].reshape(-1, 3, 3).transpose(0, 2, 1)
    if not np.shares_memory(target, memory):
        target = np.lib.stride_tricks.as_strided(
            memory[:, 1:], (len(atoms), 3, 3), (memory.strides[0], 4, 12)
        )
    step = Step(atoms.positions, energy=False, forces=False, virials=True)
    provider.compute(step, ForceBuffers(virials=target)).synchronize()
    np.testing.assert_allclose(target - 3.0, expected, rtol=0.0, atol=5e-7)
    assert (memory[:, 0] == 3.0).all()


def test_units(model_file: ModelFile) -> None:
    atoms = argon_atoms()
    expected = virials_of(set_up(MetatomicForceProvider(argon(model_file)), atoms), atoms)
    atoms.set_cell(atoms.cell.array / 10.0, scale_atoms=True)
    other = MetatomicForceProvider(argon(model_file), units=Units("nm", "kJ/mol"))
    other.set_atoms(Atoms(atoms.numbers.astype(np.int64)))
    other.set_pairs(Search(0.05), cell_of(atoms))
    virial, found = both(other, atoms)
    require_sum(virial, found, ROUNDING)
    np.testing.assert_allclose(found, expected * 96.48533212331002, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", [FullPairs, HalfPairs])
def test_whole_lists_and_cut_lists(model_file: ModelFile, kind: type, way: str) -> None:
    """In all ways in which the model is run, and while one is chosen."""
    atoms = argon_atoms()
    path = argon(model_file, full_list=True, strict=False)
    pairs = pair_list(atoms, LJ_CUTOFF + 0.8, kind)
    expected = by_hand(atoms)
    for optimize in (False, True):
        for uncut in (False, True):
            provider = set_up(MetatomicForceProvider(path, tuning=False), atoms, pairs)
            provider._tuner.mode = Mode(optimize=optimize, uncut=uncut)
            for _ in range(2):  # the second time in the memory of the first
                found = virials_of(provider, atoms)
                np.testing.assert_allclose(found, expected, rtol=1e-10, atol=ANALYTIC)
    provider = set_up(MetatomicForceProvider(path), atoms, pairs)
    while not provider.tuned:
        found = virials_of(provider, atoms)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=ANALYTIC)


def test_nothing_else_changes(model_file: ModelFile) -> None:
    atoms = argon_atoms()
    provider = set_up(MetatomicForceProvider(argon(model_file), tuning=False), atoms)
    provider._tuner.mode = Mode(optimize=False, uncut=False)  # nothing is compiled meanwhile
    buffers = [{"forces": np.zeros((len(atoms), 3)), "energy": np.zeros(1)} for _ in range(2)]
    provider.compute(Step(atoms.positions), ForceBuffers(**buffers[0])).synchronize()
    more = ForceBuffers(**buffers[1], virials=np.zeros((len(atoms), 3, 3)))
    provider.compute(Step(atoms.positions, virials=True), more).synchronize()
    for name in buffers[0]:
        np.testing.assert_array_equal(buffers[0][name], buffers[1][name])


def test_atoms_without_neighbours(model_file: ModelFile) -> None:
    atoms = ase.Atoms("Ar2", [[0.0, 0.0, 0.0], [0.0, 0.0, 50.0]])
    provider = set_up(MetatomicForceProvider(argon(model_file)), atoms)
    assert not virials_of(provider, atoms).any()


def test_several_structures(model_file: ModelFile) -> None:
    structures = [argon_atoms("bulk"), argon_atoms("small"), argon_atoms("slab")]
    provider = MetatomicForceProvider(argon(model_file), tuning=False)
    given = [Structure(a.numbers, a.positions, cell_of(a)) for a in structures]
    results, _ = evaluate_structures(provider, given, Wanted(virials=True))
    for atoms, result in zip(structures, results, strict=True):
        assert result.virials is not None
        np.testing.assert_allclose(result.virials, by_hand(atoms), rtol=1e-10, atol=ANALYTIC)


# --- what is refused ------------------------------------------------------------------------------


def require_untouched(kind: type[BridgeError], provider: MetatomicForceProvider, atoms: Any) -> str:
    """The message; nothing was added anywhere."""
    n_atoms = len(atoms)
    arrays = {
        "forces": np.zeros((n_atoms, 3)), "energy": np.zeros(1), "virial": np.zeros((3, 3)),
        "virials": np.zeros((n_atoms, 3, 3)),
    }  # fmt: skip
    step = Step(atoms.positions, virial=True, virials=True)
    error = refused(kind, lambda: provider.compute(step, ForceBuffers(**arrays)))
    assert not any(array.any() for array in arrays.values())
    return str(error)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("reads_positions", "positions directly"),
        ("not_invariant", "positions directly"),
        ("infinite_range", "positions directly"),
        ("reads_cell", "cell directly"),
        ("internal_gradient", "differentiate"),
    ],
)
def test_models_that_see_more_than_pair_vectors(name: str, reason: str) -> None:
    atoms = crystal()
    provider = set_up(MetatomicForceProvider(zoo_file(name)), atoms)
    message = require_untouched(UnsupportedOutputError, provider, atoms)
    assert reason in message
    assert "Step(virial=True)" in message
    # which works
    virial = np.zeros((3, 3))
    step = Step(atoms.positions, energy=False, forces=False, virial=True)
    provider.compute(step, ForceBuffers(virial=virial)).synchronize()
    assert np.abs(virial).max() > 0.0


def test_the_other_route() -> None:
    atoms = crystal()
    provider = set_up(MetatomicForceProvider(zoo_file("pair"), gradient="strain"), atoms)
    assert "'strain'" in require_untouched(UnsupportedOutputError, provider, atoms)


@pytest.mark.parametrize("direct", [True, "stress"])
def test_a_stress_that_is_no_gradient(direct: Any) -> None:
    atoms = crystal()
    provider = MetatomicForceProvider(zoo_file("non_conservative"), non_conservative=direct)
    set_up(provider, atoms)
    assert "non-conservative" in require_untouched(UnsupportedOutputError, provider, atoms)


def test_forces_that_are_no_gradient_leave_the_virial_alone() -> None:
    atoms = crystal()
    provider = MetatomicForceProvider(zoo_file("non_conservative"), non_conservative="forces")
    virial, virials = both(set_up(provider, atoms), atoms)
    require_sum(virial, virials, ROUNDING)


def test_results_that_are_no_numbers(model_file: ModelFile) -> None:
    """Also where only the engine's precision can not hold them."""
    atoms = argon_atoms()
    atoms.positions[1] = atoms.positions[0] + [0.0015, 0.0, 0.0]
    provider = set_up(MetatomicForceProvider(argon(model_file), tuning=False), atoms)
    found = np.full((len(atoms), 3, 3), 7.0, np.float32)
    step = Step(atoms.positions, energy=False, forces=False, virials=True)
    with pytest.raises(NonFiniteResultError, match="virials"):
        provider.compute(step, ForceBuffers(virials=found))
    assert (found == 7.0).all()
    assert np.isfinite(virials_of(provider, atoms)).all()  # float64 can


def test_buffers_that_do_not_fit(model_file: ModelFile) -> None:
    atoms = argon_atoms()
    provider = set_up(MetatomicForceProvider(argon(model_file)), atoms)
    step = Step(atoms.positions, energy=False, forces=False, virials=True)
    error = refused(ProtocolError, lambda: provider.compute(step, ForceBuffers()))
    assert "Step(virials=False)" in error.fix
    for shape in ((len(atoms), 9), (len(atoms), 6), (3, 3), (len(atoms) + 1, 3, 3)):
        wrong = ForceBuffers(virials=np.zeros(shape))
        refused(ShapeError, lambda wrong=wrong: provider.compute(step, wrong))


RANKS = """
import numpy as np
from domain_systems import argon_model, crystal, start, step
from mpi4py import MPI
from alchemi_bridge.contract import ForceBuffers, Step
from alchemi_bridge.domain import DomainForceProvider, ReplicatedForceProvider
from alchemi_bridge.errors import BridgeError

comm = MPI.COMM_WORLD
atoms = crystal("Ar", (3, 3, 2))
for kind in (DomainForceProvider, ReplicatedForceProvider):
    provider = kind(argon_model(), comm, tuning=False)
    mine = atoms[comm.rank :: comm.size] if kind is DomainForceProvider else atoms
    start(provider, mine)
    forces, virials = np.zeros((len(mine), 3)), np.zeros((len(mine), 3, 3))
    wanted = Step(mine.positions, energy=False, virials=True)
    try:
        provider.compute(wanted, ForceBuffers(forces, virials=virials))
    except BridgeError as error:
        text = f"{type(error).__name__} {error}"
    assert text.startswith("UnsupportedOutputError"), text
    assert "MetatomicForceProvider" in text, text
    assert not forces.any() and not virials.any()
    step(provider, mine)  # and it goes on
    if comm.rank == 0:
        print("refused by", kind.__name__)
"""


@needs_mpi
@pytest.mark.slow
def test_several_ranks_refuse() -> None:
    done = run_ranks(2, RANKS)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("refused by") == 2
