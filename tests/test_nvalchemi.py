"""metatomic models in nvalchemi's model contract: against metatomic-ase, system by system."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
import zoo
from metatomic_ase import MetatomicCalculator
from nvalchemi_parts import crystal, engine, mixed, split

from alchemi_bridge.errors import ConfigurationError, PairListError
from alchemi_bridge.uncertainty import UncertaintyWarning

nv = engine()

from nvalchemi.data import AtomicData, Batch  # noqa: E402  (only where it is installed)
from nvalchemi.neighbors import compute_neighbors  # noqa: E402

POTENTIALS = ("lennard-jones", "stillinger-weber", "copper")

#: Both evaluate the same model in float64; sums of some hundred terms of a few eV may be taken in
#: another order.
EXACT = 1e-10

#: A float32 batch: coordinates of 10 Å are off by 1e-6 Å, under forces whose slope is some
#: 10 eV/Å^2.
SINGLE = 1e-4

ModelFile = Callable[..., Path]


def references(path: Path, structures: list[ase.Atoms]) -> list[dict[str, Any]]:
    """What metatomic-ase says; the stress of systems that have one."""
    calculator = MetatomicCalculator(path, device="cpu", uncertainty_threshold=None)
    found = []
    for atoms in structures:
        atoms = atoms.copy()
        atoms.calc = calculator
        found.append({"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()})
        if all(atoms.pbc):
            found[-1]["stress"] = atoms.get_stress(voigt=False)
    return found


def require_same(
    out: dict[str, torch.Tensor], structures: list[ase.Atoms], expected: list[dict], atol: float
) -> None:
    """Energies, forces and stresses of all systems."""
    forces = split(out["forces"], structures)
    for k, one in enumerate(expected):
        assert float(out["energy"][k, 0]) == pytest.approx(one["energy"], abs=atol, rel=atol), k
        np.testing.assert_allclose(forces[k], one["forces"], rtol=0, atol=atol, err_msg=str(k))
        if "stress" in out:
            np.testing.assert_allclose(
                out["stress"][k].numpy(), one["stress"], rtol=0, atol=atol, err_msg=str(k)
            )


@pytest.mark.parametrize("potential", POTENTIALS)
def test_crystals_agree_with_ase(potential: str, model_file: ModelFile) -> None:
    """Energy, forces and stress of crystals of several sizes, also when the model is called often.

    The first calls are different ones: through metatomic's forward, compared with the module, and
    in the modes that the tuner tries.
    """
    path = model_file(potential)
    sizes = ((1, 1, 1), (2, 1, 1), (1, 2, 3), (1, 1, 1))
    structures = [crystal(potential, repeat, seed) for seed, repeat in enumerate(sizes)]
    model = nv.MetatomicModel(path, stress=True)
    batch = nv.make_batch(structures, stress=True)
    expected = references(path, structures)
    for _ in range(14):
        out = model(batch)
        assert set(out) == {"energy", "forces", "stress"}
        require_same(out, structures, expected, EXACT)
    assert out["energy"].shape == (4, 1)
    assert out["stress"].shape == (4, 3, 3)
    assert not any(values.requires_grad for values in out.values())


@pytest.mark.parametrize("potential", POTENTIALS)
def test_any_systems_in_one_batch(potential: str, model_file: ModelFile) -> None:
    """Molecules, slabs, wires and crystals, small cells, no pairs, and single atoms, together."""
    path = model_file(potential)
    structures = mixed(potential)
    out = nv.MetatomicModel(path)(nv.make_batch(structures))
    assert set(out) == {"energy", "forces"}
    require_same(out, structures, references(path, structures), EXACT)


@pytest.mark.parametrize("gradient", ["leaves", "strain"])
@pytest.mark.parametrize(
    "name", ["reads_positions", "reads_cell", "several_cutoffs", "half_list", "not_strict",
             "per_system_only", "nm_units", "internal_gradient"],
)  # fmt: skip
def test_models_of_every_kind(name: str, gradient: str, tmp_path: Path) -> None:
    """Both routes of the gradient, for models that see more than one list of pair vectors."""
    if name == "internal_gradient" and gradient == "leaves":
        gradient = "auto"  # which is the other one for such a model
    path = tmp_path / "model.pt"
    getattr(zoo, name)().save(str(path))
    kind = min(zoo.pair().capabilities().atomic_types)
    structures = [crystal("copper", (k, 1, 1), k) for k in (1, 2, 3)]
    for atoms in structures:
        atoms.numbers[:] = kind
    model = nv.MetatomicModel(path, stress=True, gradient=gradient)
    batch = nv.make_batch(structures, stress=True)
    expected = references(path, structures)
    for _ in range(3):
        require_same(model(batch), structures, expected, EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_of_the_batch(dtype: torch.dtype, model_file: ModelFile) -> None:
    """Results have the batch's dtype, with a model of the other one, too."""
    structures = [crystal("lennard-jones", (2, 1, 1), k) for k in range(3)]
    path, single = (model_file("lennard-jones", dtype=d) for d in ("float64", "float32"))
    expected = references(path, structures)
    for file in (path, single):
        out = nv.MetatomicModel(file, stress=True)(nv.make_batch(structures, dtype=dtype))
        assert {values.dtype for values in out.values()} == {dtype}
        exact = dtype == torch.float64 and file == path
        require_same(out, structures, expected, EXACT if exact else SINGLE)


