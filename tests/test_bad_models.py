"""Model files that are none, options that do not fit, and models that misbehave.

Each gives a typed error that says what was expected, what came, and what to do.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
import zoo_broken
from bad_files import FILES, refused, with_record
from feature_parts import Buffers, crystal, prepare, run, slab, step, zoo_file
from metatomic.torch import ModelOutput

from alchemi_bridge import (
    BridgeCalculator,
    FullPairs,
    HalfPairs,
    MetatomicForceProvider,
    Search,
    Units,
    load_model,
    potentials,
)
from alchemi_bridge import errors as e
from alchemi_bridge.model import NoGradientError

# The same model on the same atoms: nothing but the order of sums may differ.
SAME = 1e-12

ModelFile = Callable[..., Path]


# --- model files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("reader", [load_model, MetatomicForceProvider, BridgeCalculator])
def test_model_file(reader: Callable, name: str, tmp_path: Path) -> None:
    make, pattern = FILES[name]
    with refused(e.ModelLoadError, pattern):
        reader(make(tmp_path))


@pytest.mark.parametrize("reader", [load_model, MetatomicForceProvider, BridgeCalculator])
@pytest.mark.parametrize("path", ["/tmp/libevil.so", "../../libevil.so"])
def test_library_elsewhere(reader: Callable, path: str, tmp_path: Path) -> None:
    entries = json.dumps([{"name": "evil", "path": path, "sha256": ""}])
    crafted = with_record(tmp_path, "extensions", entries)
    for options in ({}, {"extensions_directory": tmp_path}):
        with refused(e.UntrustedModelError, re.escape(repr(path))):
            reader(crafted, **options)


def test_model_arguments(tmp_path: Path) -> None:
    path = zoo_file("pair")
    for model in (None, 5, b"pair.pt", [path], torch.nn.Linear(1, 1), {}):
        with refused(e.ModelLoadError, type(model).__name__):
            MetatomicForceProvider(model)
    with refused(e.UntrustedModelError, "0" * 64):
        MetatomicForceProvider(path, sha256="0" * 64)
    for sha256 in ("abc", 5, b"0" * 64, ""):
        with refused(e.ConfigurationError, "64 hexadecimal digits"):
            MetatomicForceProvider(path, sha256=sha256)
    with refused(e.ConfigurationError, "a model in memory"):
        MetatomicForceProvider(load_model(path).module, sha256="0" * 64)


def test_loaded_model_keeps_its_device_and_hash() -> None:
    loaded = load_model(zoo_file("pair"))
    assert MetatomicForceProvider(loaded, sha256=loaded.sha256, device="cpu").loaded is loaded
    with refused(e.UntrustedModelError, "pinned"):
        MetatomicForceProvider(loaded, sha256="0" * 64)
    with refused(e.UntrustedModelError, "in memory"):
        MetatomicForceProvider(load_model(loaded.module), sha256="0" * 64)


@pytest.mark.parametrize("device", ["gpu", "", "cpu:1", "cuda:256", "meta", 3.5, [], "cuda:-1"])
def test_device(device: Any) -> None:
    with refused(e.DeviceMismatchError, re.escape(str(device).strip("[]"))):
        MetatomicForceProvider(zoo_file("pair"), device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there() -> None:
    with refused(e.DeviceMismatchError, "0 of type 'cuda'"):
        MetatomicForceProvider(zoo_file("pair"), device="cuda")
    with refused(e.DeviceMismatchError, "none of them on this machine"):
        MetatomicForceProvider(zoo_file("cuda_only"))
    with refused(e.DeviceMismatchError, "'cpu'"):
        MetatomicForceProvider(zoo_file("cuda_only"), device="cpu")


# --- options ------------------------------------------------------------------------------------

READERS = [MetatomicForceProvider, BridgeCalculator]


@pytest.mark.parametrize("reader", READERS)
def test_variants(reader: Callable) -> None:
    with refused(e.VariantError, r"one of \(default\), pbe, scan", "'hse'"):
        reader(zoo_file("variants"), variants={"energy": "hse"})
    with refused(e.VariantError, "no variant, but the model has several", "one of a, b"):
        reader(zoo_file("only_variants"))
    with refused(e.VariantError, "energy_uncertainty"):
        reader(zoo_file("variants"), variants={"energy_uncertainty": "hse"})
    with refused(e.VariantError, "a variant of 'feature'"):
        reader(zoo_file("variants"), variants={"feature": "pbe"})
    with refused(e.VariantError, "5"):
        reader(zoo_file("variants"), variants={"energy": 5})
    with refused(e.UnsupportedOutputError, "non_conservative_force"):
        reader(zoo_file("pair"), non_conservative="forces", variants={"energy": None})
    for variants in ("pbe", 5, [("energy", "pbe")]):
        with refused(e.ConfigurationError, "pass a dictionary"):
            reader(zoo_file("variants"), variants=variants)
    with refused(e.ConfigurationError, "under its old and its new name"):
        reader(
            zoo_file("variants"),
            non_conservative=True,
            variants={"non_conservative_force": "pbe", "non_conservative_forces": "scan"},
        )


@pytest.mark.parametrize("reader", READERS)
def test_non_conservative(reader: Callable) -> None:
    for value in ("force", "both", None, 2, [], np.ones(2)):
        with refused(e.ConfigurationError, "'forces' or 'stress'"):
            reader(zoo_file("non_conservative"), non_conservative=value)
    with refused(e.UnsupportedOutputError, "non_conservative_force", "energy"):
        reader(zoo_file("pair"), non_conservative=True)
    with refused(e.UnsupportedOutputError, "non_conservative_stress"):
        reader(zoo_file("pair"), non_conservative="stress")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), 10**400, "0.1", [], np.ones(2)])
def test_uncertainty_threshold(reader: Callable, threshold: Any) -> None:
    with refused(e.ConfigurationError, "a positive energy in eV, or None"):
        reader(zoo_file("uncertain"), uncertainty_threshold=threshold)


def test_extra_outputs() -> None:
    path = zoo_file("extra_outputs")
    for reader, name in ((MetatomicForceProvider, "extra_outputs"),):
        with refused(e.UnsupportedOutputError, "'zoo::spin'", "zoo::dipole"):
            reader(path, **{name: ["zoo::spin"]})
    with refused(e.UnsupportedOutputError, "'zoo::spin'"):
        BridgeCalculator(path, additional_outputs={"zoo::spin": ModelOutput()})
    for value in (5, [5], {5: 5}, {"feature": None}, {"feature": "atom"}, b"feature"):
        with refused(e.ConfigurationError, "ModelOutput"):
            MetatomicForceProvider(path, extra_outputs=value)
        with refused(e.ConfigurationError, "ModelOutput"):
            BridgeCalculator(path, additional_outputs=value)
    with refused(e.ConfigurationError, "ModelOutput"):
        BridgeCalculator(path, additional_outputs={"feature": {"colour": "red"}})


def test_gradient_units_and_skin() -> None:
    path = zoo_file("pair")
    for gradient in ("numerical", "", None, 5, np.ones(2)):
        with refused(e.ConfigurationError, "'leaves' or 'strain'"):
            MetatomicForceProvider(path, gradient=gradient)
    for units in ("metal", ("nm", "eV"), 5, np.ones(2)):
        with refused(e.ConfigurationError, "alchemi_bridge.Units"):
            MetatomicForceProvider(path, units=units)
    for skin in (-1.0, float("nan"), float("inf"), 10**400, "2", None, np.ones(2)):
        with refused(e.ConfigurationError, "skin"):
            Search(skin)
        with refused(e.ConfigurationError, "skin"):
            BridgeCalculator(path, neighbor_skin=skin)
    for reach in (-1.0, float("nan"), float("inf"), 10**400, "5", None):
        for kind in (HalfPairs, FullPairs):
            with refused(e.ConfigurationError, "reach"):
                kind(None, None, None, reach)


@pytest.mark.parametrize(
    ("length", "energy", "pattern"),
    [
        ("parsec-ish", "eV", "parsec-ish"),
        ("angstrom", "angstrom", "dimension"),
        ("eV", "eV", "dimension"),
        ("", "eV", "empty string"),
        ("angstrom", "  ", "empty string"),
        (None, "eV", "NoneType"),
        ("angstrom", 5, "int"),
        ("angstrom", "0*eV", "above zero"),
        ("angstrom", "eV)", "eV"),
        ("angstrom", "(" * 100_000, "unit"),
    ],
)
def test_units(length: Any, energy: Any, pattern: str) -> None:
    with refused(e.UnitError, re.escape(pattern)):
        Units(length, energy)


def test_extensions_directory(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", zoo_file("pair")):
        with refused(e.ConfigurationError, "extensions_directory", "folder"):
            MetatomicForceProvider(zoo_file("pair"), extensions_directory=folder)
    assert MetatomicForceProvider(zoo_file("pair"), extensions_directory=tmp_path).loaded


# --- models that misbehave ----------------------------------------------------------------------


def test_nan_from_the_model() -> None:
    provider = MetatomicForceProvider(zoo_file("nan_energy", 0.8))
    atoms = crystal()
    good = run(provider, atoms)
    close = atoms.copy()
    close.positions[1] = close.positions[0] + [0.0, 0.0, 0.7]
    buffers = Buffers(4, start=7.0)
    with refused(e.NonFiniteResultError, "energy and forces and virial and energies"):
        step(provider, close, buffers)
    assert buffers.untouched()
    np.testing.assert_allclose(step(provider, atoms).forces, good.forces, atol=SAME)


def test_results_beyond_a_float32_buffer(model_file: ModelFile) -> None:
    provider = MetatomicForceProvider(model_file("lennard_jones", cutoff=5.0))
    atoms = ase.Atoms("Ar2", positions=[[0, 0, 0], [0.0015, 0, 0]])
    assert np.isfinite(run_molecule(provider, atoms).forces).all()
    buffers = Buffers(2, dtype=torch.float32, start=7.0)
    with refused(e.NonFiniteResultError, "forces.* of a buffer of float32"):
        step(provider, atoms, buffers, virial=False)
    assert buffers.untouched()


def test_results_of_float32_beyond_a_float32_buffer(model_file: ModelFile) -> None:
    """Not in the model's unit (1e32 eV/Å), but in that of the engine (1e42 eV/m)."""
    model = model_file("lennard_jones", cutoff=5.0, dtype="float32")
    atoms = ase.Atoms("Ar2", positions=[[0, 0, 0], [0.01, 0, 0]])
    largest = np.abs(run_molecule(MetatomicForceProvider(model), atoms).forces).max()
    assert 1e30 < largest < 1e34
    atoms.positions *= 1e-10
    provider = MetatomicForceProvider(model, units=Units("m", "eV"))
    prepare(provider, atoms, Search(5e-11))
    buffers = Buffers(2, dtype=torch.float32, start=7.0)
    with refused(e.NonFiniteResultError, "forces.* of a buffer of float32"):
        step(provider, atoms, buffers, virial=False)
    assert buffers.untouched()


