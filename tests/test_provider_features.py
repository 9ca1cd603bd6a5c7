"""What the provider does with a model: groups of atoms, gradients, units, precisions, buffers."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import pytest
import torch
import zoo
from feature_parts import (
    Buffers,
    cell_of,
    crystal,
    exact,
    molecule,
    pair_list,
    prepare,
    run,
    slab,
    step,
    zoo_file,
)
from metatensor.torch import Labels

from alchemi_bridge import (
    Atoms,
    BridgeCalculator,
    ForceBuffers,
    FullPairs,
    HalfPairs,
    MetatomicForceProvider,
    Search,
    Step,
    Units,
)
from alchemi_bridge.batch import Structure, evaluate_structures
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.model import Wanted, load_model

# float64: the order of sums is all that differs
ENERGY = 1e-10  # relative
FORCE = 1e-9  # eV/A
# the two ways to take gradients differ in rounding only
ROUTES = 1e-12
# central differences of step 1e-4 A, third derivatives of order one
DIFFERENCE = 1e-7
STEP = 1e-4
# float32: 6e-8 for each of some ten operations, with forces of order one
SINGLE = 2e-6

NAMES = ("energy", "forces", "virial", "energies")


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = FORCE) -> None:
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerance)


def same(found: Buffers, expected: Any, tolerance: float = FORCE) -> None:
    for name in NAMES:
        close(found.numpy(name), expected.numpy(name), tolerance)


# --- groups of atoms ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pair", "several_cutoffs", "half_list", "infinite_range"])
@pytest.mark.parametrize("gradient", ["leaves", "strain"])
def test_selections_sum_to_the_whole(name: str, gradient: Any) -> None:
    atoms = crystal(2)
    provider = MetatomicForceProvider(zoo_file(name), gradient=gradient)
    whole = run(provider, atoms)
    groups = np.array_split(np.random.default_rng(2).permutation(len(atoms)), [3, 4, 17])
    parts = [run(provider, atoms, selected=group) for group in groups]
    for quantity in NAMES:
        close(sum(part.numpy(quantity) for part in parts), whole.numpy(quantity))
    for part, group in zip(parts, groups, strict=True):
        others = np.setdiff1d(np.arange(len(atoms)), group)
        close(part.energies[group], whole.energies[group])
        close(part.energies[others], 0.0, 0.0)
        assert np.abs(part.forces[others]).max() > 0.0  # what a halo sends to its owner


def test_empty_selection_and_empty_rank() -> None:
    provider = MetatomicForceProvider(zoo_file("pair"))
    atoms = crystal()
    prepare(provider, atoms, selected=np.zeros(0, np.int64))
    assert step(provider, atoms, Buffers(4, start=3.0)).untouched()
    prepare(provider, atoms, subset=np.zeros(0, np.int32))
    assert step(provider, atoms, Buffers(4, start=3.0)).untouched()
    nobody = atoms[:0]
    prepare(provider, nobody)
    assert step(provider, nobody, Buffers(0, start=3.0)).untouched()


@pytest.mark.parametrize("name", ["pair", "several_cutoffs", "infinite_range", "reads_positions"])
@pytest.mark.parametrize("chosen", [[5, 1, 20, 8, 9, 11], [0], list(range(31, -1, -1))])
def test_subset_is_evaluated_alone(name: str, chosen: list[int]) -> None:
    atoms = crystal(2)
    atoms.numbers[np.setdiff1d(np.arange(32), chosen)] = 79  # which the model does not know
    alone = run(MetatomicForceProvider(zoo_file(name)), atoms[chosen])
    provider = MetatomicForceProvider(zoo_file(name))
    prepare(provider, atoms, subset=np.array(chosen))
    found = step(provider, atoms, Buffers(32, start=2.0))
    close(found.energy, alone.energy)
    close(found.virial, alone.virial)
    others = np.setdiff1d(np.arange(32), chosen)
    for quantity in ("forces", "energies"):
        close(found.numpy(quantity)[chosen], alone.numpy(quantity))
        close(found.numpy(quantity)[others], 0.0, 0.0)


def test_subset_with_a_list_and_a_selection() -> None:
    atoms, chosen = crystal(2), np.array([30, 2, 3, 17, 9])
    path = zoo_file("pair")
    pairs = pair_list(atoms, 3.4, FullPairs)
    provider = MetatomicForceProvider(path)
    by_list = run(provider, atoms, subset=chosen, pairs=pairs)
    same(by_list, run(provider, atoms, subset=chosen))
    one = run(provider, atoms, subset=chosen, selected=chosen[:2], pairs=pairs)
    rest = run(provider, atoms, subset=chosen, selected=chosen[2:])
    for quantity in NAMES:
        close(one.numpy(quantity) + rest.numpy(quantity), by_list.numpy(quantity))


@pytest.mark.parametrize("kind", [HalfPairs, FullPairs])
@pytest.mark.parametrize("make", [crystal, slab, molecule])
def test_lists_that_the_engine_made(kind: type, make: Any) -> None:
    atoms = make()
    pairs = pair_list(atoms, 4.0, kind)
    provider = MetatomicForceProvider(zoo_file("pair"))
    prepare(provider, atoms, pairs)
    same(step(provider, atoms), run(MetatomicForceProvider(zoo_file("pair")), atoms))
    # within the skin the same list serves
    atoms.positions += np.random.default_rng(0).uniform(-0.25, 0.25, atoms.positions.shape)
    expected = exact(atoms)
    close(step(provider, atoms).forces, expected.forces)
    assert provider.searches == 1


# --- several systems ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pair", {}),
        ("several_cutoffs", {}),
        ("reads_positions", {}),
        ("internal_gradient", {}),
        ("pair", {"gradient": "strain"}),
        ("non_conservative", {"non_conservative": "forces"}),
        ("uncertain", {"uncertainty_threshold": 1.0}),
    ],
)
def test_batch_equals_one_by_one(name: str, options: dict[str, Any]) -> None:
    provider = MetatomicForceProvider(zoo_file(name), **options)
    systems = [crystal(), molecule(), slab(), ase.Atoms("Ar"), crystal(2)]
    structures = [
        Structure(np.asarray(atoms.numbers), atoms.positions, cell_of(atoms)) for atoms in systems
    ]
    results, _ = evaluate_structures(provider, structures, Wanted(True, True, True, True))
    for atoms, found in zip(systems, results, strict=True):
        expected = run(provider, atoms)
        close(found.energy.numpy(), expected.energy[0])
        for quantity in ("forces", "virial", "energies"):
            close(getattr(found, quantity).numpy(), expected.numpy(quantity))
        uncertainty = provider.results.uncertainty
        assert (found.uncertainty is None) == (uncertainty is None)
        if uncertainty is not None:
            close(found.uncertainty.numpy(), uncertainty.numpy(), 0.0)


def test_calculator_evaluates_a_list() -> None:
    calculator = BridgeCalculator(zoo_file("pair"))
    systems = [molecule(), crystal(), slab(), crystal(2)]
    found = calculator.evaluate(systems, ("energy", "forces", "stress", "energies"))
    for atoms, results in zip(systems, found, strict=True):
        expected = exact(atoms)
        assert results["energy"] == pytest.approx(expected.energy, rel=ENERGY)
        close(results["forces"], expected.forces)
        close(results["energies"], expected.energies)
        assert ("stress" in results) == bool(atoms.pbc.all())
        if atoms.pbc.all():
            stress = (expected.virial / atoms.get_volume())[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            close(results["stress"], stress)
    assert calculator.evaluate([]) == []
    labels = Labels(["system", "atom"], torch.tensor([[0, 3], [2, 1], [2, 30]]))
    energy = calculator.run_model(systems, ["energy"], labels)["energy"].block()
    expected = [exact(systems[s]).energies[a] for s, a in labels.values.tolist()]
    close(energy.values[:, 0].numpy(), np.array(expected))


# --- gradients ----------------------------------------------------------------------------------


def numerical(provider: MetatomicForceProvider, atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Forces and virial by central differences of the energy."""

    def energy(changed: ase.Atoms) -> float:
        prepare(provider, changed)
        return float(step(provider, changed, forces=False, virial=False).energy[0])

    forces, virial = np.zeros((len(atoms), 3)), np.zeros((3, 3))
    for place in np.ndindex(forces.shape):
        values = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions[place] += sign * STEP
            values.append(energy(moved))
        forces[place] = (values[1] - values[0]) / (2.0 * STEP)
    for place in np.ndindex(virial.shape):
        values = []
        for sign in (1.0, -1.0):
            strain = np.eye(3)
            strain[place] += sign * STEP
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain)
            strained.positions = atoms.positions @ strain
            values.append(energy(strained))
        virial[place] = (values[0] - values[1]) / (2.0 * STEP)
    return forces, (virial + virial.T) / 2.0


