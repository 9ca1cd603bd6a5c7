"""The copper model that comes with the package: its files, its recipe, and its numbers."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from ase import Atoms

from alchemi_bridge import BridgeCalculator, potentials
from alchemi_bridge.errors import ConfigurationError, ModelLoadError
from alchemi_bridge.model import load_model
from alchemi_bridge.parity import oracles
from alchemi_bridge.potentials import trained
from alchemi_bridge.potentials.__main__ import main
from alchemi_bridge.potentials.deepmd import read_definition, to_deepmd

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "deepmd"
#: Bytes that the package may grow by.
LARGEST = 300_000
#: The goal: eV/Å, and processor time of the training, s.
FORCE_RMSE, PROCESSOR_SECONDS = 0.1, 60.0
#: Labels and sums of another processor differ in the last digits only.
SAME_RMSE = 1e-6


#: The weights of the oracle are those of the model: no rounding in between.
SAME_ENERGY = 1e-12


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``label_copper.py``, as a module."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("label_copper")


def test_files_are_those_of_the_recipe() -> None:
    recipe = trained.recipe("copper")
    files = {path.name for path in trained.FOLDER.glob("copper.*")}
    assert files == {"copper.json", *recipe["sha256"]} == {"copper.json", "copper.npz", "copper.pt"}
    for name, known in recipe["sha256"].items():
        content = (trained.FOLDER / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == known, name
        assert len(content) < LARGEST
    # what they were made of is what the repository has
    for name, known in recipe["files"].items():
        assert hashlib.sha256((EXAMPLES / name).read_bytes()).hexdigest() == known, name
    source = json.loads((EXAMPLES / "copper.json").read_text())
    assert source["training"]["numb_steps"] == recipe["steps"]
    assert recipe["rmse"]["validation"]["force"] < FORCE_RMSE
    assert recipe["processor_seconds"] <= PROCESSOR_SECONDS
    assert {"torch", "metatomic-torch"} <= recipe["versions"].keys()


def test_the_model_says_nothing_of_the_machine_that_made_it() -> None:
    content = trained.content("copper")
    assert b".debug_pkl" not in content
    assert b"site-packages" not in content


def test_export_is_a_copy(tmp_path: Path) -> None:
    assert main(["copper", str(tmp_path / "copper.pt")]) == 0
    assert (tmp_path / "copper.pt").read_bytes() == trained.content("copper")
    # as for the other potentials, underscores count as hyphens, and options are checked
    for options in ({"dtype": "float32"}, {"seed": 1}):
        with pytest.raises(ConfigurationError):
            potentials.export("copper", tmp_path / "other.pt", **options)
    assert not (tmp_path / "other.pt").exists()
    loaded = load_model(str(tmp_path / "copper.pt"))
    assert loaded.atomic_types == {29}
    assert loaded.cutoff == oracles.build("copper").cutoff


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in trained.FOLDER.glob("copper.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "copper.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "copper.pt").write_bytes(content)
    with pytest.raises(ModelLoadError, match="SHA-256"):
        trained.content("copper", tmp_path)
    monkeypatch.setattr(trained.content, "__defaults__", (tmp_path,))
    for use in (lambda: potentials.build("copper"), lambda: potentials.export("copper", "no.pt")):
        with pytest.raises(ModelLoadError, match="SHA-256"):
            use()


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_a_missing_file_is_an_error_of_the_model(tmp_path: Path, content: str | None) -> None:
    """A recipe that is not there or not one; or the model itself."""
    (tmp_path / "copper.pt").write_bytes((trained.FOLDER / "copper.pt").read_bytes())
    if content is not None:
        (tmp_path / "copper.json").write_text(content)
    for use in (trained.recipe, trained.content):
        with pytest.raises(ModelLoadError, match=r"copper\.json'.*install the package again"):
            use("copper", tmp_path)
    (tmp_path / "copper.json").write_bytes((trained.FOLDER / "copper.json").read_bytes())
    assert trained.content("copper", tmp_path) == trained.content("copper")
    (tmp_path / "copper.pt").unlink()
    with pytest.raises(ModelLoadError, match=r"copper\.pt'.*No such file"):
        trained.content("copper", tmp_path)


def test_weights_of_the_oracle_are_those_of_the_model() -> None:
    model = potentials.build("copper").module.energies
    with np.load(trained.FOLDER / "copper.npz", allow_pickle=False) as file:
        stored = {k.removeprefix("weights/"): v for k, v in file.items() if "weights/" in k}
        definition = json.loads(str(file["definition"]))
    assert definition == trained.recipe("copper")["model"]
    own = to_deepmd(model, read_definition(definition))
    assert {key for key in own if "._networks." not in key} == set(stored)
    for key, value in stored.items():
        assert torch.equal(own[key], torch.from_numpy(value)), key


def test_errors_are_those_of_the_recipe(labels: ModuleType) -> None:
    """On validation frames that are labelled here, by ASE."""
    random, frames = np.random.default_rng(7), []
    for repeat, n_training, n_validation in labels.SYSTEMS.values():
        labels.frames(repeat, n_training, random)
        frames += labels.frames(repeat, n_validation, random)
    recipe = trained.recipe("copper")
    assert len(frames) == recipe["frames"]["validation"]
    calculator = BridgeCalculator(potentials.build("copper"), device="cpu")
    errors: dict[str, list[np.ndarray]] = {"energy": [], "force": [], "virial": []}
    for atoms in frames:
        for key, found, known in zip(
            errors, _numbers(atoms, calculator), _numbers(atoms, atoms.calc), strict=True
        ):
            errors[key].append(found - known)
    for key, values in errors.items():
        rmse = float(np.sqrt(np.mean(np.concatenate(values) ** 2)))
        assert rmse == pytest.approx(recipe["rmse"]["validation"][key], rel=SAME_RMSE), key


def _numbers(atoms: Atoms, calculator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energy per atom, components of forces, and of the virial per atom."""
    atoms = atoms.copy()
    atoms.calc = calculator
    virial = atoms.get_stress(voigt=False) * atoms.get_volume()
    n_atoms = len(atoms)
    return (
        np.array([atoms.get_potential_energy() / n_atoms]),
        atoms.get_forces().ravel(),
        virial.ravel() / n_atoms,
    )