def test_lists_of_nvalchemi(model_file: ModelFile) -> None:
    """COO lists that nvalchemi made, and new ones in the same memory."""
    path = model_file("lennard-jones")
    model = nv.MetatomicModel(path, stress=True, neighbors="batch")
    structures = [crystal("lennard-jones", (k, 1, 1), k) for k in (1, 2, 3)]
    batch = nv.make_batch(structures, stress=True)
    for _ in range(3):
        compute_neighbors(batch, config=model.model_config.neighbor_config)
        require_same(model(batch), structures, references(path, structures), EXACT)
        for k, atoms in enumerate(structures):
            atoms.rattle(0.3, seed=10 + k)
        batch.positions.copy_(torch.tensor(np.concatenate([a.positions for a in structures])))
    model = nv.MetatomicModel(path, neighbors="batch")
    with pytest.raises(PairListError, match=r"neighbor_list of the batch: .* make_neighbor_hooks"):
        model(nv.make_batch(structures))


def test_lists_are_kept_and_renewed(model_file: ModelFile) -> None:
    """Atoms that move, cells that shrink, wrapped atoms, and systems that are replaced."""
    path = model_file("lennard-jones")
    model = nv.MetatomicModel(path, stress=True, skin=0.6)
    searched = model._geometry
    structures = [crystal("lennard-jones", (k, 1, 1), k) for k in (1, 2, 2)]

    def check(searches: int) -> None:
        out = model(nv.make_batch(structures))
        require_same(out, structures, references(path, structures), EXACT)
        assert searched.searches == searches

    check(3)
    for atoms in structures:
        atoms.positions += 0.15  # rigidly, 0.26 Å: less than half of the skin
    check(3)
    structures[1].positions[3, 0] += 0.31  # beyond it: this system alone
    check(4)
    structures[2].positions[1] += structures[2].cell[0] - 2 * structures[2].cell[1]  # wrapped
    check(4)
    structures[0].set_cell(structures[0].cell * 0.93, scale_atoms=True)
    check(5)
    structures[0].set_cell(structures[0].cell * 1.001, scale_atoms=True)  # within the skin
    check(5)
    structures[2] = crystal("lennard-jones", (2, 1, 1), 9)[::-1]  # as inflight batching does
    check(6)
    structures[1].numbers[:] = 36  # no new list, but other atoms
    check(6)
    structures.pop(0)
    check(6)  # other sizes, but the systems that stay keep their lists
    structures[:] = [crystal("lennard-jones", (3, 1, 1), 4), *structures[::-1]]
    check(7)
    structures[2].positions[3, 0] += 0.31
    structures.append(structures[1].copy())
    check(8)
    structures.append(structures[1].copy())
    structures[-1].set_cell(structures[-1].cell * 1.1)  # the same atoms in another cell
    check(9)


def test_layer_that_becomes_periodic(model_file: ModelFile) -> None:
    """In the plane of its atoms nothing seems to have moved, but there are layers above it now."""
    path = model_file("lennard-jones")
    model = nv.MetatomicModel(path)
    layer = ase.Atoms("Ar4", cell=np.diag([7.6, 7.6, 5.0]), pbc=(True, True, False))
    layer.positions[:, :2] = [[0.0, 0.0], [3.8, 0.1], [0.0, 3.8], [3.7, 3.8]]
    batch = nv.make_batch([layer])
    require_same(model(batch), [layer], references(path, [layer]), EXACT)
    batch.pbc[0, 2] = layer.pbc[2] = True
    require_same(model(batch), [layer], references(path, [layer]), EXACT)


def test_batch_that_is_changed_in_place(model_file: ModelFile) -> None:
    """Periodic directions, numbers and systems, between two calls of the model."""
    path = model_file("lennard-jones")
    model = nv.MetatomicModel(path)
    structures = [crystal("lennard-jones", (k, 1, 1), k) for k in (1, 2, 2)]
    batch = nv.make_batch(structures)
    require_same(model(batch), structures, references(path, structures), EXACT)
    batch.pbc[1, 2] = False
    structures[1].pbc = (True, True, False)
    require_same(model(batch), structures, references(path, structures), EXACT)
    batch.pbc[1] = True
    structures[1].pbc = True
    batch.atomic_numbers[6] = structures[1].numbers[2] = 36
    structures[1:] = structures[:0:-1]
    for name in ("positions", "atomic_numbers"):
        values = getattr(batch, name)
        values[4:] = values[4:].reshape(2, 8, -1).flip(0).reshape(values[4:].shape).clone()
    batch.cell[1:] = batch.cell[1:].flip(0).clone()
    require_same(model(batch), structures, references(path, structures), EXACT)


