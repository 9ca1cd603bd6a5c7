"""DeePMD models behind the bridge: several systems, some atoms, nothing at all, several ranks."""

from __future__ import annotations

from pathlib import Path

import ase.io
import deepmd_golden as golden
import deepmd_standin as standin
import numpy as np
import pytest
import torch
from ase import Atoms
from known_potentials import evaluate as evaluate_plainly
from known_potentials import make_system, run
from metatensor.torch import Labels
from metatomic.torch import AtomisticModel
from mpi_runs import needs_mpi, require_success, run_ranks

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.model import load_model
from alchemi_bridge.potentials.deepmd import convert, to_metatomic

NAMES = ("se_e2_a-water", "se_e2_a-few-neighbours")


def atoms_of(name: str, label: str) -> Atoms:
    coordinates, cells, types, _ = golden.frame(name, label)
    return Atoms(
        ["OH"[t] for t in types],
        positions=coordinates[0].numpy(),
        cell=None if cells is None else cells[0].numpy(),
        pbc=cells is not None,
    )


def native(name: str) -> AtomisticModel:
    model, definition = golden.load(name)
    return to_metatomic(model, definition)


@pytest.mark.parametrize("name", NAMES)
def test_metatomic_checks_inputs_and_outputs(name: str) -> None:
    """With all of metatomic's checks on, and its own pair search."""
    expected = golden.frame(name, "triclinic")[3]
    found = evaluate_plainly(native(name), atoms_of(name, "triclinic"))
    limits = golden.limits(name)
    np.testing.assert_allclose(found.energies, expected["energies"], atol=limits["energies"])
    np.testing.assert_allclose(found.forces, expected["forces"], atol=limits["forces"])
    np.testing.assert_allclose(found.virial, expected["virial"], atol=limits["virial"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A native model and one that runs its own code."""
    folder = tmp_path_factory.mktemp("models")
    native("se_e2_a-few-neighbours").save(folder / "native.pt")
    convert(standin.save(folder / "x.pth", "dpa3"), folder / "own.pt")
    return {"native": folder / "native.pt", "own": folder / "own.pt"}


LABELS = ("molecule", "small", "no-neighbours", "triclinic")


@pytest.mark.parametrize("kind", ["native", "own"])
def test_several_systems_at_once(files: dict[str, Path], kind: str) -> None:
    """Together as alone."""
    systems = [atoms_of("se_e2_a-few-neighbours", label) for label in LABELS]
    calc = BridgeCalculator(files[kind])
    alone = [calc.evaluate([atoms])[0] for atoms in systems]
    for found, expected in zip(calc.evaluate(systems), alone, strict=True):
        assert found["energy"] == pytest.approx(expected["energy"], abs=1e-11)
        np.testing.assert_allclose(found["forces"], expected["forces"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["native", "own"])
@pytest.mark.parametrize("sample_kind", ["atom", "system"])
def test_selected_atoms_of_several_systems(
    files: dict[str, Path], kind: str, sample_kind: str
) -> None:
    model = load_model(files[kind]).module
    systems = [
        make_system(atoms_of("se_e2_a-few-neighbours", label), model)[0]
        for label in ("molecule", "small", "triclinic")
    ]
    every = run(model, systems, "atom")
    values = dict(
        zip(map(tuple, every.samples.values.tolist()), every.values[:, 0].tolist(), strict=True)
    )
    for chosen in ([[2, 40], [0, 3], [2, 7]], [[1, 0]], []):
        rows = torch.tensor(chosen, dtype=torch.int32).reshape(-1, 2)
        found = run(model, systems, sample_kind, Labels(["system", "atom"], rows))
        expected: dict[tuple, float] = {}
        for system, atom in chosen:
            key = (system, atom) if sample_kind == "atom" else (system,)
            expected[key] = expected.get(key, 0.0) + values[system, atom]
        keys = map(tuple, found.samples.values.tolist())
        got = dict(zip(keys, found.values[:, 0].tolist(), strict=True))
        assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["native", "own"])
def test_no_systems_and_no_atoms(files: dict[str, Path], kind: str) -> None:
    model = load_model(files[kind]).module
    assert run(model, []).values.shape == (0, 1)
    empty, _ = make_system(Atoms(), model)
    assert run(model, [empty]).values.shape == (0, 1)
    assert run(model, [empty], "system").values.tolist() == [[0.0]]


_RANKS = """\
import sys
import ase.io, numpy as np
from mpi4py import MPI
from alchemi_bridge import BridgeCalculator
atoms = ase.io.read(sys.argv[2])
atoms.calc = BridgeCalculator(sys.argv[1])
energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
if MPI.COMM_WORLD.Get_rank() == 0:
    np.savez(sys.argv[3], energy=energy, forces=forces, stress=stress)
"""


@needs_mpi
@pytest.mark.slow  # selected atoms, which is what a rank asks for, are tested above
@pytest.mark.parametrize("kind", ["native", "own"])
def test_two_ranks(files: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """Each rank computes the energies of its own atoms; nearest neighbours stay the nearest."""
    atoms = atoms_of("se_e2_a-few-neighbours", "triclinic") * (2, 1, 1)
    atoms.write(tmp_path / "x.xyz")
    atoms = ase.io.read(tmp_path / "x.xyz")
    atoms.calc = BridgeCalculator(files[kind])
    arguments = (files[kind], tmp_path / "x.xyz", tmp_path / "x.npz")
    require_success(run_ranks(2, _RANKS, *arguments))
    with np.load(tmp_path / "x.npz") as found:
        assert float(found["energy"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(found["forces"], atoms.get_forces(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(found["stress"], atoms.get_stress(), rtol=0, atol=1e-13)