def run_molecule(provider: MetatomicForceProvider, atoms: ase.Atoms) -> Buffers:
    prepare(provider, atoms)
    return step(provider, atoms)


def test_model_that_raises() -> None:
    provider = MetatomicForceProvider(zoo_file("raises", 4))
    atoms = crystal()
    good = run(provider, atoms)
    many, buffers = crystal(2), Buffers(32, start=7.0)
    prepare(provider, many)
    with refused(e.EvaluationError, "zoo: too many atoms"):
        step(provider, many, buffers)
    assert buffers.untouched()
    np.testing.assert_allclose(run(provider, atoms).forces, good.forces, atol=SAME)


def test_outputs_that_the_model_lacks() -> None:
    provider = MetatomicForceProvider(zoo_file("no_energy"), extra_outputs=["feature"])
    atoms, buffers = crystal(), Buffers(4, start=7.0)
    prepare(provider, atoms)
    for wanted in ("energy", "forces", "virial", "energies"):
        flags = {"energy": False, "forces": False, "virial": False, "energies": False}
        with refused(e.UnsupportedOutputError, "without one"):
            step(provider, atoms, buffers, **{**flags, wanted: True})
    assert buffers.untouched()
    step(provider, atoms, energy=False, forces=False, virial=False, energies=False)
    assert list(provider.results.extra) == ["feature"]

    whole = MetatomicForceProvider(zoo_file("per_system_only"))
    assert not whole.requirements.energies
    prepare(whole, atoms)
    with refused(e.UnsupportedOutputError, "energy of each atom", "whole system only"):
        step(whole, atoms, buffers)
    assert buffers.untouched()
    step(whole, atoms, energies=False)