def test_active_outputs(model_file: ModelFile) -> None:
    """nvalchemi's switch of the outputs."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    batch = nv.make_batch([crystal("lennard-jones", (1, 1, 1), 0)])
    assert not model.training
    assert model.model_config.neighbor_config is None
    assert model.embedding_shapes == {}
    with pytest.raises(NotImplementedError, match="extra_outputs"):
        model.compute_embeddings(batch)
    model.set_config("active_outputs", {"energy"})
    assert list(model(batch)) == ["energy"]
    model.set_config("active_outputs", {"stress", "forces"})
    assert set(model(batch)) == {"stress", "forces"}


def test_one_structure_alone(model_file: ModelFile) -> None:
    path, atoms = model_file("lennard-jones"), crystal("lennard-jones", (2, 1, 1), 1)
    out = nv.MetatomicModel(path)(nv.atomic_data(atoms))
    require_same(out, [atoms], references(path, [atoms]), EXACT)


def test_extra_outputs(tmp_path: Path) -> None:
    """Outputs of atoms and of systems come in the batch's order, and as metatensor's maps."""
    path = tmp_path / "model.pt"
    zoo.extra_outputs().save(str(path))
    names = ["zoo::coordination", "zoo::dipole", "feature"]
    kind = min(zoo.pair().capabilities().atomic_types)
    structures = [crystal("copper", (k, 1, 1), k) for k in (1, 2)]
    for atoms in structures:
        atoms.numbers[:] = kind
    model = nv.MetatomicModel(path, extra_outputs=names)
    out = model(nv.make_batch(structures))
    assert set(model.additional_outputs) == set(names)
    alone = [
        nv.MetatomicModel(path, extra_outputs=names)(nv.make_batch([atoms])) for atoms in structures
    ]
    for name in names:
        expected = torch.cat([one[name] for one in alone])
        assert len(out[name]) in (2, 12)
        torch.testing.assert_close(out[name], expected, rtol=0, atol=EXACT)


def test_uncertainty_names_the_system(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    zoo.uncertain().save(str(path))
    kind = min(zoo.pair().capabilities().atomic_types)
    structures = [ase.Atoms([kind], positions=[[0.0] * 3]), crystal("copper", (1, 1, 1), 0)]
    structures[1].numbers[:] = kind
    model = nv.MetatomicModel(path, uncertainty_threshold=1e-3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(nv.make_batch(structures))
    said = [str(w.message) for w in caught if w.category is UncertaintyWarning]
    assert any(text.startswith("structure 1: ") for text in said)
    assert model.uncertainty is not None
    assert model.uncertainty.shape == (5,)


def test_batches_are_ready_for_dynamics() -> None:
    """Masses, velocities and places for the results, for molecules as for crystals."""
    molecule = ase.Atoms("Ar2", positions=[[0.0] * 3, [3.8, 0.0, 0.0]])
    molecule.set_velocities([[0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]])
    solid = crystal("lennard-jones", (1, 1, 1), 0)
    batch = nv.make_batch([molecule, solid], stress=True)
    assert isinstance(batch, Batch)
    np.testing.assert_array_equal(batch.velocities[:2].numpy(), molecule.get_velocities())
    np.testing.assert_array_equal(batch.atomic_masses[2:].numpy(), solid.get_masses())
    np.testing.assert_array_equal(batch.cell[1].numpy(), solid.cell.array)
    assert batch.pbc.tolist() == [[False] * 3, [True] * 3]
    assert float(torch.linalg.det(batch.cell[0])) > 0.0
    assert batch.forces.shape == (6, 3)
    assert batch.energy.shape == (2, 1)
    assert batch.stress.shape == (2, 3, 3)
    bare = Batch.from_data_list(
        [AtomicData(positions=torch.rand(3, 3), atomic_numbers=torch.tensor([18] * 3))]
    )
    nv.preallocate(bare, stress=True)
    assert bare.forces.dtype == torch.float32
    assert bare.stress.shape == (1, 3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": "matrix"}, "neighbors: expected 'own' or 'batch'"),
        ({"skin": -1.0}, "skin: expected a length"),
    ],
)
def test_options(options: dict[str, Any], message: str, model_file: ModelFile) -> None:
    with pytest.raises(ConfigurationError, match=message):
        nv.MetatomicModel(model_file("lennard-jones"), **options)


def test_models_that_want_more_are_refused(tmp_path: Path) -> None:
    zoo.extra_inputs("charge").save(str(tmp_path / "model.pt"))
    with pytest.raises(ConfigurationError, match="atoms and cell only, got one that requests"):
        nv.MetatomicModel(tmp_path / "model.pt")