READERS = ["pair", "several_cutoffs", "reads_positions", "reads_cell", "infinite_range"]
READERS += ["not_invariant"]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("make", [crystal, slab, molecule])
def test_gradients(name: str, make: Any) -> None:
    atoms = make()[:6]
    leaves = MetatomicForceProvider(zoo_file(name), gradient="leaves")
    strain = MetatomicForceProvider(zoo_file(name), gradient="strain")
    found = run(leaves, atoms)
    same(run(strain, atoms), found, ROUTES * max(1.0, np.abs(found.virial).max()))
    forces, virial = numerical(leaves, atoms)
    close(found.forces, forces, DIFFERENCE)
    close(found.virial, virial, 10 * DIFFERENCE)


def test_cell_that_the_model_reads() -> None:
    atoms = crystal()
    found = run(MetatomicForceProvider(zoo_file("reads_cell")), atoms)
    energy = zoo.PRESSURE * atoms.get_volume()
    assert found.energy[0] == pytest.approx(exact(atoms).energy + energy, rel=ENERGY)
    close(found.virial, exact(atoms).virial + energy * np.eye(3))
    close(found.forces, exact(atoms).forces)


def test_left_handed_cell_and_atoms_far_outside() -> None:
    atoms = crystal()
    expected = run(MetatomicForceProvider(zoo_file("pair")), atoms)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array[[1, 0, 2]])
    same(run(MetatomicForceProvider(zoo_file("pair")), turned), expected)
    far = atoms.copy()
    far.positions += np.array([[3, -2, 0], [0, 0, 5], [-9, 1, 1], [0, 0, 0]]) @ atoms.cell.array
    same(run(MetatomicForceProvider(zoo_file("pair")), far), expected)


