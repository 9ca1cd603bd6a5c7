"""What metatomic asks of a model: selections, batches, empty systems, files, TorchScript."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from known_potentials import IN_SINGLE, POTENTIALS, SPECIES, evaluate, make_system, run, structure
from metatensor.torch import Labels
from metatomic.torch import (
    ModelEvaluationOptions,
    ModelOutput,
    load_atomistic_model,
)

from alchemi_bridge import potentials
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.parity import oracles

TOLERANCE = 1e-12  # eV and eV/Å, the same additions in another order


def labels(rows: list[tuple[int, int]]) -> Labels:
    values = torch.tensor(rows, dtype=torch.int32).reshape(-1, 2)
    return Labels(["system", "atom"], values)


def forces_of(energy: torch.Tensor, positions: torch.Tensor) -> np.ndarray:
    return -torch.autograd.grad(energy, positions, retain_graph=True)[0].numpy()


@pytest.mark.parametrize("name", IN_SINGLE)
def test_capabilities(name: str) -> None:
    for dtype in ("float32", "float64"):
        model = potentials.build(name, dtype=dtype)
        capabilities = model.capabilities()
        assert capabilities.dtype == dtype
        assert capabilities.length_unit == "angstrom"
        assert set(capabilities.supported_devices) == {"cpu", "cuda"}
        assert list(capabilities.outputs) == ["energy"]
        assert capabilities.outputs["energy"].unit == "eV"
        assert capabilities.outputs["energy"].sample_kind == "atom"
        [request] = model.requested_neighbor_lists()
        layers = 3 if name == "message-passing" else 1
        assert capabilities.interaction_range == pytest.approx(layers * request.cutoff)
        assert request.full_list == (name != "lennard-jones")
        assert request.strict
        metadata = model.metadata()
        assert metadata.name
        assert metadata.description
        assert "doi.org" in str(metadata)
        # the notes in a file are enough to build it, and its oracle, again
        options = json.loads(metadata.extra["alchemi_bridge::options"])
        assert metadata.extra["alchemi_bridge::potential"] == name
        again = potentials.build(name, **options)
        assert again.capabilities().interaction_range == capabilities.interaction_range
        assert oracles.build(name, **options).cutoff == pytest.approx(request.cutoff)


@pytest.mark.parametrize("name", POTENTIALS)
def test_selected_atoms_sum_to_the_total(name: str) -> None:
    atoms = structure("triclinic", name)
    model = potentials.build(name)
    whole = evaluate(model, atoms)
    system, positions = make_system(atoms, model)
    parts = [[a for a in range(len(atoms)) if a % 3 == k] for k in (2, 0, 1)]
    energy, forces = 0.0, np.zeros((len(atoms), 3))
    for part in parts:
        selected = labels([(0, a) for a in part])
        per_atom = run(model, [system], "atom", selected)
        assert per_atom.samples == selected
        np.testing.assert_allclose(
            per_atom.values[:, 0].detach(), whole.energies[part], atol=TOLERANCE
        )
        per_system = run(model, [system], "system", selected)
        assert per_system.samples.values.tolist() == [[0]]
        energy += per_system.values.item()
        forces += forces_of(per_system.values.sum(), positions)
    assert energy == pytest.approx(whole.energy, abs=TOLERANCE * len(atoms))
    np.testing.assert_allclose(forces, whole.forces, atol=TOLERANCE * len(atoms))


@pytest.mark.parametrize("sample_kind", ["atom", "system"])
@pytest.mark.parametrize("name", POTENTIALS)
def test_nothing_selected(name: str, sample_kind: str) -> None:
    model = potentials.build(name)
    system, positions = make_system(structure("small", name), model)
    block = run(model, [system], sample_kind, labels([]))
    assert block.values.shape == (0, 1)
    np.testing.assert_array_equal(forces_of(block.values.sum(), positions), 0.0)


@pytest.mark.parametrize("name", POTENTIALS)
def test_selected_atoms_of_several_systems(name: str) -> None:
    model = potentials.build(name)
    shapes = ("small", "slab", "molecule")
    systems = [make_system(structure(shape, name), model)[0] for shape in shapes]
    known = [evaluate(model, structure(shape, name)).energies for shape in shapes]
    rows = [(2, 4), (0, 1), (2, 0)]
    block = run(model, systems, "atom", labels(rows))
    expected = [known[system][atom] for system, atom in rows]
    np.testing.assert_allclose(block.values[:, 0].detach(), expected, atol=TOLERANCE)
    block = run(model, systems, "system", labels(rows))
    assert block.samples.values.tolist() == [[0], [2]]
    np.testing.assert_allclose(
        block.values[:, 0].detach(), [expected[1], expected[0] + expected[2]], atol=TOLERANCE
    )


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_domain_and_its_halo_are_enough(name: str) -> None:
    atoms = _large_sample(name)
    model = potentials.build(name)
    whole = evaluate(model, atoms)
    reach = model.capabilities().interaction_range
    home = np.flatnonzero(atoms.get_scaled_positions()[:, 0] < 0.2)[:6]
    cluster, chosen = _cut_out(atoms, home, reach)
    system, _ = make_system(cluster, model)
    block = run(model, [system], "atom", labels([(0, a) for a in chosen]))
    np.testing.assert_allclose(
        block.values[:, 0].detach(), whole.energies[home], atol=10 * TOLERANCE
    )
    if name == "message-passing":
        # a halo of two of the three cutoffs has to be noticed
        cluster, chosen = _cut_out(atoms, home, reach * 2 / 3)
        system, _ = make_system(cluster, model)
        block = run(model, [system], "atom", labels([(0, a) for a in chosen]))
        error = np.abs(block.values[:, 0].detach().numpy() - whole.energies[home]).max()
        assert error > 1e-6


def _large_sample(name: str) -> Atoms:
    atoms = bulk("Si", "diamond", a=5.431, cubic=True).repeat(2)
    if name == "lennard-jones":
        atoms = bulk("Ar", "fcc", a=5.4, cubic=True).repeat(2)
    if name == "copper":
        atoms = bulk("Cu", "fcc", a=3.61, cubic=True).repeat(3)
    atoms.rattle(0.1, seed=3)
    return atoms


def _cut_out(atoms: Atoms, home: np.ndarray, reach: float) -> tuple[Atoms, range]:
    """The atoms ``home`` and every image within ``reach`` of one of them, without periodicity."""
    first, second, shift = neighbor_list("ijS", atoms, reach)
    of_home = np.isin(first, home)
    images = {(int(a), *map(int, s)) for a, s in zip(second[of_home], shift[of_home], strict=True)}
    rows = [(int(a), 0, 0, 0) for a in home]
    rows += sorted(images - set(rows))
    table = np.array(rows)
    positions = atoms.positions[table[:, 0]] + table[:, 1:] @ atoms.cell.array
    return Atoms(atoms.numbers[table[:, 0]], positions=positions), range(len(home))


@pytest.mark.parametrize("name", POTENTIALS)
def test_several_systems_at_once(name: str) -> None:
    model = potentials.build(name)
    shapes = ("slab", "small", "molecule", "left-handed")
    made = [make_system(structure(shape, name), model) for shape in shapes]
    number, _ = SPECIES[name]
    lonely = make_system(Atoms([number]), model)
    none = make_system(Atoms(), model)
    made = [made[0], none, made[1], lonely, *made[2:]]
    systems = [system for system, _ in made]
    per_atom = run(model, systems, "atom")
    per_system = run(model, systems, "system")
    sizes = [len(system) for system in systems]
    rows = [[s, a] for s, size in enumerate(sizes) for a in range(size)]
    assert per_atom.samples.values.tolist() == rows
    assert per_system.samples.values.tolist() == [[s] for s in range(len(systems))]
    for k, (system, positions) in enumerate(made):
        alone = run(model, [system], "system").values
        assert per_system.values[k].item() == pytest.approx(alone.item(), abs=TOLERANCE)
        np.testing.assert_allclose(
            forces_of(per_system.values.sum(), positions),
            forces_of(alone.sum(), positions),
            atol=TOLERANCE,
        )
    assert per_system.values[1].item() == 0.0


@pytest.mark.parametrize("sample_kind", ["atom", "system"])
@pytest.mark.parametrize("name", POTENTIALS)
def test_no_systems_no_atoms_no_pairs(name: str, sample_kind: str) -> None:
    model = potentials.build(name)
    module = torch.jit.script(model.module)
    wanted = {"energy": ModelOutput(unit="eV", sample_kind=sample_kind)}
    nothing = module([], wanted, None)["energy"].block()
    assert nothing.values.shape == (0, 1)
    assert module([], {}, None) == {}

    system, positions = make_system(Atoms(), model)
    block = run(model, [system], sample_kind)
    assert block.values.shape == ((0, 1) if sample_kind == "atom" else (1, 1))
    assert block.values.sum().item() == 0.0

    number, _ = SPECIES[name]
    apart = Atoms([number, number], positions=[[0, 0, 0], [0, 0, 40.0]])
    system, positions = make_system(apart, model)
    block = run(model, [system], sample_kind)
    np.testing.assert_array_equal(forces_of(block.values.sum(), positions), np.zeros((2, 3)))


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_file_gives_the_same_bits(name: str, tmp_path) -> None:
    atoms = structure("slab", name)
    direct = evaluate(potentials.build(name), atoms)
    path = potentials.export(name, tmp_path / "model.pt")
    loaded = load_atomistic_model(str(path))
    read = evaluate(loaded, atoms)
    # neither the state of torch's generator nor its default type leaves a trace
    torch.manual_seed(123)
    try:
        torch.set_default_dtype(torch.float64)
        other = potentials.export(name, tmp_path / "other.pt")
    finally:
        torch.set_default_dtype(torch.float32)
    again = evaluate(load_atomistic_model(str(other)), atoms)
    for key in ("energies", "forces", "virial"):
        np.testing.assert_array_equal(getattr(again, key), getattr(read, key))
        # TorchScript adds the biases of nets after the products, PyTorch together with them
        limit = TOLERANCE if name == "copper" else 0.0
        np.testing.assert_allclose(getattr(read, key), getattr(direct, key), rtol=0.0, atol=limit)


@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize("name", POTENTIALS)
def test_scripted_model_is_right_in_every_call(name: str, optimized: bool, tmp_path) -> None:
    # the profiling executor specialises after two calls; shapes must stay free to change
    model = load_atomistic_model(str(potentials.export(name, tmp_path / "model.pt")))
    oracle = oracles.build(name)
    number, _ = SPECIES[name]
    sequence = [structure(s, name) for s in ("bulk", "small", "molecule", "slab")]
    alone = Atoms([number], positions=[[0.1, 0.2, 0.3]])
    with torch.jit.optimized_execution(optimized):
        for atoms in [*sequence, alone, *sequence, Atoms(), *reversed(sequence)]:
            found, known = evaluate(model, atoms), oracle.evaluate(atoms)
            scale = max(1.0, np.abs(known.forces).max(initial=0.0))
            np.testing.assert_allclose(found.energies, known.energies, atol=1e-12 * scale)
            np.testing.assert_allclose(found.forces, known.forces, atol=1e-11 * scale)


@pytest.mark.parametrize("name", POTENTIALS)
def test_module_reads_pair_vectors_only(name: str) -> None:
    model = potentials.build(name)
    atoms = structure("bulk", name)
    system, _ = make_system(atoms, model)
    expected = run(model, [system], "system").values.item()
    system.positions = torch.full_like(system.positions, float("nan"))
    wanted = {"energy": ModelOutput(unit="eV", sample_kind="system")}
    assert model.module([system], wanted, None)["energy"].block().values.item() == expected


@pytest.mark.parametrize("name", POTENTIALS)
def test_lengths_in_other_units(name: str) -> None:
    model = potentials.build(name)
    atoms = structure("bulk", name)
    expected = evaluate(model, atoms).energy
    in_nm = atoms.copy()
    in_nm.set_cell(atoms.cell.array / 10)
    in_nm.positions /= 10
    system, _ = make_system(in_nm, model, length_unit="nm")
    options = ModelEvaluationOptions(
        length_unit="nm",
        outputs={"energy": ModelOutput(unit="meV", sample_kind="system")},
        selected_atoms=None,
    )
    value = model([system], options, check_consistency=True)["energy"].block().values.item()
    assert value == pytest.approx(1000 * expected, rel=1e-11)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", POTENTIALS)
def test_on_a_gpu(name: str, tmp_path) -> None:
    path = potentials.export(name, tmp_path / "model.pt")
    model = load_atomistic_model(str(path)).to("cuda")
    for shape in ("bulk", "small", "molecule", "slab", "bulk"):
        atoms = structure(shape, name)
        known = oracles.build(name).evaluate(atoms)
        system, positions = make_system(atoms, model)
        block = run(model, [system.to(device="cuda")], "atom")
        found = forces_of(block.values.sum(), positions)
        scale = max(1.0, np.abs(known.forces).max())
        np.testing.assert_allclose(block.values[:, 0].detach().cpu(), known.energies, atol=1e-11)
        np.testing.assert_allclose(found, known.forces, atol=1e-10 * scale)


def test_names() -> None:
    assert potentials.NAMES == oracles.NAMES == POTENTIALS
    assert potentials.build("lennard_jones").metadata().name == "Lennard-Jones"


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("morse", {}, "potential"),
        ("lennard-jones", {"depth": 1.0}, "depth"),
        ("lennard-jones", {"dtype": "float16"}, "dtype"),
        ("lennard-jones", {"cutoff": 0.0}, "cutoff"),
        ("lennard-jones", {"cutoff": float("nan")}, "cutoff"),
        ("lennard-jones", {"truncation": "smooth"}, "truncation"),
        ("lennard-jones", {"types": [18]}, "epsilon"),
        ("lennard-jones", {"types": [18, 18]}, "types"),
        ("lennard-jones", {"types": []}, "types"),
        ("lennard-jones", {"types": [18, 200]}, "types"),
        ("lennard-jones", {"types": [18, -1]}, "atomic type"),
        ("lennard-jones", {"sigma": [3.4, -1.0]}, "sigma"),
        ("lennard-jones", {"epsilon": [3.4, "x"]}, "epsilon"),
        ("lennard-jones", {"pairs": {(18, 54): (0.01, 3.0)}}, "pairs"),
        ("stillinger-weber", {"sigma": 0.0}, "sigma"),
        ("stillinger-weber", {"costheta0": 109.47}, "costheta0"),
        ("stillinger-weber", {"atomic_type": 14.5}, "atomic type"),
        ("stillinger-weber", {"full_list": False}, "full_list"),
        ("message-passing", {"n_layers": 0}, "n_layers"),
        ("message-passing", {"n_features": 1.5}, "n_features"),
        ("message-passing", {"n_basis": True}, "n_basis"),
        ("message-passing", {"seed": -1}, "seed"),
        ("message-passing", {"energy_scale": float("inf")}, "energy_scale"),
        ("copper", {"dtype": "float32"}, "dtype"),
        ("copper", {"cutoff": 4.0}, "cutoff"),
    ],
)
def test_options_out_of_range_are_named(name: str, options: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        potentials.build(name, **options)
    for part in (caught.value.expected, caught.value.got, caught.value.fix):
        assert part


def test_export_into_a_missing_folder(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="folder that exists"):
        potentials.export("lennard-jones", tmp_path / "missing" / "model.pt")