def test_stress_of_a_slab_without_conservation() -> None:
    provider = MetatomicForceProvider(zoo_file("non_conservative"), non_conservative=True)
    atoms = slab()
    prepare(provider, atoms)
    buffers = Buffers(len(atoms), start=7.0)
    with refused(e.UnsupportedOutputError, "non-conservative stress", "non_conservative='forces'"):
        step(provider, atoms, buffers)
    assert buffers.untouched()
    step(provider, atoms, virial=False)


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("nothing", "output '{name}'.*nothing"),
        ("fewer rows", "output '{name}'.*one row for each of 4 atoms.*3 rows"),
        ("two columns", r"output '{name}'.*\(4, (3, )?2\)"),
        ("other atoms", "results of the model.*index"),
    ],
)
def test_results_that_are_misshapen(what: str, pattern: str) -> None:
    atoms, buffers = crystal(), Buffers(4, start=7.0)
    for name, options in (
        ("energy", {}),
        ("non_conservative_force", {"non_conservative": "forces"}),
    ):
        provider = MetatomicForceProvider(zoo_file("misshapen", what), **options)
        prepare(provider, atoms)
        expected = pattern.replace("{name}", name)
        with refused(e.EvaluationError, expected, "check_consistency=True"):
            step(provider, atoms, buffers, virial=False, forces=bool(options))
    extra = MetatomicForceProvider(
        zoo_file("misshapen", "nothing"), extra_outputs=["non_conservative_force"]
    )
    prepare(extra, atoms)
    with refused(e.EvaluationError, "output 'non_conservative_force'.*nothing"):
        step(extra, atoms, buffers, energy=False, forces=False, virial=False, energies=False)
    assert buffers.untouched()