def test_infinite_range() -> None:
    atoms = molecule()
    provider = MetatomicForceProvider(zoo_file("infinite_range"))
    assert provider.requirements.halo_range == np.inf
    assert provider.requirements.pair_range == zoo.CUTOFF
    arms = atoms.get_all_distances()
    expected = exact(atoms).energies + 0.5 / np.sqrt(1.0 + arms**2).sum(axis=1)
    close(run(provider, atoms).energies, expected)


@pytest.mark.parametrize("name", ["internal_gradient", "internal_pair_gradient"])
def test_models_that_differentiate_by_themselves(name: str) -> None:
    atoms = crystal()
    for source in (zoo_file(name), load_model(zoo_file(name)).module):
        provider = MetatomicForceProvider(source, extra_outputs=["zoo::inner_force"])
        assert provider.route == "strain"
        found = run(provider, atoms)
        close(found.forces, exact(atoms).forces)
        close(found.virial, exact(atoms).virial)
        inner = provider.results.extra["zoo::inner_force"].block().values[:, :, 0]
        close(inner.numpy(), exact(atoms).forces)
        # also where no gradient is asked for
        prepare(provider, atoms)
        step(provider, atoms, forces=False, virial=False)
        inner = provider.results.extra["zoo::inner_force"].block().values[:, :, 0]
        close(inner.numpy(), exact(atoms).forces)
    assert MetatomicForceProvider(zoo_file("pair")).route == "leaves"