def test_other_potentials_do_not_pay_for_it() -> None:
    code = "import sys, alchemi_bridge.potentials; print([m for m in sys.modules if 'deepmd' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_water_says_what_to_install(tmp_path: Path) -> None:
    # a module of that name without what is asked of it, wherever these tests run
    (tmp_path / "tblite.py").touch()
    environment = _environment(tmp_path)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "make_model.py", "--system", "water", "--folder", tmp_path],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip() == "label_water.py needs tblite: pip install tblite"


@pytest.mark.slow
def test_the_whole_recipe(tmp_path: Path) -> None:
    """From labels to a model that is verified and gives the same numbers on all paths."""
    store = tmp_path / "stored"
    store.mkdir()
    done = subprocess.run(
        [sys.executable, EXAMPLES / "make_model.py", "--folder", tmp_path, "--store", store],
        env=_environment() | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "all is well" in done.stdout
    made = trained.recipe("copper", store)
    assert made["rmse"]["validation"]["force"] < FORCE_RMSE
    assert made["processor_seconds"] <= PROCESSOR_SECONDS
    assert len(trained.content("copper", store)) < LARGEST  # and its hash is the recipe's
    oracle = oracles.SeE2AOracle.read(store / "copper.npz")
    atoms = Atoms("Cu4", [[0, 0, 0], [0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.9, 0]], cell=[3.6] * 3)
    atoms.pbc = True
    atoms.calc = BridgeCalculator(store / "copper.pt", device="cpu")
    known = oracle.evaluate(atoms).energy
    assert atoms.get_potential_energy() == pytest.approx(known, abs=SAME_ENERGY)


def _environment(*first: Path) -> dict[str, str]:
    """In which the package is found as these tests find it, from any folder."""
    found = [*map(str, first), str(ROOT), *filter(None, sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found)}
