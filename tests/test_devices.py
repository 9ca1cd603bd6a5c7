"""The provider on each device: the same numbers as on the CPU, in the engine's own memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase
import ase.build
import numpy as np
import pytest
import torch
import zoo
from ase.neighborlist import neighbor_list

from alchemi_bridge import (
    Atoms,
    BridgeCalculator,
    Cell,
    DeviceBuffer,
    Event,
    ForceBuffers,
    FullPairs,
    MetatomicForceProvider,
    Search,
    Step,
    Units,
)
from alchemi_bridge.device import cuda_devices

#: float64 on both sides; only the order of sums differs (atomic additions on a GPU).
SAME = 1e-9

#: What float32 buffers keep of values up to some ten eV or eV/Å.
SAME_F32 = 1e-4

ModelFile = Callable[..., Path]

needs_cuda = pytest.mark.skipif(cuda_devices() == 0, reason="needs a CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def silicon() -> ase.Atoms:
    atoms = ase.build.bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.08, seed=2)
    return atoms


def reference(path: Path, atoms: ase.Atoms, **options: object) -> BridgeCalculator:
    copy = atoms.copy()
    copy.calc = BridgeCalculator(path, device="cpu", **options)
    copy.get_potential_energy()
    return copy.calc


def padded(values: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(n, 3) view of (n, 4) memory, as engines keep float4."""
    memory = torch.zeros((len(values), 4), dtype=dtype, device=device)
    memory[:, :3] = torch.as_tensor(values, dtype=dtype)
    return memory[:, :3]


def handed(atoms: ase.Atoms, reach: float, device: torch.device) -> FullPairs:
    first, second, shifts = neighbor_list("ijS", atoms, reach)
    arrays = (torch.as_tensor(a, device=device) for a in (first, second, shifts))
    return FullPairs(*arrays, reach=reach)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", ["leaves", "strain"])
@pytest.mark.parametrize("search", [True, False])
def test_step_in_the_memory_of_the_engine(
    model_file: ModelFile, device: torch.device, dtype: torch.dtype, gradient: str, search: bool
) -> None:
    path, atoms = model_file("stillinger_weber"), silicon()
    if dtype == torch.float32:  # the engine knows them no better
        atoms.positions = atoms.positions.astype(np.float32)
    expected = reference(path, atoms).results
    provider = MetatomicForceProvider(path, device=device, gradient=gradient)
    assert provider.requirements.device == device
    positions = padded(atoms.positions, dtype, device)
    forces = padded(np.full((64, 3), 0.5), dtype, device)
    energy = torch.full((1,), 2.0, dtype=torch.float64, device=device)
    virial = torch.zeros((3, 3), dtype=torch.float64, device=device)
    provider.set_atoms(Atoms(torch.as_tensor(atoms.numbers, device=device)))
    cell = Cell.of(atoms.cell.array)
    provider.set_pairs(Search(0.5) if search else handed(atoms, 4.5, device), cell)
    event = provider.compute(
        Step(positions, virial=True, ready=Event.record(device)),
        ForceBuffers(forces, energy, virial),
    )
    event.synchronize()
    assert event.done
    tolerance = SAME if dtype == torch.float64 else SAME_F32
    added = forces.double().cpu().numpy() - 0.5
    assert np.abs(added - expected["forces"]).max() < tolerance
    assert float(energy) - 2.0 == pytest.approx(expected["energy"], rel=SAME)
    stress = virial.cpu().numpy() / atoms.get_volume()
    assert np.abs(stress.diagonal() - expected["stress"][:3]).max() < SAME


def test_raw_pointers_and_units(model_file: ModelFile, device: torch.device) -> None:
    path, atoms = model_file("stillinger_weber"), silicon()
    expected = reference(path, atoms).results["forces"]
    provider = MetatomicForceProvider(path, device=device, units=Units("nm", "kJ/mol"))
    x = torch.as_tensor(atoms.positions * 0.1, device=device)
    f = torch.zeros_like(x)
    buffers = [
        DeviceBuffer.from_pointer(t.data_ptr(), (64, 3), t.dtype, device=device, owner=t)
        for t in (x, f)
    ]
    provider.set_atoms(Atoms(atoms.numbers))
    provider.set_pairs(Search(0.05), Cell.of(atoms.cell.array * 0.1))
    provider.compute(Step(buffers[0], energy=False), ForceBuffers(buffers[1])).synchronize()
    kj_per_mol_nm = 964.8533212331  # 1 eV/Å, CODATA 2018
    assert np.abs(f.cpu().numpy() / kj_per_mol_nm - expected).max() < SAME