# --- units and precisions -----------------------------------------------------------------------

KJ_PER_MOL = 1.602176634e-19 * 6.02214076e23 / 1000.0  # in one eV (SI, exact)


def test_model_in_nm_and_kj_per_mol() -> None:
    atoms = crystal()
    expected = exact(atoms, cutoff=4.0, prefactor=50.0 / KJ_PER_MOL)
    provider = MetatomicForceProvider(zoo_file("nm_units"))
    assert provider.requirements.pair_range == pytest.approx(4.0, rel=1e-12)
    found = run(provider, atoms)
    assert found.energy[0] == pytest.approx(expected.energy, rel=ENERGY)
    close(found.forces, expected.forces)
    close(found.virial, expected.virial)
    close(found.energies, expected.energies)
    atoms.calc = BridgeCalculator(zoo_file("nm_units"))
    close(atoms.get_forces(), expected.forces)


@pytest.mark.parametrize("name", ["nm_units", "pair", "several_cutoffs"])
def test_engine_in_nm_and_kj_per_mol(name: str) -> None:
    atoms = crystal()
    expected = run(MetatomicForceProvider(zoo_file(name)), atoms)
    small = atoms.copy()
    small.set_cell(atoms.cell.array / 10.0)
    small.positions = atoms.positions / 10.0
    provider = MetatomicForceProvider(zoo_file(name), units=Units("nm", "kJ/mol"))
    prepare(provider, small, Search(0.05))
    found = step(provider, small)
    close(found.energy, expected.energy * KJ_PER_MOL)
    close(found.energies, expected.energies * KJ_PER_MOL)
    close(found.virial, expected.virial * KJ_PER_MOL)
    close(found.forces, expected.forces * KJ_PER_MOL * 10.0, 10 * FORCE)
    assert provider.units.force == "(kJ/mol)/(nm)"
    prepare(provider, small, pair_list(small, 0.5, FullPairs))
    same(step(provider, small), found)


def test_float32_model_in_a_float64_engine() -> None:
    atoms = crystal(2)
    expected = run(MetatomicForceProvider(zoo_file("pair")), atoms)
    provider = MetatomicForceProvider(zoo_file("float32"))
    assert provider.requirements.dtype == torch.float32
    same(run(provider, atoms), expected, 20 * SINGLE)
    close(run(provider, atoms).forces, expected.forces, SINGLE)
    # far from the origin float64 positions keep what float32 would lose
    far = atoms.copy()
    far.positions += 1e5
    close(run(provider, far).forces, expected.forces, SINGLE)
    atoms.calc = BridgeCalculator(zoo_file("float32"))
    assert atoms.get_forces().dtype == np.float64
    close(atoms.get_forces(), expected.forces, SINGLE)


def test_float64_model_in_a_float32_engine() -> None:
    atoms = crystal(2)
    positions = torch.from_numpy(atoms.positions).float()
    rounded = ase.Atoms(atoms, positions=positions.double().numpy())
    expected = run(MetatomicForceProvider(zoo_file("pair")), rounded)
    provider = MetatomicForceProvider(zoo_file("pair"))
    prepare(provider, rounded)
    buffers = Buffers(32, dtype=torch.float32)
    provider.compute(Step(positions=positions, virial=True, energies=True), buffers.all)
    same(buffers, expected, 20 * SINGLE)  # one rounding of sums of order 10
    exactly = Buffers(32)
    provider.compute(Step(positions=positions, virial=True, energies=True), exactly.all)
    same(exactly, expected)


# --- buffers ------------------------------------------------------------------------------------