def test_energy_without_a_gradient() -> None:
    atoms, buffers = crystal(), Buffers(4, start=7.0)
    provider = MetatomicForceProvider(zoo_file("no_gradient"))
    prepare(provider, atoms)
    with refused(NoGradientError, "without a gradient", "non-conservative"):
        step(provider, atoms, buffers)
    assert buffers.untouched()
    energy = step(provider, atoms, forces=False, virial=False).energy[0]
    # the calculator computes forces along with the energy, unless the model has none
    calculator = BridgeCalculator(zoo_file("no_gradient"))
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=SAME)
    with refused(NoGradientError, "without a gradient"):
        atoms.get_forces()
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=SAME)


def test_backward_pass_that_fails() -> None:
    atoms, buffers = crystal(), Buffers(4, start=7.0)
    provider = MetatomicForceProvider(zoo_broken.no_backward())
    prepare(provider, atoms)
    with refused(e.EvaluationError, "zoo: no backward pass", "gradient"):
        step(provider, atoms, buffers)
    assert buffers.untouched()


# --- tensors that are not in the file -----------------------------------------------------------


def _with_tensors(folder: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A Lennard-Jones model with changed records, and right checksums."""
    source, path = folder / "good.pt", folder / "changed.pt"
    potentials.export("lennard-jones", source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            new.writestr(info.filename, change(name, old.read(info)))
    return path


@pytest.mark.parametrize("kept", [0, 8, 127])
def test_tensor_record_that_is_too_short(kept: int, tmp_path: Path) -> None:
    def cut(name: str, data: bytes) -> bytes:
        return data[:kept] if name == "data/1" else data

    # torch does not compare: it would read beyond the end, and crash or show its memory
    with refused(e.ModelLoadError, "tensor data '1'", "128 bytes", f"{kept} bytes"):
        load_model(_with_tensors(tmp_path, cut))


def test_tensor_that_reaches_beyond_its_data(tmp_path: Path) -> None:
    def widen(name: str, data: bytes) -> bytes:
        # the (4, 4) table of coefficients, strides (4, 1): BININT1 is 'K', TUPLE is 't'
        changed = data.replace(b"(K\x04K\x04t", b"(K\x04K\x24t")
        assert (changed != data) == (name == "data.pkl")
        return changed

    with refused(e.UntrustedModelError, r"size \(4, 36\)", "of 16"):
        load_model(_with_tensors(tmp_path, widen))


def test_pickle_that_can_not_be_followed(tmp_path: Path) -> None:
    def replace(name: str, data: bytes) -> bytes:
        return data.replace(b"X\x07\x00\x00\x00storage", b"X\x07\x00\x00\x00storagE")

    with refused(e.UntrustedModelError, "storagE"):
        load_model(_with_tensors(tmp_path, replace))