def test_subset_and_selection(model_file: ModelFile, device: torch.device) -> None:
    path, atoms = model_file("message_passing"), silicon()
    subset, selected = np.arange(10, 50), np.arange(20, 30)
    found = []
    for where in (torch.device("cpu"), device):
        provider = MetatomicForceProvider(path, device=where)
        forces = torch.zeros((64, 3), dtype=torch.float64, device=where)
        energies = torch.zeros(64, dtype=torch.float64, device=where)
        provider.set_atoms(Atoms(atoms.numbers, subset=subset, selected=selected))
        provider.set_pairs(Search(0.5), Cell.of(atoms.cell.array))
        positions = torch.as_tensor(atoms.positions, device=where)
        step = Step(positions, energy=False, energies=True)
        provider.compute(step, ForceBuffers(forces, energies=energies)).synchronize()
        found.append((forces.cpu().numpy(), energies.cpu().numpy()))
    (f, e), (g, h) = found
    assert np.abs(f - g).max() < SAME
    assert np.abs(e - h).max() < SAME
    outside = np.setdiff1d(np.arange(64), subset)
    assert not g[outside].any()
    assert set(np.flatnonzero(h)) <= set(selected)
    assert np.abs(g).max() > 0.01


@pytest.mark.parametrize("name", ["message_passing", "stillinger_weber"])
def test_calculator_and_batch(model_file: ModelFile, device: torch.device, name: str) -> None:
    path = model_file(name)
    frames = [silicon(), ase.build.bulk("Si", cubic=True)]
    calculator = BridgeCalculator(path, device=device)
    names = ("energy", "forces", "stress", "energies")
    together = calculator.evaluate(frames, names)
    for atoms, result in zip(frames, together, strict=True):
        expected = reference(path, atoms).results
        atoms.calc = calculator
        for found in (result, {n: calculator.get_property(n, atoms) for n in names}):
            assert found["energy"] == pytest.approx(expected["energy"], rel=SAME)
            assert np.abs(found["forces"] - expected["forces"]).max() < SAME
            assert np.abs(found["stress"] - expected["stress"]).max() < SAME
            assert found["energies"].sum() == pytest.approx(expected["energy"], rel=SAME)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("several_cutoffs", {}),
        ("non_conservative", {"non_conservative": True}),
        ("uncertain", {"uncertainty_threshold": 100.0}),
        ("nm_units", {}),
        ("extra_outputs", {"additional_outputs": ["zoo::coordination"]}),
        ("internal_pair_gradient", {}),
        ("float32", {}),
    ],
)
def test_features(device: torch.device, tmp_path: Path, model: str, options: dict) -> None:
    made = getattr(zoo, model)()
    kinds = list(made.capabilities().supported_devices)
    if device.type not in kinds:
        pytest.skip(f"this model is made for {kinds}")
    path = zoo.save(made, tmp_path, model)
    numbers = sorted(made.capabilities().atomic_types)
    atoms = ase.Atoms([numbers[0]] * 8, ase.build.bulk("Si", cubic=True).positions)
    atoms.set_cell(np.diag([5.4, 5.6, 5.8]))
    atoms.pbc = True
    atoms.rattle(0.1, seed=4)
    expected = reference(path, atoms, **options)
    atoms.calc = BridgeCalculator(path, device=device, **options)
    energy = atoms.get_potential_energy()
    tolerance = SAME_F32 if model == "float32" else SAME
    assert energy == pytest.approx(expected.results["energy"], rel=tolerance)
    assert np.abs(atoms.get_forces() - expected.results["forces"]).max() < tolerance
    for name, values in expected.additional_outputs.items():
        mine = atoms.calc.additional_outputs[name].block().values
        assert mine.device == device
        assert torch.allclose(mine.cpu(), values.block().values, rtol=SAME, atol=SAME)
    if expected.uncertainty is not None:
        assert np.abs(atoms.calc.uncertainty - expected.uncertainty).max() < SAME


@pytest.mark.gpu
@needs_cuda
def test_order_between_streams(model_file: ModelFile) -> None:
    """Positions come late on a stream of the engine's; the event says when they may be read."""
    device = torch.device("cuda", torch.cuda.current_device())
    path, atoms = model_file("stillinger_weber"), silicon()
    expected = reference(path, atoms).results["forces"]
    provider = MetatomicForceProvider(path, device=device)
    provider.set_atoms(Atoms(atoms.numbers))
    provider.set_pairs(Search(0.5), Cell.of(atoms.cell.array))
    right = torch.as_tensor(atoms.positions, device=device)
    positions = torch.full_like(right, 1.0) + torch.arange(64, device=device)[:, None]
    forces = torch.zeros_like(right)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        positions.copy_(right)
        ready = Event.record(device)
    done = provider.compute(Step(positions, energy=False, ready=ready), ForceBuffers(forces))
    with torch.cuda.stream(stream):
        done.wait(device)
        copy = forces.clone()
    stream.synchronize()
    assert np.abs(copy.cpu().numpy() - expected).max() < SAME