def test_results_are_added() -> None:
    atoms = crystal()
    provider = MetatomicForceProvider(zoo_file("pair"))
    once = run(provider, atoms)
    rng = np.random.default_rng(0)
    shapes = {"energy": (1,), "forces": (4, 3), "virial": (3, 3), "energies": (4,)}
    memory = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    before = {name: values.copy() for name, values in memory.items()}
    a_step = Step(positions=atoms.positions, virial=True, energies=True)
    for times in (1, 2):
        provider.compute(a_step, ForceBuffers(**memory))
        for name in NAMES:
            close(memory[name], before[name] + times * once.numpy(name), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padded_and_transposed_memory(dtype: torch.dtype) -> None:
    atoms = crystal()
    atoms.positions = atoms.positions.astype(np.float32)
    provider = MetatomicForceProvider(zoo_file("pair"))
    expected = run(provider, atoms)
    tolerance = 1e-12 if dtype == torch.float64 else 20 * SINGLE
    # float4 as engines keep it: the fourth number is somebody else's
    positions, forces = torch.full((4, 4), torch.nan, dtype=dtype), torch.ones(4, 4, dtype=dtype)
    positions[:, :3] = torch.from_numpy(atoms.positions)
    flat = DeviceBuffer.from_pointer(forces.data_ptr(), (4, 3), dtype, strides=(4, 1), owner=forces)
    energy = np.zeros(1)
    provider.compute(Step(positions=positions[:, :3]), ForceBuffers(energy=energy, forces=flat))
    close(forces[:, :3].double().numpy() - 1.0, expected.forces, tolerance)
    assert bool((forces[:, 3] == 1.0).all())
    # one array for each axis
    axes = torch.zeros(3, 4, dtype=dtype)
    columns = np.asfortranarray(atoms.positions.astype(str(dtype).removeprefix("torch.")))
    columns.flags.writeable = False
    virial = np.zeros((3, 3)).T
    provider.compute(
        Step(positions=columns, virial=True),
        ForceBuffers(energy=energy, forces=axes.T, virial=virial),
    )
    close(axes.T.double().numpy(), expected.forces, tolerance)
    close(virial, expected.virial, 1e-12)
    close(energy, 2.0 * expected.energy, 1e-12)


@pytest.mark.parametrize("wanted", range(16))
@pytest.mark.parametrize("options", [{}, {"gradient": "strain"}, {"non_conservative": True}])
def test_only_what_is_wanted(wanted: int, options: dict[str, Any]) -> None:
    atoms = crystal()
    provider = MetatomicForceProvider(zoo_file("non_conservative"), **options)
    everything = run(provider, atoms)
    flags = {name: bool(wanted >> k & 1) for k, name in enumerate(NAMES)}
    found = step(provider, atoms, Buffers(4, start=3.0), **flags)
    for name in NAMES:
        expected = everything.numpy(name) if flags[name] else 0.0
        close(found.numpy(name), expected, 1e-12 if flags[name] else 0.0)


def test_positions_are_only_read() -> None:
    atoms = crystal()
    provider = MetatomicForceProvider(zoo_file("reads_positions"))
    prepare(provider, atoms)
    positions = torch.from_numpy(atoms.positions.copy()).requires_grad_(True)
    buffers = Buffers(4)
    provider.compute(Step(positions=positions, virial=True), buffers.all)
    assert positions.grad is None
    np.testing.assert_array_equal(positions.detach().numpy(), atoms.positions)
    assert not any(t.requires_grad for t in buffers.tensors.values())
    # nothing is kept: the engine may use the memory for something else
    kept = provider.results.forces.clone()
    positions.data.zero_()
    assert torch.equal(provider.results.forces, kept)
    same(step(provider, atoms), run(provider, atoms))


def test_types_on_any_integer() -> None:
    atoms, results = molecule(), []
    provider = MetatomicForceProvider(zoo_file("pair"))
    for dtype in (np.int32, np.int64):
        provider.set_atoms(Atoms(types=atoms.numbers.astype(dtype)))
        provider.set_pairs(Search(0.0), cell_of(atoms))
        results.append(step(provider, atoms))
    same(results[0], results[1], 0.0)
